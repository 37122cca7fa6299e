"""Waiting times of a capture thread: until the next picture of a file is due, and between attempts to open a camera."""

from __future__ import annotations

from collections.abc import Callable

from stream_detector.config import CaptureConfig
from stream_detector.types import Clock

LONGEST_WAIT_S = 10.0  # seconds; longer gaps in a recording are shortened to this


class FilePacer:
    """Plays a file in real time. wait: waits for the given seconds or until the run is stopped; returns whether it
    is."""

    def __init__(self, clock: Clock, wait: Callable[[float], bool]) -> None:
        self._clock, self._wait = clock, wait
        self._zero_s: float | None = None  # monotonic time of media time 0

    def stopped(self, media_s: float) -> bool:
        """Wait until a picture is due; return whether the run was stopped in the meantime."""
        now_s = self._clock.monotonic()
        if self._zero_s is None or self._zero_s + media_s > now_s + LONGEST_WAIT_S:
            self._zero_s = now_s - media_s
        return self._zero_s + media_s > now_s and self._wait(self._zero_s + media_s - now_s)


class Backoff:
    """A delay that doubles with every attempt, up to a limit. jitter: in [0, 1); it spreads the cameras of one
    switch."""

    def __init__(self, config: CaptureConfig, jitter: Callable[[], float]) -> None:
        self._config, self._jitter = config, jitter
        self._attempt = 0

    def next_s(self, good_s: float) -> float:
        """Return the seconds until the next attempt. good_s: how long frames came; after a long time the delay is
        reset.
        """
        if good_s > 2 * self._delay_s():
            self._attempt = 0
        delay_s = self._delay_s() * (0.5 + 0.5 * self._jitter())
        self._attempt += 1
        return delay_s

    def _delay_s(self) -> float:
        doubled_s = self._config.backoff_min_s * 2.0 ** min(self._attempt, 32)
        return float(min(self._config.backoff_max_s, doubled_s))
