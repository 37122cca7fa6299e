"""Files give the same windows, bit for bit, at every pace and with any number of capture hosts."""

from __future__ import annotations

import hashlib
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from stream_detector.capture.sources import parse_sources
from stream_detector.config import build_config
from stream_detector.runtime.build import build_run
from stream_detector.testing import ConstantEngine
from stream_detector.types import Decision, UInt8Array

pytestmark = pytest.mark.integration

FRAMES = 70  # four windows and a rest


def film(path: Path, seed: int, codec: str = "libx264", fps: int = 25) -> None:
    """A moving pattern with a scene cut."""
    dice = np.random.default_rng(seed)
    blocks = np.ones((16, 16, 1), np.uint8)
    scenes = [np.kron(dice.integers(0, 256, (6, 8, 3), np.uint8), blocks) for _ in range(2)]
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=Fraction(fps))
        stream.width, stream.height, stream.pix_fmt = 128, 96, "yuv420p"
        for number in range(FRAMES):
            picture = np.roll(scenes[number >= 40], 2 * number, 1)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, "rgb24")))
        container.mux(stream.encode())


def score_of(frames: UInt8Array) -> float:
    """Depends on every bit of the window."""
    digest = hashlib.blake2b(frames.tobytes(), digest_size=4).digest()
    return int.from_bytes(digest, "little") / 2**32


def decisions(folder: Path, pace: str, hosts: int) -> list[tuple[Any, ...]]:
    values = {
        "cameras": parse_sources([str(folder / "films")]),
        "pace": pace,
        "capture": {"hosts": hosts},
        "publish": {"bind": "none", "ledger": None},
        "evidence": {"enabled": False},
    }
    seen: list[Decision] = []
    with build_run(build_config(values), engine=ConstantEngine(score_of=score_of), on_decision=seen.append) as run:
        result = run.pipeline.run()
    assert result.error is None and not result.failed
    assert run.pipeline._host.plan.processes == hosts
    assert run.telemetry.snapshot().frames == 5 * FRAMES
    refs = [(d.score.ref, d.score.raw, d.smoothed) for d in seen]
    return sorted(
        (r.camera, r.index, r.start_frame, r.start_s, r.end_s, r.degraded, raw, smoothed) for r, raw, smoothed in refs
    )


def test_bit_equal_at_every_pace_with_0_1_and_4_hosts(tmp_path: Path) -> None:
    (tmp_path / "films").mkdir()
    for number in range(4):
        film(tmp_path / "films" / f"film{number}.mp4", number)
    film(tmp_path / "films" / "other.mkv", 9, "mpeg4")
    wanted = decisions(tmp_path, "max", 0)
    assert len(wanted) == 5 * 3  # the cut at 40 leaves windows 0-15, 16-31 and 40-55
    assert any("cut" in row[5] for row in wanted)
    assert len({row[6] for row in wanted}) == len(wanted)
    for pace, hosts in (("max", 1), ("max", 4), ("realtime", 0), ("realtime", 4)):
        assert decisions(tmp_path, pace, hosts) == wanted, (pace, hosts)
