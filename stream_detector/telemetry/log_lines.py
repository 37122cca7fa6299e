"""A run told in log lines, where no live view is drawn: camera states, alarms, trouble.

Reads the notes that telemetry keeps, from a thread of its own, so that nothing that decides or captures writes a log.
"""

from __future__ import annotations

import logging
import threading
from typing import Protocol

from stream_detector.system.logging_setup import fields
from stream_detector.telemetry.snapshot import Note

INTERVAL_S = 0.2
_LOUD = ("camera_trouble", "alarm_start")
_LOUD_STATES = ("stalled", "offline", "failed")

log = logging.getLogger("stream_detector.run")


class NoteSource(Protocol):
    """What `telemetry.Telemetry` is to this module."""

    def notes_since(self, seq: int) -> tuple[Note, ...]:
        """Notes newer than number `seq`, as far as they are kept, oldest first."""
        ...


class Narrator:
    """Logs every note once."""

    def __init__(self, telemetry: NoteSource) -> None:
        self._telemetry = telemetry
        self._told = 0

    def run(self, stop: threading.Event) -> None:
        """Tell the news until `stop` is set, and then what is left."""
        while not stop.wait(INTERVAL_S):
            self.tell_news()
        self.tell_news()

    def tell_news(self) -> None:
        """Log the notes that are new since the last call."""
        for note in self._telemetry.notes_since(self._told):
            left_out = note.seq - self._told - 1
            if left_out:
                log.warning("%d notes were left out", left_out, extra=fields(event="lines_left_out", count=left_out))
            self._told = note.seq
            log.log(level_of(note), "%s: %s", note.camera, note.text, extra=fields(camera=note.camera, **note.fields))


def level_of(note: Note) -> int:
    """WARNING for what somebody should look at, INFO for the rest."""
    loud = note.fields.get("event") in _LOUD or note.fields.get("state") in _LOUD_STATES
    return logging.WARNING if loud else logging.INFO
