"""The age of items, by order of arrival and a monotonic clock, so that no single reading of a clock deletes anything.

The wall clock may be wrong: set a month ahead for a moment, or at 1970 until the network is up. Therefore it dates
nothing. An item is marked with its *life* (one run of a process) and the seconds since that life began, by the
monotonic clock. Within one life, ages are exact. Between lives the wall clock is needed, because only it knows how long
the machine was off. Each life gives one reading, the offset that held for most of its time, and a reading counts only
as far as its neighbours confirm it:

    a life began no earlier than the previous life ended, and no later than the next life began, less its length

One wrong reading is thereby bounded by its neighbours. A life whose clock did not jump for `CONFIRM_S` counts fully;
until the present one has lasted so long, the time since the previous life is not counted. All errors keep items too
long rather than too short, except for the time for which lives ran: everything is at least that old. Limits by size use
the order only.
"""

from __future__ import annotations

import itertools
import sqlite3
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

CONFIRM_S = 3600.0  # seconds; a clock that kept its offset for this long is trusted
_SANE_UTC = 1_672_531_200.0  # 2023: an earlier reading comes from a clock that was never set
_SAME_S = 10.0  # seconds; readings whose offsets differ by less agree (drift, slewing)
_MOST_S = 120.0  # seconds; one reading covers at most this time
_KEEP_LIVES = 3  # lives kept before that of the oldest mark, as its neighbours

TABLES = """
CREATE TABLE IF NOT EXISTS lives(number INTEGER PRIMARY KEY AUTOINCREMENT, token TEXT UNIQUE NOT NULL,
    began_utc REAL NOT NULL, lasted_s REAL NOT NULL, confirmed INTEGER NOT NULL DEFAULT 0);
"""


@dataclass(frozen=True, slots=True)
class Life:
    """One run of a process. began_utc: its wall clock at the beginning.  lasted_s: by its monotonic clock.

    confirmed: whether its wall clock did not jump for `CONFIRM_S`.
    """

    number: int
    began_utc: float
    lasted_s: float
    confirmed: bool = False


class WallClock:
    """The wall clock of this life: the offset to the monotonic clock that held for the longest time."""

    def __init__(self, monotonic_s: float, utc_s: float) -> None:
        self._began_s = self._seen_s = monotonic_s
        self._offset_s = utc_s - monotonic_s
        self._weight_s = 0.0

    def observe(self, monotonic_s: float, utc_s: float) -> None:
        """Take a reading of both clocks; call it every few seconds."""
        passed_s = min(max(0.0, monotonic_s - self._seen_s), _MOST_S)
        self._seen_s = monotonic_s
        offset_s = utc_s - monotonic_s
        if abs(offset_s - self._offset_s) < _SAME_S:
            self._offset_s = offset_s
            self._weight_s = min(self._weight_s + passed_s, 10 * CONFIRM_S)
        elif self._weight_s < passed_s or not self._weight_s:
            self._offset_s, self._weight_s = offset_s, 0.0
        else:
            self._weight_s -= passed_s

    @property
    def confirmed(self) -> bool:
        """Whether the offset has held long enough to be trusted without a neighbour."""
        return self._weight_s >= CONFIRM_S

    @property
    def began_utc(self) -> float:
        """The wall clock at the beginning of this life, corrected."""
        return self._began_s + self._offset_s

    def lasted_s(self, monotonic_s: float) -> float:
        """Return the seconds since this life began."""
        return monotonic_s - self._began_s


def beginnings(lives: Sequence[Life]) -> dict[int, float]:
    """Return number → beginning of each life, on one scale, as far as readings confirm each other.

    lives: in order, the present one last.
    """
    found: dict[int, float] = {}
    for place, life in enumerate(lives):
        own = life.began_utc if life.began_utc >= _SANE_UTC else None
        after = _later(lives, place)
        if place:
            ended = lives[place - 1]
            before = found[ended.number] + ended.lasted_s
            found[life.number] = _between(before, own, after, life.confirmed)
        elif own is not None and life.confirmed:
            found[life.number] = own
        else:
            readings = [value for value in (own, *after[:2]) if value is not None]
            # in doubt younger rather than older
            found[life.number] = statistics.median(readings) if len(readings) == 3 else max(readings, default=0.0)
    return found


def ran_since(lives: Sequence[Life], number: int) -> dict[int, float]:
    """Return number → seconds for which lives ran from its beginning to that of the life `number`: its least age.

    lives: in order.
    """
    found, ran_s = {}, 0.0
    for life in reversed([life for life in lives if life.number < number]):
        ran_s += max(0.0, life.lasted_s)
        found[life.number] = ran_s
    return found


def _later(lives: Sequence[Life], place: int) -> list[float]:
    """Return the latest possible beginning of a life, according to each later life."""
    found, lasted_s = [], 0.0
    for this, following in itertools.pairwise(lives[place : place + 4]):
        lasted_s += this.lasted_s
        if following.began_utc >= _SANE_UTC:
            found.append(following.began_utc - lasted_s)
    return found


def _between(before: float, own: float | None, after: Sequence[float], confirmed: bool) -> float:
    if own is not None and confirmed:
        return max(before, own)
    if own is None:  # it has no reading, and a single one of a later life must not date it
        return max(before, min(after[:2])) if len(after) > 1 else before
    if not after:
        return before
    if before - _SAME_S < own < before:  # it agrees: clocks are slewed, and set by small steps
        own = before
    latest = after[0]
    if latest < before:  # a neighbour is wrong
        return statistics.median((before, own, latest))
    return own if before <= own <= latest else latest


def begin_life(db: sqlite3.Connection, token: str, began_utc: float, lasted_s: float) -> int:
    """Insert a life, or find it by its token; return its number."""
    db.execute("INSERT OR IGNORE INTO lives(token, began_utc, lasted_s) VALUES (?,?,?)", (token, began_utc, lasted_s))
    return int(db.execute("SELECT number FROM lives WHERE token = ?", (token,)).fetchone()[0])


def note_life(db: sqlite3.Connection, number: int, wall: WallClock, lasted_s: float) -> None:
    """Record the present length of a life."""
    values = (wall.began_utc, lasted_s, int(wall.confirmed), number)
    db.execute("UPDATE lives SET began_utc = ?, lasted_s = ?, confirmed = ? WHERE number = ?", values)


def read_lives(db: sqlite3.Connection, oldest: int, newest: int) -> list[Life]:
    """Return the lives from two before `oldest` to `newest`, in order."""
    rows = db.execute(
        "SELECT number, began_utc, lasted_s, confirmed FROM lives WHERE number >= ? AND number <= ? ORDER BY number",
        (oldest - _KEEP_LIVES + 1, newest),
    )
    return [Life(number, began_utc, lasted_s, bool(sure)) for number, began_utc, lasted_s, sure in rows]


def forget_lives(db: sqlite3.Connection, oldest: int) -> None:
    """Delete the lives that no mark refers to, except the neighbours of `oldest`."""
    db.execute("DELETE FROM lives WHERE number < ?", (oldest - _KEEP_LIVES,))
