"""Random degradations that imitate surveillance cameras: training gets every clip through another bad camera each time.

    frames (n, S, S, 3) ─ time ─ crop, flip ─ light ─ low resolution, blur, noise, JPEG ──▶ uint8 (16, s, s, 3)

The frame rate changes by leaving frames out or by repeating them, as recorders do. All frames of a window get the same
crop and light (a camera does not change between frames); only the noise differs. All random numbers come from the given
generator, so a step of a run can be repeated exactly.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np

from stream_detector.types import WINDOW_FRAMES, UInt8Array
from trainer.data.clips import stretch
from trainer.data.sizes import Size


@dataclass(frozen=True, slots=True)
class Augmentation:
    """Probabilities (p_…) and ranges. The defaults are what the embedded model was trained with.

    min_area: smallest share of the picture that a crop keeps.  jitter_frames: shift of the start.
    """

    p_skip: float = 0.2
    p_double: float = 0.1
    jitter_frames: int = 4
    min_area: float = 0.5
    p_crop: float = 0.85
    p_light: float = 0.8
    p_grey: float = 0.15
    p_low: float = 0.25
    p_blur: float = 0.15
    p_noise: float = 0.25
    p_jpeg: float = 0.25


def frame_indices(start: int, count: int, rate: float) -> np.ndarray[Any, np.dtype[np.int64]]:
    """Return the frames of a window at `rate` times the clip's own frame rate: 0.5 leaves every second frame out, 2
    repeats each.

    count: frames in the clip; beyond its ends the outermost frame is repeated.
    """
    index = start + np.floor(np.arange(WINDOW_FRAMES) / rate).astype(np.int64)
    return np.clip(index, 0, count - 1)


def augment(
    frames: UInt8Array, start: int, size: int, rng: np.random.Generator, settings: Augmentation | None = None
) -> UInt8Array:
    """Return a changed window around `start`. frames: uint8 (n, S, S, 3) RGB.  Returns uint8 (16, size, size, 3)
    RGB.
    """
    a = settings or Augmentation()
    window = sample_part(frames, start, size, rng, a)
    return degrade_view(window[:, :, ::-1] if rng.random() < 0.5 else window, rng, a)


def sample_part(frames: UInt8Array, start: int, size: Size, rng: np.random.Generator, a: Augmentation) -> UInt8Array:
    """The first half of `augment`: time and crop. Returns uint8 (16, rows, columns, 3) RGB.

    The random draw depends on the rows of the frames, not on their columns: frames with equal rows give the same part.
    """
    draw = rng.random()
    rate = 0.5 if draw < a.p_skip else 2.0 if draw < a.p_skip + a.p_double else 1.0
    span = int((WINDOW_FRAMES - 1) / rate) + 1
    first = start + int(rng.integers(-a.jitter_frames, a.jitter_frames + 1)) - (span - WINDOW_FRAMES) // 2
    first = max(0, min(first, len(frames) - span))
    return _crop(frames[frame_indices(first, len(frames), rate)], size, rng, a)


def degrade_view(window: UInt8Array, rng: np.random.Generator, a: Augmentation) -> UInt8Array:
    """The second half of `augment`: light, low resolution, blur, noise, JPEG. uint8 (16, s, s, 3) RGB."""
    window = _light(window, rng, a)
    return np.ascontiguousarray(_degrade(window, rng, a))


def plain(frames: UInt8Array, start: int, size: int) -> UInt8Array:
    """Return the unchanged window, as the running detector gets it: uint8 (16, size, size, 3)."""
    window = frames[frame_indices(start, len(frames), 1.0)]
    return shrink(window, size)


def shrink(window: UInt8Array, size: Size) -> UInt8Array:
    """Every frame stretched to uint8 (16, rows, columns, 3)."""
    return np.stack([stretch(frame, size) for frame in window])


def _crop(window: UInt8Array, size: Size, rng: np.random.Generator, a: Augmentation) -> UInt8Array:
    side = window.shape[1]  # drawn as for a square picture
    height = width = side
    if rng.random() < a.p_crop:
        area = rng.uniform(a.min_area, 1.0)
        ratio = float(np.exp(rng.uniform(-0.25, 0.25)))
        height = min(side, max(16, round(side * (area * ratio) ** 0.5)))
        width = min(side, max(16, round(side * (area / ratio) ** 0.5)))
    top = int(rng.integers(0, side - height + 1))
    left = int(rng.integers(0, side - width + 1))
    first, last = (round(place * window.shape[2] / side) for place in (left, left + width))
    return shrink(window[:, top : top + height, first:last], size)


def _light(window: UInt8Array, rng: np.random.Generator, a: Augmentation) -> UInt8Array:
    if rng.random() < a.p_light:
        level = np.arange(256, dtype=np.float32) / 255
        gamma = float(np.exp(rng.uniform(-0.5, 0.5)))
        gain, shift = rng.uniform(0.7, 1.3), rng.uniform(-0.12, 0.12)
        tint = rng.uniform(0.92, 1.08, size=3)
        curve = level[:, None] ** gamma * gain * tint[None, :] + shift
        table = np.clip(curve * 255, 0, 255).astype(np.uint8)[:, None, :]  # (256, 1, 3): one curve a channel
        window = _tall(cv2.LUT(_flat(window), table), window)
    if rng.random() < a.p_grey:
        grey = cv2.cvtColor(_flat(window), cv2.COLOR_RGB2GRAY)
        window = _tall(cv2.cvtColor(grey, cv2.COLOR_GRAY2RGB), window)
    return window


def _degrade(window: UInt8Array, rng: np.random.Generator, a: Augmentation) -> UInt8Array:
    size = window.shape[1]
    if rng.random() < a.p_low:
        small = int(rng.integers(size // 3, size))
        window = np.stack([stretch(stretch(frame, small), size) for frame in window])
    if rng.random() < a.p_blur:
        sigma = rng.uniform(0.4, 1.5)
        window = np.stack([cv2.GaussianBlur(frame, (0, 0), sigma) for frame in window])
    if rng.random() < a.p_noise:
        deviation = rng.uniform(2.0, 14.0)
        # One field of noise, shifted at random for every frame: equally good for training, and much cheaper.
        field = (rng.standard_normal((size, size, 3), dtype=np.float32) * deviation).astype(np.int16)
        shifts = rng.integers(0, size, size=(len(window), 2))
        noise = np.stack([np.roll(field, (int(y), int(x)), axis=(0, 1)) for y, x in shifts])
        window = np.clip(window.astype(np.int16) + noise, 0, 255).astype(np.uint8)
    if rng.random() < a.p_jpeg:
        quality = int(rng.integers(20, 75))
        good, data = cv2.imencode(".jpg", _flat(window), [cv2.IMWRITE_JPEG_QUALITY, quality])
        if good:
            window = _tall(cv2.imdecode(data, cv2.IMREAD_COLOR), window)
    return window


def _flat(window: UInt8Array) -> UInt8Array:
    """(16, s, s, 3) → (16·s, s, 3): one tall picture, so that one call serves all frames."""
    return np.ascontiguousarray(window).reshape(-1, window.shape[2], 3)


def _tall(flat: Any, like: UInt8Array) -> UInt8Array:
    result: UInt8Array = flat.reshape(like.shape)
    return result
