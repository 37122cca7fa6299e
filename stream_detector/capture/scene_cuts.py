"""Detects hard cuts: from one frame to the next the picture shows another scene, as when a recorder switches cameras.

    frame ──16×16 cells──▶ correlation with the previous frame ──far below that of earlier frames──▶ cut

A 3D network takes a cut for violent motion, so no window may contain frames from both sides. The detector compares the
arrangement of light and dark, and most of the picture must change. A picture that becomes brighter or darker as a whole
(lamps, exposure) is no cut, and neither is a single object that jumps. Constant motion, such as a panning camera or
noise, raises the limit. `picture_quality` handles pictures without structure (black, covered).
"""

from __future__ import annotations

import math
from collections import deque
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stream_detector.types import Float32Array, UInt8Array

SIDE = 16  # cells per side
LEAST_CHANGE = 0.4  # 1 - correlation; 98 % of 400 cuts between real clips had at least 0.5
LEAST_MEDIAN = 0.5  # change of the cells, in standard deviations of a picture; those cuts had at least 0.7
RATIO = 6.0  # factor over the largest change among the previous frames
HISTORY = 12  # previous frames that are remembered
LEAST_HISTORY = 4  # frames that a scene must have had before a cut counts
FLAT = 4.0  # grey levels; a smaller deviation is no structure
STILL = 0.2  # deviations: frames that differ by less have a change of some 0.02, and RATIO times that is no measure
_EVERY = 8  # pixels, of which one is looked at first
_FITS = 65_535 // 255  # pixels whose sum 16 bits hold
RUN_UP = 2 * (HISTORY + 1)  # after this many frames, a detector that started late agrees with one that saw everything


class SceneCutDetector:
    """Detects hard cuts in the frames of one camera.

    About 10 µs for a frame that is nearly the previous one, as a few of its pixels show; 30 µs for another.
    """

    def __init__(self) -> None:
        self._image: UInt8Array | None = None  # the previous frame
        self._cells: tuple[Float32Array, float] | None = None  # of it: less their mean, and the length of that vector
        self._known = False  # whether `_cells` is of `_image` already
        self._few: Float32Array | None = None  # pixels of it
        self._deviation = 0.0  # of the cells of the frame that was looked at last, in grey levels; 0: flat
        self._changes: deque[float] = deque(maxlen=HISTORY)

    def push(self, image: UInt8Array) -> bool:
        """Take the next frame, uint8 (H, W, 3); returns whether a new scene begins with it."""
        few = image[::_EVERY, ::_EVERY].astype(np.float32).ravel()
        before, self._few = self._few, few
        previous, self._image = self._image, image
        if self._deviation > 0.0 and before is not None and before.size == few.size:
            apart = few - before
            if float(apart @ apart) < (STILL * self._deviation) ** 2 * few.size:
                self._known = False
                self._changes.append(0.0)  # so little never counts, see LEAST_CHANGE
                return False
        last = self._cells if self._known or previous is None else _structure(previous)
        self._cells, self._known = _structure(image), True
        self._deviation = 0.0
        if self._cells is not None:
            self._deviation = self._cells[1] / (_pixels_per_cell(image) * math.sqrt(self._cells[0].size))
        if last is None or self._cells is None:
            self._changes.clear()
            return False
        cells, length = self._cells
        change = 1.0 - float(cells @ last[0]) / (length * last[1])
        sudden = len(self._changes) >= LEAST_HISTORY and change > max(LEAST_CHANGE, RATIO * max(self._changes))
        if sudden:
            moved = np.abs(cells / length - last[0] / last[1]) * math.sqrt(cells.size)
            if float(np.median(moved)) > LEAST_MEDIAN:
                self._changes.clear()
                return True
        self._changes.append(change)
        return False


def _structure(image: UInt8Array) -> tuple[Float32Array, float] | None:
    """(sums of cells less their mean, length of that vector) of a picture; None where it has no structure."""
    cells, pixels = cell_sums(image)
    cells -= np.add.reduce(cells) / np.float32(cells.size)
    length = math.sqrt(cells @ cells)
    return (cells, length) if length >= FLAT * pixels * math.sqrt(cells.size) else None


def _pixels_per_cell(image: UInt8Array) -> float:
    return float(image.shape[0] * image.shape[1] / SIDE**2)


def cell_sums(image: UInt8Array) -> tuple[Float32Array, float]:
    """(sums of the pixels of 16×16 cells, pixels a cell): float32 (768,) of a picture uint8 (H, W, 3)."""
    height, width = image.shape[:2]
    down, across = height // SIDE, width // SIDE
    if height % SIDE or width % SIDE:
        rows = _weights(height) @ image.reshape(height, -1).astype(np.float32)
        cells: Float32Array = np.matmul(_weights(width), rows.reshape(SIDE, width, 3))
        return cells.ravel(), height * width / SIDE**2
    sums = np.uint16 if down * across <= _FITS else np.uint32
    rows_of = np.add.reduce(image.reshape(SIDE, down, width * 3), axis=1, dtype=sums)
    parts: NDArray[Any] = np.einsum("ijkl->ijl", rows_of.reshape(SIDE, SIDE, across, 3))  # faster than a sum
    return parts.astype(np.float32).ravel(), float(down * across)


@lru_cache(16)
def _weights(length: int) -> Float32Array:
    """(16, length): the part of each pixel that lies in each cell."""
    edges = np.arange(SIDE + 1) * (length / SIDE)
    pixels = np.arange(length)
    inside = np.minimum(edges[1:, None], pixels + 1) - np.maximum(edges[:-1, None], pixels)
    return np.asarray(np.clip(inside, 0.0, None), np.float32)
