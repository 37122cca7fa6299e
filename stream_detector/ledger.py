"""The event journal: every alarm and status is written here before it is published.

SQLite in WAL mode with synchronous=NORMAL: a commit costs tens of microseconds and survives `kill -9`; after a loss of
power the newest commits may be gone, the file stays whole. Numbering: `epoch` is random per process start, `seq`
counts per topic without holes and begins at 1 in every epoch. The order of epochs is kept, so `since` reads on across
restarts. Scores are not journalled here (see `recovery.ScoreRing`).

What goes wrong, and what happens then:
    disk full, read-only, locked by another run   kept in memory (bounded), told once, disk tried again every 30 s
    corrupt file (also a wrong row checksum)      renamed to *.corrupt-N, told, a new file begun; what this process
                                                  still remembers (newest events, open alarms) goes on into it
No call raises because of the disk. A Ledger is used by one thread at a time.
"""

from __future__ import annotations

import json
import logging
import secrets
import sqlite3
import zlib
from collections import deque
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path
from typing import Any

from stream_detector.errors import LedgerError, ProtocolError
from stream_detector.lockfile import LockFile
from stream_detector.types import Clock
from stream_detector.wire import ALARM_SCHEMA, FIRST_EPOCH, MAX_EVENT_BYTES, decode_object, encode

log = logging.getLogger(__name__)

_SCHEMA = """
CREATE TABLE IF NOT EXISTS epochs(ordinal INTEGER PRIMARY KEY AUTOINCREMENT, epoch TEXT UNIQUE NOT NULL);
CREATE TABLE IF NOT EXISTS events(n INTEGER PRIMARY KEY AUTOINCREMENT, topic TEXT NOT NULL, ordinal INTEGER NOT NULL,
    seq INTEGER NOT NULL, utc REAL NOT NULL, body TEXT NOT NULL, crc INTEGER NOT NULL, UNIQUE(topic, ordinal, seq));
CREATE TABLE IF NOT EXISTS open_alarms(id TEXT PRIMARY KEY, topic TEXT NOT NULL, first TEXT NOT NULL,
    last TEXT NOT NULL, crc INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS topics(topic TEXT PRIMARY KEY, ordinal INTEGER NOT NULL, seq INTEGER NOT NULL);
"""
_APPLICATION_ID = 0x53444C31  # "SDL1"
_BROKEN = {1, 11, 26}  # SQLITE_ERROR (a table is gone), SQLITE_CORRUPT, SQLITE_NOTADB: set aside; all else: the disk
_TAIL = 10_000  # events of this process kept for a new file
_CHECK_BYTES = 64 << 20  # a larger file is not checked through at the start; errors are found when rows are read
_RETRY_S = 30.0
_RETENTION_S = 60.0
_RETENTION_APPENDS = 1000
_MEMORY_BYTES = 64 << 20


@dataclass(frozen=True, slots=True)
class _Row:
    topic: str
    epoch: str
    seq: int
    utc: float
    text: str


@dataclass(frozen=True, slots=True)
class OpenAlarm:
    """An alarm that started and has not ended. first: its `start` event; last: its newest event, maybe the same."""

    topic: str
    first: dict[str, Any]
    last: dict[str, Any]


class _Corrupt(Exception):
    """A row does not match its checksum."""


class Ledger:
    """Journal of events; see the module docstring.

    path: the SQLite file, or None for memory only.  keep_days, max_bytes: retention; 0 means no limit.
    on_trouble: called with one sentence whenever the journal degrades or recovers; the same sentences can be fetched
    with `take_troubles`.
    """

    def __init__(
        self,
        path: Path | None,
        *,
        clock: Clock,
        keep_days: float = 30.0,
        max_bytes: int = 1_000_000_000,
        on_trouble: Callable[[str], None] | None = None,
    ) -> None:
        self.epoch = secrets.token_hex(8)
        self.degraded = False  # True while a file was asked for, but events are kept in memory only
        self._path = path
        self._clock = clock
        self._keep_s = keep_days * 86400
        self._max_bytes = max_bytes
        self._on_trouble = on_trouble
        self._troubles: deque[str] = deque(maxlen=100)
        self._seqs: dict[str, int] = {}
        self._open: dict[str, OpenAlarm] = {}
        self._tail: deque[_Row] = deque(maxlen=_TAIL)
        self._lock: LockFile | None = None
        self._retry_at = 0.0
        self._retention_at = clock.monotonic() + _RETENTION_S
        self._appends = 0
        self._ordinal = 0
        self._closed = False
        self._db: sqlite3.Connection = self._memory() if path is None else self._begin(path)
        self._load_open()

    # -- writing ------------------------------------------------------------------------------------------------

    def append(self, topic: str, body: dict[str, Any]) -> int:
        """Journal one event; sets `body["epoch"]` and `body["seq"]` and returns seq.

        Raises ProtocolError if the body cannot be written as JSON; then nothing is journalled and no seq is used.
        """
        if self._closed:
            raise LedgerError("an event came after the journal was closed; close the journal last")
        body["epoch"], body["seq"] = self.epoch, self._seqs.get(topic, 0) + 1
        row = _Row(topic, self.epoch, body["seq"], self._clock.utc(), encode(body).decode())
        self._seqs[topic] = row.seq
        self._tail.append(row)
        self._track(topic, body)
        if self.degraded and self._clock.monotonic() >= self._retry_at:
            self._return_to_disk()  # writes the tail, this row with it, if it succeeds
        self._guard(lambda: self._write(row, body))
        self._appends += 1
        if self._appends >= _RETENTION_APPENDS or self._clock.monotonic() >= self._retention_at:
            self._appends, self._retention_at = 0, self._clock.monotonic() + _RETENTION_S
            self._guard(self._retain)
        return row.seq

    def _track(self, topic: str, body: dict[str, Any]) -> None:
        if body.get("schema") != ALARM_SCHEMA:
            return
        if body["type"] == "end":
            self._open.pop(body["id"], None)
        elif body["type"] == "start" or body["id"] not in self._open:
            self._open[body["id"]] = OpenAlarm(topic, dict(body), dict(body))
        else:
            self._open[body["id"]] = OpenAlarm(topic, self._open[body["id"]].first, dict(body))

    def _write(self, row: _Row, body: dict[str, Any]) -> None:
        with self._db:
            self._insert(self._db, row, self._ordinal)
            if body.get("schema") == ALARM_SCHEMA:
                alarm = self._open.get(body["id"])
                if alarm is None:
                    self._db.execute("DELETE FROM open_alarms WHERE id = ?", (body["id"],))
                else:
                    self._insert_open(self._db, body["id"], alarm)

    @staticmethod
    def _insert(db: sqlite3.Connection, row: _Row, ordinal: int) -> None:
        crc = zlib.crc32(f"{row.topic}\0{row.epoch}\0{row.seq}\0{row.text}".encode())
        values = (row.topic, ordinal, row.seq, row.utc, row.text, crc)
        db.execute("INSERT OR IGNORE INTO events(topic, ordinal, seq, utc, body, crc) VALUES (?,?,?,?,?,?)", values)
        db.execute("INSERT OR REPLACE INTO topics VALUES (?,?,?)", (row.topic, ordinal, row.seq))

    @staticmethod
    def _insert_open(db: sqlite3.Connection, name: str, alarm: OpenAlarm) -> None:
        first, last = encode(alarm.first).decode(), encode(alarm.last).decode()
        crc = zlib.crc32(f"{name}\0{alarm.topic}\0{first}\0{last}".encode())
        db.execute("INSERT OR REPLACE INTO open_alarms VALUES (?,?,?,?,?)", (name, alarm.topic, first, last, crc))

    # -- reading ------------------------------------------------------------------------------------------------

    def since(self, topic: str, epoch: str | None, seq: int, limit: int) -> tuple[list[str], bool]:
        """(bodies as JSON texts, whether the epoch is unknown): up to `limit` events of `topic` after (epoch, seq).

        Oldest first, on into later epochs. epoch None: this process's; "first" or an epoch that is not known (any
        more): everything the journal holds of the topic.
        """
        found: tuple[list[str], bool] = ([], False)

        def read() -> None:
            nonlocal found
            wanted = self.epoch if epoch is None else epoch
            got = self._db.execute("SELECT ordinal FROM epochs WHERE epoch = ?", (wanted,)).fetchone()
            place = (got[0], seq) if got else (-1, 0)
            rows = self._db.execute(
                "SELECT epochs.epoch, seq, body, crc FROM events JOIN epochs USING (ordinal)"
                " WHERE topic = ? AND (ordinal, seq) > (?, ?) ORDER BY ordinal, seq LIMIT ?",
                (topic, *place, limit),
            )
            texts = []
            for row_epoch, row_seq, text, crc in rows:
                if zlib.crc32(f"{topic}\0{row_epoch}\0{row_seq}\0{text}".encode()) != crc:
                    raise _Corrupt(f"event {row_seq} of {topic} does not match its checksum")
                texts.append(text)
            found = texts, not got and wanted != FIRST_EPOCH

        self._guard(read, again=True)
        return found

    def last_seqs(self) -> dict[str, int]:
        """topic → last seq, of this epoch."""
        return dict(self._seqs)

    def last_positions(self) -> dict[str, tuple[str, int]]:
        """topic → (epoch, seq) of its newest event, of every epoch the journal holds."""
        found: dict[str, tuple[str, int]] = {}

        def read() -> None:
            rows = self._db.execute("SELECT topic, epoch, seq FROM topics JOIN epochs USING (ordinal)")
            for topic, epoch, seq in rows:
                if not isinstance(topic, str) or not isinstance(seq, int):
                    raise _Corrupt("the table of topics holds something else")
                found[topic] = (epoch, seq)

        self._guard(read, again=True)
        return {**found, **{topic: (self.epoch, seq) for topic, seq in self._seqs.items()}}

    def last_events(self, prefix: str) -> list[tuple[str, dict[str, Any]]]:
        """(topic, newest body) of every topic of this epoch that begins with `prefix`."""
        events: list[tuple[str, dict[str, Any]]] = []
        for topic, seq in self._seqs.items():
            if topic.startswith(prefix):
                texts, _ = self.since(topic, self.epoch, seq - 1, 1)
                events.extend((topic, json.loads(text)) for text in texts)
        return events

    def open_alarms(self) -> list[OpenAlarm]:
        """Alarms that started and did not end, also those of earlier epochs, oldest first."""
        return list(self._open.values())

    def take_troubles(self) -> list[str]:
        """The sentences told since the last call."""
        texts = list(self._troubles)
        self._troubles.clear()
        return texts

    def close(self) -> None:
        """Close the file and give its lock back. Safe to call twice."""
        self._closed = True
        self._db.close()
        if self._lock:
            self._lock.release()

    # -- opening, and what goes wrong ---------------------------------------------------------------------------

    def _begin(self, path: Path) -> sqlite3.Connection:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            lock = LockFile(path.with_name(path.name + ".lock"))
            if not lock.acquire():
                db = self._to_memory(f"the event journal {path} is in use by another process", copy=False)
                self._retry_at = float("inf")  # its open alarms are the other's, now and after it has gone
                return db
            self._lock = lock
        except OSError as error:
            return self._to_memory(f"the event journal {path} cannot be made ({error.strerror})")
        try:
            return self._open_file(path)
        except (sqlite3.Error, _Corrupt) as error:
            return self._replacement(error)

    def _open_file(self, path: Path) -> sqlite3.Connection:
        db = sqlite3.connect(path, timeout=1.0, check_same_thread=False)
        try:
            db.execute("PRAGMA auto_vacuum = INCREMENTAL")  # has an effect on a new file only
            db.execute("PRAGMA journal_mode = WAL")
            db.execute("PRAGMA synchronous = NORMAL")
            known = db.execute("PRAGMA application_id").fetchone()[0]
            if known not in (0, _APPLICATION_ID):
                raise _Corrupt("its header is not that of an event journal")
            if path.stat().st_size <= _CHECK_BYTES:
                verdict = db.execute("PRAGMA quick_check(1)").fetchone()[0]
                if verdict != "ok":
                    raise _Corrupt(str(verdict).splitlines()[0])
            if not known:
                db.execute(f"PRAGMA application_id = {_APPLICATION_ID}")
            self._ordinal = self._prepare(db)
        except BaseException:
            db.close()
            raise
        return db

    def _prepare(self, db: sqlite3.Connection) -> int:
        """Tables, this epoch, and what this process remembers; returns this epoch's ordinal."""
        db.executescript(_SCHEMA)
        with db:
            db.execute("INSERT OR IGNORE INTO epochs(epoch) VALUES (?)", (self.epoch,))
            ordinal = int(db.execute("SELECT ordinal FROM epochs WHERE epoch = ?", (self.epoch,)).fetchone()[0])
            for row in self._tail:
                self._insert(db, row, ordinal)
            if self._seqs:  # not at the first opening, when the file knows the open alarms and this process does not
                db.execute("DELETE FROM open_alarms")
            for name, alarm in self._open.items():
                self._insert_open(db, name, alarm)
        return ordinal

    def _memory(self) -> sqlite3.Connection:
        db = sqlite3.connect(":memory:", check_same_thread=False)
        self._ordinal = self._prepare(db)
        return db

    def _load_open(self) -> None:
        def read() -> None:
            for name, topic, first, last, crc in self._db.execute("SELECT * FROM open_alarms ORDER BY rowid"):
                try:
                    if zlib.crc32(f"{name}\0{topic}\0{first}\0{last}".encode()) != crc:
                        raise _Corrupt("an open alarm does not match its checksum")
                    bodies = [
                        decode_object(text.encode(), MAX_EVENT_BYTES, "journalled event") for text in (first, last)
                    ]
                except (ProtocolError, AttributeError, TypeError, UnicodeEncodeError) as error:
                    raise _Corrupt(str(error)) from None
                self._open.setdefault(name, OpenAlarm(topic, *bodies))

        self._guard(read, again=True)

    def _guard(self, action: Callable[[], None], again: bool = False) -> None:
        """Run `action` on the database; if that fails, replace the database, and run it once more if `again`."""
        try:
            action()
        except (sqlite3.Error, _Corrupt) as error:
            self._db.close()
            self._db = self._replacement(error)
            if again:
                try:
                    action()
                except (sqlite3.Error, _Corrupt) as second:
                    self._db.close()
                    self._db = self._to_memory(f"the event journal failed twice ({second})", copy=False)

    def _replacement(self, error: Exception) -> sqlite3.Connection:
        """The database to go on with after `error`: a new file if the old one is corrupt, else memory."""
        if self._path is None or self.degraded:
            return self._to_memory(f"the event journal in memory failed ({error})", copy=False)
        code = getattr(error, "sqlite_errorcode", 1)  # without a code: text that is no UTF-8, so a broken row
        if isinstance(error, sqlite3.Error) and code & 0xFF not in _BROKEN:
            return self._to_memory(f"the event journal {self._path} cannot be written ({error})")
        try:
            aside = self._set_aside(self._path)
            db = self._open_file(self._path)
        except (sqlite3.Error, _Corrupt, OSError) as second:
            return self._to_memory(
                f"the event journal {self._path} is corrupt and cannot be replaced ({second})", False
            )
        self._tell(f"the event journal was corrupt ({error}); it was set aside as {aside} and a new one begun")
        return db

    @staticmethod
    def _set_aside(path: Path) -> Path:
        number = 1
        while (aside := path.with_name(f"{path.name}.corrupt-{number}")).exists():
            number += 1
        path.replace(aside)
        for suffix in ("-wal", "-shm"):
            side = path.with_name(path.name + suffix)
            if side.exists():
                side.replace(aside.with_name(aside.name + suffix))
        return aside

    def _to_memory(self, why: str, copy: bool = True) -> sqlite3.Connection:
        self._retry_at = self._clock.monotonic() + _RETRY_S
        self.degraded = self._path is not None
        db = self._memory()
        if copy and self._path is not None and self._path.exists():
            self._copy_from_file(db, self._path)
        self._tell(f"{why}; events are kept in memory only and are lost if the detector dies, free or mend the disk")
        return db

    def _copy_from_file(self, db: sqlite3.Connection, path: Path) -> None:
        """What a full or read-only disk can still tell: its newest events and open alarms, as far as readable."""
        for mode in ("mode=ro", "immutable=1"):  # the second where not even the -shm file can be made
            try:
                with closing(sqlite3.connect(f"{path.absolute().as_uri()}?{mode}", uri=True, timeout=1.0)) as file:
                    epochs = file.execute("SELECT ordinal, epoch FROM epochs").fetchall()
                    rows = file.execute(
                        "SELECT topic, epoch, seq, utc, body FROM events JOIN epochs USING (ordinal)"
                        " ORDER BY n DESC LIMIT ?",
                        (_TAIL,),
                    ).fetchall()
                    opened = [] if self._seqs else file.execute("SELECT * FROM open_alarms ORDER BY rowid").fetchall()
                break
            except sqlite3.Error as error:
                log.warning("the event journal %s cannot be read either (%s)", path, error)
        else:
            return
        with db:
            db.execute("DELETE FROM epochs")  # the old ones first, so that their order holds
            db.executemany("INSERT INTO epochs(ordinal, epoch) VALUES (?,?)", epochs)
            db.execute("INSERT OR IGNORE INTO epochs(epoch) VALUES (?)", (self.epoch,))
            ordinals = {epoch: ordinal for ordinal, epoch in db.execute("SELECT ordinal, epoch FROM epochs")}
            db.execute("DELETE FROM events")
            for topic, epoch, seq, utc, text in reversed(rows):
                self._insert(db, _Row(topic, epoch, seq, utc, text), ordinals[epoch])
            self._ordinal = ordinals[self.epoch]
            for row in self._tail:
                self._insert(db, row, self._ordinal)
            db.executemany("INSERT OR IGNORE INTO open_alarms VALUES (?,?,?,?,?)", opened)

    def _return_to_disk(self) -> None:
        self._retry_at = self._clock.monotonic() + _RETRY_S
        path = self._path
        if path is None:
            return
        try:
            if self._lock is None:
                path.parent.mkdir(parents=True, exist_ok=True)
                lock = LockFile(path.with_name(path.name + ".lock"))
                if not lock.acquire():
                    return
                self._lock = lock
            db = self._open_file(path)
        except (OSError, sqlite3.Error, _Corrupt) as error:
            log.warning("the event journal %s still cannot be used (%s)", path, error)
            return
        self._db.close()
        self._db, self.degraded = db, False
        self._tell(f"the event journal {path} is in use again")

    def _tell(self, text: str) -> None:
        self._troubles.append(text)
        (self._on_trouble or log.error)(text)

    # -- retention ----------------------------------------------------------------------------------------------

    def _retain(self) -> None:
        """Delete the oldest events beyond the age or size limit, in bounded steps."""
        oldest_utc = self._clock.utc() - self._keep_s if self._keep_s else float("-inf")
        limit = self._max_bytes or None
        if self._path is None or self.degraded:
            limit = min(limit or _MEMORY_BYTES, _MEMORY_BYTES)
        rows = self._db.execute("SELECT n, utc FROM events ORDER BY n LIMIT ?", (2 * _RETENTION_APPENDS,)).fetchall()
        pages, free, size = (
            self._db.execute(f"PRAGMA {name}").fetchone()[0] for name in ("page_count", "freelist_count", "page_size")
        )
        full = limit is not None and (pages - free) * size > limit
        doomed = rows if full else list(takewhile(lambda row: row[1] < oldest_utc, rows))
        if doomed:
            with self._db:
                self._db.execute("DELETE FROM events WHERE n <= ?", (doomed[-1][0],))
            self._db.execute("PRAGMA incremental_vacuum(1000)").fetchall()
