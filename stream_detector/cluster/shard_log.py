"""The log that a shard writes before it decides, so that another process can decide the same.

One SQLite file beside the event journal. A commit holds the state of every camera *before* the newest batch, and that
batch; it costs tens of microseconds and survives `kill -9`. A decision depends on state and scores only, so the batch
decided again gives the same events; the journal may have them already (`Shard` tells them apart).

A disk that cannot be written is reported once. Events continue without the log, but a shard that dies then continues
from older windows, and its alarms end with reason `restart`.
"""

from __future__ import annotations

import contextlib
import json
import logging
import sqlite3
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from stream_detector.cluster.messages import ShardItem, item_from_list, item_to_list
from stream_detector.errors import LedgerError
from stream_detector.system.own_files import SHARD_LOG, check_own

log = logging.getLogger(__name__)

_TABLES = """
CREATE TABLE IF NOT EXISTS cameras(name TEXT PRIMARY KEY, state TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS pending(n INTEGER PRIMARY KEY, item TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS facts(name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
"""


class ShardLog:
    """The log of one shard. path: the file, or None for no log. One thread at a time uses it.

    epoch: in which the states were written.  states: by camera.  pending: the newest batch.  scores_bytes: length of
    the scores file before it.  All are the values found in the file at the start.  Raises LedgerError for an invalid
    file.
    """

    def __init__(self, path: Path | None) -> None:
        self.epoch = ""
        self.states: dict[str, dict[str, Any]] = {}
        self.pending: tuple[ShardItem, ...] = ()
        self.scores_bytes = 0
        self._path, self._reported = path, False
        self._db: sqlite3.Connection | None = None
        if path is None:
            return
        check_own(path, SHARD_LOG, "give another with --ledger", LedgerError)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._db = sqlite3.connect(path, timeout=1.0, check_same_thread=False)
            self._db.execute("PRAGMA journal_mode = WAL")
            self._db.execute("PRAGMA synchronous = NORMAL")
            self._db.executescript(_TABLES)
            self._read(self._db)
        except (sqlite3.Error, OSError, ValueError, TypeError) as error:
            if self._db is not None:
                self._db.close()
            raise LedgerError(
                f"shard file {str(path)!r} cannot be used ({error}); delete it, open alarms then end with `restart`"
            ) from None

    def _read(self, db: sqlite3.Connection) -> None:
        facts = dict(db.execute("SELECT name, value FROM facts"))
        self.epoch = facts.get("epoch", "")
        self.scores_bytes = int(facts.get("scores_bytes", "0"))
        self.states = {name: json.loads(text) for name, text in db.execute("SELECT name, state FROM cameras")}
        rows = db.execute("SELECT item FROM pending ORDER BY n")
        self.pending = tuple(item_from_list(json.loads(text)) for (text,) in rows)

    def write(self, states: Mapping[str, Any], pending: Sequence[ShardItem], epoch: str, scores_bytes: int) -> None:
        """Replace the states of these cameras, and the batch, in one transaction."""
        if self._db is None:
            return
        try:
            with self._db as db:
                rows = [(name, json.dumps(state)) for name, state in states.items()]
                db.executemany("INSERT OR REPLACE INTO cameras VALUES (?,?)", rows)
                db.execute("DELETE FROM pending")
                items = [(n, json.dumps(item_to_list(item))) for n, item in enumerate(pending)]
                db.executemany("INSERT INTO pending VALUES (?,?)", items)
                facts = (("epoch", epoch), ("scores_bytes", str(scores_bytes)))
                db.executemany("INSERT OR REPLACE INTO facts VALUES (?,?)", facts)
        except sqlite3.Error as error:
            if not self._reported:
                self._reported = True
                log.error("shard file %s cannot be written (%s); a restart would end open alarms", self._path, error)

    def forget(self, known: Collection[str]) -> None:
        """Delete the states of all other cameras: their alarms have ended and must not return with them."""
        if self._db is None:
            return
        with contextlib.suppress(sqlite3.Error), self._db as db:
            db.executemany("DELETE FROM cameras WHERE name = ?", [(n,) for n in self.states if n not in known])

    def clear(self) -> None:
        """Delete everything: the run ended in order, and the next one begins a new state."""
        if self._db is None:
            return
        with contextlib.suppress(sqlite3.Error), self._db as db:
            for table in ("cameras", "pending", "facts"):
                db.execute(f"DELETE FROM {table}")

    def close(self) -> None:
        """Close the file. Safe to call twice."""
        if self._db is not None:
            self._db.close()
            self._db = None
