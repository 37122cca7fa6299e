"""Extraction on small real files: what the stream would see, resumable, honest about what cannot be read."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest

from stream_detector.errors import DataError
from stream_detector.models.bundle import Bundle
from stream_detector.models.preprocess import Recipe
from stream_detector.types import EngineOutput, UInt8Array
from trainer.data.decode import DecodeState, decode_all, windows
from trainer.data.extraction import extract
from trainer.data.features import load_features
from trainer.data.videos import LabelledVideo

RECIPE = Recipe("tiny", (24, 32), (0.0, 0.0, 0.0), (1.0, 1.0, 1.0), 1.0, fps=25.0)


class MeanEngine:
    """Features: mean red, green and blue of a window. Counts its calls."""

    name, device, precision, reason, max_batch = "mean", "cpu", "fp32", "a fake", 4
    good_batch, good_wait_s = 4, 0.0

    def __init__(self) -> None:
        self.calls = 0

    def infer(self, frames: UInt8Array) -> EngineOutput:
        self.calls += 1
        rows = frames.mean(axis=(1, 2, 3)).astype(np.float32)
        return EngineOutput(rows, np.zeros(len(rows), np.float32), 0.0, 0.0)

    def close(self) -> None:
        pass


@pytest.fixture(scope="module")
def films(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """bright: 80 frames at 25 a second, getting brighter.  fast: the same at 50.  short: 7 frames.  bad: no video."""
    folder = tmp_path_factory.mktemp("films")
    for name, frames, fps in (("bright", 80, 25.0), ("fast", 160, 50.0), ("short", 7, 25.0)):
        out = cv2.VideoWriter(str(folder / f"{name}.mp4"), cv2.VideoWriter.fourcc(*"mp4v"), fps, (64, 48))
        for i in range(frames):
            out.write(np.full((48, 64, 3), 20 + 200 * i // frames, np.uint8))
        out.release()
    (folder / "bad.mp4").write_bytes(b"not a video" * 100)
    return folder


def listed(folder: Path, *names: str) -> list[LabelledVideo]:
    return [LabelledVideo(folder / f"{n}.mp4", n, "Normal", "train", "yard") for n in names]


def embedded() -> Bundle:
    return Bundle.load("embedded")


def run(films: Path, out: Path, *names: str, engine: MeanEngine | None = None, stride: int = 16) -> MeanEngine:
    engine = engine or MeanEngine()
    for _ in extract(listed(films, *names), embedded(), engine, out, stride):
        pass
    return engine


def test_windows_are_those_of_the_stream(films: Path) -> None:
    state = DecodeState()
    refs = [(w.ref.start_frame, w.ref.end_frame) for w in windows(films / "bright.mp4", RECIPE, 16, state)]
    assert refs == [(0, 15), (16, 31), (32, 47), (48, 63), (64, 79)]  # a multiple of 16 loses no clip
    assert state.frames == 80 and state.fps == 25.0
    halved = [(w.ref.start_frame, w.ref.end_frame) for w in windows(films / "fast.mp4", RECIPE, 16, DecodeState())]
    assert halved[0] == (0, 30) and len(halved) == 5  # every other frame of 50 a second


def test_a_short_video_gives_one_window(films: Path) -> None:
    (only,) = windows(films / "short.mp4", RECIPE, 16, DecodeState())
    assert only.frames.shape == (16, 24, 32, 3) and only.ref.end_frame == 6


def test_decoding_runs_ahead_in_order_and_stops_when_told(films: Path) -> None:
    paths = [films / f"{n}.mp4" for n in ("bright", "short", "fast")]
    assert [len(list(d)) for d in decode_all(paths, RECIPE, 16, at_once=2)] == [5, 1, 5]
    endless = decode_all(paths * 5, RECIPE, 1, at_once=3)
    next(endless)
    endless.close()  # joins the threads, though their queues are full


def test_features_are_resumed_and_the_bytes_are_the_same(films: Path, tmp_path: Path) -> None:
    names = ("bright", "fast", "short")
    run(films, tmp_path / "whole", *names)
    partial = extract(listed(films, *names), embedded(), MeanEngine(), tmp_path / "parts", 16)
    next(partial)
    partial.close()
    assert not (tmp_path / "parts" / "manifest.json").exists()
    (tmp_path / "parts" / "fast.part").write_bytes(b"half a file")
    (tmp_path / "parts" / "short.npz").write_bytes(b"cut off")
    engine = run(films, tmp_path / "parts", *names)
    assert engine.calls == 3  # two batches of fast, one of short; bright is not made again
    for name in [f"{n}.npz" for n in names] + ["manifest.json"]:
        assert (tmp_path / "whole" / name).read_bytes() == (tmp_path / "parts" / name).read_bytes(), name
    assert run(films, tmp_path / "parts", *names).calls == 0
    found = load_features(tmp_path / "whole")
    assert [len(v.rows) for v in found.videos] == [5, 5, 1] and found.videos[0].frames == 80
    assert {video.group for video in found.videos} == {"yard"}
    assert (np.diff(found.videos[0].rows[:, 0]) > 20).all()


def test_bad_videos_are_reported_and_skipped(films: Path, tmp_path: Path) -> None:
    run(films, tmp_path, "bad", "short", "missing")
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    assert [v["name"] for v in manifest["videos"]] == ["short"]
    assert "does not exist" in manifest["skipped"]["missing"] and "bad.mp4" in manifest["skipped"]["bad"]


def test_features_of_another_kind_are_not_mixed_in(films: Path, tmp_path: Path) -> None:
    run(films, tmp_path, "short")
    with pytest.raises(DataError, match="another backbone, recipe or stride"):
        run(films, tmp_path, "short", stride=8)
    with pytest.raises(DataError, match="at least 1"):
        run(films, tmp_path, "short", stride=0)
