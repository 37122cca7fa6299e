"""Counts of one camera (frames, rate, reconnects, drops by cause), and the choice of the frames to score."""

from __future__ import annotations

import threading
from collections import deque

from stream_detector.types import CameraCounters, Clock

_RATE_FRAMES = 50
_SPACING = 0.66  # fraction of the recipe's frame period
_SLACK = 2.0  # frame periods by which a live frame may be late before the next one counts as surplus


class CaptureCounters:
    """Counts frames, reconnects and drops of one camera. Thread-safe; times are monotonic seconds of `clock`."""

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
        """Count a frame that was lost or discarded."""
        with self._lock:
            self._dropped[cause] = self._dropped.get(cause, 0) + 1

    def reconnect(self) -> None:
        """Count a successful reconnect and restart the measurement of the rate."""
        with self._lock:
            self._reconnects += 1
            self._arrivals_s.clear()

    def counters(self) -> CameraCounters:
        """Return a copy of the counters. `windows` is 0, because this class does not count windows."""
        with self._lock:
            return CameraCounters(self._frames, 0, self._reconnects, dict(self._dropped))

    def last_s(self) -> float | None:
        """The time of the last grabbed frame; None before the first."""
        with self._lock:
            return self._last_s

    def rate(self, fresh_s: float) -> float:
        """Return frames per second over the last 50 frames; 0 if the last one is older than `fresh_s`."""
        now_s = self._clock.monotonic()
        with self._lock:
            times, count = self._arrivals_s, len(self._arrivals_s)
            first_s, last_s = (times[0], times[-1]) if count else (0.0, 0.0)
        if count < 2 or now_s - last_s > fresh_s or last_s <= first_s:
            return 0.0
        return (count - 1) / (last_s - first_s)


class FrameSampler:
    """Chooses the frames for a recipe of `frame_fps` frames per second. One thread uses it.

    A frame that is closer than 0.66 periods to the last frame taken is skipped: at 50 or 60 frames per second every
    second frame is taken, at 30 every frame. Live frames may arrive late and then two together. If the source is not
    faster than the recipe, such frames are not skipped: a late frame shifts the next due time by up to two periods.
    """

    def __init__(self, frame_fps: float) -> None:
        self._gap_s = _SPACING / frame_fps - 1e-6
        self._slack_s = _SLACK / frame_fps
        self._taken_s: float | None = None
        self._due_s = 0.0

    def wanted(self, media_s: float, rate_fps: float | None = None) -> bool:
        """Return whether this frame is needed. rate_fps: the recently measured rate of a live source; None for a
        file."""
        if self._taken_s is None:
            return True
        if rate_fps is not None and rate_fps * self._gap_s <= 1.0:
            return media_s >= self._due_s
        return media_s - self._taken_s >= self._gap_s

    def taken(self, media_s: float) -> None:
        """Note that this frame was used."""
        self._taken_s = media_s
        self._due_s = max(self._due_s, media_s - self._slack_s) + self._gap_s
