"""Event metrics of a detector that raises alarms: recall at an acceptable rate of false alarms, and the delay.

    alarm        rising edge through the threshold; it ends when the score falls below threshold × `ALARM.off_ratio`
    hit          an alarm that starts in [onset - tolerance, end + tolerance] of a true event
    false alarm  an alarm that hits nothing (further alarms in an event that is already hit count as neither)
    rate         false alarms per hour of scored video
    delay        start of the first hit minus onset, seconds, over the detected events; negative inside the tolerance

Scores are stamped at emission time (see timeline.py) unless content time is requested, so waiting for a window's end is
part of the delay. The best threshold for a rate is found on the same videos: it shows what the scores allow, not what a
camera will give; a deployed threshold comes from held-out normal footage.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from stream_detector.alarms.replay import hysteresis_starts
from stream_detector.config import AlarmConfig
from trainer.data.timeline import Float64, Stamping, Timeline, pieces_of
from trainer.evaluation.metrics import Figure, with_intervals

ALARM = AlarmConfig(min_length_s=0.0, cooldown_s=0.0)  # alarms without a cooldown, which could hide a second one
MAX_THRESHOLDS = 400


@dataclass(frozen=True)
class EventTable:
    """The outcome per threshold and video. thresholds: (K,).  false, hits: (K, V).  delays: K lists of (video,
    seconds).

    events: (V,) true events.  hours: (V,) scored.
    """

    thresholds: Float64
    false: Float64
    hits: Float64
    delays: tuple[tuple[tuple[int, float], ...], ...]
    events: Float64
    hours: Float64


def alarms(onsets_s: Float64, scores: Float64, threshold: float) -> list[float]:
    """Return the times at which an alarm starts, seconds. onsets_s, scores: (P,), pieces of one video in order."""
    return [float(onsets_s[n]) for n in hysteresis_starts(scores, scores, onsets_s, onsets_s, threshold, ALARM)]


def judge(
    starts: Sequence[float], events: Sequence[tuple[float, float]], tolerance_s: float
) -> tuple[int, list[float]]:
    """Return the false alarms, and the delay of each detected event. events: (onset, end) in seconds."""
    false, first = 0, dict[int, float]()
    for start in starts:
        hit = [i for i, (a, b) in enumerate(events) if a - tolerance_s <= start <= b + tolerance_s]
        if not hit:
            false += 1
        for i in hit:
            first.setdefault(i, start - events[i][0])
    return false, list(first.values())


def event_table(
    timelines: Sequence[Timeline], stamping: Stamping = "emission", delay_s: float = 0.0, tolerance_s: float = 1.0
) -> EventTable:
    """Judge every video at every relevant threshold (all distinct scores, thinned to MAX_THRESHOLDS)."""
    levels = np.unique(np.concatenate([t.scores for t in timelines]))
    if len(levels) > MAX_THRESHOLDS:  # dense where it matters: few alarms happen at high scores
        share = 1 - np.linspace(1, 0, MAX_THRESHOLDS) ** 3
        levels = np.unique(levels[np.round(share * (len(levels) - 1)).astype(int)])
    false, hits = np.zeros((len(levels), len(timelines))), np.zeros((len(levels), len(timelines)))
    delays: list[list[tuple[int, float]]] = [[] for _ in levels]
    for v, timeline in enumerate(timelines):
        pieces = pieces_of(timeline, v, stamping, delay_s)
        onsets, events = pieces.start / timeline.fps, [(a / timeline.fps, b / timeline.fps) for a, b in timeline.events]
        for k, threshold in enumerate(levels):
            if threshold > pieces.score.max():
                break
            false[k, v], found = judge(alarms(onsets, pieces.score, float(threshold)), events, tolerance_s)
            hits[k, v] = len(found)
            delays[k].extend((v, d) for d in found)
    return EventTable(
        levels,
        false,
        hits,
        tuple(tuple(d) for d in delays),
        np.array([len(t.events) for t in timelines], dtype=float),
        np.array([t.frames / t.fps / 3600 for t in timelines]),
    )


def best_threshold(table: EventTable, per_hour: float, multiplicity: Float64 | None = None) -> int:
    """Return the index of the threshold with the best recall at no more than `per_hour` false alarms; -1 if there is
    none.
    """
    weight = np.ones(len(table.hours)) if multiplicity is None else multiplicity
    rate = table.false @ weight / max(float(table.hours @ weight), 1e-12)
    allowed = np.flatnonzero(rate <= per_hour)
    if not len(allowed):
        return -1
    hits = table.hits[allowed] @ weight
    return int(allowed[np.flatnonzero(hits == hits.max())[-1]])


def event_figures(
    table: EventTable, rates: Sequence[float], bootstrap: int = 1000, seed: int = 0
) -> dict[str, dict[str, Figure | float | int]]:
    """Per rate: recall with its interval, threshold, the rate really used, median and 90 % delay of detections."""

    def recalls(multiplicity: Float64) -> dict[str, float]:
        total = float(table.events @ multiplicity)
        found = {}
        for rate in rates:
            k = best_threshold(table, rate, multiplicity)
            hits = 0.0 if k < 0 else float(table.hits[k] @ multiplicity)
            found[f"{rate:g}"] = hits / total if total else float("nan")
        return found

    figures = with_intervals(recalls, len(table.hours), bootstrap, seed)
    result: dict[str, dict[str, Figure | float | int]] = {}
    for rate in rates:
        k = best_threshold(table, rate)
        delays: NDArray[np.float64] = np.array([d for _, d in table.delays[k]] if k >= 0 else [])
        spread = [float(np.percentile(delays, q)) for q in (50, 90)] if len(delays) else [float("nan")] * 2
        result[f"{rate:g}"] = {
            "recall": figures[f"{rate:g}"],
            "threshold": float(table.thresholds[k]) if k >= 0 else 1.0,
            "false_alarms_per_hour": float(table.false[k].sum() / table.hours.sum()) if k >= 0 else 0.0,
            "detected": len(delays),
            "events": int(table.events.sum()),
            "delay_median_s": spread[0],
            "delay_p90_s": spread[1],
        }
    return result
