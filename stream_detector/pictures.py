"""What the capture thread does to a decoded picture before the network's own resize. All uint8 (h, w, 3) BGR."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from stream_detector.types import UInt8Array

_FLAT_RANGE = 8  # grey levels
_MASK_GREY = (127, 127, 127)


def to_bgr(image: NDArray[Any]) -> UInt8Array:
    """Any picture that a decoder hands out (grey, BGRA, 16 bit) as uint8 (h, w, 3) BGR."""
    if image.dtype == np.uint16:
        image = (image >> 8).astype(np.uint8)
    channels = 1 if image.ndim == 2 else image.shape[2]
    if channels == 1:
        return np.asarray(cv2.cvtColor(image, cv2.COLOR_GRAY2BGR), np.uint8)
    if channels == 4:
        return np.asarray(cv2.cvtColor(image, cv2.COLOR_BGRA2BGR), np.uint8)
    return np.asarray(image, np.uint8)


def is_flat(picture: UInt8Array) -> bool:
    """Whether it is one colour all over: what a decoder shows before its first key frame. Looks at 32 × 32 pixels."""
    sample = picture[:: max(1, picture.shape[0] // 32), :: max(1, picture.shape[1] // 32)]
    return bool((np.ptp(sample.reshape(-1, sample.shape[2]), axis=0) <= _FLAT_RANGE).all())


def blank(picture: UInt8Array, polygon: Sequence[tuple[float, float]]) -> UInt8Array:
    """The picture with the polygon (shares of width and height) mid-grey; in place where that is possible."""
    height, width = picture.shape[:2]
    points = np.array([(round(x * width), round(y * height)) for x, y in polygon], np.int32)
    if not (picture.flags.writeable and picture.flags.c_contiguous):
        picture = np.array(picture, order="C")
    cv2.fillPoly(picture, [points], _MASK_GREY)
    return picture


def shrink(picture: UInt8Array, long_side: int) -> UInt8Array:
    """A copy whose long side is at most `long_side` pixels; never enlarged."""
    height, width = picture.shape[:2]
    share = long_side / max(height, width)
    if share >= 1.0:
        return picture.copy()
    size = (max(1, round(width * share)), max(1, round(height * share)))
    return np.asarray(cv2.resize(picture, size, interpolation=cv2.INTER_AREA), np.uint8)
