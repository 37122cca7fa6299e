"""How old something is, by order of arrival and a monotonic clock, so that no single reading of a clock deletes it.

The wall clock may be wrong: set a month ahead for a moment, 1970 until the network is there. So nothing is dated by it.
What arrives is marked with the *life* (one run of a process) and the seconds since that life began, by the monotonic
clock. Within one life ages are exact. Between lives the wall clock is needed, for it alone knows how long the machine
was off; each life gives one reading of it, the offset that held for most of its time, and a reading counts only as far
as its neighbours bear it out:

    a life began no earlier than the life before it ended, and no later than the life after it began, less its length

One wrong reading is thereby held between its neighbours. A life whose clock did not jump for `CONFIRM_S` counts in
full; until the present one has come so far, the time since the life before is not counted. All errors are on the side
of keeping, but for the time for which lives ran: that old everything is at least. Limits by size go by order alone.
"""

from __future__ import annotations

import itertools
import sqlite3
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

CONFIRM_S = 3600.0  # a clock that kept its offset for so long is believed
_SANE_UTC = 1_672_531_200.0  # 2023: an earlier reading is no reading, but a clock that was never set
_SAME_S = 10.0  # readings whose offsets differ by less agree (drift, slewing)
_MOST_S = 120.0  # one reading speaks for no longer than this
_KEEP_LIVES = 3  # beyond the oldest mark's, for its neighbours

TABLES = """
CREATE TABLE IF NOT EXISTS lives(number INTEGER PRIMARY KEY AUTOINCREMENT, token TEXT UNIQUE NOT NULL,
    began_utc REAL NOT NULL, lasted_s REAL NOT NULL, confirmed INTEGER NOT NULL DEFAULT 0);
"""


@dataclass(frozen=True, slots=True)
class Life:
    """One run of a process. began_utc: its wall clock at its beginning.  lasted_s: by its monotonic clock.

    confirmed: its wall clock kept still for `CONFIRM_S`.
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
        """Take a reading of both clocks; call it often (every few seconds)."""
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
        """Whether the offset has held for long enough to be believed without a neighbour."""
        return self._weight_s >= CONFIRM_S

    @property
    def began_utc(self) -> float:
        """What the wall clock showed, or should have shown, when this life began."""
        return self._began_s + self._offset_s

    def lasted_s(self, monotonic_s: float) -> float:
        """Seconds since this life began."""
        return monotonic_s - self._began_s


def beginnings(lives: Sequence[Life]) -> dict[int, float]:
    """number → when each life began, on one scale, as far as readings bear each other out.

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
            # Rather too young than too old.
            found[life.number] = statistics.median(readings) if len(readings) == 3 else max(readings, default=0.0)
    return found


def ran_since(lives: Sequence[Life], number: int) -> dict[int, float]:
    """number → seconds for which lives ran from its beginning to that of the life `number`: so old it is at least.

    lives: in order.
    """
    found, ran_s = {}, 0.0
    for life in reversed([life for life in lives if life.number < number]):
        ran_s += max(0.0, life.lasted_s)
        found[life.number] = ran_s
    return found


def _later(lives: Sequence[Life], place: int) -> list[float]:
    """The latest that a life can have begun, as each of those after it has it."""
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
    if before - _SAME_S < own < before:  # it agrees: clocks are slewed, and set by a little
        own = before
    latest = after[0]
    if latest < before:  # a neighbour is wrong
        return statistics.median((before, own, latest))
    return own if before <= own <= latest else latest


def begin_life(db: sqlite3.Connection, token: str, began_utc: float, lasted_s: float) -> int:
    """Enter a life, or find it again by its token; returns its number."""
    db.execute("INSERT OR IGNORE INTO lives(token, began_utc, lasted_s) VALUES (?,?,?)", (token, began_utc, lasted_s))
    return int(db.execute("SELECT number FROM lives WHERE token = ?", (token,)).fetchone()[0])


def note_life(db: sqlite3.Connection, number: int, wall: WallClock, lasted_s: float) -> None:
    """Write down how far a life has come."""
    values = (wall.began_utc, lasted_s, int(wall.confirmed), number)
    db.execute("UPDATE lives SET began_utc = ?, lasted_s = ?, confirmed = ? WHERE number = ?", values)


def read_lives(db: sqlite3.Connection, oldest: int, newest: int) -> list[Life]:
    """The lives from two before `oldest` to `newest`, in order."""
    rows = db.execute(
        "SELECT number, began_utc, lasted_s, confirmed FROM lives WHERE number >= ? AND number <= ? ORDER BY number",
        (oldest - _KEEP_LIVES + 1, newest),
    )
    return [Life(number, began_utc, lasted_s, bool(sure)) for number, began_utc, lasted_s, sure in rows]


def forget_lives(db: sqlite3.Connection, oldest: int) -> None:
    """Drop the lives that no mark refers to any more, but for the neighbours of `oldest`."""
    db.execute("DELETE FROM lives WHERE number < ?", (oldest - _KEEP_LIVES,))
