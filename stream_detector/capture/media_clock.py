"""Presentation time stamps → media time that always rises, whatever the container's stamps do.

rising stamps            media time is the stamp less the container's start
a stamp that is absent   one frame after the last one
standing still, disorder a little after the last one; the next good stamp counts again
a jump (where the format restarts its clock in the middle: MPEG-TS, MPEG-PS): a cut, and time goes on from there
"""

from __future__ import annotations

import math

SEEK_BACK_S = 1.0  # seconds; a step back by more is a cut, by less is disorder
JUMP_S = 10.0  # seconds; a step ahead by more is a cut, if stamps of this format may jump
# seconds; if the video begins later than this after the container's start, the start is wrong
LATEST_START_S = 86_400.0
LATE_S = 3.0  # seconds by which a live picture may arrive later than its stamp says
EARLY_S = 12.0  # seconds by which it may arrive earlier: a burst, such as a segment
FOLLOW = 0.0005  # fraction of the difference that each picture corrects
LEAST_STEP_S = 1e-4
STANDING = 2  # after this many stamps in a row that do not rise, they count as absent


class MediaClock:
    """The media time of one file or connection.

    start_s: the stamp of media time 0; None: the first stamp.  may_jump: whether a step ahead by JUMP_S is a cut;
    otherwise it is a gap of that length.
    """

    def __init__(self, start_s: float | None = None, may_jump: bool = False) -> None:
        self.last_s: float | None = None
        self._start_s = start_s
        self._may_jump = may_jump
        self._shift_s = 0.0
        self._standing = 0

    def time(self, stamp_s: float | None, step_s: float) -> tuple[float, bool]:
        """Return (media time in seconds, whether a cut lies before it). stamp_s: presentation time.  step_s: usual
        frame period.
        """
        if stamp_s is not None and not math.isfinite(stamp_s):
            stamp_s = None
        last_s = self.last_s
        if last_s is None:
            self.last_s = self._first(stamp_s)
            return self.last_s, False
        cut = False
        if stamp_s is None:
            media_s = last_s + step_s
        else:
            media_s = stamp_s + self._shift_s
            ahead_s = media_s - last_s
            cut = ahead_s < -SEEK_BACK_S or (self._may_jump and ahead_s > JUMP_S)
            if cut:
                media_s = last_s + step_s
                self._shift_s = media_s - stamp_s
            elif ahead_s <= 0.0:
                self._standing += 1
                media_s = last_s + (step_s if self._standing > STANDING else step_s / 2)
            else:
                self._standing = 0
        self.last_s = media_s
        return media_s, cut

    def _first(self, stamp_s: float | None) -> float:
        if stamp_s is None:
            return 0.0
        start_s = self._start_s if self._start_s is not None else stamp_s
        if not 0.0 <= stamp_s - start_s <= LATEST_START_S:
            start_s = stamp_s
        self._shift_s = -start_s
        return stamp_s - start_s


class LiveClock:
    """The media time of a live source: the spacing of its stamps, aligned with the times of arrival.

    An HLS segment arrives in one piece and RTP packets arrive unevenly; the stamps say how far apart the pictures were
    taken. `lead_s` is how far a picture is ahead of its due time; the caller may wait that long, so that bursts are
    spread out. If stamps and arrival differ too much, the time of arrival counts.
    """

    def __init__(self) -> None:
        self.lead_s = 0.0
        self._last_s = -math.inf
        self._shift_s: float | None = None

    def late_s(self, stamp_s: float, arrived_s: float) -> float:
        """How much later than its stamp says a picture came, in seconds; changes nothing."""
        return 0.0 if self._shift_s is None else max(0.0, arrived_s - stamp_s - self._shift_s)

    def time(self, stamp_s: float, arrived_s: float) -> float:
        """Return media time in seconds, always rising. stamp_s: of the picture.  arrived_s: seconds since the camera
        started.
        """
        if self._shift_s is None or not -LATE_S <= stamp_s + self._shift_s - arrived_s <= EARLY_S:
            self._shift_s = arrived_s - stamp_s
        ahead_s = stamp_s + self._shift_s - arrived_s
        self._shift_s -= FOLLOW * ahead_s  # two clocks never run at the same rate
        self._last_s = max(stamp_s + self._shift_s, self._last_s + LEAST_STEP_S)
        self.lead_s = max(0.0, self._last_s - arrived_s)
        return self._last_s
