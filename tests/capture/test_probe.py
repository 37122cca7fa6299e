"""probe: what a source sends is measured, not believed; what cannot be read is one sentence."""

from __future__ import annotations

import json
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from stream_detector.capture.probe import person_pixels, probe
from stream_detector.capture.sources import parse_sources
from stream_detector.cli import probe as command
from stream_detector.cli.main import main
from stream_detector.config import CaptureConfig
from stream_detector.models.recipe import Recipe, recipe_named
from stream_detector.testing import FakeCamera

RECIPE = recipe_named("stream-112")


def encode(path: Path, *, fps: int = 25, frames: int = 75, every: int = 10, size: tuple[int, int] = (320, 240)) -> Path:
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=fps)
        stream.width, stream.height, stream.pix_fmt = *size, "yuv420p"
        stream.codec_context.gop_size = every
        stream.options = {"sc_threshold": "0", "keyint_min": str(every)}
        still = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
        for number in range(frames):
            picture = np.roll(still, number, axis=1)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())
    return path


def test_a_recording_is_measured(tmp_path: Path) -> None:
    path = encode(tmp_path / "gate.mp4")
    (camera,) = parse_sources([str(path)])
    cpu = iter(range(1000))
    facts = probe(camera, CaptureConfig(), RECIPE, 60.0, cpu=lambda: next(cpu) * 0.002)
    assert (facts.codec, facts.width, facts.height, facts.pictures, facts.damaged) == ("h264", 320, 240, 75, 0)
    assert facts.fps_measured == pytest.approx(25.0, rel=0.01)
    assert facts.key_interval_s == pytest.approx(0.4, abs=0.05)
    assert facts.bit_rate == pytest.approx(8 * path.stat().st_size / 3.0, rel=0.1)
    assert facts.cpu_ms == pytest.approx(2.0) and facts.cores == pytest.approx(0.05, rel=0.02)
    assert facts.slow == ""


def test_a_recording_is_looked_at_for_as_long_as_asked(tmp_path: Path) -> None:
    (camera,) = parse_sources([str(encode(tmp_path / "gate.mp4"))])
    assert probe(camera, CaptureConfig(), RECIPE, 1.0).pictures == 26


def test_a_source_that_cannot_fill_a_window_is_named(tmp_path: Path) -> None:
    (camera,) = parse_sources([str(encode(tmp_path / "lapse.mkv", fps=1, frames=8, every=1))])
    assert probe(camera, CaptureConfig(), RECIPE, 60.0).slow == ""  # one a second is within a window's holes
    with av.open(str(tmp_path / "slow.mkv"), "w") as container:
        stream = container.add_stream("mpeg4", rate=25)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for number in range(6):
            frame = av.VideoFrame.from_ndarray(np.full((48, 64, 3), 40 * number, np.uint8), format="rgb24")
            frame.pts, frame.time_base = 5 * 25 * number, Fraction(1, 25)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    (camera,) = parse_sources([str(tmp_path / "slow.mkv")])
    assert "too slow for this model" in probe(camera, CaptureConfig(), RECIPE, 60.0).slow


@pytest.mark.integration
def test_a_camera_is_measured_by_arrival() -> None:
    with FakeCamera() as fake:
        (camera,) = parse_sources([f"gate={fake.url}"])
        facts = probe(camera, CaptureConfig(), RECIPE, 1.0)
    assert facts.kind == "http" and facts.codec == "mjpeg" and facts.key_interval_s is None
    assert facts.pictures >= 3 and facts.fps_measured > 1


def test_a_person_s_rows_follow_the_lens() -> None:
    class Facts:
        width, height = 1920, 1080

    wide = person_pixels(Facts, RECIPE, 90.0)  # type: ignore[arg-type]
    # 40 m across, 1920 px: 1.8 m are 86.4 px of 1080, stretched to 112 rows
    assert wide == pytest.approx(86.4 * 112 / 1080)
    assert person_pixels(Facts, RECIPE, 45.0) > 2 * wide  # type: ignore[arg-type]
    crop = Recipe("c", (112, 112), (0, 0, 0), (1, 1, 1), 1.0, fit="crop")
    assert person_pixels(Facts, crop, 90.0) == pytest.approx(wide)  # type: ignore[arg-type]


def test_the_command_goes_on_behind_a_source_that_fails(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    good = encode(tmp_path / "gate.mp4", frames=20)
    words = ["probe", str(tmp_path / "none.mp4"), str(good), "--json", "--angle", "90"]
    assert main(words) == 2
    told = json.loads(capsys.readouterr().out)
    assert told["schema"] == command.SCHEMA and list(told["failed"]) == ["source 1"]
    (row,) = told["sources"]
    assert row["camera"] == "gate" and row["person_pixels"] > 0
    assert main(["probe", str(good)]) == 0
    shown = capsys.readouterr().out
    assert "[cameras.gate]" in shown and "320×240" in shown


@pytest.mark.parametrize("words", [["--seconds", "0"], ["--seconds", "nan"], ["--angle", "180"]])
def test_wrong_options_are_one_sentence(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["probe", "demo", *words]) == 2
    assert capsys.readouterr().err.count("\n") == 1
