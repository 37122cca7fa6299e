"""The thread that looks at every camera's frame age, because a blocked `read()` cannot."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Protocol

from stream_detector.config import CaptureConfig
from stream_detector.types import CameraStatus, Clock

_WATCH_S = 0.25


class Checked(Protocol):
    """What is looked at: `capture.Capture`."""

    def check(self) -> None:
        """Tell a stall, replace a stuck reader. Never raises, never blocks on the source."""
        ...


class Watchdog(threading.Thread):
    """Looks at every capture four times a second until `stop` is set, so a stall is told within stall_after_s + 0.25 s.

    config, clock, on_status: those of the captures, which do the telling themselves.
    """

    def __init__(
        self,
        captures: Sequence[Checked],
        config: CaptureConfig,
        clock: Clock,
        on_status: Callable[[CameraStatus], None],
        stop: threading.Event,
    ) -> None:
        super().__init__(name="capture-watchdog", daemon=True)
        self._captures = captures
        self._stop_event = stop
        self._interval_s = min(_WATCH_S, max(0.01, config.stall_after_s / 4))

    def run(self) -> None:
        """The thread."""
        while not self._stop_event.wait(self._interval_s):
            for capture in self._captures:
                capture.check()
