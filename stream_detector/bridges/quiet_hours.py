"""Quiet hours by the clock on the wall of a time zone, also over midnight and over a change to summer time."""

from __future__ import annotations

import contextlib
import re
from dataclasses import dataclass
from datetime import datetime, time, timedelta, tzinfo
from zoneinfo import ZoneInfo

_SPAN = re.compile(r"([01]\d|2[0-3]):([0-5]\d)-([01]\d|2[0-3]):([0-5]\d)")


def zone(name: str) -> tzinfo:
    """A time zone by its IANA name. Raises ValueError."""
    with contextlib.suppress(OSError, ValueError, KeyError):
        return ZoneInfo(name)
    raise ValueError(f"{name[:64]!r} is no time zone of this system; write for instance Europe/Berlin")


@dataclass(frozen=True, slots=True)
class QuietHours:
    """Every day from `begin` to `end` on the wall clock; an end before the begin lies on the next day."""

    begin: time
    end: time
    where: tzinfo

    @classmethod
    def parse(cls, text: str, where: tzinfo) -> QuietHours:
        """From "22:00-07:00". Raises ValueError."""
        found = _SPAN.fullmatch(text.strip())
        if found is None or found.group(1, 2) == found.group(3, 4):
            raise ValueError('quiet must be written as "22:00-07:00", with two different times')
        return cls(time(int(found[1]), int(found[2])), time(int(found[3]), int(found[4])), where)

    def until(self, utc: float) -> float | None:
        """The end of the quiet hours that hold at a time (UTC seconds), in UTC seconds; None where none hold."""
        now = datetime.fromtimestamp(utc, self.where)
        for day in (now.date() - timedelta(days=1), now.date()):
            last = day if self.end > self.begin else day + timedelta(days=1)
            begin = datetime.combine(day, self.begin, self.where).timestamp()
            end = datetime.combine(last, self.end, self.where).timestamp()
            if begin <= utc < end:
                return end
        return None
