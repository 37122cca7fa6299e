"""Snapshots of a run's telemetry: frozen values without behaviour beyond arithmetic.

`collector.Telemetry` fills them; the terminal view, the heartbeat, /metrics and the benchmarks read them.

Latencies are milliseconds, ages and media times seconds, as everywhere (see `types`).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

from stream_detector.types import CameraState

STAGES = ("window", "queue", "preprocess", "forward", "decide", "publish")

# Latency buckets: bucket i covers (LOW · GROWTH^(i-1), LOW · GROWTH^i]. Eight per octave keep a quantile within
# GROWTH^½ - 1 = 4.4 % of the truth, from a microsecond to a quarter of an hour, in a fixed 241 integers.
LOW_MS = 1e-3
PER_OCTAVE = 8
GROWTH = 2.0 ** (1.0 / PER_OCTAVE)
BUCKETS = 30 * PER_OCTAVE + 1


def bucket_of(milliseconds: float) -> int:
    """Return the bucket of a latency; values out of range go to the first or the last one."""
    if not milliseconds > LOW_MS:  # also handles NaN
        return 0
    if math.isinf(milliseconds):
        return BUCKETS - 1
    # The small slack keeps a value that is exactly a bound in the bucket it bounds, despite rounding in the logarithm.
    return min(BUCKETS - 1, math.ceil(PER_OCTAVE * math.log2(milliseconds / LOW_MS) - 1e-9))


def bound_ms(bucket: int) -> float:
    """Return the inclusive upper bound of a bucket, milliseconds."""
    return float(LOW_MS * GROWTH**bucket)


@dataclass(frozen=True, slots=True)
class Histogram:
    """A latency distribution at one moment. counts: one per bucket (see `bound_ms`); empty without values."""

    counts: tuple[int, ...] = ()
    count: int = 0
    sum_ms: float = 0.0
    min_ms: float = 0.0
    max_ms: float = 0.0

    def quantile(self, share: float) -> float | None:
        """Return the latency that `share` (0 to 1) of all values do not exceed, within 4.4 %; None without values."""
        if not self.count:
            return None
        rank = min(self.count, max(1, math.ceil(share * self.count)))
        if rank == self.count:
            return self.max_ms
        seen = 0
        for bucket, number in enumerate(self.counts):
            seen += number
            if seen >= rank:
                middle = bound_ms(bucket) / math.sqrt(GROWTH)
                return min(self.max_ms, max(self.min_ms, middle))
        return self.max_ms

    @property
    def mean_ms(self) -> float | None:
        """The exact mean; None without values."""
        return self.sum_ms / self.count if self.count else None

    def to_dict(self) -> dict[str, float | int | None]:
        """Return count, mean, p50, p95, p99 and max, for JSON."""
        summary: dict[str, float | int | None] = {"count": self.count}
        values = {"mean": self.mean_ms, "max": self.max_ms if self.count else None}
        values |= {f"p{percent}": self.quantile(percent / 100) for percent in (50, 95, 99)}
        summary |= {f"{name}_ms": None if value is None else round(value, 3) for name, value in values.items()}
        return summary


@dataclass(frozen=True, slots=True)
class CameraView:
    """One camera at one moment.

    fps: frames per second over about the last second.  raw, smoothed, threshold: of the newest scored window, None
    before the first.  history: smoothed scores, newest last, at most 120.  window_age_s: since the newest window was
    scored. lag_ms: last frame of the newest window captured → decision.  media_s: media time reached.  duration_s:
    length of a file, None if unknown (live).  degraded: causes of the newest window.  degraded_windows: number by
    cause.
    """

    name: str
    source: str = ""
    state: CameraState = "connecting"
    detail: str = ""
    fps: float = 0.0
    frames: int = 0
    windows: int = 0
    scored: int = 0
    dropped: dict[str, int] = field(default_factory=dict)
    reconnects: int = 0
    alarms: int = 0
    evidence_lost: int = 0
    raw: float | None = None
    smoothed: float | None = None
    threshold: float | None = None
    history: tuple[float, ...] = ()
    alarmed: bool = False
    window_age_s: float | None = None
    lag_ms: float | None = None
    media_s: float | None = None
    duration_s: float | None = None
    degraded: tuple[str, ...] = ()
    degraded_windows: dict[str, int] = field(default_factory=dict)

    @property
    def drops(self) -> int:
        """The frames and windows dropped for any cause."""
        return sum(self.dropped.values())


@dataclass(frozen=True, slots=True)
class AlarmView:
    """One alarm at its newest event; times as in the event."""

    id: str
    camera: str
    type: str
    reason: str | None
    start_s: float
    end_s: float | None
    start_utc: str
    peak_score: float
    threshold: float
    clip: str | None = None
    snapshot: str | None = None


@dataclass(frozen=True, slots=True)
class LogEntry:
    """One line for people about a change of state or an alarm. seq counts from 1 without gaps. at_s: since the start.

    fields: the same for machines, as in JSON log lines; `event` names the kind of entry (docs/logging.md).
    """

    seq: int
    at_s: float
    camera: str
    kind: str
    text: str
    fields: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class TelemetrySnapshot:
    """A run at one moment. elapsed_s: since the start.  scored_age_s: since any window was scored; None before.

    stages: latency histogram per stage, in the order of STAGES.  total: last frame captured → decision taken.
    decided_age_s: since the decision thread last ran, within a second; None before the first time. over: whether the
    decision thread has ended every alarm and has nothing more to do. alarms: the newest ones, newest last.
    log_entries: the newest ones, newest last. rates: camera → what is known of its false alarms (`adaptation.promise`).
    """

    elapsed_s: float
    cameras: tuple[CameraView, ...]
    stages: dict[str, Histogram]
    total: Histogram
    batches: int = 0
    batched_windows: int = 0
    scored_age_s: float | None = None
    alarms: tuple[AlarmView, ...] = ()
    log_entries: tuple[LogEntry, ...] = ()
    decided_age_s: float | None = None
    over: bool = False
    rates: dict[str, dict[str, Any]] = field(default_factory=dict)

    @property
    def frames(self) -> int:
        """Frames of all cameras."""
        return sum(camera.frames for camera in self.cameras)

    @property
    def windows(self) -> int:
        """Complete windows of all cameras."""
        return sum(camera.windows for camera in self.cameras)

    @property
    def scored(self) -> int:
        """Scored windows of all cameras."""
        return sum(camera.scored for camera in self.cameras)

    @property
    def drops(self) -> int:
        """Dropped frames and windows of all cameras."""
        return sum(camera.drops for camera in self.cameras)

    @property
    def mean_batch(self) -> float | None:
        """The average number of windows per batch; None before the first."""
        return self.batched_windows / self.batches if self.batches else None

    def health(self) -> dict[str, Any]:
        """Return the content of a heartbeat: small, JSON-ready. "No alarm" is meaningful only where windows were
        scored.
        """
        return {
            "elapsed_s": round(self.elapsed_s, 3),
            "windows": self.windows,
            "scored": self.scored,
            "dropped": self.drops,
            "scored_age_s": None if self.scored_age_s is None else round(self.scored_age_s, 3),
            "latency": {name: stage.to_dict() for name, stage in self.stages.items()},
            "cameras": {
                camera.name: {
                    "state": camera.state,
                    "fps": round(camera.fps, 2),
                    "windows": camera.windows,
                    "scored": camera.scored,
                    "dropped": dict(camera.dropped),
                    "reconnects": camera.reconnects,
                    "alarms": camera.alarms,
                    "evidence_lost": camera.evidence_lost,
                    "alarmed": camera.alarmed,
                    "window_age_s": None if camera.window_age_s is None else round(camera.window_age_s, 3),
                    "degraded": list(camera.degraded),
                    **({"rate": self.rates[camera.name]} if camera.name in self.rates else {}),
                }
                for camera in self.cameras
            },
        }
