"""The SQLite file of the ledger: tables, checksums, opening, writing, reading. See also `salvage` and `pruning`.

Every function works on one connection and raises `sqlite3.Error` or `Corrupt`; `ledger` handles them. Each row carries
a CRC-32 of its content, because SQLite does not notice a flipped bit inside a text.
"""

from __future__ import annotations

import contextlib
import re
import sqlite3
import zlib
from collections.abc import Iterable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from stream_detector.errors import ProtocolError
from stream_detector.events.protocol import FIRST_EPOCH, MAX_EVENT_BYTES, MAX_SEQ, decode_object, parse_topic
from stream_detector.system import retention
from stream_detector.system.own_files import JOURNAL

_TABLES = """
CREATE TABLE IF NOT EXISTS epochs(ordinal INTEGER PRIMARY KEY AUTOINCREMENT, epoch TEXT UNIQUE NOT NULL);
CREATE TABLE IF NOT EXISTS events(n INTEGER PRIMARY KEY AUTOINCREMENT, topic TEXT NOT NULL, ordinal INTEGER NOT NULL,
    seq INTEGER NOT NULL, utc REAL NOT NULL, body TEXT NOT NULL, crc INTEGER NOT NULL, UNIQUE(topic, ordinal, seq));
CREATE TABLE IF NOT EXISTS open_alarms(id TEXT PRIMARY KEY, topic TEXT NOT NULL, first TEXT NOT NULL,
    last TEXT NOT NULL, crc INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS topics(topic TEXT PRIMARY KEY, ordinal INTEGER NOT NULL, seq INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS pruned(topic TEXT NOT NULL, ordinal INTEGER NOT NULL, seq INTEGER NOT NULL,
    PRIMARY KEY(topic, ordinal)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS marks(n INTEGER PRIMARY KEY, life INTEGER NOT NULL, at_s REAL NOT NULL);
CREATE TABLE IF NOT EXISTS facts(name TEXT PRIMARY KEY, value INTEGER NOT NULL) WITHOUT ROWID;
"""
_TABLES += retention.TABLES
_EPOCH = re.compile(r"[0-9a-f]{16}")
_APPLICATION_ID = JOURNAL.application_id
# SQLITE_ERROR (a table is missing), SQLITE_CORRUPT, SQLITE_NOTADB; all other codes are faults of the disk
_BROKEN = {1, 11, 26}
MARKED = b',"unjournalled":true}'  # the end of the text of an event that was not on disk when it was sent
_UNJOURNALLED = MARKED.decode()
# bytes; a larger file is not checked completely at the start; errors are found when rows are read
_CHECK_BYTES = 32 << 20


class Corrupt(Exception):
    """The file is a database, but not one with the written content."""


@dataclass(frozen=True, slots=True)
class Row:
    """One event. text: its body as JSON."""

    topic: str
    epoch: str
    seq: int
    utc: float
    text: str

    def place(self) -> tuple[str, str, int]:
        """(topic, epoch, seq)."""
        return self.topic, self.epoch, self.seq

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
        """CRC-32 of all fields."""
        return zlib.crc32(f"{name}\0{self.topic}\0{self.first}\0{self.last}".encode())


def is_corruption(error: Exception) -> bool:
    """Return whether `error` means a corrupt file, and not a disk that is full, read-only or busy."""
    code = getattr(error, "sqlite_errorcode", 1)  # without a code: text that is not UTF-8, so a corrupt row
    return not isinstance(error, sqlite3.Error) or code & 0xFF in _BROKEN


def open_file(path: Path) -> sqlite3.Connection:
    """Open or create a journal and check it."""
    db = sqlite3.connect(path, timeout=1.0, check_same_thread=False)
    try:
        db.execute("PRAGMA auto_vacuum = INCREMENTAL")  # affects a new file only
        db.execute("PRAGMA journal_mode = WAL")
        db.execute("PRAGMA synchronous = NORMAL")
        known = db.execute("PRAGMA application_id").fetchone()[0]
        if known not in (0, _APPLICATION_ID):
            raise Corrupt("its header is not that of an event journal")
        if path.stat().st_size <= _CHECK_BYTES:
            verdict = db.execute("PRAGMA integrity_check(1)").fetchone()[0]
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
    """Create an empty journal in memory."""
    db = sqlite3.connect(":memory:", check_same_thread=False)
    db.executescript(_TABLES)
    return db


def begin_epoch(db: sqlite3.Connection, epoch: str, rows: Iterable[Row], opened: dict[str, OpenRow] | None) -> int:
    """Insert `epoch` and its known events; return its ordinal. opened: replaces the open alarms, if given."""
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


def insert(db: sqlite3.Connection, row: Row, ordinal: int, replace: bool = False) -> None:
    """Insert one event; an existing one stays, unless `replace`."""
    values = (row.topic, ordinal, row.seq, row.utc, row.text, row.crc())
    how = "REPLACE" if replace else "IGNORE"
    db.execute(f"INSERT OR {how} INTO events(topic, ordinal, seq, utc, body, crc) VALUES (?,?,?,?,?,?)", values)
    db.execute("INSERT OR REPLACE INTO topics VALUES (?,?,?)", (row.topic, ordinal, row.seq))


def insert_open(db: sqlite3.Connection, name: str, alarm: OpenRow) -> None:
    """Insert or replace one open alarm."""
    values = (name, alarm.topic, alarm.first, alarm.last, alarm.crc(name))
    db.execute("INSERT OR REPLACE INTO open_alarms VALUES (?,?,?,?,?)", values)


def delete_open(db: sqlite3.Connection, name: str) -> None:
    """Delete one open alarm."""
    db.execute("DELETE FROM open_alarms WHERE id = ?", (name,))


def read_since(db: sqlite3.Connection, topic: str, epoch: str, seq: int, limit: int) -> tuple[list[str], bool]:
    """Return (bodies, whether the epoch is unknown); see `Ledger.since`."""
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


def row_number_of(db: sqlite3.Connection, topic: str, epoch: str, seq: int) -> int | None:
    """Return the row number `n` after which the later events lie; None if the journal does not know the event.

    It is 0 for an event that retention has deleted: all remaining events came later.
    """
    found = db.execute(
        "SELECT n FROM events JOIN epochs USING (ordinal) WHERE topic = ? AND epoch = ? AND seq = ?",
        (topic, epoch, seq),
    ).fetchone()
    if found:
        return int(found[0])
    gone = db.execute(
        "SELECT 1 FROM pruned JOIN epochs USING (ordinal) WHERE topic = ? AND epoch = ? AND seq >= ?",
        (topic, epoch, seq),
    ).fetchone()
    return 0 if gone else None


def place_at(db: sqlite3.Connection, n: int) -> tuple[str, str, int] | None:
    """(topic, epoch, seq) of the newest event that has row number `n` or a lower one."""
    query = "SELECT topic, epoch, seq FROM events JOIN epochs USING (ordinal) WHERE n <= ? ORDER BY n DESC LIMIT 1"
    found = db.execute(query, (n,)).fetchone()
    return (str(found[0]), str(found[1]), int(found[2])) if found else None


def read_after(db: sqlite3.Connection, n: int, prefix: str, limit: int) -> list[tuple[int, Row]]:
    """Return up to `limit` events of topics that begin with `prefix`, in order of arrival after `n`."""
    rows = db.execute(
        "SELECT n, topic, epoch, seq, utc, body, crc FROM events JOIN epochs USING (ordinal)"
        " WHERE n > ? AND +topic >= ? AND +topic < ? ORDER BY n LIMIT ?",
        (n, prefix, prefix + "\x7f", limit),
    )
    found = []
    for number, *place, crc in rows:
        row = Row(*place)
        if row.crc() != crc:
            raise Corrupt(f"event {row.seq} of {row.topic} does not match its checksum")
        found.append((int(number), row))
    return found


def newest(db: sqlite3.Connection, prefix: str, on_disk: bool) -> Row | None:
    """Return the newest event of the topics that begin with `prefix`.

    on_disk: leave out events that are marked as not on disk.
    """
    rows = db.execute(
        "SELECT topic, epoch, seq, utc, body FROM events JOIN epochs USING (ordinal)"
        " WHERE +topic >= ? AND +topic < ? ORDER BY n DESC",
        (prefix, prefix + "\x7f"),
    )
    return next((r for r in (Row(*values) for values in rows) if not on_disk or not is_unjournalled(r.text)), None)


def read_alarm_starts(path: Path, beginning: str) -> list[tuple[str, str, str, str]]:
    """(id, epoch, camera, start_utc) of the `start`s of a journal whose id begins so, oldest first. Reads only."""
    found = []
    with closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True, timeout=1.0)) as db:
        query = (
            "SELECT body FROM events WHERE topic >= 'v1/alarm/' AND topic < 'v1/alarm0' AND instr(body, ?) ORDER BY n"
        )
        for (text,) in db.execute(query, (f'"id":"{beginning}',)):
            with contextlib.suppress(ProtocolError, KeyError, AttributeError):
                body = decode_object(text.encode(), MAX_EVENT_BYTES, "journalled event")
                if body["type"] == "start" and str(body["id"]).startswith(beginning):
                    found.append((str(body["id"]), str(body["epoch"]), str(body["camera"]), str(body["start_utc"])))
    return found


def is_unjournalled(text: str) -> bool:
    """Return whether an event says that it was not on disk when it was sent."""
    return text.endswith(_UNJOURNALLED)


def last_n(db: sqlite3.Connection) -> int:
    """Return the number of the newest event, 0 if there is none."""
    return int(db.execute("SELECT max(n) FROM events").fetchone()[0] or 0)


def _fact_name(name: str) -> str:
    """Return a name as SQLite takes it: a path may hold bytes that are not UTF-8."""
    return name.encode("utf-8", "backslashreplace").decode()


def read_fact(db: sqlite3.Connection, name: str) -> int | None:
    """Return a number that was stored under a name, or None."""
    found = db.execute("SELECT value FROM facts WHERE name = ?", (_fact_name(name),)).fetchone()
    return int(found[0]) if found else None


def write_fact(db: sqlite3.Connection, name: str, value: int | None) -> None:
    """Store a number under a name; None deletes it."""
    with db:
        if value is None:
            db.execute("DELETE FROM facts WHERE name = ?", (_fact_name(name),))
        else:
            db.execute("INSERT OR REPLACE INTO facts VALUES (?,?)", (_fact_name(name), value))


def read_positions(db: sqlite3.Connection) -> dict[str, tuple[str, int]]:
    """Return topic → (epoch, seq) of its newest event."""
    found = {}
    for topic, epoch, seq in db.execute("SELECT topic, epoch, seq FROM topics JOIN epochs USING (ordinal)"):
        try:  # a subscriber would reject the whole reply for one such position
            parse_topic(str(topic))
        except ProtocolError as error:
            raise Corrupt(str(error)) from None
        if not _EPOCH.fullmatch(str(epoch)) or not isinstance(seq, int) or not 0 <= seq <= MAX_SEQ:
            raise Corrupt("the table of topics contains an invalid position")
        found[topic] = (epoch, seq)
    return found


def key_of(first: dict[str, object]) -> str:
    """Return the key of an open alarm: its id and the epoch of its start, because a rerun of a file repeats ids."""
    return f"{first.get('id')}@{first.get('epoch')}"


def read_open(db: sqlite3.Connection) -> dict[str, OpenRow]:
    """Return `key_of` → open alarm, oldest first; each is checked."""
    found = {}
    for name, topic, first, last, crc in db.execute("SELECT * FROM open_alarms ORDER BY rowid"):
        alarm = OpenRow(topic, first, last)
        try:
            if alarm.crc(name) != crc:
                raise Corrupt("an open alarm does not match its checksum")
            body, _ = (decode_object(text.encode(), MAX_EVENT_BYTES, "journalled event") for text in (first, last))
        except (ProtocolError, AttributeError, TypeError, UnicodeEncodeError) as error:
            raise Corrupt(str(error)) from None
        found[key_of(body)] = alarm
    return found
