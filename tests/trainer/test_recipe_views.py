"""Views: a function of (seed, number) alone, the same at every size, with nothing from outside their clips."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import Tensor

from stream_detector.errors import DataError
from trainer.recipes.labelfree.answers import numbers_of
from trainer.recipes.labelfree.settings import load
from trainer.recipes.labelfree.views import Cut, Drawer, View, degrade_view, render, shrunk

LENGTHS = [16, 18, 40, 72]
SETS = ["a", "a", "b", "a"]


class Plain:
    """A bank whose clip k is grey of 40 · k, brighter by one every frame."""

    device = "cpu"

    def windows(self, clips: Sequence[int], index: NDArray[np.int64]) -> Tensor:
        levels = torch.tensor(clips)[:, None] * 40 + torch.from_numpy(index)
        return levels[:, :, None, None, None].expand(-1, -1, 24, 32, 3).to(torch.uint8)


def drawer(stream: int = 0, seed: int = 0, chosen: Sequence[int] = (0, 1, 2, 3)) -> Drawer:
    return Drawer(SETS, LENGTHS, chosen, load([f"seed={seed}"]), stream)


@hypothesis_settings(max_examples=60, deadline=None)
@given(number=st.integers(0, 10**7), seed=st.integers(0, 1000))
def test_a_view_lies_inside_its_clip_and_its_picture(number: int, seed: int) -> None:
    view = drawer(seed=seed).draw(number)
    assert view == drawer(seed=seed).draw(number)
    for cut in (view.cut, view.other):
        if cut is None:
            continue
        assert len(cut.index) == 16 and list(cut.index) == sorted(cut.index)
        assert min(cut.index) >= 0 and max(cut.index) < LENGTHS[cut.clip]
        for (scale, shift), size in (((cut.theta[0][0], cut.theta[0][2]), 1), ((cut.theta[1][1], cut.theta[1][2]), 1)):
            assert abs(scale) + abs(shift) <= size + 1e-9
    left, top, right, bottom = view.patch
    assert 0 <= left <= right <= 1 and 0 <= top <= bottom <= 1 and 0 <= view.blend <= 0.7


def test_views_of_one_visit_show_one_clip_and_other_streams_other_views() -> None:
    mine = [drawer().draw(k) for k in range(8)]
    assert len({view.cut.clip for view in mine[:4]}) == 1
    assert mine != [drawer(stream=1).draw(k) for k in range(8)]
    assert len({view.cut for view in mine}) == 8


def test_a_set_counts_by_the_power_of_its_size() -> None:
    found = [drawer().draw(4 * k).cut.clip for k in range(2000)]
    share = sum(clip == 2 for clip in found) / len(found)
    assert abs(share - 1 / (1 + 3**0.5)) < 0.04  # one clip of b against three of a
    assert {drawer(chosen=[1, 3]).draw(k).cut.clip for k in range(200)} == {1, 3}
    with pytest.raises(DataError, match="no clip"):
        drawer(chosen=[])


WHOLE = ((1.0, 0.0, 0.0), (0.0, 1.0, 0.0))


def test_pixels_are_those_of_the_cut() -> None:
    cut, other = (Cut(k, tuple(range(16)), WHOLE) for k in (1, 3))
    views = [View(cut), View(cut, other, blend=0.25), View(cut, other, patch=(0.5, 0.0, 1.0, 0.5))]
    seen = render(views, Plain(), 32)
    assert seen.shape == (3, 16, 32, 32, 3) and seen.dtype == torch.uint8
    assert seen[0, 5].unique().tolist() == [45]
    assert seen[1, 5].unique().tolist() == [65]  # a quarter of the way from 45 to 125
    assert seen[2, 5, :16, 16:].unique().tolist() == [125] and seen[2, 5, 16:].unique().tolist() == [45]
    assert shrunk(seen, 16).shape == (3, 16, 16, 16, 3) and shrunk(seen, 16)[0, 5].unique().tolist() == [45]


def test_a_crop_and_a_mirror_take_the_part_that_they_name() -> None:
    class Ramp(Plain):
        def windows(self, clips: Sequence[int], index: NDArray[np.int64]) -> Tensor:
            columns = torch.arange(32, dtype=torch.uint8) * 8
            return columns[None, None, None, :, None].expand(len(clips), 16, 24, 32, 3).clone()

    left = Cut(0, tuple(range(16)), ((0.5, 0.0, -0.5), (0.0, 1.0, 0.0)))
    mirrored = Cut(0, tuple(range(16)), ((-0.5, 0.0, -0.5), (0.0, 1.0, 0.0)))
    a, b = render([View(left), View(mirrored)], Ramp(), 16)
    assert int(a.max()) < 128 and a[0, 0, :, 0].tolist() == sorted(a[0, 0, :, 0].tolist())
    assert torch.equal(a.flip(2), b)


def test_what_spoils_a_view_depends_on_the_generator_alone() -> None:
    views = render([drawer().draw(k) for k in range(6)], Plain(), 32)
    torch.manual_seed(3)
    once = degrade_view(views)
    torch.manual_seed(3)
    assert torch.equal(once, degrade_view(views)) and not torch.equal(once, views)
    assert once.shape == views.shape and once.dtype == torch.uint8


def test_kept_views_are_all_seen_before_any_again_and_online_ones_never() -> None:
    settings = load(["batch=8", "views=64", "shard=16", "window=2", "watched=16", "repeats=3"])
    steps = [numbers_of(k, settings, kept=True) for k in range(settings.steps)]
    for epoch in range(3):
        assert sorted(chain.from_iterable(steps[8 * epoch : 8 * (epoch + 1)])) == list(range(64))
    assert steps[:8] != steps[8:16]
    assert len({number // 16 for number in chain.from_iterable(steps[:4])}) == 2  # two files at a time
    online = list(chain.from_iterable(numbers_of(k, settings, kept=False) for k in range(20)))
    assert online == list(range(160))
