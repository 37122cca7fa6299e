"""A run of the benchmark `cameras` in small: a capture host, real scores, and what is counted of them."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from benchmarks.cameracosts import bare_picture_ms, product_picture_ms
from benchmarks.camerarig import Spec, run
from benchmarks.cameras import kept_up
from stream_detector.models.recipe import Recipe

pytestmark = pytest.mark.integration


@pytest.fixture(scope="module")
def film(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("film") / "film.mp4"
    blocks = np.kron(np.random.default_rng(1).integers(0, 256, (6, 8, 3), np.uint8), np.ones((16, 16, 1), np.uint8))
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=Fraction(25))
        stream.width, stream.height, stream.pix_fmt = 128, 96, "yuv420p"
        stream.options = {"g": "50", "bf": "0"}
        for number in range(100):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(np.roll(blocks, 2 * number, 1), "rgb24")))
        container.mux(stream.encode())
    return path


def test_a_run_counts_what_was_scored(film: Path) -> None:
    row = run(Spec(2, str(film), "1", seconds=2.0, settle_s=0.5))
    assert "error" not in row
    assert (row["cameras"], row["hosts"], row["restarts"], row["exit_code"]) == (2, 1, 0, 0)
    assert row["windows_per_s"] > 0
    assert set(row["first_window_s"]) == {"cam000", "cam001"}
    assert all(seconds > 0.5 for seconds in row["first_window_s"].values())  # a window is not full before 0.6 s
    assert row["delay_ms"]["p50"] > 0
    assert sum(row["cpu_share"].values()) == pytest.approx(1.0, abs=0.01)
    assert row["private_mb"] > 50
    calm = row | {"drops": {}, "fps_per_camera": 25.0, "delay_ms": {"p95": 50.0}}
    assert kept_up(calm)


def test_the_product_costs_more_than_the_bare_loop_and_not_several_times_as_much(film: Path) -> None:
    recipe = Recipe("stream-112", (112, 112), (0.0, 0.0, 0.0), (1.0, 1.0, 1.0), 1.0)
    bare, product = bare_picture_ms(film, recipe), product_picture_ms(film, recipe)
    assert 0.0 < bare < product < 20 * bare
