"""The scores of the last days by the minute, for the timeline: a small file beside the journal.

    decision thread ──MinuteScores.add──▶ a few numbers a camera ──drain, now and then──▶ ScoreHistory (SQLite)

One row is one camera's minute: how many windows, their mean and highest smoothed score, whether an alarm was on. Two
weeks of a camera are some 20,000 rows, about a megabyte.
"""

from __future__ import annotations

import contextlib
import logging
import sqlite3
import threading
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path

from stream_detector.errors import UsageError
from stream_detector.system.own_files import TIMELINE, check_own

log = logging.getLogger(__name__)

KEEP_MINUTES = 14 * 24 * 60
MOST_OPEN = 20_000  # minutes that wait for `drain`; the oldest are dropped where nobody drains
TABLE = """CREATE TABLE IF NOT EXISTS minutes(camera TEXT NOT NULL, minute INTEGER NOT NULL, windows INTEGER NOT NULL,
    total REAL NOT NULL, peak REAL NOT NULL, alarmed INTEGER NOT NULL, PRIMARY KEY(camera, minute)) WITHOUT ROWID"""
ADD = """INSERT INTO minutes VALUES(?, ?, ?, ?, ?, ?) ON CONFLICT(camera, minute) DO UPDATE SET
    windows = windows + excluded.windows, total = total + excluded.total, peak = MAX(peak, excluded.peak),
    alarmed = MAX(alarmed, excluded.alarmed)"""
BINS = """SELECT (minute - ?) / ?, SUM(windows), SUM(total), MAX(peak), MAX(alarmed) FROM minutes
    WHERE camera = ? AND minute >= ? AND minute < ? GROUP BY 1"""

Row = tuple[str, int, int, float, float, int]


@dataclass(slots=True)
class _Minute:
    windows: int = 0
    total: float = 0.0
    peak: float = 0.0
    alarmed: bool = False


@dataclass(frozen=True, slots=True)
class Bin:
    """Some minutes of a camera. mean, peak: of the smoothed scores."""

    windows: int
    mean: float
    peak: float
    alarmed: bool


class MinuteScores:
    """Adds windows up. `add` is for the decision thread and takes a microsecond; `drain` for another one."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._open: OrderedDict[tuple[str, int], _Minute] = OrderedDict()

    def add(self, camera: str, utc: float, smoothed: float, alarmed: bool) -> None:
        """A window was decided. utc: of its last frame, in seconds since the epoch."""
        key = camera, int(utc // 60)
        with self._lock:
            minute = self._open.get(key)
            if minute is None:
                minute = self._open[key] = _Minute()
                if len(self._open) > MOST_OPEN:
                    self._open.popitem(last=False)
            minute.windows += 1
            minute.total += smoothed
            minute.peak = max(minute.peak, smoothed)
            minute.alarmed = minute.alarmed or alarmed

    def drain(self) -> list[Row]:
        """Return what was added since the last call; a minute may come in several parts."""
        with self._lock:
            open_, self._open = self._open, OrderedDict()
        return [(c, m, v.windows, v.total, v.peak, int(v.alarmed)) for (c, m), v in open_.items()]


class ScoreHistory:
    """The file. path: None keeps everything in memory, as does a file that cannot be used. For worker threads."""

    def __init__(self, path: Path | None) -> None:
        self._lock = threading.Lock()
        self._db = self._open(path)

    def _open(self, path: Path | None) -> sqlite3.Connection:
        try:
            if path is not None:
                check_own(path, TIMELINE, "move it away")
                path.parent.mkdir(parents=True, exist_ok=True)
            db = sqlite3.connect(":memory:" if path is None else path, timeout=2.0, check_same_thread=False)
            db.execute("PRAGMA journal_mode = WAL")
            db.execute("PRAGMA synchronous = NORMAL")
            db.execute(TABLE)
            return db
        except (sqlite3.Error, OSError, UsageError) as error:
            if path is None:
                raise
            log.warning("the timeline is kept in memory only: %s cannot be used (%s)", path.name, error)
            return self._open(None)

    def add(self, rows: list[Row], now_minute: int) -> None:
        """Write what `MinuteScores.drain` gave; drop what is older than two weeks."""
        with self._lock:
            try:
                with self._db:
                    self._db.executemany(ADD, rows)
                    self._db.execute("DELETE FROM minutes WHERE minute < ?", (now_minute - KEEP_MINUTES,))
            except sqlite3.Error as error:
                log.warning("some minutes of the timeline were not kept (%s)", error)

    def bins(self, camera: str, first: int, minutes_each: int, count: int) -> list[Bin | None]:
        """Return `count` bins of so many minutes each from minute `first` on; None where no window was scored."""
        found: list[Bin | None] = [None] * count
        values = (first, minutes_each, camera, first, first + minutes_each * count)
        with self._lock, contextlib.suppress(sqlite3.Error):
            for place, windows, total, peak, alarmed in self._db.execute(BINS, values):
                found[place] = Bin(windows, total / windows, peak, bool(alarmed))
        return found

    def close(self) -> None:
        """Close the file. Safe to call twice."""
        with self._lock:
            self._db.close()
