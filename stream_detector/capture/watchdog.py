"""A thread that checks the age of the last frame of every camera; a blocked `read()` cannot report its own stall."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Protocol

_WATCH_S = 0.25


class Monitored(Protocol):
    """An object that the watchdog checks: `camera.Capture`."""

    def check(self) -> None:
        """Report a stall and replace a stuck reader. Never raises, never blocks on the source."""
        ...


class Watchdog(threading.Thread):
    """Checks every capture four times a second until `stop` is set: a stall is reported within stall_after_s + 0.25 s.

    captures: gives those that there are at the moment; they report their states themselves.
    """

    def __init__(
        self, captures: Callable[[], Sequence[Monitored]], stall_after_s: float, stop: threading.Event
    ) -> None:
        super().__init__(name="capture-watchdog", daemon=True)
        self._captures = captures
        self._stop_event = stop
        self._interval_s = min(_WATCH_S, max(0.01, stall_after_s / 4))

    def run(self) -> None:
        """The thread."""
        while not self._stop_event.wait(self._interval_s):
            for capture in self._captures():
                capture.check()
