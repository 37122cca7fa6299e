"""Operations on decoded pictures before the resize for the network. All pictures are uint8 (h, w, 3) BGR."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stream_detector.types import UInt8Array

_FLAT_RANGE = 8  # grey levels
_MASK_GREY = (127, 127, 127)
# pixels of the result: the widest filter mixes 2 pixels on either side, and outlines lie between pixels
_MASK_MARGIN = 3
_SUBPIXEL_BITS = 8
_KEPT_MASKS = 8

Box = tuple[float, float, float, float]  # left, top, right, bottom as fractions of the picture


def to_bgr(image: NDArray[Any]) -> UInt8Array:
    """Convert any picture that a decoder gives (grey, BGRA, 16 bit) to uint8 (h, w, 3) BGR."""
    if image.dtype == np.uint16:
        image = (image >> 8).astype(np.uint8)
    channels = 1 if image.ndim == 2 else image.shape[2]
    if channels == 1:
        return np.repeat(image.reshape(*image.shape[:2], 1), 3, axis=2)
    if channels == 4:
        return np.ascontiguousarray(image[..., :3])
    return np.asarray(image, np.uint8)


def is_flat(picture: UInt8Array) -> bool:
    """Return whether the picture has one colour, as before a decoder's first key frame. Checks 32 × 32 pixels."""
    sample = picture[:: max(1, picture.shape[0] // 32), :: max(1, picture.shape[1] // 32)]
    return bool((np.ptp(sample.reshape(-1, sample.shape[2]), axis=0) <= _FLAT_RANGE).all())


class MaskPainter:
    """Paints the mask of one camera mid-grey. The mask is a polygon in fractions of the picture's width and height.

    The painter also covers the pixels around the polygon: when a picture is made smaller, each pixel mixes its
    neighbours, and nothing under the mask may show.
    """

    def __init__(self, polygon: Sequence[tuple[float, float]]) -> None:
        self._polygon = np.asarray(polygon, np.float64)
        self._made: dict[tuple[int, int, Box], NDArray[np.bool_]] = {}

    def paint(self, picture: UInt8Array, box: Box = (0.0, 0.0, 1.0, 1.0)) -> UInt8Array:
        """Paint a picture, uint8 (h, w, 3), in place and return it. box: the part of the whole picture that it
        shows."""
        height, width = picture.shape[:2]
        picture[self.cover(height, width, box)] = _MASK_GREY
        return picture

    def cover(self, height: int, width: int, box: Box = (0.0, 0.0, 1.0, 1.0)) -> NDArray[np.bool_]:
        """bool (height, width): the pixels that are painted."""
        covered = self._made.get((height, width, box))
        if covered is None:
            if len(self._made) >= _KEPT_MASKS:
                self._made.clear()
            covered = self._made[height, width, box] = self._cover(height, width, box)
        return covered

    def _cover(self, height: int, width: int, box: Box) -> NDArray[np.bool_]:
        import cv2  # here, not above: most cameras have no mask, and a capture host's process starts without it

        left, top, right, bottom = box
        share = (self._polygon - (left, top)) / (right - left, bottom - top)
        # In OpenCV's coordinates pixel k covers k - ½ to k + ½; pixels that the outline touches are painted as well.
        far = _MASK_MARGIN + 1  # paint this far beyond the edges, because pixels outside affect those inside
        points = np.round((share * (width, height) - 0.5 + far) * (1 << _SUBPIXEL_BITS)).astype(np.int32)
        drawn = np.zeros((height + 2 * far, width + 2 * far), np.uint8)
        cv2.fillPoly(drawn, [points], 1, shift=_SUBPIXEL_BITS)
        cv2.polylines(drawn, [points], True, 1, shift=_SUBPIXEL_BITS)
        side = 2 * _MASK_MARGIN + 1
        return np.asarray(cv2.dilate(drawn, np.ones((side, side), np.uint8))[far:-far, far:-far] > 0)


def shrink(picture: UInt8Array, long_side: int) -> UInt8Array:
    """Return a copy whose long side is at most `long_side` pixels; it is never enlarged."""
    import cv2

    height, width = picture.shape[:2]
    share = long_side / max(height, width)
    if share >= 1.0:
        return picture.copy()
    size = (max(1, round(width * share)), max(1, round(height * share)))
    return np.asarray(cv2.resize(picture, size, interpolation=cv2.INTER_AREA), np.uint8)
