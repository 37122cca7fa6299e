"""Converts a grabbed picture to the views of the network and, at `preview_fps`, to a preview for people."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from stream_detector.capture.bgr import MaskPainter, is_flat
from stream_detector.capture.picture import AnyPicture, MaskedPicture, Picture, as_picture
from stream_detector.config import CameraConfig, CaptureConfig
from stream_detector.types import Preview, UInt8Array

FLAT_SIDE = 64  # pixels; a picture so small is looked at

Views = tuple[UInt8Array, ...]


@dataclass(frozen=True, slots=True)
class FramerOutput:
    """Result of `Framer.process`. views: uint8 (H, W, 3) RGB each.  preview: None for most frames."""

    views: Views
    preview: Preview | None


class Framer:
    """Converts the pictures of one camera. resize: a picture → its views.  previews: whether any are wanted.

    The mask polygon is painted over before anything is handed out, so no view and no preview shows what is under it.
    """

    def __init__(
        self, camera: CameraConfig, config: CaptureConfig, resize: Callable[[Picture], Views], previews: bool
    ) -> None:
        self._resize = resize
        self._painter = MaskPainter(camera.mask) if camera.mask else None
        self._period_s = 1.0 / config.preview_fps if previews and config.preview_fps > 0 else None
        self._side = config.preview_size
        self._due_s = 0.0  # media time of the next preview

    def process(self, found: AnyPicture, media_s: float, refuse_flat: bool = False) -> FramerOutput | None:
        """None for a picture of one colour, where that is refused. Raises decoded.UnreadablePictureError."""
        picture = as_picture(found)
        if refuse_flat and is_flat(picture.bgr(FLAT_SIDE)):
            return None
        if self._painter is not None:
            picture = MaskedPicture(picture, self._painter)
        return FramerOutput(self._resize(picture), self._preview(picture, media_s))

    def _preview(self, picture: Picture, media_s: float) -> Preview | None:
        if self._period_s is None or media_s < self._due_s:
            return None
        self._due_s += self._period_s
        if self._due_s <= media_s:  # the first one, or after a hole
            self._due_s = media_s + self._period_s
        return Preview(media_s, picture.bgr(self._side))
