"""Composite streams of scores: clips at known times in quiet hours, the alarms that they raise, and their figures.

    quiet windows ──cut── clip ──cut── quiet …  ──▶ Track ──smoothing──▶ alarms ──▶ recall, false alarms an hour, delay

A new window begins where a clip is cut in, as in the detector after a scene cut. The smoothing continues, as if the
same camera had recorded the incident. A window counts from its last frame. An incident is found if an alarm starts
between its onset and its end plus `GRACE_S`; every other alarm is false, also in normal clips that are cut in.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from stream_detector.alarms.replay import hysteresis_starts, smooth_scores
from stream_detector.config import AlarmConfig, SmoothingConfig
from stream_detector.types import WINDOW_FRAMES
from trainer.evaluation.figures import Floats, rate_figure, share_figure

GAP_S = 20.0  # smallest distance between two clips that are cut in
GRACE_S = 2.0
ALARM = AlarmConfig()  # the default settings of a run
TIME_CONSTANTS_S = (0.5, 1.0, 2.0)
BUDGETS = (0.1, 0.5, 1.0)  # false alarms per hour of one camera
LEVELS = 150  # thresholds that are tried
OUT_OF_REACH = 1.01  # a threshold that no score reaches


@dataclass(frozen=True, slots=True)
class ScoredClip:
    """Scores of one piece of footage. name: of the file.  raw: (n,), one per window.  fps: its frame rate."""

    name: str
    raw: Floats
    fps: float
    set: str = ""
    kind: str = ""
    abnormal: bool = False

    @property
    def window_s(self) -> float:
        """Length of a window, seconds; windows follow each other without overlap."""
        return WINDOW_FRAMES / self.fps


@dataclass(frozen=True, slots=True)
class Incident:
    """start_s, end_s: media time.  set, kind: of its clip."""

    start_s: float
    end_s: float
    set: str
    kind: str


@dataclass(frozen=True, slots=True)
class Track:
    """One stream. raw, ends_s: (n,) score and end of each window, media time in seconds.  length_s: of the stream."""

    raw: Floats
    ends_s: Floats
    starts_s: Floats
    length_s: float
    incidents: tuple[Incident, ...] = ()

    def smoothed(self, time_constant_s: float) -> Floats:
        """Return (n,) scores, smoothed as in the detector."""
        return smooth_scores(self.raw, self.starts_s, self.ends_s, SmoothingConfig(time_constant_s=time_constant_s))


def quiet_track(take: ScoredClip) -> Track:
    """Return a recording in which nothing happens as a stream."""
    ends: Floats = (np.arange(len(take.raw), dtype=np.float64) + 1) * take.window_s
    starts: Floats = ends - take.window_s
    return Track(take.raw, ends, starts, float(len(take.raw) * take.window_s))


def compose(quiet: ScoredClip, clips: Sequence[ScoredClip], seconds: float, rng: np.random.Generator) -> Track:
    """Return `seconds` of a quiet recording, from a random position, with clips cut in at random times `GAP_S` apart.

    The recording starts again where it ends. Raises ValueError if the clips do not fit.
    """
    order = [clips[int(k)] for k in rng.permutation(len(clips))]
    lengths = [len(c.raw) * c.window_s for c in order]
    free = seconds - sum(lengths) - GAP_S * (len(order) + 1)
    if free < 0:
        raise ValueError(f"{seconds:g} s are too short for {len(order)} clips {GAP_S:g} s apart; give longer streams")
    waits = GAP_S + np.diff(np.sort(np.concatenate([[0.0], rng.uniform(0, free, len(order)), [free]])))
    raw: list[float] = []
    starts: list[float] = []
    ends: list[float] = []
    incidents: list[Incident] = []
    at, place = 0.0, int(rng.integers(len(quiet.raw)))
    for number in range(len(order) + 1):
        for _ in range(int(waits[number] / quiet.window_s)):  # a window that a cut ends early is not scored
            raw.append(float(quiet.raw[place % len(quiet.raw)]))
            starts.append(at)
            at += quiet.window_s
            ends.append(at)
            place += 1
        at += waits[number] % quiet.window_s
        if number < len(order):
            clip, begin = order[number], at
            for score in clip.raw.tolist():
                raw.append(float(score))
                starts.append(at)
                at += clip.window_s
                ends.append(at)
            if clip.abnormal:
                incidents.append(Incident(begin, at, clip.set, clip.kind))
    return Track(np.array(raw), np.array(ends), np.array(starts), at, tuple(incidents))


def draw(
    quiet: Sequence[ScoredClip],
    clips: Sequence[ScoredClip],
    streams: int,
    seconds: float,
    incidents: int,
    rng: np.random.Generator,
) -> list[Track]:
    """Return composite streams, each with `incidents` abnormal clips and as many normal clips; every set is equally
    likely.

    The result is empty without quiet recordings, or if a label is missing.
    """
    cells: dict[bool, dict[str, list[ScoredClip]]] = {True: {}, False: {}}
    for clip in clips:
        cells[clip.abnormal].setdefault(clip.set, []).append(clip)
    if not quiet or not cells[True] or not cells[False]:
        return []
    tracks = []
    for number in range(streams):
        chosen: list[ScoredClip] = []
        for label in (True, False):
            names = sorted(cells[label])
            for _ in range(incidents):
                of_set = cells[label][names[int(rng.integers(len(names)))]]
                chosen.append(of_set[int(rng.integers(len(of_set)))])
        long = sum(len(c.raw) * c.window_s for c in chosen) + GAP_S * (len(chosen) + 1)
        tracks.append(compose(quiet[number % len(quiet)], chosen, max(seconds, long + 60.0), rng))
    return tracks


@dataclass(frozen=True, slots=True)
class Outcome:
    """Result of some tracks at one threshold. found: (incident, delay in seconds or None where missed).  false:
    alarms.
    """

    found: tuple[tuple[Incident, float | None], ...]
    false: int
    hours: float

    @property
    def hits(self) -> int:
        """Incidents that were found."""
        return sum(delay is not None for _, delay in self.found)

    def __add__(self, other: Outcome) -> Outcome:
        return Outcome(self.found + other.found, self.false + other.false, self.hours + other.hours)


def alarm_starts(track: Track, smoothed: Floats, threshold: float) -> list[float]:
    """Return the starts of alarms: the ends of the windows that raise them, media time in seconds."""
    starts = hysteresis_starts(track.raw, smoothed, track.starts_s, track.ends_s, threshold, ALARM)
    return [float(track.ends_s[number]) for number in starts]


def judge(track: Track, smoothed: Floats, threshold: float) -> Outcome:
    """Judge the alarms of one track; the delay is from the onset to the end of the window that raises the alarm."""
    left = alarm_starts(track, smoothed, threshold)
    found: list[tuple[Incident, float | None]] = []
    for incident in track.incidents:
        hits = [at for at in left if incident.start_s <= at <= incident.end_s + GRACE_S]
        left = [at for at in left if at not in hits]
        found.append((incident, hits[0] - incident.start_s if hits else None))
    return Outcome(tuple(found), len(left), track.length_s / 3600)


def judge_all(tracks: Sequence[Track], time_constant_s: float, threshold: float) -> Outcome:
    """Judge all tracks together."""
    total = Outcome((), 0, 0.0)
    for track in tracks:
        total = total + judge(track, track.smoothed(time_constant_s), threshold)
    return total


def best_threshold(
    tracks: Sequence[Track], time_constant_s: float, budget: float, levels: int = LEVELS
) -> tuple[float, int]:
    """Return (threshold, incidents found): the most incidents among the thresholds with at most `budget` false alarms
    per hour on these tracks.

    Of equal thresholds, the highest. `OUT_OF_REACH` and 0 if every threshold exceeds the budget: then no alarm is
    raised. levels: number of thresholds, spread over the distinct smoothed scores; the highest scores are always
    included.
    """
    smoothed = [track.smoothed(time_constant_s) for track in tracks]
    distinct = np.unique(np.concatenate(smoothed)) if smoothed else np.array([])
    if len(distinct) > levels:
        share = 1 - np.linspace(1, 0, levels) ** 3  # dense at the top: few alarms happen at high scores
        distinct = distinct[np.unique(np.round(share * (len(distinct) - 1)).astype(int))]
    peaks = [float(values.max()) for values in smoothed]
    hours = sum(track.length_s for track in tracks) / 3600
    best = (OUT_OF_REACH, 0)
    for threshold in distinct[::-1].tolist():
        hits = false = 0
        for track, values, peak in zip(tracks, smoothed, peaks, strict=True):
            if peak >= threshold:
                outcome = judge(track, values, threshold)
                hits += outcome.hits
                false += outcome.false
        if hours > 0 and false / hours <= budget and hits > best[1]:
            best = (threshold, hits)
    return best


def choose_at_budget(tracks: Sequence[Track], budget: float) -> tuple[float, float]:
    """Return (time constant, threshold) that find most incidents within a budget; of equals the longest smoothing."""
    tried = [(*best_threshold(tracks, tau, budget), tau) for tau in TIME_CONSTANTS_S]
    most = max(hits for _, hits, _ in tried)
    threshold, _, tau = [entry for entry in tried if entry[1] == most][-1]
    return tau, threshold


def outcome_figures(outcome: Outcome) -> dict[str, Any]:
    """Recall with Wilson's interval, also by set and kind; false alarms with Poisson bounds; delay median and p90."""
    delays = [delay for _, delay in outcome.found if delay is not None]

    def part(name: str) -> dict[str, Any]:
        values: dict[str, list[bool]] = {}
        for incident, delay in outcome.found:
            values.setdefault(getattr(incident, name), []).append(delay is not None)
        return {key: share_figure(sum(hits), len(hits)) for key, hits in sorted(values.items())}

    return {
        "recall": share_figure(outcome.hits, len(outcome.found)),
        "by_set": part("set"),
        "by_kind": part("kind"),
        "false_alarms": rate_figure(outcome.false, outcome.hours),
        "delay_s": {
            "median": round(float(np.median(delays)), 2) if delays else None,
            "p90": round(float(np.percentile(delays, 90)), 2) if delays else None,
        },
    }
