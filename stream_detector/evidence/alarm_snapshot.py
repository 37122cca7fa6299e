"""The snapshot of one alarm: the picture nearest to the window with the highest score so far."""

from __future__ import annotations

from collections import deque
from itertools import chain
from pathlib import Path

import numpy as np

from stream_detector.capture.bgr import MaskPainter
from stream_detector.capture.taps import FullPicture
from stream_detector.evidence.camera_tap import CameraTap
from stream_detector.evidence.clip import PacketCursor
from stream_detector.evidence.snapshot import decode_key, draw_where, write_snapshot
from stream_detector.evidence.transcode import PacketDecoder, upright
from stream_detector.types import UInt8Array, Where

_AGAIN_S = 5.0  # a higher peak replaces a snapshot only after this time, and at the end of the clip
_NEAR_S = 1.0  # a held picture this near to the window is used; else the packets of that moment are decoded
_KEY_S = 15.0  # a key frame of the main stream this near to the window is used
_MOST = 400  # most packets that are decoded for one snapshot


class AlarmSnapshot:
    """path: of the JPEG.  main: of the camera's main stream, if there is one.  painter: of the privacy mask."""

    def __init__(
        self, path: Path, camera: str, tap: CameraTap, main: CameraTap | None, painter: MaskPainter | None
    ) -> None:
        self._path, self._camera, self._tap, self._main, self._painter = path, camera, tap, main, painter
        self._best = -1.0
        self._at_s = 0.0
        self._held: tuple[float, FullPicture] | None = None
        self._due = False
        self._written_s = float("-inf")
        self.where: Where | None = None  # drawn over a copy, once the snapshot is final

    def see(self, at_s: float, score: float) -> None:
        """A window that ends at media time at_s has this score; its picture is held if the score is the highest so
        far.
        """
        if score > self._best:
            self._best, self._at_s, self._due = score, at_s, True
            self._held = self._tap.nearest(at_s)

    def write(self, now_s: float, last: bool) -> None:
        """Write the snapshot if it is due. now_s: monotonic.  last: write it also soon after an earlier one. Raises
        OSError.
        """
        self._write_clean(now_s, last)
        if last and self.where is not None and self._path.exists():
            where, self.where = self.where, None
            draw_where(self._path, where)

    def _write_clean(self, now_s: float, last: bool) -> None:
        if not self._due or (not last and now_s - self._written_s < _AGAIN_S):
            return
        found = self._picture()
        if found is None:
            return  # no picture yet
        self._due, self._written_s = False, now_s
        at_s, image = found
        if self._painter is not None:
            image = self._painter.paint(image)
        minutes, seconds = divmod(max(0.0, at_s), 60)
        caption = f"{self._camera}   {int(minutes):d}:{seconds:04.1f}   score {self._best:.2f}"
        write_snapshot(self._path, image, caption)
        self._held = None if last else self._held

    def _picture(self) -> tuple[float, UInt8Array] | None:
        if self._main is not None:
            key = self._main.ring.key_near(self._at_s)
            if key is not None and abs((key.media_s or 0.0) - self._at_s) <= _KEY_S:
                image = decode_key(key)
                if image is not None:
                    return key.media_s or 0.0, image
        held = self._held or self._tap.nearest(self._at_s)
        if held is not None and abs(held[0] - self._at_s) <= _NEAR_S:
            return held[0], held[1].bgr()
        return self._decoded() or (None if held is None else (held[0], held[1].bgr()))

    def _decoded(self) -> tuple[float, UInt8Array] | None:
        """Return the picture at the moment itself, decoded from the ring; used when a decision came late."""
        packets, _ = PacketCursor(self._tap.ring, self._at_s).take(self._at_s, True, _MOST)
        decoder = PacketDecoder()
        newest = deque(chain(decoder.frames(packets), decoder.flush()), maxlen=1)
        if not newest:
            return None
        frame, at_s = newest[0]
        return at_s, np.asarray(upright(frame, self._tap.turned).to_ndarray(format="bgr24"), np.uint8)
