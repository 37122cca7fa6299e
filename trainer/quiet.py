"""Whole recordings of quiet cameras, scored as the running detector would: what a threshold must lie above.

    hours of one camera ──windows──▶ backbone, head ──▶ Stream (raw scores) a file ──▶ trainer.threshold

The segments that training sees (`extras.pack_normal`) are seconds of every hour; the rare scores that raise alarms at
night are in the hours between them. Only the files of the `val` half are read.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import cv2
import numpy as np

from stream_detector.errors import DataError
from stream_detector.types import WINDOW_FRAMES, Float32Array, UInt8Array
from trainer.clips import small_rgb
from trainer.extras import video_files
from trainer.measure import Stream

Score = Callable[[UInt8Array], Float32Array]


def windows_of(file: Path, size: int) -> Iterator[UInt8Array]:
    """Full windows, 16 frames every 16 frames: uint8 (16, size, size, 3) RGB. Raises DataError if there is none."""
    capture = cv2.VideoCapture(str(file), cv2.CAP_FFMPEG)
    frames: list[UInt8Array] = []
    found = False
    try:
        while True:
            good, image = capture.read()
            if not good:
                break
            frames.append(small_rgb(image, size))
            if len(frames) == WINDOW_FRAMES:
                found = True
                yield np.stack(frames)
                frames = []
    finally:
        capture.release()
    if not found:
        raise DataError(f"{str(file)!r} gives no window of {WINDOW_FRAMES} frames; check that it is a video")


def quiet_hours(folder: Path, score: Score, size: int, *, batch: int = 16) -> Iterator[Stream]:
    """One stream for every other recording of a folder. score: uint8 (B, 16, size, size, 3) → (B,) in [0, 1]."""
    for file in video_files(folder)[1::2]:
        capture = cv2.VideoCapture(str(file), cv2.CAP_FFMPEG)
        fps = float(capture.get(cv2.CAP_PROP_FPS)) or 25.0
        capture.release()
        raw: list[Float32Array] = []
        waiting: list[UInt8Array] = []
        for window in windows_of(file, size):
            waiting.append(window)
            if len(waiting) == batch:
                raw.append(score(np.stack(waiting)))
                waiting = []
        if waiting:
            raw.append(score(np.stack(waiting)))
        yield Stream(file.name, np.concatenate(raw), fps)
