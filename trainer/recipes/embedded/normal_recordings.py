"""Whole recordings of quiet cameras, processed as in the running detector; the threshold must lie above their scores.

    hours of one camera ──windows──▶ backbone ──▶ Recording (features) ──┬─ train half ─▶ normal bags for the head
                                                                         └─ val half ──▶ Stream ─▶ threshold

Distillation uses only segments of some seconds of every hour (`extra_footage.pack_normal`); the rare scores that raise
alarms at night lie in the hours between them. The files alternate between the halves, as there.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from stream_detector.capture.recordings import DecodeState, windows
from stream_detector.errors import DataError, SourceError
from stream_detector.models.recipe import RECIPES
from stream_detector.types import WINDOW_FRAMES, Float32Array, UInt8Array
from trainer.data.content_hash import files_digest
from trainer.data.disk_cache import cached_arrays
from trainer.data.videos import video_files
from trainer.recipes.embedded.fit_head import Bag

Network = Callable[[UInt8Array], Float32Array]


@dataclass(frozen=True, slots=True)
class Recording:
    """name: of the file.  fps: its frame rate.  features: float32 (n, D), a row every 16 frames."""

    name: str
    fps: float
    features: Float32Array


def sized_windows(file: Path, size: int) -> Iterator[tuple[UInt8Array, float]]:
    """Full windows, 16 frames every 16 frames: uint8 (16, size, size, 3) RGB, with the file's frame rate.

    Raises DataError if there is none.
    """
    recipe = dataclasses.replace(RECIPES["stream-112"], size=(size, size))
    state = DecodeState()
    found = False
    try:
        for window in windows(file, recipe, state=state):
            if "short" not in window.ref.degraded:
                found = True
                yield window.frames, state.fps
    except SourceError as error:
        raise DataError(f"{str(file)!r} gives no window: {error}") from None
    if not found:
        raise DataError(f"{str(file)!r} gives no window of {WINDOW_FRAMES} frames; check that it is a video")


def recordings(
    folder: Path, half: int, network: Network, size: int, path: Path, key: str, *, batch: int = 16
) -> list[Recording]:
    """Return every second recording of a folder, from number `half` (0 or 1) on.

    network: uint8 (B, 16, size, size, 3) RGB → features (B, D).  path: file that stores the result; it is used again if
    its key, which should identify the network, and the files are the same.
    """
    files = video_files(folder)[half::2]

    def watch() -> list[Float32Array]:
        found, rates = [], []
        for file in files:
            rows, fps = _watched(file, network, size, batch)
            found.append(rows)
            rates.append(fps)
        return [*found, np.array(rates, dtype=np.float32)]

    *features, rates = cached_arrays(path, json.dumps([key, size, files_digest(files), "rates last"]), watch)
    return [Recording(f.name, float(fps), rows) for f, fps, rows in zip(files, rates, features, strict=True)]


def _watched(file: Path, network: Network, size: int, batch: int) -> tuple[Float32Array, float]:
    rows: list[Float32Array] = []
    waiting: list[UInt8Array] = []
    fps = 25.0
    for window, fps in sized_windows(file, size):  # noqa: B007  (it is the file's, the same every time)
        waiting.append(window)
        if len(waiting) == batch:
            rows.append(network(np.stack(waiting)))
            waiting = []
    if waiting:
        rows.append(network(np.stack(waiting)))
    return np.concatenate(rows), fps


def recording_bags(found: Sequence[Recording], windows: int = 60) -> list[Bag]:
    """Return normal bags of `windows` windows each, of set `quiet_hours`."""
    return [
        Bag(recording.features[first : first + windows], "quiet_hours", False)
        for recording in found
        for first in range(0, len(recording.features), windows)
    ]
