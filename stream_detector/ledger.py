"""The event journal: every alarm and status is written here before it is published.

SQLite in WAL mode with synchronous=NORMAL: a commit costs tens of microseconds and survives `kill -9`; after a loss of
power the newest commits may be gone, the file stays whole. Numbering: `epoch` is random per process start, `seq`
counts per topic without holes and begins at 1 in every epoch. The order of epochs is kept, so `since` reads on across
restarts. Scores are not journalled here (see `recovery.ScoreRing`).

What goes wrong, and what happens then:
    disk full, read-only, not writable    kept in memory (bounded), told once, the disk is tried again every 30 s
    held by another process               kept in memory: the open alarms in the file are the other's
    corrupt (also a wrong row checksum)   renamed to *.corrupt-N, told, a new file begun; what this process still
                                          remembers goes on into it, and what of the old file can be read and
                                          matches its checksum (newest events, open alarms)
No call raises because of the disk. A Ledger is used by one thread at a time.
"""

from __future__ import annotations

import json
import logging
import secrets
import sqlite3
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stream_detector import store
from stream_detector.errors import LedgerError
from stream_detector.lockfile import LockFile
from stream_detector.store import Corrupt, OpenRow, Row
from stream_detector.types import Clock
from stream_detector.wire import ALARM_SCHEMA, encode

log = logging.getLogger(__name__)

_TAIL = 10_000  # events of this process kept for a new file
_RETRY_S = 30.0
_RETENTION_S = 60.0
_RETENTION_APPENDS = 1000
_MEMORY_BYTES = 64 << 20


@dataclass(frozen=True, slots=True)
class OpenAlarm:
    """An alarm that started and has not ended. first: its `start` event; last: its newest event, maybe the same."""

    topic: str
    first: dict[str, Any]
    last: dict[str, Any]


class Ledger:
    """Journal of events; see the module docstring.

    path: the SQLite file, or None for memory only.  keep_days, max_bytes: retention; 0 means no limit.
    on_trouble: called with one sentence whenever the journal degrades or recovers (default: logged as an error); the
    same sentences can be fetched with `take_troubles`.  epoch: go on in this epoch, numbering after what the file holds
    of it (a process that replaces one which died); by default a new one begins.
    """

    def __init__(
        self,
        path: Path | None,
        *,
        clock: Clock,
        keep_days: float = 30.0,
        max_bytes: int = 1_000_000_000,
        on_trouble: Callable[[str], None] | None = None,
        epoch: str | None = None,
    ) -> None:
        self.epoch = epoch or secrets.token_hex(8)
        self.last_text = ""  # of the event appended last, as JSON: what is sent is what was journalled
        self.degraded = False  # True while a file was asked for, but events are kept in memory only
        self._path = path
        self._clock = clock
        self._keep_s = keep_days * 86400 or float("inf")
        self._max_bytes = max_bytes
        self._on_trouble = on_trouble
        self._troubles: deque[str] = deque(maxlen=100)
        self._seqs: dict[str, int] = {}
        self._open: dict[str, OpenRow] = {}
        self._loaded = False  # whether _open is known; before, the file's open alarms must not be replaced
        self._tail: deque[Row] = deque(maxlen=_TAIL)
        self._lock: LockFile | None = None
        self._retry_s = 0.0
        self._retention_s = clock.monotonic() + _RETENTION_S
        self._appends = 0
        self._ordinal = 0
        self._closed = False
        self._db = self._memory() if path is None else self._begin(path)
        self._guard(self._load_open, again=True)
        self._loaded = True
        if epoch is not None:
            self._seqs = {t: seq for t, (of, seq) in self.last_positions().items() if of == epoch}

    # -- writing ------------------------------------------------------------------------------------------------

    def append(self, topic: str, body: dict[str, Any]) -> int:
        """Journal one event; sets `body["epoch"]` and `body["seq"]` and returns seq.

        Raises ProtocolError if the body cannot be written as JSON; then nothing is journalled and no seq is used.
        Raises LedgerError after `close`.
        """
        if self._closed:
            raise LedgerError("an event came after the journal was closed; close the journal last")
        body["epoch"], body["seq"] = self.epoch, self._seqs.get(topic, 0) + 1
        row = Row(topic, self.epoch, body["seq"], self._clock.utc(), encode(body).decode())
        self._seqs[topic], self.last_text = row.seq, row.text
        self._tail.append(row)
        name = body["id"] if body.get("schema") == ALARM_SCHEMA else None
        if name is not None:
            self._track(name, row, body["type"])
        if self.degraded and self._clock.monotonic() >= self._retry_s:
            self._return_to_disk()  # writes the tail, this row with it, if it succeeds
        self._guard(lambda: self._write(row, name))
        self._appends += 1
        if self._appends >= _RETENTION_APPENDS or self._clock.monotonic() >= self._retention_s:
            self._appends, self._retention_s = 0, self._clock.monotonic() + _RETENTION_S
            self._guard(self._retain)
        return row.seq

    def _track(self, name: str, row: Row, kind: str) -> None:
        if kind == "end":
            self._open.pop(name, None)
        else:
            known = self._open.get(name) if kind != "start" else None
            self._open[name] = OpenRow(row.topic, known.first if known else row.text, row.text)

    def _write(self, row: Row, name: str | None) -> None:
        with self._db:
            store.insert(self._db, row, self._ordinal)
            if name is not None and name in self._open:
                store.insert_open(self._db, name, self._open[name])
            elif name is not None:
                store.delete_open(self._db, name)

    def _retain(self) -> None:
        limit = self._max_bytes
        if self._path is None or self.degraded:
            limit = min(limit or _MEMORY_BYTES, _MEMORY_BYTES)
        store.retain(self._db, self._clock.utc() - self._keep_s, limit, 2 * _RETENTION_APPENDS)

    # -- reading ------------------------------------------------------------------------------------------------

    def since(self, topic: str, epoch: str | None, seq: int, limit: int) -> tuple[list[str], bool]:
        """(bodies as JSON texts, whether the epoch is unknown): up to `limit` events of `topic` after (epoch, seq).

        Oldest first, on into later epochs. epoch None: this process's; "first" or an epoch that is not known (any
        more): everything the journal holds of the topic.
        """
        found: tuple[list[str], bool] = ([], False)

        def read() -> None:
            nonlocal found
            found = store.read_since(self._db, topic, self.epoch if epoch is None else epoch, seq, limit)

        self._guard(read, again=True)
        return found

    def rest(self, topic: str, epoch: str, seq: int, prefix: str) -> list[str]:
        """Bodies of the same epoch, journalled after this event, of topics that begin with `prefix`."""
        found: list[str] = []
        self._guard(lambda: found.extend(store.read_rest(self._db, topic, epoch, seq, prefix, _TAIL)), again=True)
        return found

    def last_seqs(self) -> dict[str, int]:
        """topic → last seq, of this epoch."""
        return dict(self._seqs)

    def last_positions(self) -> dict[str, tuple[str, int]]:
        """topic → (epoch, seq) of its newest event, of every epoch the journal holds."""
        found: dict[str, tuple[str, int]] = {}
        self._guard(lambda: found.update(store.read_positions(self._db)), again=True)
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
        return [OpenAlarm(o.topic, json.loads(o.first), json.loads(o.last)) for o in self._open.values()]

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

    # -- what goes wrong ----------------------------------------------------------------------------------------

    def _begin(self, path: Path) -> sqlite3.Connection:
        try:
            if not self._take_lock(path):
                self._retry_s = float("inf")  # its open alarms are the other's, now and after it has gone
                return self._to_memory(f"the event journal {path} is in use by another process", copy=False)
        except OSError as error:
            return self._to_memory(f"the event journal {path} cannot be made ({error.strerror})")
        try:
            return self._open_file(path)
        except (sqlite3.Error, Corrupt, OSError) as error:
            return self._replacement(error)

    def _take_lock(self, path: Path) -> bool:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = LockFile(path.with_name(path.name + ".lock"))
        if not lock.acquire():
            return False
        self._lock = lock
        return True

    def _load_open(self) -> None:
        self._open = store.read_open(self._db)

    def _open_file(self, path: Path, salvage: Path | None = None) -> sqlite3.Connection:
        db = store.open_file(path)
        try:
            if salvage is not None:
                store.copy_newest(salvage, db, _TAIL)
            self._ordinal = store.begin_epoch(db, self.epoch, self._tail, self._open if self._loaded else None)
        except BaseException:
            db.close()
            raise
        return db

    def _memory(self, path: Path | None = None) -> sqlite3.Connection:
        db = store.open_memory()
        if path is not None and path.exists():
            store.copy_newest(path, db, _TAIL)
        self._ordinal = store.begin_epoch(db, self.epoch, self._tail, self._open if self._loaded else None)
        return db

    def _guard(self, action: Callable[[], None], again: bool = False) -> None:
        """Run `action` on the database; if that fails, replace the database, and run it once more if `again`."""
        try:
            action()
        except (sqlite3.Error, Corrupt) as error:
            self._db.close()
            self._db = self._replacement(error)
            if again:
                try:
                    action()
                except (sqlite3.Error, Corrupt) as second:
                    self._db.close()
                    self._db = self._to_memory(f"the event journal failed twice ({second})", copy=False)

    def _replacement(self, error: Exception) -> sqlite3.Connection:
        """The database to go on with after `error`: a new file if the old one is corrupt, else memory."""
        path = self._path
        if path is None or self.degraded:
            return self._to_memory(f"the event journal in memory failed ({error})", copy=False)
        if isinstance(error, OSError) or not store.is_corruption(error):
            return self._to_memory(f"the event journal {path} cannot be written ({error})")
        try:
            aside = store.set_aside(path)
            db = self._open_file(path, salvage=aside)
        except (sqlite3.Error, Corrupt, OSError) as second:
            return self._to_memory(f"the event journal {path} is corrupt and cannot be replaced ({second})", copy=False)
        self._tell(
            f"the event journal was corrupt ({error}); it was set aside as {aside} and a new one begun, "
            f"with what of the old one could be read"
        )
        return db

    def _to_memory(self, why: str, copy: bool = True) -> sqlite3.Connection:
        self._retry_s = max(self._retry_s, self._clock.monotonic() + _RETRY_S)
        self.degraded = self._path is not None
        try:
            db = self._memory(self._path if copy else None)
        except (sqlite3.Error, Corrupt) as error:  # the old file holds what cannot be copied
            log.warning("the event journal cannot be copied (%s)", error)
            db = self._memory()
        self._tell(f"{why}; events are kept in memory only and are lost if the detector dies, free or mend the disk")
        return db

    def _return_to_disk(self) -> None:
        self._retry_s = self._clock.monotonic() + _RETRY_S
        path = self._path
        try:
            if path is None or (self._lock is None and not self._take_lock(path)):
                return
            db = self._open_file(path)
        except (OSError, sqlite3.Error, Corrupt) as error:
            log.warning("the event journal %s still cannot be used (%s)", path, error)
            return
        self._db.close()
        self._db, self.degraded = db, False
        self._tell(f"the event journal {path} is in use again")

    def _tell(self, text: str) -> None:
        self._troubles.append(text)
        (self._on_trouble or log.error)(text)
