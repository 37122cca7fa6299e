"""Copies the readable part of a full, read-only, corrupt or deleted journal into another one, and renames files.

Copied rows match their checksums. Rows before the first copied one are recorded as deleted, so that subscribers learn
of the loss; an epoch without a copied row becomes unknown.
"""

from __future__ import annotations

import logging
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

from stream_detector.events import pruning
from stream_detector.events.ledger_file import OpenRow, Row, insert_open

log = logging.getLogger(__name__)

_WHOLE_BYTES = 64 << 20  # a deleted journal up to this size is copied whole


def copy_newest(path: Path, db: sqlite3.Connection, count: int) -> None:
    """Copy the newest `count` events, their epochs, the open alarms and stored numbers of a file into an empty journal.

    No content of the old file makes this fail.
    """
    for mode in ("mode=ro", "immutable=1"):  # the second form works if even the -shm file cannot be created
        try:
            with closing(sqlite3.connect(f"{path.absolute().as_uri()}?{mode}", uri=True, timeout=1.0)) as file:
                copy_rows(file, db, count)
            break
        except sqlite3.Error as error:
            log.warning("the event journal %s cannot be read (%s): %s", path, mode, error)


def copy_rows(file: sqlite3.Connection, db: sqlite3.Connection, count: int) -> None:
    """As `copy_newest`, from an open journal. Raises sqlite3.Error if nothing can be read."""
    names: dict[int, str] = dict(_readable(file, "SELECT ordinal, epoch FROM epochs ORDER BY ordinal"))
    rows: list[tuple[int, int, Row, int]] = []
    newest = f"SELECT n, ordinal, topic, seq, utc, body, crc FROM events ORDER BY n DESC LIMIT {count:d}"
    for n, ordinal, topic, seq, utc, body, crc in _readable(file, newest):
        row = Row(topic, names.get(ordinal, ""), seq, utc, body)
        if row.crc() == crc:
            rows.append((n, ordinal, row, crc))
    opened = []
    for name, topic, first, last, crc in _readable(file, "SELECT * FROM open_alarms ORDER BY rowid"):
        if (alarm := OpenRow(topic, first, last)).crc(name) == crc:
            opened.append((name, alarm))
    rows.reverse()
    ordinals = {ordinal for _, ordinal, _, _ in rows}
    gone = list(_readable(file, "SELECT topic, ordinal, seq FROM pruned", "pruned"))
    facts = list(_readable(file, "SELECT name, value FROM facts", "facts"))
    with db:
        db.executemany("INSERT OR IGNORE INTO epochs VALUES (?,?)", [(o, names[o]) for o in ordinals])
        db.executemany(
            "INSERT OR IGNORE INTO events(n, topic, ordinal, seq, utc, body, crc) VALUES (?,?,?,?,?,?,?)",
            [(n, row.topic, ordinal, row.seq, row.utc, row.text, crc) for n, ordinal, row, crc in rows],
        )
        places = [(row.topic, ordinal, row.seq) for _, ordinal, row, _ in rows]
        db.executemany("INSERT OR REPLACE INTO topics VALUES (?,?,?)", places)
        for topic, ordinal, seq in gone:
            if ordinal in ordinals and isinstance(topic, str) and isinstance(seq, int):
                pruning.mark_deleted(db, topic, ordinal, seq)
        lowest: dict[tuple[str, int], int] = {}
        for _, ordinal, row, _ in rows:
            lowest.setdefault((row.topic, ordinal), row.seq)
        for (topic, ordinal), seq in lowest.items():
            if seq > 1:
                pruning.mark_deleted(db, topic, ordinal, seq - 1)
        for name, alarm in opened:
            insert_open(db, name, alarm)
        known = [(name, value) for name, value in facts if isinstance(name, str) and isinstance(value, int)]
        db.executemany("INSERT OR IGNORE INTO facts VALUES (?,?)", known)


def copy_deleted(old: sqlite3.Connection, db: sqlite3.Connection, count: int) -> None:
    """Copy a journal whose files were deleted from the connection that still holds them: whole, or its newest part."""
    pages, size = (old.execute(f"PRAGMA {name}").fetchone()[0] for name in ("page_count", "page_size"))
    if pages * size > _WHOLE_BYTES:
        copy_rows(old, db, count)
    else:
        copy_all(old, db)


def copy_all(old: sqlite3.Connection, db: sqlite3.Connection) -> None:
    """Copy every table; existing rows of `db` stay."""
    with db:
        for table in ("epochs", "events", "topics", "open_alarms", "pruned", "lives", "marks", "facts"):
            rows = old.execute(f"SELECT * FROM {table}").fetchall()
            if rows:
                db.executemany(f"INSERT OR IGNORE INTO {table} VALUES ({','.join('?' * len(rows[0]))})", rows)


def _readable(file: sqlite3.Connection, query: str, table: str = "events") -> Iterator[tuple[Any, ...]]:
    """The rows of `query` up to the first that cannot be read. Raises sqlite3.Error if the file cannot be opened."""
    cursor = file.execute(query) if _has_table(file, table) else iter(())
    while True:
        try:
            yield next(cursor)
        except StopIteration:
            return
        except sqlite3.Error as error:
            log.warning("the event journal can be read in part only (%s)", error)
            return


def _has_table(file: sqlite3.Connection, name: str) -> bool:
    return bool(file.execute("SELECT count(*) FROM sqlite_master WHERE name = ?", (name,)).fetchone()[0])


def set_aside(path: Path, why: str = "corrupt") -> Path:
    """Rename a journal, or what is left of it, with its side files; return the new name."""
    number = 1
    while (aside := path.with_name(f"{path.name}.{why}-{number}")).exists():
        number += 1
    for suffix in ("", "-wal", "-shm"):
        part = path.with_name(path.name + suffix)
        if part.exists():
            part.replace(aside.with_name(aside.name + suffix))
    return aside
