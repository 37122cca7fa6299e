"""The alarms that started and have not ended, of this run and of earlier ones, as the journal follows them."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from stream_detector.events.ledger_file import OpenRow, Row, is_unjournalled, key_of


@dataclass(frozen=True, slots=True)
class OpenAlarm:
    """An alarm that started and has not ended. first: its `start` event; last: its newest event, maybe the same.

    key: what names it in the journal.
    """

    topic: str
    first: dict[str, Any]
    last: dict[str, Any]
    key: str = ""


class OpenAlarms:
    """epoch: of this run. `rows`: key → alarm, oldest first.  `pending_ends`: ends that are in memory only, of alarms whose
    start is on disk, by key: they must reach the disk before anything else. `ended`: keys of alarms of earlier runs
    that ended while the disk took nothing.
    """

    def __init__(self, epoch: str) -> None:
        self.rows: dict[str, OpenRow] = {}
        self.pending_ends: dict[str, Row] = {}
        self.ended: set[str] = set()
        self._epoch = epoch
        self._stored: set[str] = set()
        self._by_topic: dict[str, list[OpenRow]] | None = None

    def load(self, rows: dict[str, OpenRow]) -> None:
        """Begin with what is on disk, or what was written there just now."""
        self.rows, self._by_topic = rows, None
        self._stored = set(rows)
        self.pending_ends.clear()
        self.ended.clear()

    def key(self, body: dict[str, Any]) -> str:
        """The key of the alarm that an event belongs to: of this run, or else of an earlier one."""
        own = key_of({**body, "epoch": self._epoch})
        if body["type"] == "start" or own in self.rows:
            return own
        return next((key for key in self.rows if key.startswith(f"{body['id']}@")), own)

    def track(self, key: str, row: Row, kind: str, before: OpenRow | None) -> None:
        """An event of the alarm was told. before: the alarm as it was; None: not open."""
        self._by_topic = None
        if kind == "end":
            self.rows.pop(key, None)
        else:
            self.rows[key] = OpenRow(row.topic, before.first if before and kind != "start" else row.text, row.text)

    def note_stored(self, key: str, row: Row, kind: str) -> bool:
        """Note whether the event reached the disk; True if it is an end that is owed to the disk."""
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
        """What is open, where the disk holds alarms of earlier runs that this one may not know."""
        others = {k: v for k, v in on_disk.items() if not k.endswith(f"@{self._epoch}") and k not in self.ended}
        return {**others, **self.rows}

    def alarms(self) -> list[OpenAlarm]:
        """All of them, oldest first."""
        return [OpenAlarm(o.topic, json.loads(o.first), json.loads(o.last), key) for key, o in self.rows.items()]

    def topics(self) -> dict[str, list[OpenRow]]:
        """topic → its open alarms, oldest first."""
        if self._by_topic is None:
            self._by_topic = {}
            for alarm in self.rows.values():
                self._by_topic.setdefault(alarm.topic, []).append(alarm)
        return self._by_topic
