"""The one place where pixels change: decoded frames → what a network sees.

    resize_frame   uint8 (H, W, 3) BGR or (H, W) grey  → uint8 (h, w, 3) RGB      once a frame, in the capture thread
    normalise      uint8 (B, T, h, w, 3) RGB           → float32 (B, 3, T, h, w)  once a batch, inside the engine

A `Recipe` holds every number of both; a model bundle names its recipe, and its fingerprint covers it. Training, scoring
and all engines go through this module, so they cannot disagree. The axes move by permutation, never by reshaping (which
would mix time and colour). The formula is  out = (x · scale − mean) / std,  folded into  x · gain + offset.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any, Literal

import cv2
import numpy as np
import torch
from torch import Tensor, nn

from stream_detector.errors import DataError
from stream_detector.types import WINDOW_FRAMES, Float32Array, UInt8Array

Triple = tuple[float, float, float]


@dataclass(frozen=True, slots=True)
class Recipe:
    """How frames become a network's input.

    size: (height, width) in pixels.  frames: per window.  mean, std: RGB, applied after `scale`.
    scale: factor on 0..255.  fps: frame rate that the network was trained at.
    fit: "stretch" squeezes the whole picture (a camera's corners matter), "crop" scales the short side and takes the
    centre.  paper: where mean and size come from.
    """

    name: str
    size: tuple[int, int]
    mean: Triple
    std: Triple
    scale: float
    frames: int = WINDOW_FRAMES
    fps: float = 25.0
    fit: Literal["stretch", "crop"] = "stretch"
    paper: str = ""

    def __post_init__(self) -> None:
        numbers = [*self.size, *self.mean, *self.std, self.scale, self.frames, self.fps]
        lengths = (len(self.size), len(self.mean), len(self.std))
        if lengths != (2, 3, 3) or not all(math.isfinite(n) for n in numbers):
            raise DataError(f"recipe {self.name!r}: size needs 2, mean and std need 3 finite numbers; correct them")
        if min(self.size) < 1 or self.frames < 1 or min(self.std) <= 0 or self.scale <= 0 or self.fps <= 0:
            raise DataError(f"recipe {self.name!r}: size, frames, std, scale and fps must be positive; correct them")
        if max(self.size) > 1024 or self.frames > 256:
            raise DataError(f"recipe {self.name!r}: at most 1024 pixels a side and 256 frames; make it smaller")

    @property
    def gain(self) -> Triple:
        """Factor on 0..255, per RGB channel."""
        r, g, b = (self.scale / s for s in self.std)
        return (r, g, b)

    @property
    def offset(self) -> Triple:
        """Summand after the gain, per RGB channel."""
        r, g, b = (-m / s for m, s in zip(self.mean, self.std, strict=True))
        return (r, g, b)

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for a manifest."""
        return {k: list(v) if isinstance(v, tuple) else v for k, v in asdict(self).items()}


_KINETICS_MEAN: Triple = (0.43216, 0.394666, 0.37645)
_KINETICS_STD: Triple = (0.22803, 0.22145, 0.216989)

RECIPES: dict[str, Recipe] = {
    recipe.name: recipe
    for recipe in (
        Recipe(
            name="hara-112",
            size=(112, 112),
            mean=(114.7748, 107.7354, 99.4750),
            std=(1.0, 1.0, 1.0),
            scale=1.0,
            paper="Hara et al.: Can Spatiotemporal 3D CNNs Retrace the History of 2D CNNs and ImageNet? (2018)",
        ),
        Recipe(
            name="torchvision-112",
            size=(112, 112),
            mean=_KINETICS_MEAN,
            std=_KINETICS_STD,
            scale=1.0 / 255.0,
            paper="Tran et al.: A Closer Look at Spatiotemporal Convolutions for Action Recognition (2018)",
        ),
        Recipe(
            name="i3d-224",
            size=(224, 224),
            mean=(1.0, 1.0, 1.0),
            std=(1.0, 1.0, 1.0),
            scale=2.0 / 255.0,
            paper="Carreira, Zisserman: Quo Vadis, Action Recognition? A New Model and the Kinetics Dataset (2017)",
        ),
        Recipe(
            name="stream-112",
            size=(112, 112),
            mean=_KINETICS_MEAN,
            std=_KINETICS_STD,
            scale=1.0 / 255.0,
            paper="Kinetics-400 channel statistics (Tran et al. 2018); the whole picture, stretched",
        ),
    )
}


def recipe_named(name: str) -> Recipe:
    """The recipe of that name. Raises DataError naming those that exist."""
    try:
        return RECIPES[name]
    except KeyError:
        raise DataError(f"preprocessing recipe {name!r} does not exist; use one of {', '.join(RECIPES)}") from None


def resize_frame(image: UInt8Array, recipe: Recipe) -> UInt8Array:
    """One decoded frame at the network's size.

    image: uint8 (H, W, 3) BGR, (H, W, 1) or (H, W) grey, as OpenCV decodes.  Returns uint8 (h, w, 3) RGB, contiguous.
    Raises DataError for any other array.
    """
    if image.dtype != np.uint8 or image.ndim not in (2, 3) or (image.ndim == 3 and image.shape[2] not in (1, 3)):
        raise DataError(f"a frame must be uint8 (H, W, 3) or (H, W), got {image.dtype} {image.shape}; convert it first")
    if image.size == 0:
        raise DataError(f"a frame must have pixels, got shape {image.shape}; skip empty frames")
    height, width = recipe.size
    if recipe.fit == "crop":
        image = _centre(image, height / width)
    rows, columns = image.shape[:2]
    if (rows, columns) != (height, width):
        # Averaging over the covered area keeps small bright things; it has no meaning when enlarging.
        shrinks = rows >= height and columns >= width
        image = _uint8(
            cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR)
        )
    grey = image.ndim == 2 or image.shape[2] == 1
    return _uint8(cv2.cvtColor(image, cv2.COLOR_GRAY2RGB if grey else cv2.COLOR_BGR2RGB))


def normalise(frames: Tensor, recipe: Recipe) -> Tensor:
    """Windows as the network sees them, on the device where they lie.

    frames: uint8 (B, T, H, W, 3) RGB.  Returns float32 (B, 3, T, H, W) whose memory is channels-last (the axes are
    permuted, the pixels stay where they are); ask for `.contiguous()` where that matters.  Raises DataError.
    """
    _check_windows(tuple(frames.shape), frames.dtype == torch.uint8, str(frames.dtype))
    gain = torch.tensor(recipe.gain, device=frames.device)
    offset = torch.tensor(recipe.offset, device=frames.device)
    return (frames.float() * gain + offset).permute(0, 4, 1, 2, 3)


def normalise_numpy(frames: UInt8Array, recipe: Recipe) -> Float32Array:
    """The same as `normalise`, in NumPy: uint8 (B, T, H, W, 3) RGB → float32 (B, 3, T, H, W). Raises DataError."""
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
        """uint8 (B, T, H, W, 3) RGB → float32 (B, 3, T, H, W)."""
        return (frames.float() * self.gain + self.offset).permute(0, 4, 1, 2, 3)


def _check_windows(shape: tuple[int, ...], is_uint8: bool, dtype: str) -> None:
    if not is_uint8 or len(shape) != 5 or shape[-1] != 3:
        raise DataError(f"windows must be uint8 (B, T, H, W, 3) RGB, got {dtype} {tuple(shape)}; stack resized frames")


def _centre(image: UInt8Array, ratio: float) -> UInt8Array:
    """The largest centred part whose height / width is `ratio`."""
    rows, columns = image.shape[:2]
    height = min(rows, max(1, round(columns * ratio)))
    width = min(columns, max(1, round(rows / ratio)))
    top, left = (rows - height) // 2, (columns - width) // 2
    return image[top : top + height, left : left + width]


def _uint8(image: Any) -> UInt8Array:
    result: UInt8Array = image
    return result
