"""Recordings: everything that a camera sends, in files of some minutes, each beginning with a key frame.

<recording.directory>/<camera>/20261128T093000Z.mp4     begun at that moment, UTC
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from pathlib import Path

from stream_detector.capture.packets import PacketRing
from stream_detector.evidence.clip import PacketCursor, RemuxedVideo, TranscodedVideo

OWN_SEGMENT = re.compile(r"\d{8}T\d{6}Z(?:-\d+)?\.mp4")
Video = RemuxedVideo | TranscodedVideo


class SegmentRecorder:
    """One camera's recording. folder: of its files.  make: (path, cursor) → what writes them.

    segment_s: a file is closed at the first key frame after so many seconds.  utc: the wall clock, for names.
    written: called with each complete file.
    """

    def __init__(
        self,
        ring: PacketRing,
        folder: Path,
        segment_s: float,
        *,
        make: Callable[[Path, PacketCursor], Video],
        utc: Callable[[], float],
        written: Callable[[Path], object],
    ) -> None:
        self.lost = 0
        self._ring, self._folder, self._segment_s = ring, folder, segment_s
        self._make, self._utc, self._written = make, utc, written
        self._cursor = PacketCursor(ring, float("-inf"))  # the first one takes what came before the thread looked
        self._video: Video | None = None
        self._begun_s = 0.0
        self._next_s: float | None = None  # media time of the key frame that begins the next file

    def advance(self, allowed: bool, pause: Callable[[], object] = lambda: None) -> None:
        """Write what came since. allowed: whether there is room on the disk. Raises OSError."""
        if not allowed:
            self.close()
            self._cursor = PacketCursor(self._ring, float("inf"))
            return
        while True:
            if self._video is None:
                at_s = self._cursor.next_media_s()
                if at_s is None:
                    return
                self._begun_s = at_s
                self._video = self._make(self._path(at_s), self._cursor)
            try:
                over = self._split(self._video, pause)
            except OSError:
                self._video.file.discard()
                self._video = None
                self._cursor = PacketCursor(self._ring, float("inf"))
                raise
            self.lost, self._cursor.lost = self.lost + self._cursor.lost, 0
            if not over:
                return
            self.close()

    def _split(self, video: Video, pause: Callable[[], object]) -> bool:
        """Advance to the end of the file, or as far as packets go; whether the file is complete."""
        limit_s = self._begun_s + self._segment_s
        end_s = self._cursor.next_key_s(limit_s)
        until_s = float("inf") if end_s is None else end_s - 1e-3
        reached = video.advance(until_s, False, pause)
        return video.changed or (reached and end_s is not None)

    def close(self) -> None:
        """Finish the open file. Raises OSError."""
        video, self._video = self._video, None
        if video is not None and video.file.close():
            self._written(video.file.path)

    def _path(self, media_s: float) -> Path:
        """A name that is free, by the time at which the first picture came."""
        behind_s = self._cursor.lag_s()
        name = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime(self._utc() - behind_s))
        path = self._folder / f"{name}.mp4"
        number = 1
        while path.exists():
            number += 1
            path = self._folder / f"{name}-{number}.mp4"
        return path
