"""The place of an alarm: grid, boxes, and what a camera hides."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stream_detector.alarms.where import BOX_FROM, MOST_CELLS, pooled, where_of
from stream_detector.types import Where

SPOT = np.zeros((4, 4), np.float32)
SPOT[1, 2], SPOT[1, 3], SPOT[3, 0] = 2.0, 1.6, 1.3


def test_the_loudest_cell_is_one_and_boxes_surround_connected_loud_cells() -> None:
    where = where_of(SPOT, 1.0, 1.6)
    assert where is not None
    assert where.grid == ((0.0,) * 4, (0.0, 0.0, 1.0, 0.8), (0.0,) * 4, (0.65, 0.0, 0.0, 0.0))
    assert where.boxes == ((0.5, 0.25, 1.0, 0.5), (0.0, 0.75, 0.25, 1.0))
    assert (where.start_s, where.end_s) == (1.0, 1.6)


def test_a_view_of_a_part_of_the_picture_is_mapped_back() -> None:
    where = where_of(SPOT, 0, 1, region=(0.25, 0.0, 0.75, 0.5))
    assert where is not None and where.boxes[0] == (0.5, 0.125, 0.75, 0.25)


def test_what_a_camera_hides_is_never_pointed_at() -> None:
    right = ((0.5, 0.0), (1.0, 0.0), (1.0, 1.0), (0.5, 1.0))
    where = where_of(SPOT, 0, 1, hidden=(right,))
    assert where is not None and where.grid[1][2:] == (0.0, 0.0) and where.boxes == ((0.0, 0.75, 0.25, 1.0),)
    assert where_of(SPOT, 0, 1, hidden=(((0, 0), (1, 0), (1, 1), (0, 1)),)) is None


@pytest.mark.parametrize("cells", [np.ones((4, 4), np.float32), np.full((2, 2), np.nan, np.float32)])
def test_nothing_is_said_where_no_cell_stands_out(cells: np.ndarray) -> None:
    assert where_of(cells, 0, 1) is None


def test_a_fine_map_is_pooled_by_whole_blocks() -> None:
    cells = np.arange(80, dtype=np.float32).reshape(8, 10)
    assert pooled(cells).shape == (4, 5)
    assert pooled(cells)[0, 0] == cells[:2, :2].mean()


@given(st.integers(1, 20), st.integers(1, 20), st.integers(0, 2**32 - 1))
def test_numbers_are_shares_boxes_hold_the_loudest_cell_and_json_keeps_it(rows: int, columns: int, seed: int) -> None:
    where = where_of(np.random.default_rng(seed).normal(size=(rows, columns)).astype(np.float32), 0.0, 0.64)
    if where is None:
        return
    grid = np.array(where.grid)
    assert max(grid.shape) <= MOST_CELLS and grid.min() == 0 and grid.max() == 1
    row, column = np.unravel_index(int(grid.argmax()), grid.shape)
    x, y = (column + 0.5) / grid.shape[1], (row + 0.5) / grid.shape[0]
    if (grid >= BOX_FROM).sum() <= 3:
        assert any(left < x < right and top < y < bottom for left, top, right, bottom in where.boxes)
    assert all(0 <= a < c <= 1 and 0 <= b < d <= 1 for a, b, c, d in where.boxes)
    assert Where.of_dict(json.loads(json.dumps(dataclasses.asdict(where)))) == where
