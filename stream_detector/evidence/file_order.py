"""The order and the age of evidence files, by more than one clock (see `system.retention`).

An index in the evidence folder, `.order.sqlite3`, stores when each file was first seen: in which run of a detector, and
how many seconds after its start. Unknown files (of an earlier version, or after the index was deleted) are added when
they are seen, in the order of their dates; they are therefore kept too long rather than too short.
"""

from __future__ import annotations

import contextlib
import logging
import secrets
import sqlite3
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from stream_detector.system import retention
from stream_detector.system.own_files import FILE_ORDER, is_own
from stream_detector.types import Clock

log = logging.getLogger(__name__)

NAME = ".order.sqlite3"
_TABLES = """
CREATE TABLE IF NOT EXISTS files(serial INTEGER PRIMARY KEY AUTOINCREMENT, name TEXT UNIQUE NOT NULL,
    life INTEGER NOT NULL, at_s REAL NOT NULL);
"""


@dataclass(frozen=True, slots=True)
class IndexedFile:
    """One file. name: relative to the folder.  age_s: seconds since it was first seen; never more than the clocks
    confirm.
    """

    name: str
    age_s: float


class EvidenceIndex:
    """The index of a folder of evidence. folder: created when something is written.  One thread uses it.

    No method raises because of the disk: without an index on disk, one in memory is used while this process lives.
    """

    def __init__(self, folder: Path, clock: Clock) -> None:
        self._path, self._clock = folder / NAME, clock
        self._wall = retention.WallClock(clock.monotonic(), clock.utc())
        self._token = secrets.token_hex(8)
        self._db: sqlite3.Connection | None = None

    def observe(self) -> None:
        """Read the clocks; call it now and then."""
        self._wall.observe(self._clock.monotonic(), self._clock.utc())

    def oldest_first(self, names: Sequence[str]) -> list[IndexedFile]:
        """Return all `names` (present files, in the order of their dates) in the order of their arrival."""
        self.observe()
        try:
            return self._sorted(names, self._connection())
        except sqlite3.Error as error:
            log.warning("the index of the evidence cannot be used (%s); a new one is created", error)
            return self._sorted(names, self._recreate(error))

    def close(self) -> None:
        """Close the index. Safe to call twice."""
        if self._db is not None:
            self._db.close()
            self._db = None

    def _connection(self) -> sqlite3.Connection:
        if self._db is None:
            self._db = _open(str(self._path) if self._is_own() else ":memory:")
        return self._db

    def _is_own(self) -> bool:
        return is_own(self._path, FILE_ORDER)

    def _recreate(self, error: sqlite3.Error) -> sqlite3.Connection:
        self.close()
        code = (getattr(error, "sqlite_errorcode", 0) or 0) & 0xFF
        if self._is_own() and code in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB):
            with contextlib.suppress(OSError, sqlite3.Error):
                self._path.unlink()
                self._db = _open(str(self._path))
                return self._db
        self._db = _open(":memory:")
        return self._db

    def _sorted(self, names: Sequence[str], db: sqlite3.Connection) -> list[IndexedFile]:
        at_s = self._wall.lasted_s(self._clock.monotonic())
        with db:
            life = retention.begin_life(db, self._token, self._wall.began_utc, at_s)
            retention.note_life(db, life, self._wall, at_s)
            new = [(name, life, at_s) for name in names]
            db.executemany("INSERT OR IGNORE INTO files(name, life, at_s) VALUES (?,?,?)", new)
            there = set(names)
            rows = db.execute("SELECT name, life, at_s FROM files ORDER BY serial").fetchall()
            gone = [(name,) for name, _, _ in rows if name not in there]
            db.executemany("DELETE FROM files WHERE name = ?", gone)
            oldest = min((of for name, of, _ in rows if name in there), default=life)
            retention.forget_lives(db, oldest)
        begun = retention.beginnings(retention.read_lives(db, oldest, life))
        now_s = begun[life] + at_s
        return [IndexedFile(*seen) for seen in self._ages(rows, there, begun, life, at_s, now_s)]

    def _ages(
        self,
        rows: Sequence[tuple[str, int, float]],
        there: set[str],
        begun: dict[int, float],
        life: int,
        at_s: float,
        now_s: float,
    ) -> Iterator[tuple[str, float]]:
        """Return (name, age) of each file; a later file is never older than an earlier one."""
        limit_s = float("inf")
        for name, of, seen_s in rows:
            if name in there:
                age_s = at_s - seen_s if of == life else now_s - (begun.get(of, min(begun.values())) + seen_s)
                limit_s = min(limit_s, age_s)
                yield name, limit_s


def _open(path: str) -> sqlite3.Connection:
    db = sqlite3.connect(path, timeout=1.0, check_same_thread=False)
    try:
        db.execute("PRAGMA synchronous = NORMAL")
        db.executescript(_TABLES + retention.TABLES)
    except BaseException:
        db.close()
        raise
    return db
