"""Where in the picture an alarm looks at: a coarse grid and boxes, out of what each cell adds to the score's logit.

    contributions (h, w) ──at most 7×7──▶ cells that the network sees ──from 0 to 1──▶ grid ──≥ BOX_FROM──▶ boxes

The grid is relative: 1 is the cell that speaks loudest for the alarm, however little it says. What a camera masks or
ignores is 0. Numbers are rounded, so that a replay gives the same bytes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from stream_detector.types import Box, Float32Array, Where

MOST_CELLS = 7  # a side; finer maps are pooled
BOX_FROM = 0.6  # cells from this value on form boxes
MOST_BOXES = 3
_SAMPLES = 4  # points a side of a cell, for the share of it that is hidden

Floats = NDArray[np.float64]
Polygons = Sequence[Sequence[tuple[float, float]]]
WHOLE: Box = (0.0, 0.0, 1.0, 1.0)


def where_of(
    contributions: Float32Array, start_s: float, end_s: float, region: Box = WHOLE, hidden: Polygons = ()
) -> Where | None:
    """The place that one window's score comes from; None if no cell stands out.

    contributions: float32 (h, w), what each cell adds to the logit.  start_s, end_s: media time of the window.
    region: the part of the picture that the cells cover (left, top, right, bottom, as shares of it).  hidden: polygons,
    in shares of the picture, that the network does not see.
    """
    cells = pooled(contributions)
    seen = ~_mostly_hidden(cells.shape, region, hidden)
    if not seen.any() or not np.isfinite(cells).all():
        return None
    low, high = float(cells[seen].min()), float(cells[seen].max())
    if high - low < 1e-6:
        return None
    values = np.where(seen, (cells - low) / (high - low), 0.0)
    grid = tuple(tuple(round(float(value), 2) for value in row) for row in values)
    return Where(grid, _boxes(np.array(grid), region), region, round(start_s, 3), round(end_s, 3))


def pooled(contributions: Float32Array) -> Floats:
    """The mean of blocks of cells, so that no side has more than MOST_CELLS; float64 (h, w)."""
    cells = np.asarray(contributions, np.float64)
    for axis in (0, 1):
        block = math.ceil(cells.shape[axis] / MOST_CELLS)
        edges = np.arange(0, cells.shape[axis], block)
        counts = np.diff(np.append(edges, cells.shape[axis]))
        shape = (-1, 1) if axis == 0 else (1, -1)
        cells = np.add.reduceat(cells, edges, axis=axis) / counts.reshape(shape)
    return cells


def _mostly_hidden(shape: tuple[int, ...], region: Box, hidden: Polygons) -> NDArray[np.bool_]:
    """Which cells lie under the polygons by half or more: bool (h, w)."""
    rows, columns = shape
    y = region[1] + (np.arange(rows * _SAMPLES) + 0.5) / (rows * _SAMPLES) * (region[3] - region[1])
    x = region[0] + (np.arange(columns * _SAMPLES) + 0.5) / (columns * _SAMPLES) * (region[2] - region[0])
    under = np.zeros((len(y), len(x)), bool)
    for polygon in hidden:
        under |= _inside(x[None, :], y[:, None], polygon)
    share = under.reshape(rows, _SAMPLES, columns, _SAMPLES).mean(axis=(1, 3))
    return np.asarray(share >= 0.5)


def _inside(x: Floats, y: Floats, polygon: Sequence[tuple[float, float]]) -> NDArray[np.bool_]:
    """Whether points lie in a polygon, by the number of edges that a ray to the right crosses."""
    inside = np.zeros(np.broadcast_shapes(x.shape, y.shape), bool)
    for (x0, y0), (x1, y1) in zip(polygon, [*polygon[1:], polygon[0]], strict=True):
        if y0 == y1:
            continue
        crosses = (y0 > y) != (y1 > y)
        inside ^= crosses & (x < (x1 - x0) * (y - y0) / (y1 - y0) + x0)
    return inside


def _boxes(grid: Floats, region: Box) -> tuple[Box, ...]:
    """Boxes around connected cells from BOX_FROM on, in shares of the picture, the one with the largest sum first."""
    left = {(int(row), int(column)) for row, column in np.argwhere(grid >= BOX_FROM)}
    groups = []
    while left:
        group, edge = [], [min(left)]
        left.remove(edge[0])
        while edge:
            row, column = edge.pop()
            group.append((row, column))
            for near in ((row - 1, column), (row + 1, column), (row, column - 1), (row, column + 1)):
                if near in left:
                    left.remove(near)
                    edge.append(near)
        groups.append(group)
    groups.sort(key=lambda cells: (-round(sum(float(grid[cell]) for cell in cells), 6), cells[0]))
    return tuple(_around(group, grid.shape, region) for group in groups[:MOST_BOXES])


def _around(cells: list[tuple[int, int]], shape: tuple[int, ...], region: Box) -> Box:
    rows, columns = [row for row, _ in cells], [column for _, column in cells]
    height, width = (region[3] - region[1]) / shape[0], (region[2] - region[0]) / shape[1]
    return (
        round(region[0] + min(columns) * width, 3),
        round(region[1] + min(rows) * height, 3),
        round(region[0] + (max(columns) + 1) * width, 3),
        round(region[1] + (max(rows) + 1) * height, 3),
    )
