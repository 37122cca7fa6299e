"""Writes camera states, alarms and failures to the log when no live view is shown.

It reads the entries that telemetry keeps, in a thread of its own, so that no capture or decision thread writes a log.
"""

from __future__ import annotations

import logging
import threading
from typing import Protocol

from stream_detector.system.logging_setup import fields
from stream_detector.telemetry.snapshot import LogEntry

INTERVAL_S = 0.2
_LOUD = ("camera_problem", "alarm_start")
_LOUD_STATES = ("stalled", "offline", "failed")

log = logging.getLogger("stream_detector.run")


class LogEntrySource(Protocol):
    """The part of `collector.Telemetry` that this module uses."""

    def log_entries_since(self, seq: int) -> tuple[LogEntry, ...]:
        """Return the kept entries with a number above `seq`, oldest first."""
        ...


class RunLogger:
    """Logs every entry of the telemetry once."""

    def __init__(self, telemetry: LogEntrySource) -> None:
        self._telemetry = telemetry
        self._logged_seq = 0

    def run(self, stop: threading.Event) -> None:
        """Log new entries until `stop` is set, then the remaining ones."""
        while not stop.wait(INTERVAL_S):
            self.log_new_entries()
        self.log_new_entries()

    def log_new_entries(self) -> None:
        """Log the entries that are new since the last call."""
        for entry in self._telemetry.log_entries_since(self._logged_seq):
            left_out = entry.seq - self._logged_seq - 1
            if left_out:
                log.warning("%d log entries were lost", left_out, extra=fields(event="lines_left_out", count=left_out))
            self._logged_seq = entry.seq
            log.log(
                level_of(entry), "%s: %s", entry.camera, entry.text, extra=fields(camera=entry.camera, **entry.fields)
            )


def level_of(entry: LogEntry) -> int:
    """Return WARNING for entries that an operator should see, INFO for all others."""
    loud = entry.fields.get("event") in _LOUD or entry.fields.get("state") in _LOUD_STATES
    return logging.WARNING if loud else logging.INFO
