"""View k: a part of a clip at a speed, alone or mixed with another clip; a function of (seed, k) only.

    (seed, k) ──draw──▶ View (positions, as shares of the picture) ──render──▶ pixels on any device ──▶ teacher
                                                                                 └──degrade_view──▶ student

Teacher and student get the same view ("consistent teaching": Beyer et al., CVPR 2022). `degrade_view` imitates a bad
camera (light, grey, low resolution, noise); only the student gets the degraded view.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from stream_detector.errors import DataError
from stream_detector.types import WINDOW_FRAMES
from trainer.recipes.labelfree.settings import Settings

Ints = NDArray[np.int64]


class Frames(Protocol):
    """The source of the pixels of clips."""

    device: str

    def windows(self, clips: Sequence[int], index: Ints) -> Tensor:
        """uint8 (B, 16, rows, columns, 3) RGB on the device. clips: B of them.  index: (B, 16) frames of each."""
        ...


@dataclass(frozen=True, slots=True)
class Cut:
    """A part of a clip. index: 16 frames.  theta: 2 × 3, affine, as `torch.nn.functional.affine_grid` takes it."""

    clip: int
    index: tuple[int, ...]
    theta: tuple[tuple[float, float, float], tuple[float, float, float]]


@dataclass(frozen=True, slots=True)
class View:
    """cut: the part that is shown.  other: a part that is mixed in, or None.  blend: its weight; or 0 with patch:
    (left, top, right, bottom) in shares of the picture, where the other part covers the first.
    """

    cut: Cut
    other: Cut | None = None
    blend: float = 0.0
    patch: tuple[float, float, float, float] = (0.0, 0.0, 0.0, 0.0)


class Drawer:
    """Draws views of some clips. sets, lengths: of all clips of the bank.  chosen: the clips to draw from.

    stream: another stream gives other views under the same seed.  Raises DataError if nothing is chosen.
    """

    def __init__(
        self, sets: Sequence[str], lengths: Sequence[int], chosen: Sequence[int], settings: Settings, stream: int = 0
    ) -> None:
        if not len(chosen):
            raise DataError("there is no clip to draw views from; check the pack's index.csv and watch_share")
        self.settings, self.stream = settings, stream
        self._lengths = [int(n) for n in lengths]
        self._cells: dict[str, list[int]] = {}
        for clip in chosen:
            self._cells.setdefault(sets[clip], []).append(clip)
        self._names = sorted(self._cells)
        weights = np.array([len(self._cells[name]) ** settings.set_power for name in self._names])
        self._weights = np.cumsum(weights / weights.sum())

    def draw(self, number: int) -> View:
        """Return view `number`. The views of one visit (`settings.visit` of them) show the same clip, and may mix in
        one other.
        """
        s = self.settings
        visit = np.random.default_rng([s.seed, self.stream, 0, number // s.visit])
        clip, second = self._clip(visit), self._clip(visit)
        rng = np.random.default_rng([s.seed, self.stream, 1, number])
        cut = self._cut(clip, rng)
        if rng.random() >= s.mixed:
            return View(cut)
        other = self._cut(second, rng)
        if rng.random() < 0.5:
            return View(cut, other, blend=float(rng.uniform(0.3, 0.7)))
        wide, high = rng.uniform(0.3, 0.8, 2)
        left, top = rng.uniform(0, 1 - wide), rng.uniform(0, 1 - high)
        return View(cut, other, patch=(float(left), float(top), float(left + wide), float(top + high)))

    def _clip(self, rng: np.random.Generator) -> int:
        place = min(int(np.searchsorted(self._weights, rng.random(), side="right")), len(self._names) - 1)
        clips = self._cells[self._names[place]]
        return clips[int(rng.integers(len(clips)))]

    def _cut(self, clip: int, rng: np.random.Generator) -> Cut:
        s, count, drawn = self.settings, self._lengths[clip], rng.random()
        speed = 2.0 if drawn < s.fast else 0.5 if drawn < s.fast + s.slow else 1.0
        if int((WINDOW_FRAMES - 1) * speed) + 1 > count:
            speed = 1.0  # the clip is too short for that speed
        span = int((WINDOW_FRAMES - 1) * speed) + 1
        first = int(rng.integers(0, max(1, count - span + 1)))
        index = np.minimum(first + np.floor(np.arange(WINDOW_FRAMES) * speed).astype(int), count - 1)
        area = rng.uniform(s.least_area, 1.0) if rng.random() < s.crop else 1.0
        ratio = float(np.exp(rng.uniform(-0.3, 0.3)))
        high, wide = min(1.0, (area * ratio) ** 0.5), min(1.0, (area / ratio) ** 0.5)
        x, y = rng.uniform(-1, 1) * (1 - wide), rng.uniform(-1, 1) * (1 - high)
        mirror = -1.0 if rng.random() < 0.5 else 1.0
        return Cut(clip, tuple(index.tolist()), ((wide * mirror, 0.0, float(x)), (0.0, high, float(y))))


@torch.no_grad()
def render(views: Sequence[View], frames: Frames, side: int) -> Tensor:
    """Return the pixels of views: uint8 (B, 16, side, side, 3) RGB, on the device of the frames."""
    cuts = [view.cut for view in views] + [view.other for view in views if view.other is not None]
    raw = frames.windows([cut.clip for cut in cuts], np.array([cut.index for cut in cuts]))
    wide = raw.flatten(0, 1).permute(0, 3, 1, 2).float()  # every frame as a separate picture
    theta = torch.tensor([cut.theta for cut in cuts], device=raw.device)
    grid = F.affine_grid(theta, [len(cuts), 3, side, side], align_corners=False)
    seen = F.grid_sample(wide, grid.repeat_interleave(WINDOW_FRAMES, 0), padding_mode="border", align_corners=False)
    seen = seen.view(len(cuts), WINDOW_FRAMES, 3, side, side)
    following = len(views)
    for place, view in enumerate(views):
        if view.other is None:
            continue
        other, following = seen[following], following + 1
        if view.blend:
            seen[place] = seen[place].lerp(other, view.blend)
        else:
            left, top, right, bottom = (round(share * side) for share in view.patch)
            seen[place, :, :, top:bottom, left:right] = other[:, :, top:bottom, left:right]
    return seen[: len(views)].round().clamp(0, 255).byte().permute(0, 1, 3, 4, 2).contiguous()


@torch.no_grad()
def shrunk(views: Tensor, side: int) -> Tensor:
    """uint8 (B, 16, S, S, 3) → the same at `side` pixels, each pixel the mean of the area that it covers."""
    if views.shape[2] == side:
        return views
    flat = views.flatten(0, 1).permute(0, 3, 1, 2).float()
    small = F.interpolate(flat, (side, side), mode="bilinear", antialias=True, align_corners=False)
    small = small.round().clamp(0, 255).byte().permute(0, 2, 3, 1)
    return small.reshape(*views.shape[:2], side, side, 3)


@torch.no_grad()
def degrade_view(views: Tensor) -> Tensor:
    """Degrade views as a bad camera would, with random numbers of torch's generator. uint8 (B, 16, s, s, 3) → the
    same.
    """
    count, side = len(views), views.shape[2]
    x = views.float() / 255

    def drawn(low: float, high: float, channels: int = 1) -> Tensor:
        return torch.empty((count, 1, 1, 1, channels), device=x.device).uniform_(low, high)

    light = x.clamp_min(1e-4) ** drawn(-0.5, 0.5).exp()
    light = light * drawn(0.7, 1.3) * drawn(0.92, 1.08, 3) + drawn(-0.12, 0.12)
    x = torch.where(drawn(0, 1) < 0.8, light, x)
    x = torch.where(drawn(0, 1) < 0.15, x.mean(4, keepdim=True).expand_as(x), x)
    coarse = drawn(0, 1).flatten() < 0.25
    if bool(coarse.any()):
        small = side // 3 + int(torch.randint(max(1, side - side // 3), (1,)))
        flat = x[coarse].flatten(0, 1).permute(0, 3, 1, 2)
        flat = F.interpolate(flat, (small, small), mode="bilinear", antialias=True, align_corners=False)
        flat = F.interpolate(flat, (side, side), mode="bilinear", align_corners=False)
        x[coarse] = flat.permute(0, 2, 3, 1).reshape(-1, *x.shape[1:])
    noisy = drawn(0, 1) < 0.25
    if bool(noisy.any()):
        x = torch.where(noisy, x + torch.randn_like(x) * drawn(0.01, 0.05), x)
    return (x.clamp(0, 1) * 255).round().byte()
