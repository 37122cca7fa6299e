"""Counters, latency histograms and the newest state of a run; `prometheus` serves them.

Every stage may report from its own thread; one lock guards plain integers, so a report costs about a microsecond.
Memory is fixed: histograms are log-bucketed (`snapshot.Histogram`), histories and lists of alarms are bounded rings.
No report of a stage raises an error: telemetry never ends a run.
"""

from __future__ import annotations

import math
import threading
from collections import OrderedDict, deque
from collections.abc import Callable, Iterable
from typing import Any

from stream_detector.telemetry.snapshot import (
    BUCKETS,
    STAGES,
    AlarmView,
    CameraView,
    Histogram,
    LogEntry,
    TelemetrySnapshot,
    bucket_of,
)
from stream_detector.types import CameraState, CameraStatus, Clock, Decision

HISTORY = 120  # smoothed scores kept per camera
RECENT_ALARMS = 50
RECENT_LOG_ENTRIES = 500
MAX_CAUSES = 32  # different causes counted per camera; further ones are counted as "other"
FPS_SPAN_S = 1.0


class _Distribution:
    """A histogram that is being filled."""

    __slots__ = ("count", "counts", "max_ms", "min_ms", "sum_ms")

    def __init__(self) -> None:
        self.counts = [0] * BUCKETS
        self.count, self.sum_ms, self.min_ms, self.max_ms = 0, 0.0, math.inf, 0.0

    def add(self, milliseconds: float) -> None:
        value = milliseconds if 0.0 <= milliseconds < math.inf else 0.0  # a clock that stepped back, or NaN
        self.counts[bucket_of(value)] += 1
        self.count += 1
        self.sum_ms += value
        self.min_ms = min(self.min_ms, value)
        self.max_ms = max(self.max_ms, value)

    def freeze(self) -> Histogram:
        if not self.count:
            return Histogram()
        return Histogram(tuple(self.counts), self.count, self.sum_ms, self.min_ms, self.max_ms)


class _Camera:
    """The counts of one camera."""

    def __init__(self, name: str, now_s: float) -> None:
        self.name, self.source, self.detail = name, "", ""
        self.state: CameraState = "connecting"
        self.frames = self.windows = self.scored = self.reconnects = self.alarms = self.evidence_lost = 0
        self.dropped: dict[str, int] = {}
        self.degraded_windows: dict[str, int] = {}
        self.degraded: tuple[str, ...] = ()
        self.history: deque[float] = deque(maxlen=HISTORY)
        self.raw: float | None = None
        self.smoothed: float | None = None
        self.threshold: float | None = None
        self.lag_ms: float | None = None
        self.media_s: float | None = None
        self.duration_s: float | None = None
        self.scored_s: float | None = None
        self.alarmed = False
        self.fps, self.span_frames, self.span_start_s = 0.0, 0, now_s

    def count_frames(self, number: int, now_s: float) -> None:
        self.frames += number
        self.span_frames += number
        if now_s - self.span_start_s >= FPS_SPAN_S:
            self.fps = self.span_frames / (now_s - self.span_start_s)
            self.span_frames, self.span_start_s = 0, now_s

    def freeze(self, now_s: float) -> CameraView:
        span_s = now_s - self.span_start_s
        fps = self.span_frames / span_s if span_s > 2 * FPS_SPAN_S or (not self.fps and span_s > 0.2) else self.fps
        return CameraView(
            name=self.name,
            source=self.source,
            state=self.state,
            detail=self.detail,
            fps=0.0 if self.state in ("ended", "failed") else fps,
            frames=self.frames,
            windows=self.windows,
            scored=self.scored,
            dropped=dict(self.dropped),
            reconnects=self.reconnects,
            alarms=self.alarms,
            evidence_lost=self.evidence_lost,
            raw=self.raw,
            smoothed=self.smoothed,
            threshold=self.threshold,
            history=tuple(self.history),
            alarmed=self.alarmed,
            window_age_s=None if self.scored_s is None else max(0.0, now_s - self.scored_s),
            lag_ms=self.lag_ms,
            media_s=self.media_s,
            duration_s=self.duration_s,
            degraded=self.degraded,
            degraded_windows=dict(self.degraded_windows),
        )


class Telemetry:
    """Counts what the stages report. All methods may be called from any thread."""

    def __init__(self, camera_names: Iterable[str], clock: Clock) -> None:
        """Create the counters. camera_names: in display order.  clock: monotonic time of latencies and ages."""
        self._clock = clock
        self._lock = threading.Lock()
        self._start_s = clock.monotonic()
        self._cameras = {name: _Camera(name, self._start_s) for name in camera_names}
        # Reports about other cameras (an alarm of a former run that ends now, the detector itself) are listed, not
        # counted.
        self._nobody = _Camera("", self._start_s)
        self._stages = {name: _Distribution() for name in STAGES}
        self._total = _Distribution()
        self._alarms: OrderedDict[str, AlarmView] = OrderedDict()
        self._log_entries: deque[LogEntry] = deque(maxlen=RECENT_LOG_ENTRIES)
        self._log_seq = self._batches = self._batched_windows = 0
        self._scored_s: float | None = None
        self._decision_loop_s: float | None = None
        self._over = False
        self.rates: Callable[[], dict[str, dict[str, Any]]] = dict  # what is known of the cameras' false alarms

    def add_camera(self, name: str) -> None:
        """A camera came, behind the others; its counters begin at zero."""
        with self._lock:
            self._cameras[name] = _Camera(name, self._clock.monotonic())

    def remove_camera(self, name: str) -> None:
        """A camera is gone, and its counters."""
        with self._lock:
            self._cameras.pop(name, None)

    def decision_loop_passed(self) -> None:
        """The decision thread has completed one pass of its loop."""
        now_s = self._clock.monotonic()
        with self._lock:
            self._decision_loop_s = now_s

    def run_ended(self) -> None:
        """The decision thread has ended all open alarms and stops."""
        with self._lock:
            self._over = True

    def frame(self, camera: str, number: int = 1) -> None:
        """So many more frames were captured."""
        now_s = self._clock.monotonic()
        with self._lock:
            self._camera(camera).count_frames(number, now_s)

    def window(self, camera: str) -> None:
        """A window became complete."""
        with self._lock:
            self._camera(camera).windows += 1

    def dropped(self, camera: str, cause: str, n: int = 1) -> None:
        """`n` frames or windows were dropped because of `cause`."""
        with self._lock:
            _count(self._camera(camera).dropped, cause, n)

    def reconnected(self, camera: str) -> None:
        """A lost source delivers again."""
        with self._lock:
            self._camera(camera).reconnects += 1

    def evidence_lost(self, camera: str, n: int = 1) -> None:
        """A clip or snapshot could not be written."""
        with self._lock:
            self._camera(camera).evidence_lost += n

    def duration(self, camera: str, seconds: float | None) -> None:
        """The length of a file in seconds, declared by its container; None if unknown."""
        known = seconds is not None and 0.0 < seconds < math.inf
        with self._lock:
            self._camera(camera).duration_s = seconds if known else None

    def stage(self, name: str, milliseconds: float) -> None:
        """Add one latency of one stage (see `snapshot.STAGES`); others are ignored. `decision` reports all except
        publish.
        """
        with self._lock:
            if name in self._stages:
                self._stages[name].add(milliseconds)

    def batch(self, size: int) -> None:
        """A batch of `size` windows was closed."""
        with self._lock:
            self._batches += 1
            self._batched_windows += size

    def status(self, status: CameraStatus) -> None:
        """A camera changed its state."""
        with self._lock:
            camera = self._camera(status.camera)
            changed = (camera.state, camera.detail) != (status.state, status.detail)
            event = "camera_problem" if camera.state == status.state and status.detail else "camera_state"
            camera.state, camera.detail, camera.source = status.state, status.detail, status.source
            if changed:
                detail = f": {status.detail}" if status.detail else ""
                fields = {"event": event, "state": status.state, "detail": status.detail, "source": status.source}
                self._add_log_entry(status.camera, "state", f"{status.state}{detail}", fields)

    def decision(self, decision: Decision, threshold: float) -> None:
        """A window was scored, smoothed and decided on against `threshold`."""
        now_s = self._clock.monotonic()
        score, timing = decision.score, decision.score.timing
        decide_ms = timing.decide or (now_s - score.scored_s) * 1e3
        total_ms = (now_s - score.ref.captured_s) * 1e3
        with self._lock:
            camera = self._camera(score.ref.camera)
            camera.scored += 1
            camera.raw, camera.smoothed, camera.threshold = score.raw, decision.smoothed, threshold
            camera.history.append(decision.smoothed)
            camera.alarmed = decision.alarmed
            camera.media_s, camera.scored_s, camera.lag_ms = score.ref.end_s, now_s, max(0.0, total_ms)
            camera.degraded = score.ref.degraded
            for cause in score.ref.degraded:
                _count(camera.degraded_windows, cause, 1)
            self._scored_s = now_s
            for name in STAGES[:4]:
                self._stages[name].add(getattr(timing, name))
            self._stages["decide"].add(decide_ms)
            self._total.add(total_ms)

    def event(self, event: dict[str, Any]) -> None:
        """An alarm event as published (schema `stream-detector.alarm/1`); unknown or missing keys are no error."""
        evidence = event.get("evidence") or {}
        alarm = AlarmView(
            id=str(event.get("id", "")),
            camera=str(event.get("camera", "")),
            type=str(event.get("type", "")),
            reason=event.get("reason"),
            start_s=float(event.get("start_s") or 0.0),
            end_s=event.get("end_s"),
            start_utc=str(event.get("start_utc", "")),
            peak_score=float(event.get("peak_score") or 0.0),
            threshold=float(event.get("threshold") or 0.0),
            clip=evidence.get("clip"),
            snapshot=evidence.get("snapshot"),
        )
        with self._lock:
            camera = self._camera(alarm.camera)
            if alarm.type == "start":
                camera.alarms += 1
            camera.alarmed = alarm.type != "end"
            self._alarms[alarm.id] = alarm
            self._alarms.move_to_end(alarm.id)
            while len(self._alarms) > RECENT_ALARMS:
                self._alarms.popitem(last=False)
            if alarm.type == "start":
                text = f"ALARM at {alarm.start_s:.1f} s, score {alarm.peak_score:.2f} (threshold {alarm.threshold:.2f})"
                self._add_log_entry(alarm.camera, "start", text, _alarm_fields("alarm_start", alarm))
            elif alarm.type == "end":
                until = "" if alarm.end_s is None else f" to {alarm.end_s:.1f} s"
                reason = "" if alarm.reason in (None, "normal") else f", {alarm.reason}"
                text = f"alarm over: {alarm.start_s:.1f}{until}, peak {alarm.peak_score:.2f}{reason}"
                self._add_log_entry(alarm.camera, "end", text, _alarm_fields("alarm_end", alarm))

    def snapshot(self) -> TelemetrySnapshot:
        """Return the frozen state of the run; takes about 0.2 ms for 64 cameras."""
        now_s = self._clock.monotonic()
        with self._lock:
            return TelemetrySnapshot(
                elapsed_s=now_s - self._start_s,
                cameras=tuple(camera.freeze(now_s) for camera in self._cameras.values()),
                stages={name: stage.freeze() for name, stage in self._stages.items()},
                total=self._total.freeze(),
                batches=self._batches,
                batched_windows=self._batched_windows,
                scored_age_s=None if self._scored_s is None else max(0.0, now_s - self._scored_s),
                alarms=tuple(self._alarms.values()),
                log_entries=tuple(self._log_entries),
                decided_age_s=None if self._decision_loop_s is None else max(0.0, now_s - self._decision_loop_s),
                over=self._over,
                rates=self.rates(),
            )

    def log_entries_since(self, seq: int) -> tuple[LogEntry, ...]:
        """Return the kept entries with a number above `seq`, oldest first."""
        with self._lock:
            new = min(self._log_seq - seq, len(self._log_entries))
            return tuple(self._log_entries)[len(self._log_entries) - new :] if new > 0 else ()

    def _camera(self, name: str) -> _Camera:
        return self._cameras.get(name, self._nobody)

    def _add_log_entry(self, camera: str, kind: str, text: str, fields: dict[str, Any]) -> None:
        self._log_seq += 1
        self._log_entries.append(
            LogEntry(self._log_seq, self._clock.monotonic() - self._start_s, camera, kind, text, fields)
        )


def _alarm_fields(event: str, alarm: AlarmView) -> dict[str, Any]:
    return {
        "event": event,
        "alarm": alarm.id,
        "start_s": alarm.start_s,
        "end_s": alarm.end_s,
        "start_utc": alarm.start_utc or None,
        "peak_score": alarm.peak_score,
        "threshold": alarm.threshold,
        "reason": alarm.reason,
        "clip": alarm.clip,
        "snapshot": alarm.snapshot,
    }


def _count(counts: dict[str, int], cause: str, n: int) -> None:
    key = cause if cause in counts or len(counts) < MAX_CAUSES else "other"
    counts[key] = counts.get(key, 0) + n
