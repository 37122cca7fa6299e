"""Computes alarms for other settings: the real smoother and alarm rule over recorded scores.

tuned = tune(rows, SmoothingConfig(kind="median", span=5), 0.6, AlarmConfig())
write_camera(Path("cameras.toml"), "gate", 0.6, SmoothingConfig(kind="median", span=5))
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stream_detector.alarms.smoothing import make_smoother, smooth_on
from stream_detector.alarms.state_machine import make_alarm_rule
from stream_detector.config import AlarmConfig, SmoothingConfig
from stream_detector.config.edit import write_camera_settings
from stream_detector.reports.scores_file import ScoreRow
from stream_detector.types import AlarmEvent

MAX_POINTS = 1500

Point = tuple[float, float, float, bool]


@dataclass(frozen=True, slots=True)
class TunedAlarm:
    """One alarm with the tried settings. Times are media seconds."""

    start_s: float
    raised_s: float
    end_s: float
    peak_score: float


@dataclass(frozen=True, slots=True)
class Tuned:
    """The result of a trial. points: (end_s, raw, smoothed, alarmed) of every window."""

    alarms: tuple[TunedAlarm, ...]
    points: tuple[Point, ...]


def tune(rows: Sequence[ScoreRow], smooth: SmoothingConfig, threshold: float, alarm: AlarmConfig) -> Tuned:
    """Run the windows of one camera, in order, through smoothing and the alarm rule."""
    smoother = make_smoother(smooth)
    machine = make_alarm_rule(rows[0].camera if rows else "", "", str, threshold, alarm)
    alarms: list[TunedAlarm] = []
    points: list[Point] = []
    raised_s = 0.0
    for row in rows:
        smoothed = smooth_on(smoother, row.start_s, row.end_s, row.raw, row.degraded)
        decision, event = machine.step(row.score(), smoothed)
        points.append((row.end_s, row.raw, smoothed, decision.alarmed))
        if event is not None and event.type == "start":
            raised_s = row.end_s
        elif event is not None and event.type == "end":
            alarms.append(_alarm(event, raised_s))
    last = machine.finish("normal")
    if last is not None:
        alarms.append(_alarm(last, raised_s))
    return Tuned(tuple(alarms), tuple(points))


def _alarm(event: AlarmEvent, raised_s: float) -> TunedAlarm:
    return TunedAlarm(event.start_s, raised_s, event.start_s if event.end_s is None else event.end_s, event.peak_score)


def downsample(points: Sequence[Point], most: int = MAX_POINTS) -> list[Point]:
    """Reduce to about `most` points: of each group of neighbours the first and the highest smoothed and raw ones."""
    if len(points) <= most:
        return list(points)
    size = math.ceil(3 * len(points) / most)
    kept: list[Point] = []
    for first in range(0, len(points), size):
        group = range(first, min(first + size, len(points)))
        chosen = {first, max(group, key=lambda i: points[i][1]), max(group, key=lambda i: points[i][2])}
        kept += [points[i] for i in sorted(chosen)]
    return kept


def write_camera(path: Path, camera: str, threshold: float, smooth: SmoothingConfig) -> None:
    """Set a camera's threshold and smoothing in a configuration file; everything else stays. Raises ConfigError."""
    smoothing: dict[str, Any] = {"kind": smooth.kind}
    if smooth.kind == "ema":
        smoothing["time_constant_s"] = float(smooth.time_constant_s)
    elif smooth.kind == "median":
        smoothing["span"] = smooth.span
    elif smooth.options:
        smoothing["options"] = smooth.options
    write_camera_settings(path, camera, {"threshold": float(threshold), "smoothing": smoothing})
