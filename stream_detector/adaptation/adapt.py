"""From the memory of a site and its verdicts to a candidate: head correction, threshold, smoothing, perhaps novelty.

    days for fitting ──▶ fit_logistic, with a share of the days left out in turn ──▶ scores of days not fitted
                                                                  │
                 threshold, smoothing and novelty change only if they win on those scores ──▶ fitted again ──▶ Overlay

The gate's days are never seen here (`split_days`). The correction is fitted around the threshold in service, so the
threshold stays unless another one is clearly better on days that the fit has not seen.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from stream_detector.adaptation.anchors import Anchors
from stream_detector.adaptation.logistic import LogisticConfig, fit_logistic
from stream_detector.adaptation.overlay import NoveltyTerm, Overlay, rounded
from stream_detector.adaptation.site_data import (
    FALSE,
    TRUE,
    USUAL,
    Incident,
    Rules,
    Stretch,
    incident_of,
    raised_at,
    smooth,
)
from stream_detector.errors import DataError

Float64Array = NDArray[np.float64]

FOLDS = 3
TIME_CONSTANTS_S = (0.5, 1.0, 2.0)
CONFIG = LogisticConfig(keep=0.05, decay=0.1)  # chosen on simulated sites of which no figure is published
LEVELS = 60  # thresholds that are tried
LEAST_FALSE = 3  # judged false alarms that are needed at least
NOVELTY_WEIGHTS = (0.5, 1.0)
GAIN, LEAST_GAIN = 0.1, 2  # a change must save this share of the false alarms, and at least so many
SAMPLE = 512


@dataclass(frozen=True, slots=True)
class Tally:
    """Result of a model on some stretches. hits, of: judged true alarms and misses.  false: alarms that are not.

    alarmed_s: seconds of alarm outside of true incidents.
    """

    hits: int
    of: int
    false: int
    hours: float
    alarmed_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Adapted:
    """overlay: the candidate.  service, candidate: results on the days that a fit had not used.  notes: what was
    tried.
    """

    overlay: Overlay
    service: Tally
    candidate: Tally
    notes: tuple[str, ...]


def split_days(stretches: Sequence[Stretch]) -> tuple[list[Stretch], list[Stretch]]:
    """Return (days for fitting, days for the gate): every second day of a camera belongs to the gate."""
    days = sorted({(s.camera, s.day) for s in stretches})
    mine: dict[str, list[str]] = {}
    for camera, day in days:
        mine.setdefault(camera, []).append(day)
    gate = {(camera, day) for camera, found in mine.items() for day in found[1::2]}
    return (
        [s for s in stretches if (s.camera, s.day) not in gate],
        [s for s in stretches if (s.camera, s.day) in gate],
    )


def tally(
    stretches: Sequence[Stretch],
    adjusted: Sequence[Float64Array],
    threshold: float,
    smoothed: Sequence[Float64Array],
    rules: Rules = USUAL,
) -> Tally:
    """Replay adjusted scores. Alarms without a verdict and unsure ones are not counted."""
    hits = of = false = 0
    alarmed_s = 0.0
    for stretch, raw, smooth_raw in zip(stretches, adjusted, smoothed, strict=True):
        raised = raised_at(stretch, raw, smooth_raw, threshold, rules)
        wanted = [incident for incident in stretch.incidents if incident.verdict in TRUE]
        of += len(wanted)
        hits += sum(any(incident.near(alarm.start_s) for alarm in raised) for incident in wanted)
        for alarm in raised:
            belongs = incident_of(alarm, stretch.incidents)
            if belongs is None or belongs.verdict in FALSE:
                false += 1
                alarmed_s += alarm.end_s - alarm.start_s
    return Tally(hits, of, false, sum(s.hours for s in stretches), alarmed_s)


def tally_model(stretches: Sequence[Stretch], model: Overlay, rules: Rules = USUAL) -> Tally:
    """`tally` of a model."""
    adjusted = [model.adjust(s.features, s.raw) for s in stretches]
    smoothed = [smooth(s, raw, model.time_constant_s) for s, raw in zip(stretches, adjusted, strict=True)]
    return tally(stretches, adjusted, model.threshold, smoothed, rules)


def adapt(
    stretches: Sequence[Stretch], service: Overlay, anchors: Anchors, *, camera: str = "", rules: Rules = USUAL
) -> Adapted:
    """Return a candidate from days for fitting (`split_days`). service: the model in service; the fit starts from the
    bundle.

    camera: of the overlay, "" for the site.  Raises DataError if there is too little to learn from.
    """
    judged = [incident for s in stretches for incident in s.incidents if incident.verdict in FALSE]
    if len(judged) < LEAST_FALSE:
        raise DataError(
            f"{len(judged)} alarms on the days for fitting were judged false or benign, at least {LEAST_FALSE} are "
            "needed; judge more alarms, then adapt"
        )
    before = tally_model(stretches, service, rules)
    folds = _folds(stretches)
    scores = _out_of_fold(stretches, folds, anchors, service.threshold)
    tried = [Candidate(_at(stretches, scores, service.threshold, service.time_constant_s, rules))]
    chosen = tried[0]
    for weight in (0.0, *NOVELTY_WEIGHTS):
        with_novelty = _with_novelty(stretches, scores, folds, weight) if weight else scores
        candidate = Candidate(_choose(stretches, with_novelty, tried[0].choice, rules), weight)
        tried.append(candidate)
        if candidate.beats(chosen):
            chosen = candidate
    correction = fit_logistic(stretches, anchors, service.threshold, CONFIG)
    novelty = _novelty(stretches, chosen.novelty) if chosen.novelty else None
    facts = {"fitted_on": {"hours": round(before.hours, 3), "true": before.of, "false": len(judged)}}
    threshold, time_constant_s = chosen.choice.threshold, chosen.choice.time_constant_s
    overlay = Overlay(service.bundle, camera, threshold, time_constant_s, correction, novelty, facts)
    return Adapted(overlay, before, chosen.choice.tally, tuple(candidate.text() for candidate in tried))


@dataclass(frozen=True, slots=True)
class Choice:
    """A threshold and a smoothing for given scores, and their result on days that were not fitted."""

    threshold: float
    time_constant_s: float
    tally: Tally


@dataclass(frozen=True, slots=True)
class Candidate:
    """What was tried on days that were not fitted. novelty: weight of the novelty term; 0: without one."""

    choice: Choice
    novelty: float = 0.0

    def beats(self, other: Candidate) -> bool:
        """Return whether this one finds as much with clearly fewer false alarms."""
        mine, others = self.choice.tally, other.choice.tally
        saved = others.false - mine.false
        return mine.hits >= others.hits and saved >= LEAST_GAIN and saved >= GAIN * others.false

    def text(self) -> str:
        """Return one line for people."""
        tally, choice = self.choice.tally, self.choice
        with_novelty = f", novelty {self.novelty:g}" if self.novelty else ""
        return (
            f"threshold {choice.threshold:.3f}, smoothing {choice.time_constant_s:g} s{with_novelty}: "
            f"{tally.false} false, {tally.hits} of {tally.of} found"
        )


def _at(
    stretches: Sequence[Stretch], scores: Sequence[Float64Array], threshold: float, time_constant_s: float, rules: Rules
) -> Choice:
    smoothed = [smooth(s, raw, time_constant_s) for s, raw in zip(stretches, scores, strict=True)]
    return Choice(threshold, time_constant_s, tally(stretches, scores, threshold, smoothed, rules))


def _choose(stretches: Sequence[Stretch], scores: Sequence[Float64Array], now: Choice, rules: Rules) -> Choice:
    """Return the threshold and smoothing with the fewest false alarms that find what `now` finds; `now` if none does.

    Of equal ones it is the threshold nearest to that of `now`, because unseen days resemble these less.
    """
    best: tuple[tuple[float, ...], Choice] | None = None
    for tau in dict.fromkeys((now.time_constant_s, *TIME_CONSTANTS_S)):
        smoothed = [smooth(s, raw, tau) for s, raw in zip(stretches, scores, strict=True)]
        for threshold in _levels(smoothed, now.threshold):
            found = tally(stretches, scores, threshold, smoothed, rules)
            if found.hits < now.tally.hits:
                continue
            key = (found.false, -found.hits, abs(tau - now.time_constant_s), abs(threshold - now.threshold))
            if best is None or key < best[0]:
                best = key, Choice(threshold, tau, found)
    return best[1] if best else now


def _levels(smoothed: Sequence[Float64Array], now: float) -> list[float]:
    """Return the thresholds to try: around the one in service, and where scores are."""
    pooled = np.concatenate([s for s in smoothed]) if smoothed else np.array([0.5])
    high = np.quantile(pooled, 1.0 - np.geomspace(0.2, 1e-4, LEVELS // 2))
    even = np.linspace(0.05, 0.95, LEVELS // 2)
    return sorted({round(float(level), 4) for level in [*high, *even, now] if 0.02 <= level <= 0.99})


def _folds(stretches: Sequence[Stretch]) -> list[int]:
    """The fold of every stretch, by day; stretches of the only day are spread."""
    days = sorted({s.day for s in stretches})
    if len(days) >= FOLDS:
        place = {day: number % FOLDS for number, day in enumerate(days)}
        return [place[s.day] for s in stretches]
    return [number % FOLDS for number in range(len(stretches))]


def _out_of_fold(
    stretches: Sequence[Stretch], folds: Sequence[int], anchors: Anchors, threshold: float
) -> list[Float64Array]:
    """Return scores of every stretch by a correction that was fitted without its fold."""
    scores: list[Float64Array] = [s.raw for s in stretches]
    for fold in sorted(set(folds)):
        rest = [s for s, mine in zip(stretches, folds, strict=True) if mine != fold]
        if not rest:
            continue
        try:
            correction = fit_logistic(rest, anchors, threshold, CONFIG)
        except DataError:
            continue
        for number, (stretch, mine) in enumerate(zip(stretches, folds, strict=True)):
            if mine == fold:
                model = Overlay("", "", 0.5, 1.0, correction)
                scores[number] = model.adjust(stretch.features, stretch.raw)
    return scores


def _novelty(stretches: Sequence[Stretch], weight: float) -> NoveltyTerm | None:
    """The distance to a spread-out sample of the calm of these stretches."""
    calm = [s.features[s.calm()] for s in stretches]
    rows = np.concatenate(calm) if calm else np.empty((0, 1), np.float32)
    if len(rows) < 64:
        return None
    chosen = np.random.default_rng(0).permutation(len(rows))
    sample = rounded(rows[chosen[:SAMPLE]])
    scale = (rows.std(axis=0) + 1e-3).astype(np.float32)
    term = NoveltyTerm(sample, scale, 0.0, 1.0, 1.0)
    others = rows[chosen[SAMPLE : 3 * SAMPLE]]
    distances = term.distance(others if len(others) else rows)
    return replace(term, usual=float(distances.mean()), spread=float(max(distances.std(), 1e-6)), weight=weight)


def _with_novelty(
    stretches: Sequence[Stretch], scores: Sequence[Float64Array], folds: Sequence[int], weight: float
) -> list[Float64Array]:
    """Scores with the novelty term of the other folds."""
    result = list(scores)
    for fold in sorted(set(folds)):
        term = _novelty([s for s, mine in zip(stretches, folds, strict=True) if mine != fold], weight)
        if term is None:
            continue
        model = Overlay("", "", 0.5, 1.0, None, term)
        for number, (stretch, mine) in enumerate(zip(stretches, folds, strict=True)):
            if mine == fold:
                result[number] = model.adjust(stretch.features, scores[number])
    return result


def seed_of(text: str) -> int:
    """Return a number computed from a text, equal in every process."""
    return zlib.crc32(text.encode())


def judged_incidents(stretches: Sequence[Stretch]) -> list[Incident]:
    """Return all alarms with the verdict true, false or benign, and misses."""
    return [i for s in stretches for i in s.incidents if i.verdict in (*TRUE, *FALSE)]
