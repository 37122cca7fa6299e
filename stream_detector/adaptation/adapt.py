"""From the memory of a site and its verdicts to a candidate: head correction, threshold, smoothing, novelty if useful.

    days for fitting ──pieces──▶ fit_units, with a share of the days left out in turn ──▶ scores of days not fitted
                                                                  │
                        threshold and smoothing are chosen on those scores ──▶ fitted again on all days ──▶ Overlay

The gate's days are never used here (`split_days`). Choices (weight of the anchors, threshold, smoothing, novelty or
not) are made on days that the fit did not use, so that an overfitted correction does not win.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from stream_detector.adaptation.anchors import Anchors
from stream_detector.adaptation.fit_config import FitConfig
from stream_detector.adaptation.fitting import Fitted, Piece, fit_units
from stream_detector.adaptation.overlay import Correction, NoveltyTerm, Overlay, logit, rounded
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

CHUNK_S = 20.0  # calm is fitted in pieces of this length
HARD, SPREAD = 150, 100  # numbers of calm pieces: those with the highest scores, and random others
FOLDS = 3
TIME_CONSTANTS_S = (0.5, 1.0, 2.0)
KEEPS = (15.0, 60.0)
LEVELS = 60  # thresholds that are tried
MARGIN = 1.0  # in logits, that calm should lie below the threshold and incidents above
LEAST_FALSE = 3  # judged false alarms that are needed at least
NOVELTY_WEIGHTS = (0.5, 1.0)
NOVELTY_GAIN = 0.1  # the novelty term must be better by this share, or it is left out
MISTAKES = 0.05  # share of verdicts that may be wrong
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
    folds = _folds(stretches)
    before = tally_model(stretches, service, rules)
    notes: list[str] = []
    choices: list[tuple[tuple[float, ...], FitConfig | None, Choice, float]] = []
    plain = [s.raw for s in stretches]
    found = _choose(stretches, plain, before, service, rules)
    if found is not None:
        choices.append((found.order(), None, found, 0.0))
        notes.append(f"threshold and smoothing only: {found.text()}")
    for keep in KEEPS:
        config = _config(service.threshold, keep)
        held_out = _out_of_fold(stretches, folds, anchors, config)
        for weight in (0.0, *NOVELTY_WEIGHTS):
            scores = held_out if not weight else _with_novelty(stretches, held_out, folds, weight)
            found = _choose(stretches, scores, before, service, rules)
            if found is not None:
                choices.append((found.order(weight), config, found, weight))
                notes.append(f"correction (keep {keep:g}, novelty {weight:g}): {found.text()}")
    if not choices:
        raise DataError("no candidate keeps the judged true alarms on days that it has not seen; judge more alarms")
    _, chosen_config, chosen, weight = min(choices, key=lambda entry: entry[0])
    correction = None
    if chosen_config is not None:
        correction = correction_of(_fit(stretches, anchors, chosen_config))
    novelty = _novelty(stretches, weight) if weight else None
    facts = {"fitted_on": {"hours": round(before.hours, 3), "true": before.of, "false": len(judged)}}
    overlay = Overlay(service.bundle, camera, chosen.threshold, chosen.time_constant_s, correction, novelty, facts)
    return Adapted(overlay, before, chosen.tally, tuple(notes))


@dataclass(frozen=True, slots=True)
class Choice:
    """A threshold and a smoothing for given scores, and their result on days not fitted."""

    threshold: float
    time_constant_s: float
    tally: Tally

    def order(self, novelty: float = 0.0) -> tuple[float, ...]:
        """Sort key, smaller is better: fewer false alarms, then more found; novelty must win by a margin."""
        false = self.tally.false * (1.0 + (NOVELTY_GAIN if novelty else 0.0)) + (0.5 if novelty else 0.0)
        return (false, -self.tally.hits, self.time_constant_s)

    def text(self) -> str:
        """For people."""
        return f"{self.tally.false} false, {self.tally.hits} of {self.tally.of} found, threshold {self.threshold:.3f}"


def _choose(
    stretches: Sequence[Stretch],
    scores: Sequence[Float64Array],
    before: Tally,
    service: Overlay,
    rules: Rules,
) -> Choice | None:
    """Return the threshold and smoothing with the fewest false alarms that find what the model in service finds.

    Of equal ones, the threshold nearest to the one in service, because other days differ from these. None if none finds
    as much.
    """
    best: tuple[tuple[float, ...], Choice] | None = None
    for tau in dict.fromkeys((service.time_constant_s, *TIME_CONSTANTS_S)):
        smoothed = [smooth(s, raw, tau) for s, raw in zip(stretches, scores, strict=True)]
        for threshold in _levels(smoothed, service.threshold):
            found = tally(stretches, scores, threshold, smoothed, rules)
            if found.hits < before.hits:
                continue
            key = (found.false, -found.hits, abs(tau - service.time_constant_s), abs(threshold - service.threshold))
            if best is None or key < best[0]:
                best = key, Choice(threshold, tau, found)
    return best[1] if best else None


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


def _config(threshold: float, keep: float) -> FitConfig:
    middle = float(logit(np.array([threshold]))[0])
    return FitConfig(
        keep=keep, calm=5.0, loud=5.0, calm_below=middle - MARGIN, loud_above=middle + MARGIN, calm_share=0.34
    )


def _out_of_fold(
    stretches: Sequence[Stretch], folds: Sequence[int], anchors: Anchors, config: FitConfig
) -> list[Float64Array]:
    """Return scores of every stretch by a correction that was fitted without its fold."""
    scores: list[Float64Array] = [s.raw for s in stretches]
    for fold in sorted(set(folds)):
        rest = [s for s, mine in zip(stretches, folds, strict=True) if mine != fold]
        if not rest:
            continue
        try:
            correction = correction_of(_fit(rest, anchors, config))
        except DataError:
            continue
        for number, (stretch, mine) in enumerate(zip(stretches, folds, strict=True)):
            if mine == fold:
                model = Overlay("", "", 0.5, 1.0, correction)
                scores[number] = model.adjust(stretch.features, stretch.raw)
    return scores


def _fit(stretches: Sequence[Stretch], anchors: Anchors, config: FitConfig) -> Fitted:
    return fit_units(anchors.features, anchors.weights, pieces(stretches), config)


def pieces(stretches: Sequence[Stretch]) -> list[Piece]:
    """Return the training data of the correction: judged alarms and misses, and pieces of calm."""
    found: list[Piece] = []
    calm: list[tuple[float, Piece]] = []
    for stretch in stretches:
        logits = logit(stretch.raw)
        for incident in stretch.incidents:
            inside = stretch.within(incident)
            if incident.verdict in (*TRUE, *FALSE) and inside.any():
                found.append(Piece(stretch.features[inside], logits[inside], incident.verdict in TRUE))
        calm += _calm_pieces(stretch, logits)
    calm.sort(key=lambda entry: -entry[0])
    others = calm[HARD:]
    picked = np.random.default_rng(0).permutation(len(others))[:SPREAD]
    return found + [piece for _, piece in calm[:HARD]] + [others[int(k)][1] for k in sorted(picked)]


def _calm_pieces(stretch: Stretch, logits: Float64Array) -> list[tuple[float, Piece]]:
    """(highest logit, piece) of the calm of a stretch, CHUNK_S each."""
    quiet = stretch.calm()
    chunk = ((stretch.ends_s - stretch.starts_s[0]) // CHUNK_S).astype(int) if len(stretch.raw) else np.array([], int)
    result = []
    for number in np.unique(chunk[quiet]):
        inside = quiet & (chunk == number)
        piece = Piece(stretch.features[inside], logits[inside], False, 0.3)
        result.append((float(logits[inside].max()), piece))
    return result


def correction_of(fitted: Fitted) -> Correction:
    """Fitted units as a correction of plain features, float32."""
    inward = fitted.units.inward / fitted.std
    level = fitted.units.level - inward @ fitted.mean
    arrays = [part.numpy().astype(np.float32) for part in (inward, level, fitted.units.outward)]
    return Correction(arrays[0], arrays[1], arrays[2], float(fitted.units.bias))


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
