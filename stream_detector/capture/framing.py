"""Converts a grabbed picture to the views of the network and, at `preview_fps`, to a preview for the page and
evidence."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from stream_detector.capture.bgr import MaskPainter, is_flat
from stream_detector.capture.picture import AnyPicture, MaskedPicture, Picture, as_picture
from stream_detector.config import CameraConfig, CaptureConfig
from stream_detector.types import Preview, UInt8Array

FLAT_SIDE = 64  # pixels; pictures of at most this size are checked

Views = tuple[UInt8Array, ...]


@dataclass(frozen=True, slots=True)
class FramerOutput:
    """The result of `Framer.process`. views: uint8 (H, W, 3) RGB each.  preview: None for most frames."""

    views: Views
    preview: Preview | None


class Framer:
    """Converts the pictures of one camera. resize: picture → views.  previews: whether previews are made.

    The mask polygon is painted before anything else, so neither a view nor a preview shows what is under it.
    The ignored polygons are painted on the views alone.
    """

    def __init__(
        self, camera: CameraConfig, config: CaptureConfig, resize: Callable[[Picture], Views], previews: bool
    ) -> None:
        self._resize = resize
        self._painter = MaskPainter(camera.mask) if camera.mask else None
        self._ignored = [MaskPainter(polygon) for polygon in camera.ignore]
        self._period_s = 1.0 / config.preview_fps if previews and config.preview_fps > 0 else None
        self._side = config.preview_size
        self._due_s = 0.0  # media time of the next preview

    def process(self, found: AnyPicture, media_s: float, refuse_flat: bool = False) -> FramerOutput | None:
        """Convert one picture; return None for a picture of one colour if `refuse_flat` is set.

        media_s: media time, in seconds.  Raises picture.UnreadablePictureError.
        """
        picture = as_picture(found)
        if refuse_flat and is_flat(picture.bgr(FLAT_SIDE)):
            return None
        if self._painter is not None:
            picture = MaskedPicture(picture, self._painter)
        scored = picture
        for painter in self._ignored:
            scored = MaskedPicture(scored, painter)
        return FramerOutput(self._resize(scored), self._preview(picture, media_s))

    def _preview(self, picture: Picture, media_s: float) -> Preview | None:
        if self._period_s is None or media_s < self._due_s:
            return None
        self._due_s += self._period_s
        if self._due_s <= media_s:  # the first preview, or the first one after a gap
            self._due_s = media_s + self._period_s
        return Preview(media_s, picture.bgr(self._side))
