"""From the decoder's planes to pixels: views, masks, turns, any planes; arrays take the same way."""

from __future__ import annotations

import dataclasses

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stream_detector.capture.bgr import MaskPainter, is_flat, to_bgr
from stream_detector.capture.picture import ArrayPicture, MaskedPicture, as_picture, make_views, shown_box
from stream_detector.errors import DataError
from stream_detector.models.recipe import RECIPES, Recipe, View
from stream_detector.testing import numbered_image
from stream_detector.types import UInt8Array


def scene(height: int = 360, width: int = 640, seed: int = 0) -> UInt8Array:
    """A picture with structure at every scale: uint8 (height, width, 3) BGR."""
    cells = np.random.default_rng(seed).integers(0, 256, (height // 20, width // 20, 3), dtype=np.uint8)
    return np.asarray(cv2.resize(cells, (width, height), interpolation=cv2.INTER_CUBIC), np.uint8)


def recipe(**changes: object) -> Recipe:
    return Recipe("t", (112, 112), (0, 0, 0), (1, 1, 1), 1.0, **changes)  # type: ignore[arg-type]


def test_area_is_the_mean_over_the_covered_pixels() -> None:
    picture = scene()
    wanted = cv2.cvtColor(cv2.resize(picture, (112, 112), interpolation=cv2.INTER_AREA), cv2.COLOR_BGR2RGB)
    (found,) = make_views(picture, recipe())
    off = np.abs(found.astype(int) - wanted)
    assert off.max() <= 2 and off.mean() < 0.2


@pytest.mark.parametrize("name", ["area", "bilinear", "fast_bilinear", "bicubic"])
def test_every_filter_keeps_a_plain_colour_and_the_corners(name: str) -> None:
    picture = np.zeros((240, 320, 3), np.uint8)
    picture[:120, :160] = (10, 200, 90)
    (found,) = make_views(picture, recipe(filter=name))
    assert np.abs(found[5, 5].astype(int) - (90, 200, 10)).max() <= 2 and found[-5:, -5:].max() <= 2


def test_views_are_parts_of_the_picture_at_one_size() -> None:
    picture = np.zeros((200, 400, 3), np.uint8)
    picture[:, 200:] = 255
    left, right = View("left", (112, 112), box=(0, 0, 0.5, 1)), View("right", (112, 112), box=(0.5, 0, 1, 1))
    views = make_views(picture, recipe(views=(View("whole", (112, 112)), left, right)))
    assert [v.shape for v in views] == [(112, 112, 3)] * 3
    assert views[0][:, :54].max() == 0 and views[0][:, 58:].min() == 255
    assert views[1][:, :110].max() == 0 and views[2][:, 2:].min() == 255


@settings(max_examples=60, deadline=None)
@given(
    height=st.integers(1, 700),
    width=st.integers(1, 700),
    fit=st.sampled_from(["stretch", "crop"]),
    left=st.floats(0, 0.9),
    top=st.floats(0, 0.9),
    share=st.floats(0.05, 1.0),
)
def test_any_view_of_any_picture_has_its_size_and_lies_inside(
    height: int, width: int, fit: str, left: float, top: float, share: float
) -> None:
    box = (left, top, left + (1 - left) * share, top + (1 - top) * share)
    view = View("part", (24, 32), fit, box)  # type: ignore[arg-type]
    a, b, c, d = shown_box(view, width, height)
    slack = 1.0 / min(width, height, 24)  # whole pixels, of the picture or of the result
    assert 0 <= a < c <= 1 and 0 <= b < d <= 1
    assert box[0] - slack <= a and c <= box[2] + slack and box[1] - slack <= b and d <= box[3] + slack
    found = ArrayPicture(np.full((height, width, 3), 77, np.uint8)).rgb(view, "area")
    assert found.shape == (24, 32, 3) and found.flags.c_contiguous and (found == 77).all()


@pytest.mark.parametrize("box", [(0, 0, 0, 1), (0.5, 0, 0.4, 1), (-0.1, 0, 1, 1), (0, 0, 1, 1.1)])
def test_impossible_views_are_refused(box: tuple[float, float, float, float]) -> None:
    with pytest.raises(DataError, match="box"):
        View("x", (4, 4), box=box)


def test_a_recipe_made_larger_sees_its_own_size() -> None:
    assert make_views(scene(), dataclasses.replace(RECIPES["stream-112"], size=(64, 80)))[0].shape == (64, 80, 3)


def test_views_of_another_size_than_the_network_s_are_refused() -> None:
    with pytest.raises(DataError, match="size"):
        recipe(views=(View("x", (4, 4)),))


@pytest.mark.parametrize(
    "image",
    [
        np.full((4, 6), 7, np.uint8),
        np.full((4, 6, 1), 7, np.uint8),
        np.full((4, 6, 4), 7, np.uint8),
        np.full((4, 6), 7 << 8, np.uint16),
    ],
)
def test_any_array_becomes_a_picture(image: np.ndarray) -> None:  # type: ignore[type-arg]
    assert (to_bgr(image) == 7).all()
    picture = as_picture(image)
    assert (picture.width, picture.height) == (6, 4) and (picture.bgr() == 7).all()
    assert (make_views(picture, RECIPES["stream-112"])[0] == 7).all()


def test_pictures_for_people_are_never_enlarged_and_one_s_own() -> None:
    assert as_picture(np.zeros((1080, 1920, 3), np.uint8)).bgr(480).shape == (270, 480, 3)
    small = np.zeros((60, 80, 3), np.uint8)
    copy = as_picture(small).bgr(480)
    assert copy.shape == (60, 80, 3) and not np.shares_memory(copy, small)


def test_flat_pictures_are_told_from_dark_ones() -> None:
    assert is_flat(np.full((240, 320, 3), (90, 120, 60), np.uint8))
    assert not is_flat(numbered_image(0, (240, 320)))


TRIANGLE = ((0.2, 0.2), (0.8, 0.3), (0.4, 0.9))


@settings(max_examples=40, deadline=None)
@given(
    polygon=st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1)), min_size=3, max_size=6),
    name=st.sampled_from(["area", "bilinear", "fast_bilinear", "bicubic"]),
    fit=st.sampled_from(["stretch", "crop"]),
)
def test_nothing_of_what_lies_under_the_mask_reaches_any_result(
    polygon: list[tuple[float, float]], name: str, fit: str
) -> None:
    """Two pictures that differ only under the mask give the very same pixels, at every size and in every view."""
    outside = scene(180, 320)
    inside = np.zeros((180, 320), np.uint8)
    points = np.round(np.array(polygon) * (320, 180) - 0.5).astype(np.int32)
    cv2.fillPoly(inside, [points], 1)
    hidden = np.where(inside[..., None] > 0, 255 - outside, outside)
    views = (View("whole", (56, 56), fit), View("part", (56, 56), fit, (0.1, 0.2, 0.7, 0.9)))  # type: ignore[arg-type]
    wants = Recipe("t", (56, 56), (0, 0, 0), (1, 1, 1), 1.0, filter=name, views=views)  # type: ignore[arg-type]
    painter = MaskPainter(polygon)
    pictures = [MaskedPicture(as_picture(p), painter) for p in (outside, hidden)]
    for one, other in zip(make_views(pictures[0], wants), make_views(pictures[1], wants), strict=True):
        assert np.array_equal(one, other)
    for side in (None, 96, 64):
        assert np.array_equal(pictures[0].bgr(side), pictures[1].bgr(side))


def test_the_mask_covers_little_more_than_the_polygon() -> None:
    picture = MaskedPicture(as_picture(np.zeros((400, 400, 3), np.uint8)), MaskPainter(TRIANGLE))
    shown = picture.bgr()
    area = 0.5 * abs(0.6 * 0.7 - 0.2 * 0.1)
    assert area <= (shown[..., 0] == 127).mean() < area + 0.03
    assert set(np.unique(shown)) == {0, 127}
