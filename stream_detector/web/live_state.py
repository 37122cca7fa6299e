"""The state that the detector shares with viewers: newest pictures, windows and events.

Every call costs the detector's thread about a microsecond: it stores a reference under a lock that is never held long.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Any

from stream_detector.reports.scores_file import ScoreRow
from stream_detector.types import Decision, Preview
from stream_detector.web.score_history import MinuteScores

ROWS = 100_000  # windows kept for all cameras together
MIN_ROWS = 500
EVENTS = 10_000  # events kept until a listener is set

Event = dict[str, Any]


class LiveState:
    """Written by capture and decision threads, read by the server. cameras: their number, to share the memory."""

    def __init__(self, cameras: int) -> None:
        self._lock = threading.Lock()
        self._pictures: dict[str, tuple[int, Preview]] = {}
        self._pictured_s: dict[str, float] = {}
        self._keep = max(MIN_ROWS, ROWS // max(1, cameras))
        self._rows: dict[str, deque[tuple[ScoreRow, bool]]] = {}
        self._counts: dict[str, int] = {}
        self._listener: Callable[[Event], None] | None = None
        self._early: deque[Event] = deque(maxlen=EVENTS)
        self.minutes = MinuteScores()

    # -- the detector's side ----------------------------------------------------------------------------------------

    def preview(self, camera: str, preview: Preview) -> None:
        """Store the newest picture of a camera; called by its capture thread."""
        known = self._pictures.get(camera)
        self._pictures[camera] = (known[0] + 1 if known else 1, preview)
        self._pictured_s[camera] = time.monotonic()

    def decision(self, decision: Decision) -> None:
        """Store a decided window; called by the decision thread."""
        ref = decision.score.ref
        row = ScoreRow(
            ref.source,
            ref.camera,
            ref.index,
            ref.start_frame,
            ref.end_frame,
            ref.start_s,
            ref.end_s,
            decision.score.raw,
            decision.smoothed,
            ref.degraded,
        )
        self.minutes.add(ref.camera, ref.captured_utc, decision.smoothed, decision.alarmed)
        with self._lock:
            rows = self._rows.get(ref.camera)
            if rows is None:
                rows = self._rows[ref.camera] = deque(maxlen=self._keep)
            rows.append((row, decision.alarmed))
            self._counts[ref.camera] = self._counts.get(ref.camera, 0) + 1

    def event(self, body: Event) -> None:
        """Store an alarm event as published; called by the decision thread."""
        with self._lock:
            if self._listener is None:
                self._early.append(body)
            else:
                self._listener(body)

    def camera(self, name: str, came: bool) -> None:
        """A camera came or is gone; nothing of a former one of its name is shown. Called by the decision thread."""
        with self._lock:
            self._pictures.pop(name, None)
            self._pictured_s.pop(name, None)
            self._rows.pop(name, None)
            self._counts.pop(name, None)

    # -- the server's side ------------------------------------------------------------------------------------------

    def listen(self, listener: Callable[[Event], None] | None) -> None:
        """Pass every event to `listener`, first the stored ones; None: to nobody. It must not block."""
        with self._lock:
            self._listener = listener
            while listener is not None and self._early:
                listener(self._early.popleft())

    def picture(self, camera: str) -> tuple[int, Preview] | None:
        """Return (serial, newest picture), or None before the first."""
        return self._pictures.get(camera)

    def picture_age_s(self, camera: str) -> float | None:
        """Return the seconds since the newest picture, or None before the first."""
        came_s = self._pictured_s.get(camera)
        return None if came_s is None else max(0.0, time.monotonic() - came_s)

    def count(self, camera: str) -> int:
        """Return the number of windows decided so far."""
        return self._counts.get(camera, 0)

    def newest(self, camera: str, since: int, until: int, most: int) -> list[tuple[ScoreRow, bool]]:
        """Return (row, alarmed) of the windows after number `since` and up to `until` (a `count`), oldest first.

        At most the newest `most` windows; those decided after `until` was read are left for the next call.
        """
        with self._lock:
            rows = self._rows.get(camera)
            later = self._counts.get(camera, 0) - until
            wanted = min(most, until - since, len(rows) - later if rows else 0)
            return [rows[-i - later] for i in range(wanted, 0, -1)] if rows else []

    def rows(self, camera: str) -> list[ScoreRow]:
        """Return all kept windows of a camera, oldest first."""
        with self._lock:
            kept = list(self._rows.get(camera, ()))
        return [row for row, _ in kept]
