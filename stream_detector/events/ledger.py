"""The event journal: every alarm and status is written here before it is published.

SQLite in WAL mode with synchronous=NORMAL: a commit takes tens of microseconds and survives `kill -9`; a power failure
may lose the newest commits but leaves the file intact. Numbering: `epoch` is random and new for every process; `seq`
counts the events of a topic without gaps, from 1 in every epoch. The journal keeps the order of epochs, so `since`
reads on across restarts. Scores are not journalled (see `recovery_server.ScoreRing`).

Failures and what the journal does:
    disk full, read-only, not writable    It keeps events in memory (bounded), marked `unjournalled`, and reports this
                                          once. It tries the disk again every 30 s and then writes what it kept.
    file in use by another process        UsageError: the open alarms in the file belong to that process.
    corrupt file or row checksum          It renames the file to *.corrupt-N, reports this, and begins a new file with
                                          what this process remembers and with the rows of the old file that match
                                          their checksums (newest events, open alarms).
    deleted or replaced while in use      The next event or `maintain` notices it. The journal reports it and begins a
                                          new file with what the old one held (the newest part of a large file).
Only the constructor raises because of the disk. One thread at a time uses a Ledger.
"""

from __future__ import annotations

import logging
import secrets
import sqlite3
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any

from stream_detector.errors import LedgerError, UsageError
from stream_detector.events import ledger_file, pruning, salvage
from stream_detector.events.ledger_file import Corrupt, OpenRow, Row
from stream_detector.events.ledger_reads import LedgerReader
from stream_detector.events.open_alarms import OpenAlarm, OpenAlarms
from stream_detector.events.protocol import ALARM_SCHEMA, encode
from stream_detector.events.pruning import Now
from stream_detector.system import retention
from stream_detector.system.lock_file import LockFile, claim_journal
from stream_detector.system.own_files import JOURNAL, check_own
from stream_detector.types import Clock

__all__ = ["Ledger", "OpenAlarm"]

log = logging.getLogger(__name__)

_TAIL = 10_000  # events of this process that are kept for a new file
_RETRY_S = 30.0
_LOOK_S = 0.1  # seconds between two checks of the files, besides one before every event
_RETENTION_S = 60.0
_RETENTION_APPENDS = 1000
_MEMORY_BYTES = 64 << 20
_PARTS = ("", "-wal", "-shm")


class Ledger(LedgerReader):
    """Journal of events; see the module docstring.

    path: the SQLite file, or None for memory only.  keep_days, max_bytes: retention; 0 means no limit.
    on_problem: called with one sentence whenever the journal degrades or recovers (default: logged as an error); the
    same sentences can be fetched with `take_problems`.  epoch: go on in this epoch, numbering after what the file holds
    of it (a process that replaces one which died); by default a new one begins.  lock: of the file, if it is held
    already. Raises UsageError if another process has the file, or if it is no journal of this program (`own_files`).
    """

    def __init__(
        self,
        path: Path | None,
        *,
        clock: Clock,
        keep_days: float = 30.0,
        max_bytes: int = 1_000_000_000,
        on_problem: Callable[[str], None] | None = None,
        epoch: str | None = None,
        lock: LockFile | None = None,
    ) -> None:
        self.epoch = epoch or secrets.token_hex(8)
        self.last_text = ""  # the newest event as JSON: what is sent equals what was journalled
        # whether that event was an `end` in memory only, of an alarm whose start is on disk
        self.last_end_pending = False
        self.degraded = False  # whether a file was requested but events are in memory only
        self.unjournalled = 0  # number of events of this process that are in memory only and may be lost
        self._path = path
        self._clock = clock
        self._keep_s = keep_days * 86400 or float("inf")
        self._max_bytes = max_bytes
        self._on_problem = on_problem
        self._problems: deque[str] = deque(maxlen=100)
        self._seqs: dict[str, int] = {}
        self._places: dict[str, tuple[str, int]] = {}
        self._open = OpenAlarms(self.epoch)
        self._loaded = False  # whether _open is known; before that, the open alarms in the file must not be replaced
        self._tail: deque[Row] = deque(maxlen=_TAIL)
        self._numbers: dict[str, int | None] = {}  # what this process stored with `store_number`
        self._lock = lock
        self._identity: tuple[object, ...] = ()
        self._wall = retention.WallClock(clock.monotonic(), clock.utc())
        self._token = secrets.token_hex(8)
        self._life = 0
        self._retry_s = 0.0
        self._look_s = clock.monotonic() + _LOOK_S
        self._retention_s = clock.monotonic() + _RETENTION_S
        self._appends = 0
        self._ordinal = 0
        self._closed = False
        self._db = self._memory() if path is None else self._begin(path)
        self._guard(self._load, again=True)
        self._loaded = True
        if epoch is not None:
            self._seqs = {t: seq for t, (of, seq) in self._places.items() if of == epoch}

    # -- writing ------------------------------------------------------------------------------------------------

    def append(self, topic: str, body: dict[str, Any], ends: str = "") -> int:
        """Journal one event; sets `body["epoch"]` and `body["seq"]` and returns seq.

        While the journal is not on disk it sets `body["unjournalled"]` as well.  ends: the key of the open alarm that
        this event ends, where the id alone could mean a later one. Raises ProtocolError if the body cannot be written
        as JSON; then nothing is journalled and no seq is used. Raises LedgerError after `close`.
        """
        if self._closed:
            raise LedgerError("an event arrived after the journal was closed; close the journal last")
        if self.degraded and self._clock.monotonic() >= self._retry_s:
            self._return_to_disk()
        elif self._path is not None and not self.degraded and self._seen(self._path) != self._identity:
            self._begin_anew(self._path)  # an event must not go into a deleted file
        seq = self._seqs.get(topic, 0) + 1
        row = self._row(topic, seq, body)
        self._seqs[topic] = seq
        self._places[topic] = (self.epoch, seq)
        self._tail.append(row)
        key = (ends or self._open.key(body)) if body.get("schema") == ALARM_SCHEMA else ""
        before, kind = self._open.rows.get(key), str(body.get("type"))
        if key:
            self._open.track(key, row, kind, before)
        in_memory = self.degraded
        self._guard(lambda: self._write(row, key))
        if self.degraded and not in_memory:  # the disk refused this event
            marked = self._tail[-1] = self._row(topic, seq, body)
            if key:
                self._open.track(key, marked, kind, before)
            self._guard(lambda: self._write(marked, key, replace=True))
            row = marked
        self.last_text = row.text
        self.last_end_pending = bool(key) and self._open.note_stored(key, row, kind)
        self.unjournalled += self.degraded
        self._appends += 1
        if self._appends >= _RETENTION_APPENDS or self._clock.monotonic() >= self._retention_s:
            self._retain()
        return seq

    def _row(self, topic: str, seq: int, body: dict[str, Any]) -> Row:
        body.pop("unjournalled", None)
        body["epoch"], body["seq"] = self.epoch, seq
        if self.degraded:
            body["unjournalled"] = True
        return Row(topic, self.epoch, seq, self._clock.utc(), encode(body).decode())

    def _write(self, row: Row, key: str, replace: bool = False) -> None:
        with self._db:
            ledger_file.insert(self._db, row, self._ordinal, replace)
            if key in self._open.rows:
                ledger_file.insert_open(self._db, key, self._open.rows[key])
            elif key:
                ledger_file.delete_open(self._db, key)

    def maintain(self) -> None:
        """Check the files (deleted, usable again) and apply retention. Call it often; most calls do nothing."""
        now_s = self._clock.monotonic()
        if self._closed or now_s < self._look_s:
            return
        self._look_s = now_s + _LOOK_S
        self._wall.observe(now_s, self._clock.utc())
        if self._lock is not None and not self._lock.held():
            self._take_lock_again(self._lock)
        if self.degraded and now_s >= self._retry_s:
            self._return_to_disk()
        elif self._path is not None and not self.degraded and self._seen(self._path) != self._identity:
            self._begin_anew(self._path)
        if now_s >= self._retention_s:
            self._retain()

    def _retain(self) -> None:
        now_s = self._clock.monotonic()
        self._appends, self._retention_s = 0, now_s + _RETENTION_S
        self._wall.observe(now_s, self._clock.utc())
        limit = self._max_bytes
        if self._path is None or self.degraded:
            limit = min(limit or _MEMORY_BYTES, _MEMORY_BYTES)
        now, step = Now(self._life, self._wall.lasted_s(now_s)), 2 * _RETENTION_APPENDS
        self._guard(lambda: pruning.retain(self._db, now, self._wall, self._keep_s, limit, step))

    # -- reading, beside what `LedgerReader` has -----------------------------------------------------------------------

    def last_seqs(self) -> dict[str, int]:
        """Return topic → last seq of this epoch."""
        return dict(self._seqs)

    def places(self) -> dict[str, tuple[str, int]]:
        """See `last_positions`; from memory, do not change it."""
        return self._places

    def open_alarms(self) -> list[OpenAlarm]:
        """Return the alarms that started and did not end, also of earlier epochs, oldest first."""
        return self._open.alarms()

    def open_texts(self) -> dict[str, list[OpenRow]]:
        """Return topic → its open alarms as JSON texts; do not change it."""
        return self._open.topics()

    def take_problems(self) -> list[str]:
        """Return the sentences reported since the last call."""
        texts = list(self._problems)
        self._problems.clear()
        return texts

    def close(self) -> None:
        """Close the file and release its lock. Safe to call twice."""
        if not self._closed and not self.degraded:
            self._guard(lambda: pruning.note(self._db, self._now(), self._wall))
        self._closed = True
        self._db.close()
        if self._lock:
            self._lock.release()

    # -- what goes wrong ----------------------------------------------------------------------------------------

    def _now(self) -> Now:
        return Now(self._life, self._wall.lasted_s(self._clock.monotonic()))

    def _begin(self, path: Path) -> sqlite3.Connection:
        try:
            check_own(path, JOURNAL, "give another with --ledger")
            self._lock = self._lock or claim_journal(path)
        except OSError as error:
            return self._to_memory(f"the event journal {path} cannot be made ({error.strerror})")
        try:
            return self._open_file(path)
        except (sqlite3.Error, Corrupt, OSError) as error:
            return self._replacement(error)

    def _take_lock_again(self, lock: LockFile) -> None:
        """Renew a lock whose file was deleted; if another process has taken it, the journal belongs to that process."""
        try:
            if lock.renew() or self.degraded:
                return
        except OSError as error:
            log.warning("the lock of the event journal cannot be made again (%s)", error)
            return
        self._retry_s = float("inf")
        self._db.close()
        self._db = self._to_memory(f"the event journal {self._path} was taken by another process", copy=False)

    def _load(self) -> None:
        self._open.load(ledger_file.read_open(self._db))
        self._places = ledger_file.read_positions(self._db)

    def _seen(self, path: Path) -> tuple[object, ...]:
        """Return the identity of the files at the journal's path."""
        found: list[object] = []
        for part in _PARTS:
            try:
                status = path.with_name(path.name + part).stat()
                found.append((status.st_dev, status.st_ino))
            except OSError:
                found.append(None)
        return tuple(found)

    def _open_file(
        self, path: Path, aside: Path | None = None, kept: sqlite3.Connection | None = None
    ) -> sqlite3.Connection:
        """Open or create the file. aside, kept: older journals whose content it begins with."""
        db = ledger_file.open_file(path)
        try:
            if aside is not None:
                salvage.copy_newest(aside, db, _TAIL)
            if kept is not None:
                salvage.copy_all(kept, db)
            opened = self._open.merged(ledger_file.read_open(db)) if self._loaded else None
            kept_rows = set(self._tail)
            early = [row for row in self._open.pending_ends.values() if row not in kept_rows]
            rows = [*early, *self._tail]  # in order of arrival, which `events_after` and the event file follow
            self._enter(db, rows, opened)
        except BaseException:
            db.close()
            raise
        if opened is not None:
            self._open.load(opened)
        self._identity = self._seen(path)
        if self._lock:
            self._lock.hold(path)
        return db

    def _memory(self, path: Path | None = None, kept: sqlite3.Connection | None = None) -> sqlite3.Connection:
        db = ledger_file.open_memory()
        if kept is not None:
            salvage.copy_all(kept, db)
        elif path is not None and path.exists():
            salvage.copy_newest(path, db, _TAIL)
        self._enter(db, self._tail, self._open.rows if self._loaded else None)
        return db

    def _enter(self, db: sqlite3.Connection, rows: Any, opened: dict[str, OpenRow] | None) -> None:
        self._ordinal = ledger_file.begin_epoch(db, self.epoch, rows, opened)
        with db:
            self._life = retention.begin_life(db, self._token, self._wall.began_utc, self._now().at_s)
            pruning.mark_missing_start(db, self._ordinal, self._seqs)

    def _guard(self, action: Callable[[], object], again: bool = False) -> None:
        """Run `action` on the database; if that fails, replace the database, and run it once more if `again`.

        Raises LedgerError after `close`.
        """
        if self._closed:
            raise LedgerError("the journal was used after it was closed; close the journal last")
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
        """Return the database to use after `error`: a new file if the old one is corrupt, otherwise memory."""
        path = self._path
        if path is None or self.degraded:
            return self._to_memory(f"the event journal in memory failed ({error})", copy=False)
        if isinstance(error, OSError) or not ledger_file.is_corruption(error):
            return self._to_memory(f"the event journal {path} cannot be written ({error})")
        try:
            aside = salvage.set_aside(path)
            db = self._open_file(path, aside)
        except (sqlite3.Error, Corrupt, OSError) as second:
            return self._to_memory(f"the event journal {path} is corrupt and cannot be replaced ({second})", copy=False)
        self._report_problem(
            f"the event journal was corrupt ({error}); it was set aside as {aside} and a new one begun, "
            f"with what of the old one could be read"
        )
        return db

    def _begin_anew(self, path: Path) -> None:
        """Begin a new file: the old files were deleted or replaced, and the connection still holds them."""
        kept, same = ledger_file.open_memory(), self._seen(path)[0] == self._identity[0]
        try:
            salvage.copy_deleted(self._db, kept, _TAIL)
        except (sqlite3.Error, Corrupt) as error:
            log.warning("the deleted event journal cannot be read (%s)", error)
        self._db.close()  # before a new one is created: closing deletes the old side files by their names
        why = f"the event journal {path} was deleted or replaced while in use"
        try:
            if not same and any(self._seen(path)):
                log.warning("the file at its path was set aside as %s", salvage.set_aside(path, "found"))
            path.parent.mkdir(parents=True, exist_ok=True)
            self._db = self._open_file(path, kept=kept)
        except (sqlite3.Error, Corrupt, OSError) as error:
            self._db = self._to_memory(f"{why}, and no new one can be made ({error})", copy=False, kept=kept)
        else:
            self._report_problem(f"{why}; a new one was begun with what the old one held")
        finally:
            kept.close()

    def _to_memory(self, why: str, copy: bool = True, kept: sqlite3.Connection | None = None) -> sqlite3.Connection:
        self._retry_s = max(self._retry_s, self._clock.monotonic() + _RETRY_S)
        self.degraded = self._path is not None
        try:
            db = self._memory(self._path if copy else None, kept)
        except (sqlite3.Error, Corrupt) as error:  # the old file contains values that cannot be copied
            log.warning("the event journal cannot be copied (%s)", error)
            db = self._memory()
        self._report_problem(
            f"{why}; events are kept in memory only, marked unjournalled, and lost if the detector dies, "
            f"free or repair the disk"
        )
        return db

    def _return_to_disk(self) -> None:
        self._retry_s = self._clock.monotonic() + _RETRY_S
        path = self._path
        try:
            if path is None:
                return
            self._lock = self._lock or claim_journal(path)
            db = self._open_file(path)
            self._carry_numbers(db)
        except (UsageError, OSError, sqlite3.Error, Corrupt) as error:
            log.warning("the event journal %s still cannot be used (%s)", path, error)
            return
        self._db.close()
        self._db, self.degraded = db, False
        lost = max(0, self.unjournalled - _TAIL)
        written = f"{self.unjournalled - lost} events of the meantime were written to it"
        self.unjournalled = 0
        self._report_problem(
            f"the event journal {path} is in use again; {written}" + (f", {lost} are lost" if lost else "")
        )

    def _carry_numbers(self, db: sqlite3.Connection) -> None:
        """Store in the file what was stored in memory; rows have other numbers there."""
        for name, value in self._numbers.items():
            ledger_file.write_fact(db, name, None if value is None else self._number_in(db, value))

    def _number_in(self, db: sqlite3.Connection, n: int) -> int:
        """The number in the file of the row that has number `n` in memory, or of the newest one before it."""
        place = ledger_file.place_at(self._db, n)
        found = ledger_file.row_number_of(db, *place) if place else None
        if found is not None:
            return found
        first = ledger_file.row_number_of(db, *self._tail[0].place()) if self._tail else None
        return ledger_file.last_n(db) if first is None else first - 1

    def _report_problem(self, text: str) -> None:
        self._problems.append(text)
        (self._on_problem or log.error)(text)
