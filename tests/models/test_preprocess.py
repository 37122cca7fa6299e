"""Pixels: order of colours, axes and numbers."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from stream_detector.capture.picture import resize_frame
from stream_detector.errors import DataError
from stream_detector.models.preprocess import (
    RECIPES,
    Normalise,
    Recipe,
    normalise,
    normalise_numpy,
    recipe_named,
)

COLOURS_BGR = {"red": (0, 0, 255), "green": (0, 255, 0), "blue": (255, 0, 0)}


@pytest.mark.parametrize("name", RECIPES)
@pytest.mark.parametrize(("colour", "channel"), [("red", 0), ("green", 1), ("blue", 2)])
def test_a_coloured_clip_lands_in_its_channel(name: str, colour: str, channel: int) -> None:
    recipe = RECIPES[name]
    frame = np.zeros((240, 320, 3), np.uint8)
    frame[:] = COLOURS_BGR[colour]
    small = resize_frame(frame, recipe)
    assert small.shape == (*recipe.size, 3)
    clip = normalise(torch.from_numpy(np.stack([small] * 16)[None]), recipe)
    assert clip.shape == (1, 3, 16, *recipe.size)
    for index in range(3):
        value = 255.0 if index == channel else 0.0
        wanted = (value * recipe.scale - recipe.mean[index]) / recipe.std[index]
        torch.testing.assert_close(clip[0, index], torch.full_like(clip[0, index], wanted), atol=1e-4, rtol=1e-5)


def test_published_numbers() -> None:
    white = np.full((1, 16, 2, 2, 3), 255, np.uint8)
    assert normalise_numpy(white, RECIPES["hara-112"])[0, :, 0, 0, 0] == pytest.approx([140.2252, 147.2646, 155.525])
    assert normalise_numpy(white, RECIPES["i3d-224"])[0, :, 0, 0, 0] == pytest.approx([1.0, 1.0, 1.0])
    assert normalise_numpy(white * 0, RECIPES["i3d-224"])[0, :, 0, 0, 0] == pytest.approx([-1.0, -1.0, -1.0])
    wanted = [(1 - 0.43216) / 0.22803, (1 - 0.394666) / 0.22145, (1 - 0.37645) / 0.216989]
    assert normalise_numpy(white, RECIPES["torchvision-112"])[0, :, 0, 0, 0] == pytest.approx(wanted)


def test_axes_are_permuted_not_reshaped() -> None:
    frames = np.random.default_rng(0).integers(0, 256, (2, 16, 5, 7, 3), dtype=np.uint8)
    recipe = RECIPES["hara-112"]
    out = normalise(torch.from_numpy(frames), recipe)
    for b, t, y, x, c in [(0, 0, 0, 0, 0), (1, 15, 4, 6, 2), (0, 7, 3, 2, 1), (1, 1, 0, 5, 2)]:
        assert out[b, c, t, y, x].item() == pytest.approx(float(frames[b, t, y, x, c]) - recipe.mean[c], abs=1e-4)


@pytest.mark.parametrize("name", RECIPES)
def test_the_three_forms_agree(name: str) -> None:
    recipe = RECIPES[name]
    frames = np.random.default_rng(1).integers(0, 256, (2, 16, 9, 8, 3), dtype=np.uint8)
    tensor = torch.from_numpy(frames)
    np.testing.assert_allclose(normalise(tensor, recipe).numpy(), normalise_numpy(frames, recipe), atol=1e-5)
    assert torch.equal(Normalise(recipe)(tensor), normalise(tensor, recipe))


def test_memory_is_channels_last_without_a_copy() -> None:
    out = normalise(torch.zeros((2, 16, 8, 8, 3), dtype=torch.uint8), RECIPES["stream-112"])
    assert out.is_contiguous(memory_format=torch.channels_last_3d)


@settings(max_examples=40, deadline=None)
@given(height=st.integers(1, 300), width=st.integers(1, 300), fit=st.sampled_from(["stretch", "crop"]))
def test_any_picture_fits(height: int, width: int, fit: str) -> None:
    recipe = Recipe("t", (24, 32), (0, 0, 0), (1, 1, 1), 1.0, fit=fit)  # type: ignore[arg-type]
    out = resize_frame(np.full((height, width, 3), 77, np.uint8), recipe)
    assert out.shape == (24, 32, 3) and out.dtype == np.uint8 and out.flags.c_contiguous
    assert (out == 77).all()


def test_stretch_keeps_the_corners_and_crop_cuts_them() -> None:
    image = np.zeros((100, 300, 3), np.uint8)
    image[:, :40] = 255
    stretched = resize_frame(image, Recipe("s", (50, 50), (0, 0, 0), (1, 1, 1), 1.0))
    cropped = resize_frame(image, Recipe("c", (50, 50), (0, 0, 0), (1, 1, 1), 1.0, fit="crop"))
    assert stretched[:, 0].min() == 255
    assert cropped.max() == 0


def test_grey_becomes_three_equal_channels() -> None:
    grey = np.random.default_rng(2).integers(0, 256, (60, 80), dtype=np.uint8)
    out = resize_frame(grey, RECIPES["stream-112"])
    assert (out[..., 0] == out[..., 1]).all() and (out[..., 1] == out[..., 2]).all()
    assert np.array_equal(out, resize_frame(grey[..., None], RECIPES["stream-112"]))


def test_a_frame_of_the_right_size_is_not_aliased() -> None:
    frame = np.zeros((112, 112, 3), np.uint8)
    out = resize_frame(frame, RECIPES["stream-112"])
    frame[:] = 9
    assert out.max() == 0


@pytest.mark.parametrize(
    "bad",
    [
        np.zeros((4, 4, 3), np.float32),
        np.zeros((4, 4, 5), np.uint8),
        np.zeros((0, 4, 3), np.uint8),
        np.zeros(4, np.uint8),
        np.zeros((1, 4, 4, 3), np.uint8),
    ],
)
def test_wrong_frames_are_refused(bad: np.ndarray) -> None:
    with pytest.raises(DataError):
        resize_frame(bad, RECIPES["stream-112"])


@pytest.mark.parametrize("shape", [(16, 8, 8, 3), (1, 3, 16, 8, 8)])
def test_wrong_windows_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(DataError):
        normalise(torch.zeros(shape, dtype=torch.uint8), RECIPES["stream-112"])
    with pytest.raises(DataError):
        normalise_numpy(np.zeros(shape, np.uint8), RECIPES["stream-112"])


def test_floating_windows_are_refused() -> None:
    with pytest.raises(DataError):
        normalise(torch.zeros((1, 16, 8, 8, 3)), RECIPES["stream-112"])


def test_impossible_recipes_are_refused() -> None:
    with pytest.raises(DataError):
        Recipe("x", (0, 112), (0, 0, 0), (1, 1, 1), 1.0)
    with pytest.raises(DataError):
        Recipe("x", (112, 112), (0, 0, float("nan")), (1, 1, 1), 1.0)
    with pytest.raises(DataError):
        Recipe("x", (112, 112), (0, 0, 0), (1, 0, 1), 1.0)
    with pytest.raises(DataError, match="hara-112"):
        recipe_named("harra-112")
