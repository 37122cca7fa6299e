"""The alarms of this run and of earlier runs that started and have not ended, as the journal tracks them."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from stream_detector.events.ledger_file import OpenRow, Row, is_unjournalled, key_of


@dataclass(frozen=True, slots=True)
class OpenAlarm:
    """An alarm that started and has not ended. first: its `start` event.  last: its newest event, possibly the same.

    key: its name in the journal.
    """

    topic: str
    first: dict[str, Any]
    last: dict[str, Any]
    key: str = ""


class OpenAlarms:
    """The open alarms of a journal. epoch: of this run.

    rows: key → alarm, oldest first.  pending_ends: key → end event that is in memory only although its start is on
    disk; it must reach the disk too, however many events came after it.  ended: keys of alarms of earlier runs that
    ended while the disk could not be written.
    """

    def __init__(self, epoch: str) -> None:
        self.rows: dict[str, OpenRow] = {}
        self.pending_ends: dict[str, Row] = {}
        self.ended: set[str] = set()
        self._epoch = epoch
        self._stored: set[str] = set()
        self._by_topic: dict[str, list[OpenRow]] | None = None

    def load(self, rows: dict[str, OpenRow]) -> None:
        """Replace everything by the open alarms on disk."""
        self.rows, self._by_topic = rows, None
        self._stored = set(rows)
        self.pending_ends.clear()
        self.ended.clear()

    def key(self, body: dict[str, Any]) -> str:
        """The key of the alarm that an event belongs to, in this run or else in an earlier one."""
        own = key_of({**body, "epoch": self._epoch})
        if body["type"] == "start" or own in self.rows:
            return own
        return next((key for key in self.rows if key.startswith(f"{body['id']}@")), own)

    def track(self, key: str, row: Row, kind: str, before: OpenRow | None) -> None:
        """Take an event of an alarm into account. before: the alarm before this event, None if it was not open."""
        self._by_topic = None
        if kind == "end":
            self.rows.pop(key, None)
        else:
            self.rows[key] = OpenRow(row.topic, before.first if before and kind != "start" else row.text, row.text)

    def note_stored(self, key: str, row: Row, kind: str) -> bool:
        """Record whether the event reached the disk; returns whether it is an end that still has to be written."""
        if not is_unjournalled(row.text):
            (self._stored.discard if kind == "end" else self._stored.add)(key)
            return False
        if kind != "end" or key not in self._stored:
            return False
        self.pending_ends[key] = row
        if not key.endswith(f"@{self._epoch}"):
            self.ended.add(key)
        return True

    def merged(self, on_disk: dict[str, OpenRow]) -> dict[str, OpenRow]:
        """The open alarms, including those of earlier runs on disk that this run may not know."""
        others = {k: v for k, v in on_disk.items() if not k.endswith(f"@{self._epoch}") and k not in self.ended}
        return {**others, **self.rows}

    def alarms(self) -> list[OpenAlarm]:
        """All open alarms, oldest first."""
        return [OpenAlarm(o.topic, json.loads(o.first), json.loads(o.last), key) for key, o in self.rows.items()]

    def topics(self) -> dict[str, list[OpenRow]]:
        """topic → its open alarms, oldest first."""
        if self._by_topic is None:
            self._by_topic = {}
            for alarm in self.rows.values():
                self._by_topic.setdefault(alarm.topic, []).append(alarm)
        return self._by_topic
