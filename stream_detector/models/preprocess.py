"""Normalisation: windows of uint8 pixels → the input of a network.

    capture.picture.resize_frame   a decoded picture, or an array  → uint8 (h, w, 3) RGB      once a frame
    normalise                      uint8 (B, T, h, w, 3) RGB       → float32 (B, 3, T, h, w)  once a batch, by engines

A `Recipe` holds every number of both (`recipe`); a model bundle names its recipe, and its fingerprint covers it.
Training, scoring and all engines use these two functions, so they cannot disagree. The axes are permuted, never
reshaped (which would mix time and colour). The formula is  out = (x · scale − mean) / std,  computed as  x · gain +
offset.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from stream_detector.errors import DataError
from stream_detector.models.recipe import RECIPES, Filter, Recipe, View, recipe_named
from stream_detector.types import Float32Array, UInt8Array

__all__ = [
    "RECIPES",
    "Filter",
    "Normalise",
    "Recipe",
    "View",
    "normalise",
    "normalise_numpy",
    "recipe_named",
]


def normalise(frames: Tensor, recipe: Recipe) -> Tensor:
    """Normalise windows on the device where they are.

    frames: uint8 (B, T, H, W, 3) RGB.  Returns float32 (B, 3, T, H, W) in channels-last memory (the axes are permuted,
    the pixels are not moved); call `.contiguous()` where that matters.  Raises DataError.
    """
    _check_windows(tuple(frames.shape), frames.dtype == torch.uint8, str(frames.dtype))
    gain = torch.tensor(recipe.gain, device=frames.device)
    offset = torch.tensor(recipe.offset, device=frames.device)
    return (frames.float() * gain + offset).permute(0, 4, 1, 2, 3)


def normalise_numpy(frames: UInt8Array, recipe: Recipe) -> Float32Array:
    """Normalise in NumPy, like `normalise`: uint8 (B, T, H, W, 3) RGB → float32 (B, 3, T, H, W). Raises DataError."""
    _check_windows(frames.shape, frames.dtype == np.uint8, str(frames.dtype))
    gain = np.asarray(recipe.gain, dtype=np.float32)
    offset = np.asarray(recipe.offset, dtype=np.float32)
    result: Float32Array = (frames.astype(np.float32) * gain + offset).transpose(0, 4, 1, 2, 3)
    return result


class Normalise(nn.Module):
    """`normalise` as a layer, so that an engine can compile it into its graph: uint8 windows in, float32 out."""

    gain: Tensor
    offset: Tensor

    def __init__(self, recipe: Recipe) -> None:
        super().__init__()
        self.register_buffer("gain", torch.tensor(recipe.gain), persistent=False)
        self.register_buffer("offset", torch.tensor(recipe.offset), persistent=False)

    def forward(self, frames: Tensor) -> Tensor:
        """Map uint8 (B, T, H, W, 3) RGB to float32 (B, 3, T, H, W)."""
        return (frames.float() * self.gain + self.offset).permute(0, 4, 1, 2, 3)


def _check_windows(shape: tuple[int, ...], is_uint8: bool, dtype: str) -> None:
    if not is_uint8 or len(shape) != 5 or shape[-1] != 3:
        raise DataError(f"windows must be uint8 (B, T, H, W, 3) RGB, got {dtype} {tuple(shape)}; stack resized frames")
