"""`python -m trainer evaluate --standard`: the figures of a frozen network by the protocol, from clips to one record.

    pieces ──backgrounds──▶ groups ──▶ folds ──┬─ nested ─────────────▶ AUC by source, kind, fold kept for good
    pieces ──network──▶ features ──────────────┼─ a source left out ──▶ AUC of each source, spread
    quiet hours ──network──▶ features ─────────┴─ composite streams ──▶ recall, false alarms an hour, delay

A bundle cannot be judged in nested folds, because its backbone and head were trained on labels. It is judged, without
training, on the sets that --unseen names.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from stream_detector.errors import DataError
from stream_detector.types import Float32Array, UInt8Array
from trainer.evaluation import figures, groups, novelty_limits, novelty_worth, pixels, streams
from trainer.evaluation.figures import Bools, Floats, Judged
from trainer.evaluation.folds import FOLDS, KEPT, fold_of, group_counts
from trainer.evaluation.logistic import DECAYS, WEIGHTS, Logistic
from trainer.evaluation.nested import Fold, Labels, gathered, highest, nested
from trainer.evaluation.pieces import Piece
from trainer.evaluation.streams import BUDGETS, Outcome, ScoredClip

SEEDS = (0, 1, 2)


@dataclass(frozen=True, slots=True)
class Quiet:
    """One recording in which nothing happens. features: float32 (n, D), a row per window."""

    name: str
    features: Float32Array
    fps: float


@dataclass(frozen=True, slots=True)
class StreamPlan:
    """The number of streams of `seconds` per fold and seed; each has `incidents` abnormal clips and as many normal
    clips.
    """

    streams: int = 4
    seconds: float = 600.0
    incidents: int = 5


def labelled(pieces: Sequence[Piece], backgrounds: UInt8Array, count: int = FOLDS) -> Labels:
    """Return groups by the rule of `groups`, and folds. backgrounds: uint8 (n, rows, columns, 3), one per piece."""
    paths, sources = [p.path for p in pieces], [p.source for p in pieces]
    blocks = groups.groups_of(paths, sources)
    joined = groups.same_recording(blocks, groups.alike(backgrounds, groups.SAME_RECORDING))
    names = groups.groups_of(paths, sources, joined)
    abnormal = np.array([p.abnormal for p in pieces])
    sets = tuple(p.set for p in pieces)
    folds = fold_of(names, sets, [bool(a) for a in abnormal], count)
    pairs = tuple(pair for pair in groups.alike(backgrounds) if names[pair[0]] != names[pair[1]])
    return Labels(abnormal, sets, tuple(names), folds, pairs)


def judged_of(pieces: Sequence[Piece], labels: Labels, scores: Floats) -> Judged:
    """Join clip scores with what is known of the clips."""
    return Judged(scores, labels.abnormal, labels.groups, labels.sets, tuple(p.kind for p in pieces))


def evaluate_network(
    pieces: Sequence[Piece],
    labels: Labels,
    learner: Logistic,
    quiet: Sequence[Quiet] | Callable[[], Sequence[Quiet]] = (),
    plan: StreamPlan | None = None,
    folds: Sequence[Fold] | None = None,
) -> dict[str, Any]:
    """Return all figures of a network that was trained on no label of these clips, with a regression on its features.

    learner: with the features of each piece.  quiet: recordings, or a function that returns them, called last; [] skips
    the streams.  folds: the result of `nested` for the learner, if it is known.
    """
    folds = nested(labels, learner) if folds is None else folds
    scores = highest(gathered(folds, len(pieces)))
    judged = judged_of(pieces, labels, scores)
    kept, turned = judged.where(labels.folds == KEPT), judged.where(labels.folds != KEPT)
    found: dict[str, Any] = {
        "clips": len(pieces),
        "groups": group_counts(labels.groups, labels.sets, [bool(a) for a in labels.abnormal]),
        "look_alikes_across_groups": len(labels.pairs),
        "outer": figures.by_source(judged),
        "turned": figures.by_source(turned),
        "kept": figures.by_source(kept),
        "kinds": figures.by_kind(judged),
        "calibration_error": {
            "all": round(figures.calibration_error(judged.scores, judged.abnormal), 4),
            "kept": round(figures.calibration_error(kept.scores, kept.abnormal), 4),
        },
        "choices": [choice_row(fold) for fold in folds],
        "left_out": left_out(pieces, labels, learner),
    }
    hours = quiet() if callable(quiet) else quiet
    if hours:
        found["streams"] = stream_figures(pieces, labels, folds, learner, hours, plan or StreamPlan())
    return found


def choice_row(fold: Fold) -> dict[str, Any]:
    """Return what a fold chose, and the size of its training."""
    decay, by, *part = fold.choice
    return {
        "fold": fold.number,
        "l2": decay,
        "weights": by,
        **({"part": part[0]} if part else {}),
        "learned": len(fold.learned),
        "left_out_as_alike": len(fold.inner_places) - len(fold.learned),
        "judged": len(fold.places),
    }


def left_out(pieces: Sequence[Piece], labels: Labels, learner: Logistic) -> dict[str, Any]:
    """Leave each set with both labels out of all training and choices; return the figures of its clips among themselves
    ("own") and against the clips of other sets.
    """
    found: dict[str, Any] = {}
    for name in sorted(set(labels.sets)):
        mine = np.array([s == name for s in labels.sets])
        if not mine.any() or labels.abnormal[mine].all() or not labels.abnormal[mine].any():
            continue
        scores = highest(gathered(nested(labels, learner, mine), len(pieces)))
        judged = judged_of(pieces, labels, scores)
        own = judged.where(mine)
        row: dict[str, Any] = {"own": figures.auc_of(own), "against_others": figures.cross(judged, mine)}
        if len({k for k, a in zip(own.kinds, own.abnormal, strict=True) if a}) > 1:
            row["kinds"] = figures.by_kind(own)
        row["calibration_error"] = round(figures.calibration_error(own.scores, own.abnormal), 4)
        if min(learner.features[0].shape[1], len(judged.scores)) > novelty_limits.AXES:
            row["novelty"] = novelty_worth.worth(judged, labels, learner.features, mine)
        found[name] = row
    spread = {
        key: _spread([row[key]["value"] for row in found.values() if row[key]["value"] is not None])
        for key in ("own", "against_others")
    }
    return {"sources": found, "spread": spread}


def _spread(values: Sequence[float]) -> dict[str, float | None]:
    if not values:
        return {"lowest": None, "highest": None, "deviation": None}
    deviation = float(np.std(values, ddof=1)) if len(values) > 1 else 0.0
    return {"lowest": min(values), "highest": max(values), "deviation": round(deviation, 4)}


def scored_clips(pieces: Sequence[Piece], places: Sequence[int], scores: Sequence[Floats]) -> list[ScoredClip]:
    """Return the clips in the form that the streams need."""
    return [
        ScoredClip(
            pieces[p].path, s, pixels.seen_rate(pieces[p].fps), pieces[p].set, pieces[p].kind, pieces[p].abnormal
        )
        for p, s in zip(places, scores, strict=True)
    ]


def stream_figures(
    pieces: Sequence[Piece],
    labels: Labels,
    folds: Sequence[Fold],
    learner: Logistic,
    quiet: Sequence[Quiet],
    plan: StreamPlan,
) -> dict[str, Any]:
    """Composite streams: the clips of each fold by its own model, at the threshold and smoothing that the other folds
    chose.

    The recordings rotate like folds: the threshold of a fold was not chosen on the recordings that it is judged in.
    """
    if len(quiet) < 2:
        raise DataError(f"{len(quiet)} quiet recordings were given; give at least 2, to choose on and to judge on")
    count = len(folds)
    totals: dict[float, list[Outcome]] = {budget: [] for budget in BUDGETS}
    by_seed: dict[float, dict[int, list[Outcome]]] = {b: {seed: [] for seed in SEEDS} for b in BUDGETS}
    hours: dict[float, list[Outcome]] = {budget: [] for budget in BUDGETS}
    settled: list[dict[str, Any]] = []
    for number, fold in enumerate(folds):
        of_rows = learner.rows(fold.learned, fold.choice)
        judge = [ScoredClip(q.name, fold.platt(of_rows(q.features)), q.fps) for q in quiet]
        turns = min(count, len(quiet))
        inside = [take for k, take in enumerate(judge) if k % turns == number % turns]
        outside = [take for k, take in enumerate(judge) if k % turns != number % turns]
        train = scored_clips(pieces, fold.inner_places.tolist(), fold.inner_scores)
        tests = scored_clips(pieces, fold.places.tolist(), fold.scores)
        material = [
            track
            for seed in SEEDS
            for track in streams.draw(
                outside,
                train,
                plan.streams * (count - 1),
                plan.seconds,
                plan.incidents,
                np.random.default_rng([1, seed, number]),
            )
        ]
        drawn = {
            seed: streams.draw(
                inside, tests, plan.streams, plan.seconds, plan.incidents, np.random.default_rng([2, seed, number])
            )
            for seed in SEEDS
        }
        for budget in BUDGETS:
            tau, threshold = streams.choose_at_budget(material, budget)
            settled.append(
                {"fold": fold.number, "budget": budget, "time_constant_s": tau, "threshold": round(threshold, 4)}
            )
            for seed, tracks in drawn.items():
                outcome = streams.judge_all(tracks, tau, threshold)
                totals[budget].append(outcome)
                by_seed[budget][seed].append(outcome)
            hours[budget].append(streams.judge_all([streams.quiet_track(t) for t in inside], tau, threshold))
    return {
        "plan": {
            "streams_a_fold_and_seed": plan.streams,
            "seconds": plan.seconds,
            "incidents": plan.incidents,
            "seeds": list(SEEDS),
        },
        "budgets": {
            f"{budget:g}": {
                **streams.outcome_figures(_sum(totals[budget])),
                "recall_by_seed": [
                    _sum(rows).hits / max(1, len(_sum(rows).found)) for rows in by_seed[budget].values()
                ],
                "quiet": figures.rate_figure(_sum(hours[budget]).false, _sum(hours[budget]).hours),
            }
            for budget in BUDGETS
        },
        "settled": settled,
    }


def _sum(outcomes: Sequence[Outcome]) -> Outcome:
    total = Outcome((), 0, 0.0)
    for outcome in outcomes:
        total = total + outcome
    return total


def evaluate_bundle(
    pieces: Sequence[Piece], labels: Labels, raw: Sequence[Floats], unseen: Sequence[str]
) -> dict[str, Any]:
    """Judge a bundle, without training, on sets that it was not trained on. raw: (n_i,) scores of each piece's windows,
    in [0, 1].

    Raises DataError if no clip is of such a set.
    """
    chosen: Bools = np.isin(np.array(labels.sets), list(unseen))
    if not chosen.any():
        raise DataError(f"no clip is of the sets {', '.join(unseen)}; name sets that the bundle never saw")
    judged = judged_of(pieces, labels, highest(raw)).where(chosen)
    return {
        "clips": int(chosen.sum()),
        "groups": group_counts(judged.groups, judged.sets, [bool(a) for a in judged.abnormal]),
        "unseen": figures.by_source(judged),
        "kinds": figures.by_kind(judged),
        "calibration_error": {"all": round(figures.calibration_error(judged.scores, judged.abnormal), 4)},
    }


def settings_of(limits: Mapping[str, int]) -> dict[str, Any]:
    """Return the other settings that influence the figures."""
    return {
        "folds": FOLDS,
        "kept_fold": KEPT,
        "span": groups.SPAN,
        "alike": groups.ALIKE,
        "same_recording": groups.SAME_RECORDING,
        "share": groups.SHARE,
        "limits": dict(limits),
        "choices": {"l2": list(DECAYS), "weights": list(WEIGHTS), "time_constants_s": list(streams.TIME_CONSTANTS_S)},
    }
