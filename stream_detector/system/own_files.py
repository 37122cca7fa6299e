"""Tells the program's own database files from those of others, before anything is opened for writing.

A file is one of this program's if it is absent or empty, or if one of these holds:

    - its header holds the application id of its kind, or its first page, or what waits beside it (-wal), holds the text
      of its kind's tables: a file of this program, in order or damaged
    - it begins as SQLite files do and cannot be read at all: a damaged file
    - a lock file of this program stands beside it: an earlier process, which had it open, did not end in order

Everything else is somebody else's, and stays unchanged.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
import stat
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from stream_detector.errors import StreamDetectorError, UsageError
from stream_detector.system.lock_file import holds_lock_text
from stream_detector.system.user_files import check_regular

_MAGIC = b"SQLite format 3\0"
_ID_AT = 68  # of the application id in the header of SQLite
_BYTES = 256 << 10  # four of the largest pages


@dataclass(frozen=True, slots=True)
class DatabaseKind:
    """A kind of database. table: one that only this kind has.  application_id: 0 where the kind has none."""

    what: str
    table: str
    application_id: int = 0


JOURNAL = DatabaseKind("the event journal", "open_alarms", 0x53444C31)  # "SDL1"
OUTBOX = DatabaseKind("the outbox", "items")
MEMORY = DatabaseKind("the site's memory", "coresets", 0x53444D31)  # "SDM1"
SHARD_LOG = DatabaseKind("the shard file", "pending")
TIMELINE = DatabaseKind("the timeline", "minutes")
FILE_ORDER = DatabaseKind("the index of evidence", "files")


def is_own(path: Path, kind: DatabaseKind) -> bool:
    """Whether this program may write the database `path`; see the module docstring. Reads only."""
    real = path.resolve()
    try:
        page = _beginning(path)
        waiting = _beginning(real.with_name(f"{real.name}-wal"))
    except OSError:
        return True  # the code that opens it says what is wrong
    application_id = int.from_bytes(page[_ID_AT : _ID_AT + 4], "big") if page.startswith(_MAGIC) else 0
    text = f"CREATE TABLE {kind.table}(".encode()
    if (application_id and application_id == kind.application_id) or text in page or text in waiting:
        return True
    if holds_lock_text(real.with_name(f"{real.name}.lock")):
        return True
    if page.startswith(_MAGIC):
        tables = _tables(path)
        return tables is None or kind.table in tables or not (tables or application_id or waiting)
    return not page and not waiting


def check_own(path: Path, kind: DatabaseKind, instead: str, error: type[StreamDetectorError] = UsageError) -> None:
    """Raise `error` if `path` is somebody else's. instead: what to do, for instance "give another with --ledger"."""
    check_regular(path, kind.what, error)
    if not is_own(path, kind):
        raise error(f"{str(path)!r} is no file of this program and stays unchanged; {instead}")


def _tables(path: Path) -> set[str] | None:
    """The names of the tables of a file; None if it cannot be read. Creates no file beside it."""
    address = f"{path.absolute().as_uri()}?immutable=1"
    with contextlib.suppress(sqlite3.Error), closing(sqlite3.connect(address, uri=True)) as db:
        return {str(name) for (name,) in db.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
    return None


def _beginning(path: Path) -> bytes:
    """The first bytes of a regular file, b"" of anything else, and where there is none. Raises OSError."""
    try:
        descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0))
    except (FileNotFoundError, NotADirectoryError):
        return b""
    with os.fdopen(descriptor, "rb") as file:
        return file.read(_BYTES) if stat.S_ISREG(os.fstat(descriptor).st_mode) else b""
