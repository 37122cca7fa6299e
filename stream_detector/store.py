"""The SQLite file below the ledger: tables, checksums, opening, setting aside, copying, retention.

Every function works on one connection and lets `sqlite3.Error` or `Corrupt` out; what happens then is `ledger`'s
business. Each row carries a CRC-32 over all that matters in it: SQLite does not notice a bit flipped inside a text.
"""

from __future__ import annotations

import logging
import math
import re
import sqlite3
import zlib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path
from typing import Any

from stream_detector.errors import ProtocolError
from stream_detector.wire import FIRST_EPOCH, MAX_EVENT_BYTES, MAX_SEQ, decode_object, parse_topic

log = logging.getLogger(__name__)

_TABLES = """
CREATE TABLE IF NOT EXISTS epochs(ordinal INTEGER PRIMARY KEY AUTOINCREMENT, epoch TEXT UNIQUE NOT NULL);
CREATE TABLE IF NOT EXISTS events(n INTEGER PRIMARY KEY AUTOINCREMENT, topic TEXT NOT NULL, ordinal INTEGER NOT NULL,
    seq INTEGER NOT NULL, utc REAL NOT NULL, body TEXT NOT NULL, crc INTEGER NOT NULL, UNIQUE(topic, ordinal, seq));
CREATE TABLE IF NOT EXISTS open_alarms(id TEXT PRIMARY KEY, topic TEXT NOT NULL, first TEXT NOT NULL,
    last TEXT NOT NULL, crc INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS topics(topic TEXT PRIMARY KEY, ordinal INTEGER NOT NULL, seq INTEGER NOT NULL);
"""
_EPOCH = re.compile(r"[0-9a-f]{16}")
_APPLICATION_ID = 0x53444C31  # "SDL1"
_BROKEN = {1, 11, 26}  # SQLITE_ERROR (a table is gone), SQLITE_CORRUPT, SQLITE_NOTADB; all else is the disk's fault
_CHECK_BYTES = 64 << 20  # a larger file is not checked through at the start; errors are found when rows are read


class Corrupt(Exception):
    """The file is a database, but not what was written."""


@dataclass(frozen=True, slots=True)
class Row:
    """One event. text: its body as JSON."""

    topic: str
    epoch: str
    seq: int
    utc: float
    text: str

    def crc(self) -> int:
        """CRC-32 of place and body."""
        return zlib.crc32(f"{self.topic}\0{self.epoch}\0{self.seq}\0{self.text}".encode())


@dataclass(frozen=True, slots=True)
class OpenRow:
    """One open alarm: its first and its newest event, as JSON."""

    topic: str
    first: str
    last: str

    def crc(self, name: str) -> int:
        """CRC-32 of everything."""
        return zlib.crc32(f"{name}\0{self.topic}\0{self.first}\0{self.last}".encode())


def is_corruption(error: Exception) -> bool:
    """Whether `error` means a broken file, and not a disk that is full, read-only or busy."""
    code = getattr(error, "sqlite_errorcode", 1)  # without a code: text that is no UTF-8, so a broken row
    return not isinstance(error, sqlite3.Error) or code & 0xFF in _BROKEN


def open_file(path: Path) -> sqlite3.Connection:
    """Open or make a journal, checked."""
    db = sqlite3.connect(path, timeout=1.0, check_same_thread=False)
    try:
        db.execute("PRAGMA auto_vacuum = INCREMENTAL")  # has an effect on a new file only
        db.execute("PRAGMA journal_mode = WAL")
        db.execute("PRAGMA synchronous = NORMAL")
        known = db.execute("PRAGMA application_id").fetchone()[0]
        if known not in (0, _APPLICATION_ID):
            raise Corrupt("its header is not that of an event journal")
        if path.stat().st_size <= _CHECK_BYTES:
            verdict = db.execute("PRAGMA quick_check(1)").fetchone()[0]
            if verdict != "ok":
                raise Corrupt(str(verdict).splitlines()[0])
        if not known:
            db.execute(f"PRAGMA application_id = {_APPLICATION_ID}")
        db.executescript(_TABLES)
    except BaseException:
        db.close()
        raise
    return db


def open_memory() -> sqlite3.Connection:
    """An empty journal in memory."""
    db = sqlite3.connect(":memory:", check_same_thread=False)
    db.executescript(_TABLES)
    return db


def begin_epoch(db: sqlite3.Connection, epoch: str, rows: Iterable[Row], opened: dict[str, OpenRow] | None) -> int:
    """Enter `epoch` and what is known of it; returns its ordinal. opened: replaces the open alarms, if given."""
    with db:
        db.execute("INSERT OR IGNORE INTO epochs(epoch) VALUES (?)", (epoch,))
        ordinal = int(db.execute("SELECT ordinal FROM epochs WHERE epoch = ?", (epoch,)).fetchone()[0])
        for row in rows:
            insert(db, row, ordinal)
        if opened is not None:
            db.execute("DELETE FROM open_alarms")
            for name, alarm in opened.items():
                insert_open(db, name, alarm)
    return ordinal


def insert(db: sqlite3.Connection, row: Row, ordinal: int) -> None:
    """Add one event; one that is there already stays."""
    values = (row.topic, ordinal, row.seq, row.utc, row.text, row.crc())
    db.execute("INSERT OR IGNORE INTO events(topic, ordinal, seq, utc, body, crc) VALUES (?,?,?,?,?,?)", values)
    db.execute("INSERT OR REPLACE INTO topics VALUES (?,?,?)", (row.topic, ordinal, row.seq))


def insert_open(db: sqlite3.Connection, name: str, alarm: OpenRow) -> None:
    """Add or replace one open alarm."""
    values = (name, alarm.topic, alarm.first, alarm.last, alarm.crc(name))
    db.execute("INSERT OR REPLACE INTO open_alarms VALUES (?,?,?,?,?)", values)


def delete_open(db: sqlite3.Connection, name: str) -> None:
    """Forget one open alarm."""
    db.execute("DELETE FROM open_alarms WHERE id = ?", (name,))


def read_since(db: sqlite3.Connection, topic: str, epoch: str, seq: int, limit: int) -> tuple[list[str], bool]:
    """(bodies, whether the epoch is unknown); see `Ledger.since`."""
    known = db.execute("SELECT ordinal FROM epochs WHERE epoch = ?", (epoch,)).fetchone()
    place = (known[0], seq) if known else (-1, 0)
    rows = db.execute(
        "SELECT epoch, seq, utc, body, crc FROM events JOIN epochs USING (ordinal)"
        " WHERE topic = ? AND (ordinal, seq) > (?, ?) ORDER BY ordinal, seq LIMIT ?",
        (topic, *place, limit),
    )
    texts = []
    for row_epoch, row_seq, utc, text, crc in rows:
        if Row(topic, row_epoch, row_seq, utc, text).crc() != crc:
            raise Corrupt(f"event {row_seq} of {topic} does not match its checksum")
        texts.append(text)
    return texts, not known and epoch != FIRST_EPOCH


def read_rest(db: sqlite3.Connection, topic: str, epoch: str, seq: int, prefix: str, limit: int) -> list[str]:
    """Bodies of one epoch, journalled after the given event, of topics that begin with `prefix`; in their order."""
    rows = db.execute(
        "SELECT later.topic, epoch, later.seq, later.utc, later.body, later.crc FROM events AS this"
        " JOIN epochs USING (ordinal) JOIN events AS later ON later.n > this.n AND later.ordinal = this.ordinal"
        " WHERE this.topic = ? AND epoch = ? AND this.seq = ? AND substr(later.topic, 1, ?) = ?"
        " ORDER BY later.n LIMIT ?",
        (topic, epoch, seq, len(prefix), prefix, limit),
    )
    texts = []
    for *place, crc in rows:
        row = Row(*place)
        if row.crc() != crc:
            raise Corrupt(f"event {row.seq} of {row.topic} does not match its checksum")
        texts.append(row.text)
    return texts


def read_positions(db: sqlite3.Connection) -> dict[str, tuple[str, int]]:
    """topic → (epoch, seq) of its newest event."""
    found = {}
    for topic, epoch, seq in db.execute("SELECT topic, epoch, seq FROM topics JOIN epochs USING (ordinal)"):
        try:  # a subscriber would refuse the whole answer for one such place
            parse_topic(str(topic))
        except ProtocolError as error:
            raise Corrupt(str(error)) from None
        if not _EPOCH.fullmatch(str(epoch)) or not isinstance(seq, int) or not 0 <= seq <= MAX_SEQ:
            raise Corrupt("the table of topics holds a place that is none")
        found[topic] = (epoch, seq)
    return found


def read_open(db: sqlite3.Connection) -> dict[str, OpenRow]:
    """The open alarms, oldest first, every one checked."""
    found = {}
    for name, topic, first, last, crc in db.execute("SELECT * FROM open_alarms ORDER BY rowid"):
        alarm = OpenRow(topic, first, last)
        try:
            if alarm.crc(name) != crc:
                raise Corrupt("an open alarm does not match its checksum")
            for text in (first, last):
                decode_object(text.encode(), MAX_EVENT_BYTES, "journalled event")
        except (ProtocolError, AttributeError, TypeError, UnicodeEncodeError) as error:
            raise Corrupt(str(error)) from None
        found[name] = alarm
    return found


def copy_newest(path: Path, db: sqlite3.Connection, count: int) -> None:
    """Copy what can be read of a full, read-only or corrupt file into an empty journal, if its checksum holds.

    Epochs, the newest `count` events, open alarms. Nothing that the old file holds makes this fail.
    """
    epochs: list[tuple[int, str]] = []
    rows: list[tuple[int, int, Row]] = []
    opened: list[tuple[str, OpenRow]] = []
    for mode in ("mode=ro", "immutable=1"):  # the second where not even the -shm file can be made
        try:
            with closing(sqlite3.connect(f"{path.absolute().as_uri()}?{mode}", uri=True, timeout=1.0)) as file:
                epochs = [e for e in _readable(file, "SELECT ordinal, epoch FROM epochs ORDER BY ordinal") if e[1]]
                names = dict(epochs)
                newest = f"SELECT n, ordinal, topic, seq, utc, body, crc FROM events ORDER BY n DESC LIMIT {count:d}"
                for n, ordinal, topic, seq, utc, body, crc in _readable(file, newest):
                    row = Row(topic, names.get(ordinal, ""), seq, utc, body)
                    if row.crc() == crc:
                        rows.append((n, ordinal, row))
                for name, topic, first, last, crc in _readable(file, "SELECT * FROM open_alarms ORDER BY rowid"):
                    if (alarm := OpenRow(topic, first, last)).crc(name) == crc:
                        opened.append((name, alarm))
            break
        except sqlite3.Error as error:
            log.warning("the event journal %s cannot be read (%s): %s", path, mode, error)
    with db:
        db.executemany("INSERT OR IGNORE INTO epochs VALUES (?,?)", epochs)
        for _, ordinal, row in sorted(rows, key=lambda item: item[0]):
            insert(db, row, ordinal)
        for name, alarm in opened:
            insert_open(db, name, alarm)


def _readable(file: sqlite3.Connection, query: str) -> Iterator[tuple[Any, ...]]:
    """The rows of `query` up to the first that cannot be read. Raises sqlite3.Error if the file cannot be opened."""
    cursor = file.execute(query) if _has_tables(file) else iter(())
    while True:
        try:
            yield next(cursor)
        except StopIteration:
            return
        except sqlite3.Error as error:
            log.warning("the event journal can be read in part only (%s)", error)
            return


def _has_tables(file: sqlite3.Connection) -> bool:
    return bool(file.execute("SELECT count(*) FROM sqlite_master WHERE name = 'events'").fetchone()[0])


def set_aside(path: Path) -> Path:
    """Rename a corrupt journal with its side files; returns the new name."""
    number = 1
    while (aside := path.with_name(f"{path.name}.corrupt-{number}")).exists():
        number += 1
    path.replace(aside)
    for suffix in ("-wal", "-shm"):
        side = path.with_name(path.name + suffix)
        if side.exists():
            side.replace(aside.with_name(aside.name + suffix))
    return aside


def retain(db: sqlite3.Connection, oldest_utc: float, max_bytes: int, step: int) -> None:
    """Delete at most `step` of the oldest events that are older than `oldest_utc`, or while larger than `max_bytes`.

    max_bytes: 0 means no limit.
    """
    rows: Sequence[tuple[int, float]] = db.execute("SELECT n, utc FROM events ORDER BY n LIMIT ?", (step,)).fetchall()
    pages, free, size = (
        db.execute(f"PRAGMA {name}").fetchone()[0] for name in ("page_count", "freelist_count", "page_size")
    )
    used = (pages - free) * size
    if max_bytes and used > max_bytes:  # down to nine tenths, as far as one step goes
        newest = db.execute("SELECT max(n) FROM events").fetchone()[0] or 0
        events = newest - rows[0][0] + 1 if rows else 0
        doomed = rows[: math.ceil(events * (1 - 0.9 * max_bytes / used))]
    else:
        doomed = list(takewhile(lambda row: row[1] < oldest_utc, rows))
    if doomed:
        with db:
            db.execute("DELETE FROM events WHERE n <= ?", (doomed[-1][0],))
        db.execute("PRAGMA incremental_vacuum(1000)").fetchall()
