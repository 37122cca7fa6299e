"""The data of one camera in memory for evidence: its packets, and its newest full pictures for the snapshot.

A source without packets (a USB camera, the demo) gives pictures only: they are compressed as JPEGs, which replace the
packets in the ring.
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from typing import Any

from stream_detector.capture.packets import Connection, PacketRing
from stream_detector.capture.stream_form import audio_form_of
from stream_detector.capture.taps import FullPicture
from stream_detector.config import EvidenceConfig
from stream_detector.evidence.mp4_file import AUDIO_TAKEN
from stream_detector.evidence.transcode import UPRIGHT

log = logging.getLogger(__name__)

MADE_FPS = 12.5  # JPEGs per second of a source without packets
_MADE_QUALITY = 88
_PICTURES = 3
_SPACING_S = 0.3  # media time between two pictures that are held
_PICTURE_BYTES = 12_000_000  # pictures held per camera, at 1.5 bytes per pixel (half of it if only one fits)
_LATE_S = 10.0  # longest delay of a decision for which pictures are held


class CameraTap:
    """One camera's ring and pictures; implements `capture.taps.CameraTap`.

    shift_s: added to the media time of its capture thread, for a camera that continues in another host.  audio: whether
    audio packets are stored too.  camera: its name, for the log.
    """

    def __init__(self, config: EvidenceConfig, audio: bool = False, camera: str = "") -> None:
        self.audio, self.camera = audio, camera
        self.no_audio = ""  # the last logged reason why the wanted audio is missing
        self.ring = PacketRing(config.ring_bytes, config.pre_s + config.post_s + _LATE_S)
        self.shift_s = 0.0
        self.turned = UPRIGHT  # rotation that makes the decoder's pictures upright
        self._lock = threading.Lock()
        self._pictures: deque[tuple[float, FullPicture]] = deque(maxlen=_PICTURES)

    def connection(self) -> TappedConnection:
        """See `capture.taps.CameraTap`."""
        made = TappedConnection(self)
        self.ring.use(made)
        return made

    def hold(self, media_s: float, picture: FullPicture) -> None:
        """Hold a full picture for a while."""
        most = int(_PICTURE_BYTES // max(1.0, 1.5 * picture.width * picture.height))
        with self._lock:
            if self._pictures and 0 <= media_s - self._pictures[-1][0] < _SPACING_S:
                return
            self._pictures.append((media_s, picture))
            while len(self._pictures) > max(1, most):
                self._pictures.popleft()

    def nearest(self, media_s: float) -> tuple[float, FullPicture] | None:
        """Return (media time, picture) of the nearest held picture; None while there is none."""
        with self._lock:
            return min(self._pictures, key=lambda held: abs(held[0] - media_s), default=None)

    def clear(self) -> None:
        """Drop all packets and pictures."""
        self.ring.clear()
        with self._lock:
            self._pictures.clear()


class TappedConnection(Connection):
    """A connection whose pictures are also held. Implements `capture.taps.TapConnection`."""

    def __init__(self, tap: CameraTap) -> None:
        super().__init__(tap.ring, tap.audio)
        self._tap = tap
        self._due_s = float("-inf")

    def begin(self, stream: Any, audio: Any = None) -> None:
        """See `capture.taps.TapConnection`."""
        super().begin(stream, audio)
        if not self.wants_audio:
            return
        form = None if audio is None else audio_form_of(audio)
        codec = "a codec without a name" if form is None else form.codec
        why = "" if form is not None and codec in AUDIO_TAKEN else "no sound" if audio is None else f"sound in {codec}"
        if why and why != self._tap.no_audio:
            log.warning(
                "camera %s: audio = true, but the source sends %s; clips hold %s, so these have none",
                self._tap.camera,
                why,
                ", ".join(sorted(AUDIO_TAKEN)),
            )
        self._tap.no_audio = why

    def place(self, stamp_s: float | None, media_s: float) -> None:
        """See `capture.taps.TapConnection`."""
        super().place(stamp_s, media_s + self._tap.shift_s)

    def picture(self, media_s: float, picture: FullPicture) -> None:
        """See `capture.taps.TapConnection`."""
        media_s += self._tap.shift_s
        self._tap.turned = getattr(picture, "turned", UPRIGHT)
        self._tap.hold(media_s, picture)
        if self.form is None or self.form.made:
            self._make(media_s, picture)

    def _make(self, media_s: float, picture: FullPicture) -> None:
        if 0.0 <= self._due_s - media_s <= 1.0:
            return
        import cv2  # imported here: a capture host's process without such sources starts without it

        self._due_s = media_s + 0.9 / MADE_FPS
        done, data = cv2.imencode(".jpg", picture.bgr(), [cv2.IMWRITE_JPEG_QUALITY, _MADE_QUALITY])
        if done:
            self.add_made(data.tobytes(), picture.width, picture.height, media_s)
