"""Whole recordings of a quiet camera: which half is which, what a bag of them holds, and that nothing is read twice."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from stream_detector.errors import DataError
from stream_detector.types import Float32Array, UInt8Array
from trainer.recipes.embedded.normal_recordings import recording_bags, recordings


def _video(path: Path, frames: int, level: int) -> None:
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"mp4v"), 5, (64, 48))
    for _ in range(frames):
        writer.write(np.full((48, 64, 3), level, np.uint8))
    writer.release()


def _brightness(windows: UInt8Array) -> Float32Array:
    return windows.mean(axis=(1, 2, 3, 4), dtype=np.float32)[:, None]


@pytest.fixture()
def folder(tmp_path: Path) -> Path:
    (tmp_path / "videos").mkdir()
    for number in range(3):
        _video(tmp_path / "videos" / f"{number}.mp4", 16 * 5 + 3, 40 + 60 * number)
    return tmp_path / "videos"


def test_the_halves_are_files_in_turn_and_windows_are_full(folder: Path, tmp_path: Path) -> None:
    first = recordings(folder, 0, _brightness, 32, tmp_path / "0.npz", "k", batch=2)
    second = recordings(folder, 1, _brightness, 32, tmp_path / "1.npz", "k", batch=2)
    assert [r.name for r in first] == ["0.mp4", "2.mp4"] and [r.name for r in second] == ["1.mp4"]
    assert all(r.features.shape == (5, 1) and r.fps == 5.0 for r in [*first, *second])
    assert second[0].features == pytest.approx(np.full((5, 1), 100), abs=4)


def test_what_was_seen_is_kept_until_the_network_changes(folder: Path, tmp_path: Path) -> None:
    def never(windows: UInt8Array) -> Float32Array:
        raise AssertionError("looked again")

    kept = tmp_path / "kept" / "0.npz"
    seen = recordings(folder, 0, _brightness, 32, kept, "a network")
    again = recordings(folder, 0, never, 32, kept, "a network")
    assert [r.features.tolist() for r in again] == [r.features.tolist() for r in seen]
    with pytest.raises(AssertionError, match="looked again"):
        recordings(folder, 0, never, 32, kept, "another network")


def test_bags_are_normal_and_together_the_whole_recording(folder: Path, tmp_path: Path) -> None:
    found = recordings(folder, 0, _brightness, 32, tmp_path / "0.npz", "k")
    bags = recording_bags(found, windows=2)
    assert [len(bag.features) for bag in bags] == [2, 2, 1, 2, 2, 1]
    assert {(bag.set, bag.abnormal) for bag in bags} == {("quiet_hours", False)}


def test_a_file_that_is_no_video_is_named(tmp_path: Path) -> None:
    (tmp_path / "broken.mp4").write_bytes(b"no video")
    with pytest.raises(DataError, match=r"broken\.mp4.*gives no window"):
        recordings(tmp_path, 0, _brightness, 32, tmp_path / "0.npz", "k")
