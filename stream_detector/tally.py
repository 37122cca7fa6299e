"""What one camera's capture counted: frames, rate, reconnects, drops by cause. Any thread may ask at any time."""

from __future__ import annotations

import threading
from collections import deque

from stream_detector.types import CameraCounters, Clock

_RATE_FRAMES = 50


class Tally:
    """Thread-safe. Times are monotonic seconds of `clock`."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._frames = 0
        self._reconnects = 0
        self._dropped: dict[str, int] = {}
        self._arrivals_s: deque[float] = deque(maxlen=_RATE_FRAMES)
        self._last_s: float | None = None

    def frame(self) -> int:
        """Count a grabbed frame; returns its number, from 0."""
        now_s = self._clock.monotonic()
        with self._lock:
            self._frames += 1
            self._last_s = now_s
            self._arrivals_s.append(now_s)
            return self._frames - 1

    def drop(self, cause: str) -> None:
        """Count a frame that was lost or thrown away."""
        with self._lock:
            self._dropped[cause] = self._dropped.get(cause, 0) + 1

    def reconnect(self) -> None:
        """Count a successful reconnect; the rate starts afresh."""
        with self._lock:
            self._reconnects += 1
            self._arrivals_s.clear()

    def counters(self) -> CameraCounters:
        """A copy of the counters; `windows` is not known here and 0."""
        with self._lock:
            return CameraCounters(self._frames, 0, self._reconnects, dict(self._dropped))

    def last_s(self) -> float | None:
        """When the last frame was grabbed; None before the first."""
        with self._lock:
            return self._last_s

    def rate(self, fresh_s: float) -> float:
        """Frames a second over the last 50 frames; 0 when the last one is older than `fresh_s`."""
        now_s = self._clock.monotonic()
        with self._lock:
            times = list(self._arrivals_s)
        if len(times) < 2 or now_s - times[-1] > fresh_s or times[-1] <= times[0]:
            return 0.0
        return (len(times) - 1) / (times[-1] - times[0])
