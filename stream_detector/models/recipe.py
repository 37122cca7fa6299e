"""The recipe of a network's input, and its views. This module needs no PyTorch, because capture processes import it.

    Recipe ──views──▶ (View, …)   the parts of the picture, and their size; by default the whole picture
           ──filter─▶ "area"      how the scaler weighs source pixels

Scores depend on both, so both are in the manifest of a bundle and its fingerprint covers them.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any, Literal

from stream_detector.errors import DataError
from stream_detector.types import WINDOW_FRAMES

Fit = Literal["stretch", "crop"]
Filter = Literal["area", "bilinear", "fast_bilinear", "bicubic"]
Box = tuple[float, float, float, float]

WHOLE: Box = (0.0, 0.0, 1.0, 1.0)
DEFAULT_FILTER: Filter = "area"


@dataclass(frozen=True, slots=True)
class View:
    """A part of every picture for a network.

    size: (height, width) in pixels.  fit: see Recipe; it applies to the part.  box: (left, top, right, bottom) of the
    part, as fractions of the picture's width and height.  Raises DataError for an impossible box.
    """

    name: str
    size: tuple[int, int]
    fit: Fit = "stretch"
    box: Box = WHOLE

    def __post_init__(self) -> None:
        left, top, right, bottom = self.box
        if not (0.0 <= left < right <= 1.0 and 0.0 <= top < bottom <= 1.0):
            raise DataError(f"view {self.name!r}: box must be left, top, right, bottom in 0 to 1, got {self.box}")


Triple = tuple[float, float, float]


@dataclass(frozen=True, slots=True)
class Recipe:
    """How frames become a network's input.

    size: (height, width) in pixels.  frames: per window.  mean, std: RGB, applied after `scale`.  scale: factor on
    0..255. fps: frame rate that the network was trained at.  fit: "stretch" squeezes the whole picture (keeps a
    camera's corners), "crop" scales the short side and takes the centre.  filter: of the scaler; "area" weighs every
    source pixel by the area that it covers in the result.  views: the parts of the picture for the network; empty means
    the whole picture. paper: the source of mean and size.
    """

    name: str
    size: tuple[int, int]
    mean: Triple
    std: Triple
    scale: float
    frames: int = WINDOW_FRAMES
    fps: float = 25.0
    fit: Fit = "stretch"
    filter: Filter = DEFAULT_FILTER
    views: tuple[View, ...] = ()
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
        if any(view.size != self.size for view in self.views):
            raise DataError(f"recipe {self.name!r}: every view must have the size {self.size}; correct the views")

    @property
    def input_views(self) -> tuple[View, ...]:
        """The views of every picture for the network, at least one."""
        return self.views or (View("whole", self.size, self.fit),)

    @property
    def gain(self) -> Triple:
        """The factor on 0..255, per RGB channel."""
        r, g, b = (self.scale / s for s in self.std)
        return (r, g, b)

    @property
    def offset(self) -> Triple:
        """The summand after the gain, per RGB channel."""
        r, g, b = (-m / s for m, s in zip(self.mean, self.std, strict=True))
        return (r, g, b)

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for a manifest."""
        values = {k: list(v) if isinstance(v, tuple) else v for k, v in asdict(self).items()}
        values["views"] = [{"name": v.name, "fit": v.fit, "box": list(v.box)} for v in self.views]
        return values


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
    """Return the recipe of that name. Raises DataError, which names the existing ones."""
    try:
        return RECIPES[name]
    except KeyError:
        raise DataError(f"preprocessing recipe {name!r} does not exist; use one of {', '.join(RECIPES)}") from None
