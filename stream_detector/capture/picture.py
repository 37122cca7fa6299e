"""A decoded picture, and the one step that converts it to the pixels that a network or a person gets.

    AVFrame (any planes, depth, range, matrix, rotation) ─┐
    array (USB camera, demo, own frames)                 ─┴▶ Picture ──rgb(view)──▶ uint8 (h, w, 3) RGB, in one step
                                                                     ──bgr(side)──▶ uint8 (h, w, 3) BGR, for people

A picture is converted only when the size of the result is known. The stream, `score`, the trainer, calibration and
quantisation all use this module, so they see the same pixels. The scaler uses one thread (otherwise its result would
depend on the machine) and full-width chroma (otherwise colours would have half the resolution of the result).
"""

from __future__ import annotations

import math
import struct
import threading
from collections import OrderedDict
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Protocol

import av
import numpy as np
from av.video.reformatter import Colorspace, Interpolation, VideoReformatter
from numpy.typing import NDArray

from stream_detector.capture.bgr import MaskPainter, to_bgr
from stream_detector.errors import DataError
from stream_detector.models.recipe import Filter, Recipe, View
from stream_detector.types import UInt8Array

MAX_SCALERS = 8  # scalers that a thread keeps ready: a camera needs two, a file reader uses one after the other
# if the scaled whole picture would be larger than a view by this factor, the part is cut out before scaling
MAX_ENLARGED = 4
HD_ROWS = 720  # rows; larger video without a named colour matrix counts as BT.709, smaller as BT.601
_UNSPECIFIED = 2  # the numbers of FFmpeg's colour matrices
_RGB = 0
_KNOWN_MATRICES = {1, 4, 5, 6, 7, 9}  # the matrices that swscale converts
_QUALITY = Interpolation.FULL_CHR_H_INT | Interpolation.FULL_CHR_H_INP | Interpolation.ACCURATE_RND
_FILTERS = {
    "area": Interpolation.AREA | _QUALITY,
    "bilinear": Interpolation.BILINEAR | _QUALITY,
    "fast_bilinear": Interpolation.FAST_BILINEAR | _QUALITY,
    "bicubic": Interpolation.BICUBIC | _QUALITY,
}
_local = threading.local()


class UnreadablePictureError(Exception):
    """The planes of a picture cannot be converted; the picture counts as corrupt."""


class Picture(Protocol):
    """One decoded picture, not yet converted. width, height: as displayed, after any rotation, in pixels.

    Both methods raise UnreadablePictureError.
    """

    width: int
    height: int

    def rgb(self, view: View, filter: Filter) -> UInt8Array:
        """Return a view at its size: uint8 (h, w, 3) RGB, contiguous, in its own memory."""
        ...

    def bgr(self, long_side: int | None = None) -> UInt8Array:
        """Return the whole picture, its long side at most `long_side` pixels, never enlarged: uint8 (h, w, 3) BGR, a
        copy.
        """
        ...


AnyPicture = Picture | NDArray[Any]


class DecodedPicture:
    """A frame of PyAV. It stays valid after the reader was asked for the next frame."""

    def __init__(self, frame: av.VideoFrame) -> None:
        self._frame = frame
        self._turns, self._mirrored = self.turned = _orientation(frame)
        across, down = frame.width, frame.height
        self.width, self.height = (down, across) if self._turns % 2 else (across, down)

    def rgb(self, view: View, filter: Filter) -> UInt8Array:
        """See Picture."""
        return _cut(self, view, _FILTERS[filter])

    def bgr(self, long_side: int | None = None) -> UInt8Array:
        """See Picture."""
        return self.scaled(*_shrunk(self.width, self.height, long_side), "bgr24", _FILTERS["area"])

    def scaled(self, width: int, height: int, pixels: str, how: Interpolation) -> UInt8Array:
        """Return the whole picture at (width, height), upright: uint8 (height, width, 3)."""
        across, down = (height, width) if self._turns % 2 else (width, height)
        image = _scale(self._frame, across, down, pixels, how)
        if self._mirrored:
            image = image[:, ::-1]
        if self._turns:
            image = np.rot90(image, self._turns)
        return np.ascontiguousarray(image)


class ArrayPicture:
    """An array: uint8 (H, W, 3) BGR or (H, W) grey, also with four channels or 16 bits. Raises DataError for other
    arrays.
    """

    def __init__(self, image: NDArray[Any]) -> None:
        fits = image.dtype in (np.uint8, np.uint16) and image.ndim in (2, 3)
        if not fits or (image.ndim == 3 and image.shape[2] not in (1, 3, 4)):
            raise DataError(
                f"a frame must be uint8 (H, W, 3) or (H, W), got {image.dtype} {image.shape}; convert it first"
            )
        if image.size == 0:
            raise DataError(f"a frame must have pixels, got shape {image.shape}; skip empty frames")
        self._image = image
        self._frame: av.VideoFrame | None = None
        self.height, self.width = image.shape[:2]

    def rgb(self, view: View, filter: Filter) -> UInt8Array:
        """See Picture."""
        return _cut(self, view, _FILTERS[filter])

    def bgr(self, long_side: int | None = None) -> UInt8Array:
        """See Picture."""
        width, height = _shrunk(self.width, self.height, long_side)
        return self.scaled(width, height, "bgr24", _FILTERS["area"])

    def scaled(self, width: int, height: int, pixels: str, how: Interpolation) -> UInt8Array:
        """Return the whole picture at (width, height): uint8 (height, width, 3)."""
        if (width, height) == (self.width, self.height):
            image = to_bgr(self._image)
            return np.array(image[..., ::-1] if pixels == "rgb24" else image, order="C")
        if self._frame is None:
            self._frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(to_bgr(self._image)), "bgr24")
        return _scale(self._frame, width, height, pixels, how)


class MaskedPicture:
    """A picture that hides what lies under a polygon. painter: the painter of this camera, shared by all its
    pictures."""

    def __init__(self, picture: Picture, painter: MaskPainter) -> None:
        self._picture, self._painter = picture, painter
        self.width, self.height = picture.width, picture.height

    def rgb(self, view: View, filter: Filter) -> UInt8Array:
        """See Picture."""
        image = self._picture.rgb(view, filter)
        return self._painter.paint(image, shown_box(view, self.width, self.height))

    def bgr(self, long_side: int | None = None) -> UInt8Array:
        """See Picture."""
        return self._painter.paint(self._picture.bgr(long_side))


def as_picture(image: AnyPicture) -> Picture:
    """Convert the arrays that a reader may return to pictures. Raises DataError."""
    return ArrayPicture(image) if isinstance(image, np.ndarray) else image


def resize_frame(image: AnyPicture, recipe: Recipe) -> UInt8Array:
    """Return the recipe's first view of one picture: uint8 (h, w, 3) RGB, contiguous, in its own memory.

    image: a decoded picture, or an array uint8 (H, W, 3) BGR, (H, W, 1) or (H, W) grey.  Raises DataError for any other
    array.
    """
    return as_picture(image).rgb(recipe.input_views[0], recipe.filter)


def make_views(image: AnyPicture, recipe: Recipe) -> tuple[UInt8Array, ...]:
    """Return all views of one picture, in the recipe's order, each as `resize_frame` gives the first. Raises
    DataError."""
    picture = as_picture(image)
    return tuple(picture.rgb(view, recipe.filter) for view in recipe.input_views)


@dataclass(frozen=True, slots=True)
class _Place:
    """The position of a view. width, height: size of the whole picture when its part (x, y, columns, rows) is cut
    out."""

    width: int
    height: int
    x: int
    y: int
    columns: int
    rows: int


def shown_box(view: View, width: int, height: int) -> tuple[float, float, float, float]:
    """Return the part (left, top, right, bottom, as fractions) of a width × height picture that the view shows.

    For "crop" it is the largest centred part of the view's box with the proportions of the view, exact to the pixel.
    """
    at = _place(view, width, height)
    return at.x / at.width, at.y / at.height, (at.x + at.columns) / at.width, (at.y + at.rows) / at.height


@lru_cache(64)
def _place(view: View, width: int, height: int) -> _Place:
    """Cut the part out after scaling; if that would enlarge the whole picture a lot, cut it out before scaling."""
    rows, columns = view.size
    left, top, right, bottom = _wanted_box(view, width, height)
    wide, tall = round(columns / (right - left)), round(rows / (bottom - top))
    if max(wide, tall) <= MAX_ENLARGED * max(rows, columns):
        return _Place(
            wide, tall, min(round(left * wide), wide - columns), min(round(top * tall), tall - rows), columns, rows
        )
    x, across = _pixels(left, right, width)
    y, down = _pixels(top, bottom, height)
    return _Place(width, height, x, y, across, down)


def _pixels(begin: float, end: float, length: int) -> tuple[int, int]:
    """(first pixel, how many) of a part in shares of `length` pixels; the pixel that it begins in where it has none."""
    first, last = round(begin * length), round(end * length)
    return (first, last - first) if last > first else (min(int(begin * length), length - 1), 1)


def _wanted_box(view: View, width: int, height: int) -> tuple[float, float, float, float]:
    left, top, right, bottom = view.box
    if view.fit == "stretch":
        return view.box
    across, down = (right - left) * width, (bottom - top) * height
    ratio = view.size[0] / view.size[1]
    share_x, share_y = min(1.0, down / (across * ratio)), min(1.0, across * ratio / down)
    middle_x, middle_y = (left + right) / 2, (top + bottom) / 2
    half_x, half_y = share_x * (right - left) / 2, share_y * (bottom - top) / 2
    return middle_x - half_x, middle_y - half_y, middle_x + half_x, middle_y + half_y


def _cut(picture: DecodedPicture | ArrayPicture, view: View, how: Interpolation) -> UInt8Array:
    rows, columns = view.size
    at = _place(view, picture.width, picture.height)
    image = picture.scaled(at.width, at.height, "rgb24", how)
    if (at.columns, at.rows) != (at.width, at.height):
        image = np.ascontiguousarray(image[at.y : at.y + at.rows, at.x : at.x + at.columns])
    if (at.columns, at.rows) == (columns, rows):
        return image
    turned = np.ascontiguousarray(image[..., ::-1])
    return ArrayPicture(turned).scaled(columns, rows, "rgb24", how)


def _scale(frame: av.VideoFrame, width: int, height: int, pixels: str, how: Interpolation) -> UInt8Array:
    """Scale with swscale in one step: uint8 (height, width, 3). Raises UnreadablePictureError."""
    scalers: OrderedDict[Any, VideoReformatter] = _local.__dict__.setdefault("scalers", OrderedDict())
    key = (frame.format.name, frame.width, frame.height, width, height, pixels, how)
    scaler = scalers.pop(key, None)
    if scaler is None:
        scaler = VideoReformatter()
        while len(scalers) >= MAX_SCALERS:
            scalers.popitem(last=False)
    scalers[key] = scaler
    try:
        done = scaler.reformat(
            frame, width, height, pixels, src_colorspace=_matrix(frame), interpolation=how, threads=1
        )
        return np.asarray(done.to_ndarray(), np.uint8)
    except (av.FFmpegError, ValueError, MemoryError):
        scalers.pop(key)
        raise UnreadablePictureError(f"a picture of {frame.format.name} cannot be converted") from None


def _matrix(frame: av.VideoFrame) -> Colorspace | None:
    """Return the colour matrix to assume if the video names none or swscale does not know it."""
    named = int(frame.colorspace)
    if named in _KNOWN_MATRICES or (named == _RGB and frame.format.is_rgb):
        return None
    if named == _UNSPECIFIED and frame.height < HD_ROWS:
        return Colorspace.ITU601
    return Colorspace.ITU709


def _orientation(frame: av.VideoFrame) -> tuple[int, bool]:
    """Return (counter-clockwise quarter turns, whether to mirror left to right first) that show the frame upright."""
    found: Any = frame.side_data.get("DISPLAYMATRIX") if len(frame.side_data) else None
    if found is None or len(bytes(found)) < 36:
        return 0, False
    across, down, _, across_2, down_2 = struct.unpack("<5i", bytes(found)[:20])  # (x, y) → x · column 1 + y · column 2
    mirrored = across * down_2 - down * across_2 < 0
    if mirrored:
        across, down = -across, -down
    return round(math.degrees(math.atan2(-down, across)) / 90) % 4, mirrored


def _shrunk(width: int, height: int, long_side: int | None) -> tuple[int, int]:
    share = 1.0 if long_side is None else long_side / max(width, height)
    return (width, height) if share >= 1.0 else (max(1, round(width * share)), max(1, round(height * share)))
