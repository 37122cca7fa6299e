"""Retention of the journal: which events are deleted, and what is recorded about them. `system.retention` defines age.

Events are deleted in order of arrival only, so the first events of every topic and epoch are missing. The table
`pruned` holds the last deleted number, and tells late subscribers how many events are lost for them.
"""

from __future__ import annotations

import math
import sqlite3
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from stream_detector.system import retention
from stream_detector.system.retention import WallClock

_MOST_PLACES = 100_000  # rows of `pruned`; with more, the rows of the oldest epochs are merged into one per topic
_MOST_LIVES = 2000
_FOLDED = 0  # the ordinal of merged rows


@dataclass(frozen=True, slots=True)
class LostEvents:
    """`count` events up to (epoch, seq) were deleted. epoch: "" if it is unknown."""

    count: int
    epoch: str
    seq: int


@dataclass(frozen=True, slots=True)
class Now:
    """The present run. number: in the table of runs.  at_s: seconds since it began."""

    number: int
    at_s: float


def mark_deleted(db: sqlite3.Connection, topic: str, ordinal: int, seq: int) -> None:
    """Record that the events of a topic and epoch up to `seq` are no longer available."""
    known = db.execute("SELECT seq FROM pruned WHERE topic = ? AND ordinal = ?", (topic, ordinal)).fetchone()
    if known is None or known[0] < seq:
        db.execute("INSERT OR REPLACE INTO pruned VALUES (?,?,?)", (topic, ordinal, seq))


def lost_since(db: sqlite3.Connection, topic: str, epoch: str, seq: int) -> LostEvents | None:
    """Return the deleted events of `topic` after (epoch, seq), or None. An unknown epoch gives all that were ever
    deleted.
    """
    known = db.execute("SELECT ordinal FROM epochs WHERE epoch = ?", (epoch,)).fetchone()
    ordinal = known[0] if known else -1
    count, last = 0, None
    rows = db.execute(
        "SELECT ordinal, seq, epoch FROM pruned LEFT JOIN epochs USING (ordinal)"
        " WHERE topic = ? AND ordinal >= ? ORDER BY ordinal",
        (topic, ordinal),
    )
    for of, gone, name in rows:
        new = gone - seq if of == ordinal else gone
        if new > 0:
            count += new
            last = (name or "", gone)
    return LostEvents(count, *last) if last else None


def mark_missing_start(db: sqlite3.Connection, ordinal: int, seqs: Mapping[str, int]) -> None:
    """Record the events of the present epoch that are missing at the beginning of a new file. seqs: topic → last seq
    used.
    """
    for topic, last in seqs.items():
        lowest = db.execute("SELECT min(seq) FROM events WHERE topic = ? AND ordinal = ?", (topic, ordinal)).fetchone()
        gone = last if lowest[0] is None else lowest[0] - 1
        if gone > 0:
            mark_deleted(db, topic, ordinal, gone)


def note(db: sqlite3.Connection, now: Now, wall: WallClock) -> None:
    """Record the time of the present run, and the events that have arrived by now."""
    with db:
        retention.note_life(db, now.number, wall, now.at_s)
        mark(db, now)


def mark(db: sqlite3.Connection, now: Now) -> None:
    """Record that everything journalled so far has arrived by now."""
    newest = db.execute("SELECT max(n) FROM events").fetchone()[0]
    if newest is not None:
        db.execute("INSERT OR IGNORE INTO marks VALUES (?,?,?)", (newest, now.number, now.at_s))


def retain(db: sqlite3.Connection, now: Now, wall: WallClock, keep_s: float, max_bytes: int, step: int) -> None:
    """Delete at most `step` of the oldest events: those older than `keep_s`, or while larger than `max_bytes`.

    max_bytes: 0 means no limit.
    """
    with db:
        retention.note_life(db, now.number, wall, now.at_s)
        if math.isfinite(keep_s):
            mark(db, now)
    up_to = _too_old(db, now, keep_s)
    rows: Sequence[tuple[int]] = db.execute("SELECT n FROM events ORDER BY n LIMIT ?", (step,)).fetchall()
    pages, free, size = (
        db.execute(f"PRAGMA {name}").fetchone()[0] for name in ("page_count", "freelist_count", "page_size")
    )
    used = (pages - free) * size
    doomed = [n for (n,) in rows if n <= up_to]
    if max_bytes and used > max_bytes and rows:  # down to nine tenths, as far as one step allows
        newest = db.execute("SELECT max(n) FROM events").fetchone()[0] or 0
        events = newest - rows[0][0] + 1
        for_size = [n for (n,) in rows[: math.ceil(events * (1 - 0.9 * max_bytes / used))]]
        doomed = max(doomed, for_size, key=len)
    if doomed:
        with db:
            _delete(db, doomed[-1])
        db.executescript("PRAGMA incremental_vacuum(1000)")  # `execute` would free one page only


def _too_old(db: sqlite3.Connection, now: Now, keep_s: float) -> int:
    """Return the newest `n` up to which all events are older than `keep_s`; 0 if none is."""
    if math.isinf(keep_s):
        return 0
    oldest = db.execute("SELECT life FROM marks ORDER BY n LIMIT 1").fetchone()
    if oldest is None:
        return 0
    first = max(oldest[0], now.number - _MOST_LIVES)
    lives = retention.read_lives(db, first, now.number)
    begun, ran_s = retention.beginnings(lives), retention.ran_since(lives, now.number)
    now_s = begun.get(now.number, 0.0) + now.at_s
    found = 0
    for n, life, at_s in db.execute("SELECT n, life, at_s FROM marks ORDER BY n"):
        began = begun.get(life, begun[min(begun)] if begun else 0.0)
        age_s = now.at_s - at_s if life == now.number else now_s - (began + at_s)
        if life in ran_s:  # at least this age by the monotonic clock alone, whatever the wall clock showed
            age_s = max(age_s, now.at_s + ran_s[life] - at_s)
        if age_s <= keep_s:
            break
        found = n
    return found


def _delete(db: sqlite3.Connection, up_to: int) -> None:
    rows = db.execute("SELECT topic, ordinal, max(seq) FROM events WHERE n <= ? GROUP BY topic, ordinal", (up_to,))
    for topic, ordinal, seq in rows.fetchall():
        mark_deleted(db, topic, ordinal, seq)
    db.execute("DELETE FROM events WHERE n <= ?", (up_to,))
    db.execute("DELETE FROM marks WHERE n < ?", (up_to,))
    oldest = db.execute("SELECT min(life) FROM marks").fetchone()[0]
    if oldest is not None:
        retention.forget_lives(db, oldest)
    _fold(db)


def _fold(db: sqlite3.Connection) -> None:
    """Bound the table of deleted events: of the oldest epochs only the sum is kept; they become unknown."""
    if db.execute("SELECT count(*) FROM pruned").fetchone()[0] <= _MOST_PLACES:
        return
    ordinals = [o for (o,) in db.execute("SELECT DISTINCT ordinal FROM pruned ORDER BY ordinal")]
    last = ordinals[len(ordinals) // 2 - 1]
    last = min(last, (db.execute("SELECT min(ordinal) FROM events").fetchone()[0] or last + 1) - 1)
    sums = db.execute("SELECT topic, sum(seq) FROM pruned WHERE ordinal <= ? GROUP BY topic", (last,)).fetchall()
    db.execute("DELETE FROM pruned WHERE ordinal <= ?", (last,))
    db.executemany("INSERT INTO pruned VALUES (?,?,?)", [(topic, _FOLDED, count) for topic, count in sums])
    db.execute("DELETE FROM epochs WHERE ordinal <= ?", (last,))
