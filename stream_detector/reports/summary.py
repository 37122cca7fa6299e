"""The summary of a run: coverage, alarms, degraded spans and latencies from its scores and events.

`html_page` renders the figures. "No alarm" is only meaningful where windows were scored; therefore the summary includes
the coverage: scored windows against windows expected by their numbers, and gaps in media time.
"""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from stream_detector.errors import DataError
from stream_detector.reports.read_back import AlarmRecord, by_camera, spans_of
from stream_detector.reports.scores_file import ScoreRow

SCHEMA = "stream-detector.report/1"
GAP_STEPS = 1.5  # windows that are further apart than this many usual steps have a gap between them


@dataclass(frozen=True, slots=True)
class CameraReport:
    """The summary of one camera. Times are media seconds.

    expected: windows up to the highest number.  watched_s: media time from the first window to the last, without gaps.
    gaps: (start_s, end_s) in which nothing was scored.  degraded: windows by cause.
    """

    name: str
    sources: tuple[str, ...]
    rows: tuple[ScoreRow, ...] = field(repr=False)
    expected: int
    watched_s: float
    gaps: tuple[tuple[float, float], ...]
    degraded: dict[str, int]
    spans: tuple[tuple[float, float, tuple[str, ...]], ...]
    alarms: tuple[AlarmRecord, ...]
    threshold: float | None

    @property
    def scored(self) -> int:
        """The number of scored windows, each index counted once."""
        return len({(row.source, row.window) for row in self.rows})

    @property
    def coverage(self) -> float | None:
        """The fraction of expected windows that were scored; None if none was expected."""
        return self.scored / self.expected if self.expected else None

    @property
    def peak(self) -> ScoreRow | None:
        """The window with the highest smoothed score."""
        return max(self.rows, key=lambda row: row.smoothed, default=None)


@dataclass(frozen=True, slots=True)
class Report:
    """The summary of a run. latency: milliseconds by stage (count, p50, p95, max), from the alarm events."""

    cameras: tuple[CameraReport, ...]
    alarms: tuple[AlarmRecord, ...]
    latency: dict[str, dict[str, float]]
    bundles: tuple[str, ...]

    @property
    def scored(self) -> int:
        """Windows scored by all cameras."""
        return sum(camera.scored for camera in self.cameras)

    @property
    def expected(self) -> int:
        """The number of expected windows of all cameras."""
        return sum(camera.expected for camera in self.cameras)

    @property
    def coverage(self) -> float | None:
        """The fraction of expected windows that were scored."""
        return self.scored / self.expected if self.expected else None

    @property
    def watched_s(self) -> float:
        """The media seconds watched, of all cameras together."""
        return sum(camera.watched_s for camera in self.cameras)

    @property
    def degraded_windows(self) -> int:
        """Windows with any degraded cause."""
        return sum(1 for camera in self.cameras for row in camera.rows if row.degraded)

    @property
    def rendered(self) -> bool:
        """Whether any source is the rendered demo."""
        return any(is_rendered(source) for camera in self.cameras for source in camera.sources)

    def to_dict(self) -> dict[str, Any]:
        """Return the report without its rows, for `--json`."""
        return {
            "schema": SCHEMA,
            "windows": {"scored": self.scored, "expected": self.expected, "degraded": self.degraded_windows},
            "coverage": _rounded(self.coverage),
            "watched_s": round(self.watched_s, 3),
            "bundles": list(self.bundles),
            "rendered_footage": self.rendered,
            "latency_ms": self.latency,
            "cameras": [
                {
                    "camera": camera.name,
                    "sources": list(camera.sources),
                    "scored": camera.scored,
                    "expected": camera.expected,
                    "coverage": _rounded(camera.coverage),
                    "watched_s": round(camera.watched_s, 3),
                    "gaps": [[round(first, 3), round(last, 3)] for first, last in camera.gaps],
                    "degraded": camera.degraded,
                    "alarms": len(camera.alarms),
                    "threshold": camera.threshold,
                    "peak": None if camera.peak is None else round(camera.peak.smoothed, 6),
                    "peak_at_s": None if camera.peak is None else camera.peak.end_s,
                }
                for camera in self.cameras
            ],
            "alarms": [
                {
                    "id": alarm.id,
                    "camera": alarm.camera,
                    "start_s": alarm.start_s,
                    "end_s": alarm.end_s,
                    "start_utc": alarm.start_utc,
                    "peak_score": alarm.peak_score,
                    "threshold": alarm.threshold,
                    "ended": alarm.ended,
                    "reason": alarm.reason,
                    "degraded": list(alarm.degraded),
                    "clip": alarm.clip,
                    "snapshot": alarm.snapshot,
                }
                for alarm in self.alarms
            ],
        }


def make_report(rows: Sequence[ScoreRow], alarms: Sequence[AlarmRecord], *, threshold: float | None = None) -> Report:
    """Summarise a run's scores and alarms.

    threshold: for cameras without an alarm.  Raises DataError if there are neither scores nor alarms.
    """
    if not rows and not alarms:
        raise DataError("there is nothing to report: no window was scored and no alarm was raised; start a run first")
    groups = by_camera(list(rows))
    for alarm in alarms:
        groups.setdefault(alarm.camera, [])
    cameras = tuple(_camera(name, own, alarms, threshold) for name, own in groups.items())
    return Report(
        cameras=cameras,
        alarms=tuple(sorted(alarms, key=lambda alarm: (alarm.start_utc, alarm.camera, alarm.start_s))),
        latency=_latency(alarms),
        bundles=tuple(dict.fromkeys(alarm.bundle for alarm in alarms if alarm.bundle)),
    )


def _camera(name: str, rows: list[ScoreRow], alarms: Sequence[AlarmRecord], threshold: float | None) -> CameraReport:
    own = tuple(alarm for alarm in alarms if alarm.camera == name)
    by_source: dict[str, list[ScoreRow]] = {}
    for row in rows:
        by_source.setdefault(row.source, []).append(row)
    gaps: list[tuple[float, float]] = []
    watched_s = 0.0
    for part in by_source.values():
        holes = gaps_of(part)
        gaps += holes
        span_s = max(row.end_s for row in part) - min(row.start_s for row in part)
        watched_s += span_s - sum(last - first for first, last in holes)
    return CameraReport(
        name=name,
        sources=tuple(by_source),
        rows=tuple(rows),
        expected=sum(max(row.window for row in part) + 1 for part in by_source.values()),
        watched_s=watched_s,
        gaps=tuple(gaps),
        degraded=dict(Counter(cause for row in rows for cause in row.degraded)),
        spans=tuple(spans_of(rows)),
        alarms=own,
        threshold=own[-1].threshold if own else threshold,
    )


def gaps_of(rows: Sequence[ScoreRow]) -> list[tuple[float, float]]:
    """Return the gaps in the media time of one source: between the end of a window and the start of the next."""
    ordered = sorted(rows, key=lambda row: row.start_s)
    steps = sorted(later.start_s - row.start_s for row, later in itertools.pairwise(ordered))
    if not steps:
        return []
    usual_s = steps[len(steps) // 2]
    return [
        (row.end_s, later.start_s)
        for row, later in itertools.pairwise(ordered)
        if later.start_s - row.start_s > GAP_STEPS * usual_s and later.start_s > row.end_s
    ]


def _latency(alarms: Sequence[AlarmRecord]) -> dict[str, dict[str, float]]:
    values: dict[str, list[float]] = {}
    for alarm in alarms:
        for timing in alarm.timings:
            for stage, milliseconds in timing.items():
                values.setdefault(stage, []).append(milliseconds)
            values.setdefault("sum", []).append(sum(timing.values()))
    summary: dict[str, dict[str, float]] = {}
    for stage in [*(name for name in values if name != "sum"), *(["sum"] if "sum" in values else [])]:
        ordered = sorted(values[stage])
        at = {f"p{p}": ordered[max(0, math.ceil(p / 100 * len(ordered)) - 1)] for p in (50, 95)}
        summary[stage] = {
            "count": len(ordered),
            **{k: round(v, 3) for k, v in at.items()},
            "max": round(ordered[-1], 3),
        }
    return summary


def is_rendered(source: str) -> bool:
    """Return whether a source is the rendered demo."""
    return source == "demo" or source.startswith("demo:")


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 6)
