"""Which stretches of a live camera are decoded when the machine cannot score them all.

A stretch is one or more groups of pictures, from key frame to key frame, at least `STRETCH` packets: what lies between
key frames cannot be decoded without them, and a stretch gives several whole windows. Every camera decodes the same
share of its packets, at times of its own; one that is late by more than a second passes stretches over until it has
caught up. What is passed over costs demultiplexing only, and the window after it is marked `dropped`.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable

STRETCH = 48  # packets: three windows of 16 pictures, or a little less than two seconds
BEHIND_S = 1.0  # a camera that is so much later than it was lately passes over
CAUGHT_UP_S = 0.3  # until it is no later than this
LATELY_S = 30.0  # its least delay in the last one or two of these counts: a longer way is no backlog
NEARLY_ALL = 0.995  # such a share is the whole
MOST_CREDIT = 4.0 * STRETCH  # packets; a share that rises or falls is followed soon


class Admission:
    """Decides for one camera. share: gives the share of the packets that may be decoded, 0 to 1.  For one thread."""

    def __init__(self, camera: str, share: Callable[[], float]) -> None:
        self._share = share
        self._credit = -STRETCH * (zlib.crc32(camera.encode()) % 1000) / 1000.0  # cameras do not decode in step
        self._length = 0
        self._decodes = True
        self._behind = self._caught_up = False
        self._least = (float("inf"), float("inf"))  # delays in this span and in the one before
        self._span_since_s = 0.0

    def begin(self) -> None:
        """A new connection: its first stretch is decoded, so that the camera is seen to be there."""
        self._decodes, self._behind, self._length = True, False, 0
        self._least = (float("inf"), float("inf"))

    def wanted(self, key: bool) -> bool:
        """Whether to decode the next packet. key: a decoder could begin with it."""
        if key and (self._length >= STRETCH or self._behind or self._caught_up):
            self._decide()
        self._length += 1
        return self._decodes

    def late(self, late_s: float, now_s: float) -> None:
        """How much later than its stamp says the newest packet was taken. now_s: monotonic."""
        if now_s - self._span_since_s > LATELY_S:
            self._least, self._span_since_s = (late_s, self._least[0]), now_s
        self._least = (min(self._least[0], late_s), self._least[1])
        backlog_s = late_s - min(self._least)
        self._behind = backlog_s > (CAUGHT_UP_S if self._behind else BEHIND_S)

    def _decide(self) -> None:
        share, length, self._length = self._share(), self._length, 0
        self._caught_up = self._behind  # then the next key frame decides again
        if self._behind:
            self._decodes = False
            return
        if share >= NEARLY_ALL:
            self._decodes = True
            self._credit = min(0.0, self._credit)
            return
        self._credit += share * length - (length if self._decodes else 0)
        self._credit = min(MOST_CREDIT, max(-MOST_CREDIT, self._credit))
        self._decodes = self._credit >= 0.0
