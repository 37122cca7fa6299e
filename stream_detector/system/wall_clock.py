"""Spans of the week by the clock on the wall of a time zone, also over midnight and over a change to summer time.

WeeklySpan.parse("mon-fri", "22:00", "07:00", zone("Europe/Berlin")).until(utc)
"""

from __future__ import annotations

import contextlib
import re
from dataclasses import dataclass
from datetime import datetime, time, timedelta, tzinfo
from zoneinfo import ZoneInfo

DAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
_TIME = re.compile(r"([01]\d|2[0-3]):([0-5]\d)")
_SPAN = re.compile(r"((?:[01]\d|2[0-3]):[0-5]\d)-((?:[01]\d|2[0-3]):[0-5]\d)")
_EVERY_DAY = frozenset(range(7))
_MIDNIGHT = time(0, 0)


def zone(name: str) -> tzinfo:
    """A time zone by its IANA name. Raises ValueError."""
    with contextlib.suppress(OSError, ValueError, KeyError):
        return ZoneInfo(name)
    raise ValueError(f"{name[:64]!r} is no time zone of this system; write for instance Europe/Berlin")


def parse_days(text: str) -> frozenset[int]:
    """Days of the week, 0 for Monday: "mon-fri", "sat,sun", "fri-mon", "daily". Raises ValueError."""
    if text.strip().lower() == "daily":
        return _EVERY_DAY
    found: set[int] = set()
    for part in text.lower().split(","):
        first, dash, last = part.strip().partition("-")
        if first not in DAYS or (last if dash else first) not in DAYS:
            raise ValueError('days must be written as "mon-fri", "sat,sun" or "daily"')
        begin, end = DAYS.index(first), DAYS.index(last or first)
        found.update((begin + step) % 7 for step in range((end - begin) % 7 + 1))
    return frozenset(found)


def parse_time(text: str) -> time:
    """A time of the day, "07:30". Raises ValueError."""
    found = _TIME.fullmatch(text.strip())
    if found is None:
        raise ValueError('a time of the day must be written as "07:30"')
    return time(int(found[1]), int(found[2]))


@dataclass(frozen=True, slots=True)
class WeeklySpan:
    """On each of `days` from `begin` to `end`; an end that is not after the begin lies on the next day.

    The span belongs to the day on which it begins: fri 22:00-06:00 lasts until Saturday morning.
    """

    days: frozenset[int]
    begin: time
    end: time
    where: tzinfo

    @classmethod
    def parse(cls, days: str, begin: str, end: str, where: tzinfo) -> WeeklySpan:
        """From texts; two empty times are the whole day. Raises ValueError."""
        if not begin and not end:
            return cls(parse_days(days), _MIDNIGHT, _MIDNIGHT, where)
        for text in filter(None, (begin, end)):
            parse_time(text)
        if not begin or not end or begin.strip() == end.strip():
            raise ValueError("give two different times, or none for the whole day")
        return cls(parse_days(days), parse_time(begin), parse_time(end), where)

    @classmethod
    def daily(cls, text: str, where: tzinfo) -> WeeklySpan:
        """Every day, from "22:00-07:00". Raises ValueError."""
        found = _SPAN.fullmatch(text.strip())
        if found is None:
            raise ValueError('a span must be written as "22:00-07:00"')
        return cls.parse("daily", found[1], found[2], where)

    def until(self, utc: float) -> float | None:
        """The end of the span that holds at a time, both in UTC seconds; None where none holds."""
        today = datetime.fromtimestamp(utc, self.where).date()
        for day in (today - timedelta(days=1), today):
            if day.weekday() not in self.days:
                continue
            last = day if self.end > self.begin else day + timedelta(days=1)
            begin = datetime.combine(day, self.begin, self.where).timestamp()
            end = datetime.combine(last, self.end, self.where).timestamp()
            if begin <= utc < end:
                return end
        return None
