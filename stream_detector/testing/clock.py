"""A clock that moves only when the test moves it."""

from __future__ import annotations

import threading
from collections.abc import Callable


class FakeClock:
    """Implements `types.Clock`; thread-safe. `advance` moves both clocks together.

    start_s: first monotonic time, seconds.  utc_s: first UTC, seconds since the epoch.
    """

    def __init__(self, start_s: float = 1000.0, utc_s: float = 1_700_000_000.0) -> None:
        self._lock = threading.Lock()
        self._now_s = start_s
        self._offset_s = utc_s - start_s

    def monotonic(self) -> float:
        """Seconds, never stepping back."""
        with self._lock:
            return self._now_s

    def utc(self) -> float:
        """Seconds since the epoch."""
        with self._lock:
            return self._now_s + self._offset_s

    def advance(self, seconds: float) -> None:
        """Move both clocks by `seconds` (not negative)."""
        if seconds < 0:
            raise ValueError(f"a clock cannot go back by {-seconds} s")
        with self._lock:
            self._now_s += seconds

    def waiter(self, stop: threading.Event) -> Callable[[float], bool]:
        """Return a replacement of `stop.wait`: it moves the clock immediately and returns whether `stop` is set."""

        def wait(seconds: float) -> bool:
            if not stop.is_set():
                self.advance(max(0.0, seconds))
            return stop.is_set()

        return wait
