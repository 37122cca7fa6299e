"""The undelivered notices of a bridge, in one SQLite file: a row for each notice and target, in order of arrival.

A row is written before the subscriber's cursor moves past its event, and marked as done after its delivery. So a kill
at any moment loses nothing; a delivery that was under way is repeated. The unique key (target, topic, epoch, seq)
prevents a second delivery of an event that the subscriber receives twice. Finished rows stay for `keep_s` (MQTT sends
them again after a broker lost its memory) and until the cursor is past them.

`memory` holds small facts that must survive a restart (last states of cameras, alarms that were sent), changed in the
same transaction as their rows. Thread-safe: one connection behind a lock.
"""

from __future__ import annotations

import json
import secrets
import sqlite3
import threading
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from stream_detector.bridges.notice import SEVERITIES, SUMMARY_LANE, SUMMARY_SCHEMA, SUMMARY_TOPIC, Notice, load_notice
from stream_detector.errors import LedgerError
from stream_detector.events.protocol import encode, rfc3339
from stream_detector.system.own_files import OUTBOX, check_own

PENDING, DONE = 0, 1
_NAMED = 20  # most alarms that a summary names

_TABLES = """
CREATE TABLE IF NOT EXISTS items(
  n INTEGER PRIMARY KEY AUTOINCREMENT, target TEXT NOT NULL, lane TEXT NOT NULL, topic TEXT NOT NULL,
  epoch TEXT NOT NULL, seq INTEGER NOT NULL, kind TEXT NOT NULL, camera TEXT NOT NULL, what TEXT NOT NULL,
  utc REAL NOT NULL, body TEXT NOT NULL, state INTEGER NOT NULL DEFAULT 0, attempts INTEGER NOT NULL DEFAULT 0,
  resent INTEGER NOT NULL DEFAULT 0,
  first_try_utc REAL, due_utc REAL NOT NULL DEFAULT 0, done_utc REAL, UNIQUE(target, topic, epoch, seq));
CREATE INDEX IF NOT EXISTS heads ON items(target, state, lane, n);
CREATE INDEX IF NOT EXISTS done ON items(state, done_utc);
CREATE TABLE IF NOT EXISTS memory(
  target TEXT NOT NULL, key TEXT NOT NULL, value TEXT NOT NULL, PRIMARY KEY(target, key));
"""


class Item:
    """A row to deliver. n: its number.  due_utc: not before this time.  first_try_utc: None before the first try."""

    __slots__ = ("due_utc", "first_try_utc", "lane", "n", "notice")

    def __init__(self, row: sqlite3.Row) -> None:
        self.n: int = row["n"]
        self.lane: str = row["lane"]
        self.due_utc: float = row["due_utc"]
        self.first_try_utc: float | None = row["first_try_utc"]
        self.notice: Notice = load_notice(row)  # type: ignore[arg-type]


class Outbox:
    """The file. Raises LedgerError if it cannot be opened or written."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock = threading.RLock()
        self.changed = threading.Condition(self._lock)
        check_own(path, OUTBOX, "set another `state` in [detector]", LedgerError)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._db = sqlite3.connect(path, check_same_thread=False, timeout=10.0)
            self._db.row_factory = sqlite3.Row
            self._db.execute("PRAGMA journal_mode=WAL")
            self._db.execute("PRAGMA synchronous=FULL")
            self._db.executescript(_TABLES)
            path.chmod(0o600)  # events hold no secret, but other users do not need them
        except (sqlite3.Error, OSError) as error:
            raise LedgerError(
                f"the outbox {str(path)!r} cannot be used ({error}); free it, or set another `state`"
            ) from None
        self.name = str(self.recall("", "name") or "")
        if not self.name:
            self.name = secrets.token_hex(8)  # the epoch of the bridge's own notices
            self.remember("", {"name": self.name})

    def close(self) -> None:
        """Close the file."""
        with self._lock:
            self._db.close()

    def wake(self) -> None:
        """Notify the threads that wait for work."""
        with self.changed:
            self.changed.notify_all()

    # -- in -------------------------------------------------------------------------------------------------------

    def add(self, rows: Iterable[tuple[str, str, Notice, float]], memory: Mapping[str, Any] | None = None) -> int:
        """Store (target, lane, notice, due_utc) rows and facts of the bridge in one transaction.

        Returns how many were new. Raises LedgerError.
        """
        values = [
            (target, lane, n.topic, n.epoch, n.seq, n.kind, n.camera, n.what, n.utc, n.text(), due_utc)
            for target, lane, n, due_utc in rows
        ]
        insert = (
            "INSERT OR IGNORE INTO items(target,lane,topic,epoch,seq,kind,camera,what,utc,body,due_utc)"
            " VALUES (?,?,?,?,?,?,?,?,?,?,?)"
        )
        with self.changed:
            before = self._db.total_changes
            self._do(lambda: self._db.executemany(insert, values))
            new = self._db.total_changes - before
            self._note("", memory or {})
            self._commit()
            self.changed.notify_all()
        return new

    def own_notice(self, rows_of: Any, topic: str, kind: Any, what: str, body: dict[str, Any], utc: float,
                   memory: Mapping[str, Any] | None = None) -> None:  # fmt: skip
        """Number and store a notice of the bridge itself. rows_of: Notice → rows as of `add`."""
        with self._lock:
            seq = int(self.recall("", f"seq:{topic}") or 0) + 1
            whole = {**body, "epoch": self.name, "seq": seq, "emitted_utc": rfc3339(utc)}
            notice = Notice(topic, self.name, seq, kind, "", what, utc, whole)
            self.add(rows_of(notice), {**(memory or {}), f"seq:{topic}": seq})

    # -- out ------------------------------------------------------------------------------------------------------

    def heads(self, target: str) -> list[int]:
        """Return the oldest pending row of each lane, oldest first."""
        query = "SELECT min(n) AS n FROM items WHERE target=? AND state=0 GROUP BY lane ORDER BY n"
        with self._lock:
            return [row["n"] for row in self._do(lambda: self._db.execute(query, (target,)).fetchall())]

    def item(self, n: int) -> Item | None:
        """Return a pending row."""
        with self._lock:
            row = self._do(lambda: self._db.execute("SELECT * FROM items WHERE n=? AND state=0", (n,)).fetchone())
        return Item(row) if row else None

    def after(self, target: str, lane: str, n: int) -> Item | None:
        """Return the pending row behind `n` in its lane."""
        query = "SELECT * FROM items WHERE target=? AND lane=? AND state=0 AND n>? ORDER BY n LIMIT 1"
        with self._lock:
            row = self._do(lambda: self._db.execute(query, (target, lane, n)).fetchone())
        return Item(row) if row else None

    def begin(self, n: int, now_utc: float) -> None:
        """Count a try."""
        query = "UPDATE items SET attempts=attempts+1, first_try_utc=coalesce(first_try_utc,?) WHERE n=?"
        with self._lock:
            self._do(lambda: self._db.execute(query, (now_utc, n)))
            self._commit()

    def finish(self, n: int, now_utc: float, target: str = "", memory: Mapping[str, Any] | None = None) -> None:
        """Mark a row as delivered or handled otherwise, with facts to store."""
        with self.changed:
            self._do(lambda: self._db.execute("UPDATE items SET state=1, done_utc=? WHERE n=?", (now_utc, n)))
            self._note(target, memory or {})
            self._commit()
            self.changed.notify_all()

    def put_off(self, n: int, due_utc: float) -> None:
        """Delay a row until `due_utc`."""
        with self.changed:
            self._do(lambda: self._db.execute("UPDATE items SET due_utc=? WHERE n=?", (due_utc, n)))
            self._commit()
            self.changed.notify_all()

    def cancel(self, target: str, camera: str, what: str, after_utc: float, now_utc: float, alarm: str = "") -> bool:
        """Cancel a notice that is not due before `after_utc`; return whether there was one. alarm: its id, "" for
        any.
        """
        query = (
            "UPDATE items SET state=1, done_utc=? WHERE target=? AND state=0 AND camera=? AND what=? AND attempts=0"
            " AND due_utc>? AND (?='' OR json_extract(body, '$.id')=?)"
        )
        values = (now_utc, target, camera, what, after_utc, alarm, alarm)
        with self.changed:
            found = self._do(lambda: self._db.execute(query, values)).rowcount
            self._commit()
        return bool(found)

    def again(self, target: str, since_utc: float) -> int:
        """Mark rows as pending again that were delivered since a time; return their number."""
        query = (
            "UPDATE items SET state=0, done_utc=NULL, resent=1 WHERE target=? AND state=1 AND done_utc>=? AND lane<>?"
        )
        with self.changed:
            count = self._do(lambda: self._db.execute(query, (target, since_utc, SUMMARY_LANE))).rowcount
            self._commit()
            self.changed.notify_all()
        return int(count)

    def fold(self, target: str, reason: str, before_utc: float, now_utc: float, due_utc: float = 0.0,
             only: int | None = None, busy: Collection[str] = ()) -> int:  # fmt: skip
        """Replace pending alarms and camera notices from before a time by one summary; return their number.

        only: just this row.  busy: lanes with a delivery under way, whose rows stay. A summary that was not tried yet
        is extended; else a new one is made.
        """
        query = (
            "SELECT * FROM items WHERE target=? AND state=0 AND kind IN ('alarm','camera') AND utc<?"
            " ORDER BY n LIMIT 5000"
        )
        one = "SELECT * FROM items WHERE target=? AND state=0 AND n=?"
        with self.changed:
            rows = self._do(
                lambda: (
                    self._db.execute(one, (target, only)).fetchall()
                    if only is not None
                    else self._db.execute(query, (target, before_utc)).fetchall()
                )
            )
            rows = [row for row in rows if row["lane"] not in busy]
            if not rows:
                return 0
            found = self._do(
                lambda: self._db.execute(
                    "SELECT * FROM items WHERE target=? AND state=0 AND lane=? AND what=? AND attempts=0"
                    " ORDER BY n DESC",
                    (target, SUMMARY_LANE, reason),
                ).fetchone()
            )
            body = json.loads(found["body"]) if found else _new_summary(reason)
            for row in rows:
                _take_in(body, load_notice(row))
            ids = [(now_utc, row["n"]) for row in rows]
            self._do(lambda: self._db.executemany("UPDATE items SET state=1, done_utc=? WHERE n=?", ids))
            if not body["alarms"] and not body["camera_changes"]:
                pass  # updates and ends without a start need no message
            elif found:
                self._do(
                    lambda: self._db.execute("UPDATE items SET body=? WHERE n=?", (encode(body).decode(), found["n"]))
                )
            else:
                self._add_summary(target, reason, body, now_utc, due_utc)
            self._commit()
            self.changed.notify_all()
        return len(rows)

    def _add_summary(self, target: str, reason: str, body: dict[str, Any], now_utc: float, due_utc: float) -> None:
        seq = int(self.recall("", f"seq:{SUMMARY_TOPIC}") or 0) + 1
        whole = {**body, "epoch": self.name, "seq": seq, "emitted_utc": rfc3339(now_utc)}
        text = encode(whole).decode()
        row = (target, SUMMARY_LANE, SUMMARY_TOPIC, self.name, seq, "summary", "", reason, now_utc, text, due_utc)
        self._do(
            lambda: self._db.execute(
                "INSERT INTO items(target,lane,topic,epoch,seq,kind,camera,what,utc,body,due_utc)"
                " VALUES (?,?,?,?,?,?,?,?,?,?,?)",
                row,
            )
        )
        self._note("", {f"seq:{SUMMARY_TOPIC}": seq})

    # -- the rest -------------------------------------------------------------------------------------------------

    def newest(self) -> int:
        """Return the number of the newest row."""
        with self._lock:
            row = self._do(lambda: self._db.execute("SELECT max(n) AS n FROM items").fetchone())
        return int(row["n"] or 0)

    def prune(self, up_to: int, before_utc: float) -> int:
        """Delete rows that were finished before a time and that the cursor has passed; return their number."""
        query = "DELETE FROM items WHERE state=1 AND done_utc<? AND n<=?"
        with self._lock:
            count = self._do(lambda: self._db.execute(query, (before_utc, up_to))).rowcount
            self._commit()
        return int(count)

    def waiting(self, target: str | None = None) -> int:
        """Return the number of pending rows."""
        query, values = "SELECT count(*) AS c FROM items WHERE state=0", tuple[str, ...]()
        if target is not None:
            query, values = query + " AND target=?", (target,)
        with self._lock:
            return int(self._do(lambda: self._db.execute(query, values).fetchone())["c"])

    def recall(self, target: str, key: str) -> Any:
        """Return a fact, or None."""
        query = "SELECT value FROM memory WHERE target=? AND key=?"
        with self._lock:
            row = self._do(lambda: self._db.execute(query, (target, key)).fetchone())
        return json.loads(row["value"]) if row else None

    def recall_all(self, target: str, prefix: str) -> dict[str, Any]:
        """Return all facts whose keys start with `prefix`, by the rest of the key."""
        query = "SELECT key, value FROM memory WHERE target=? AND substr(key, 1, ?)=? ORDER BY key"
        with self._lock:
            rows = self._do(lambda: self._db.execute(query, (target, len(prefix), prefix)).fetchall())
        return {row["key"][len(prefix) :]: json.loads(row["value"]) for row in rows}

    def remember(self, target: str, facts: Mapping[str, Any]) -> None:
        """Store facts; None deletes one."""
        with self._lock:
            self._note(target, facts)
            self._commit()

    def _note(self, target: str, facts: Mapping[str, Any]) -> None:
        kept: Sequence[tuple[str, str, str]] = [(target, k, json.dumps(v)) for k, v in facts.items() if v is not None]
        gone = [(target, key) for key, value in facts.items() if value is None]
        if kept:
            self._do(lambda: self._db.executemany("INSERT OR REPLACE INTO memory VALUES (?,?,?)", kept))
        if gone:
            self._do(lambda: self._db.executemany("DELETE FROM memory WHERE target=? AND key=?", gone))

    def _commit(self) -> None:
        self._do(self._db.commit)

    def _do(self, action: Any) -> Any:
        try:
            return action()
        except sqlite3.Error as error:
            raise LedgerError(f"the outbox {str(self.path)!r} cannot be used ({error}); free the disk") from None


def _new_summary(reason: str) -> dict[str, Any]:
    return {
        "schema": SUMMARY_SCHEMA,
        "reason": reason,
        "count": 0,
        "cameras": {},
        "camera_changes": 0,
        "first_utc": None,
        "last_utc": None,
        "severity": "low",
        "alarms": [],
    }


def _take_in(body: dict[str, Any], notice: Notice) -> None:
    """Count an alarm once, by its start; also count the changes of cameras."""
    if notice.kind == "alarm" and notice.what == "start":
        body["count"] += 1
        body["cameras"][notice.camera] = body["cameras"].get(notice.camera, 0) + 1
        if len(body["alarms"]) < _NAMED:
            body["alarms"].append(str(notice.body.get("id")))
    elif notice.kind == "camera" and notice.what:
        body["camera_changes"] += 1
    else:
        return
    when = rfc3339(notice.utc)
    body["first_utc"] = min(body["first_utc"] or when, when)
    body["last_utc"] = max(body["last_utc"] or when, when)
    body["severity"] = max(body["severity"], notice.severity, key=SEVERITIES.index)
