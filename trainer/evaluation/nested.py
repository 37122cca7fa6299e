"""Nested folds: every choice is made inside the training folds, so a judged clip never influences the model that judges
it.

    fold k held out ──rest──▶ inner folds: each choice judged on clips that it did not learn ──▶ the best choice
                                └──▶ calibration and (see `streams`) smoothing and threshold, from the same inner scores
                    ──rest, best choice──▶ model k ──▶ scores of fold k

A clip whose picture agrees with a judged clip is removed from the training of the model that judges it (`purged`), also
across groups. Leave-one-source-out works in the same way, with one source removed from all training: its clips are
judged by the model of their fold.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np

from stream_detector.errors import DataError
from trainer.evaluation.figures import Bools, Floats
from trainer.evaluation.folds import Ints, require_apart
from trainer.ranking import auc

Scorer = Callable[[int], Floats]  # index of a clip → (n,) logits of its windows


class Learner(Protocol):
    """A model that can be trained. It uses the labels of the clips that it is given, and no others."""

    @property
    def choices(self) -> Sequence[Any]:
        """The possible choices: plain values that JSON can hold, the simplest first (it wins a tie)."""
        ...

    def fit(self, places: Ints, choice: Any) -> Scorer:
        """Learn from the clips at these indices."""
        ...


@dataclass(frozen=True, slots=True)
class Labels:
    """What the protocol knows of n clips. folds: (n,), from `fold_of`.  pairs: indices of clips that look alike."""

    abnormal: Bools
    sets: tuple[str, ...]
    groups: tuple[str, ...]
    folds: Ints
    pairs: tuple[tuple[int, int], ...] = ()

    def where(self, places: Sequence[int]) -> Labels:
        """Return those clips only, in this order; groups and folds stay as they are."""
        new = {place: k for k, place in enumerate(places)}
        pairs = tuple((new[a], new[b]) for a, b in self.pairs if a in new and b in new)
        chosen = list(places)
        return Labels(
            self.abnormal[chosen],
            tuple(self.sets[p] for p in chosen),
            tuple(self.groups[p] for p in chosen),
            self.folds[chosen],
            pairs,
        )

    def purged(self, learned: Ints, judged: Ints) -> Ints:
        """Return the learned clips without those that look like a judged clip."""
        known, out = set(judged.tolist()), set()
        for one, other in self.pairs:
            if one in known:
                out.add(other)
            if other in known:
                out.add(one)
        result: Ints = np.array([p for p in learned.tolist() if p not in out], dtype=np.int64)
        return result


@dataclass(frozen=True, slots=True)
class Platt:
    """slope, bias: probability = sigmoid(slope × logit + bias)."""

    slope: float
    bias: float

    def __call__(self, logits: Floats) -> Floats:
        """(n,) logits → (n,) probabilities."""
        result: Floats = 1.0 / (1.0 + np.exp(-np.clip(self.slope * logits + self.bias, -50, 50)))
        return result


@dataclass(frozen=True, slots=True)
class Fold:
    """The result of one outer fold. places: indices of the judged clips.  scores: one array of windows per judged clip,
    in [0, 1].

    inner_places, inner_scores: of the training clips, each judged by an inner model that did not learn it. scorer:
    model k, and `platt` its calibration, for footage outside the folds, such as quiet hours. learned: indices of the
    clips that model k learned from.
    """

    number: int
    choice: Any
    places: Ints
    scores: tuple[Floats, ...]
    inner_places: Ints
    inner_scores: tuple[Floats, ...]
    platt: Platt
    scorer: Scorer
    learned: Ints
    tried: tuple[tuple[Any, float], ...] = field(default=())


def highest(windows: Sequence[Floats]) -> Floats:
    """(n,) score of each clip: the highest of its windows."""
    return np.array([float(w.max()) for w in windows])


def mean_auc(scores: Floats, abnormal: Bools, sets: Sequence[str]) -> float:
    """The criterion of a choice: the mean of the AUC of each set that has both labels, and of all clips together."""
    names = np.array(sets)
    found = []
    for name in [*sorted(set(sets)), None]:
        mine = np.ones(len(scores), dtype=bool) if name is None else names == name
        if abnormal[mine].any() and not abnormal[mine].all():
            found.append(auc(scores[mine & abnormal], scores[mine & ~abnormal]))
    return float(np.mean(found)) if found else float("nan")


def fit_platt(logits: Floats, abnormal: Bools, steps: int = 100) -> Platt:
    """Platt's calibration (1999) of clip logits, with equal weights of the labels; the slope stays positive.

    Newton's method with Platt's softened targets, which keep separable data from an infinite slope. Raises DataError
    unless both labels are present.
    """
    positive, negative = int(abnormal.sum()), int((~abnormal).sum())
    if not positive or not negative:
        raise DataError("calibration needs normal and abnormal clips; the clips given have one label only")
    target = np.where(abnormal, (positive + 1) / (positive + 2), 1 / (negative + 2))
    weight = np.where(abnormal, 0.5 / positive, 0.5 / negative)
    spread = float(logits.std()) or 1.0
    x = np.stack([(logits - logits.mean()) / spread, np.ones_like(logits)], axis=1)
    w = np.array([1.0, 0.0])
    for _ in range(steps):
        p = 1.0 / (1.0 + np.exp(-np.clip(x @ w, -50, 50)))
        slope = x.T @ (weight * (p - target)) + 1e-6 * w
        curve = (x * (weight * p * (1 - p))[:, None]).T @ x + 1e-6 * np.eye(2)
        step = np.linalg.solve(curve, slope)
        w = w - step * min(1.0, 2.0 / float(np.abs(step).max() + 1e-12))
        if np.abs(step).max() < 1e-9:
            break
    slope_of = max(float(w[0]), 1e-3) / spread
    return Platt(slope_of, float(w[1]) - slope_of * float(logits.mean()))


def nested(labels: Labels, learner: Learner, left_out: Bools | None = None) -> list[Fold]:
    """Judge every fold by a model that learned neither from it nor from the sources in `left_out`.

    left_out: (n,) clips that are used neither for training nor for choices; None for none. All clips are judged, also
    those left out. Raises LeakError if a group has clips on both sides, DataError if a training side has one label
    only.
    """
    everyone = np.arange(len(labels.abnormal))
    usable = np.ones(len(everyone), dtype=bool) if left_out is None else ~left_out
    if left_out is not None:  # clips that share a group with a left-out clip are not used for training either
        theirs = {labels.groups[p] for p in np.flatnonzero(left_out).tolist()}
        usable &= np.array([group not in theirs for group in labels.groups])
    numbers = sorted(set(labels.folds.tolist()))
    inner: dict[tuple[int, int], dict[int, list[Floats]]] = {}

    def judge_inside(first: int, second: int) -> dict[int, list[Floats]]:
        """Return {index: logits by choice} of the usable clips of both folds, by models that learned from neither
        fold.
        """
        key = (min(first, second), max(first, second))
        if key not in inner:
            judged = everyone[np.isin(labels.folds, key) & usable]
            away = everyone[np.isin(labels.folds, key) | ~usable] if left_out is not None else judged
            learned = _apart(labels, everyone[~np.isin(labels.folds, key) & usable], away)
            found: dict[int, list[Floats]] = {int(p): [] for p in judged}
            for choice in learner.choices:
                scorer = learner.fit(learned, choice)
                for place in judged.tolist():
                    found[place].append(scorer(place))
            inner[key] = found
        return inner[key]

    folds = []
    for number in numbers:
        rest = everyone[(labels.folds != number) & usable]
        judged = everyone[labels.folds == number]
        logits = {int(p): judge_inside(number, int(labels.folds[p]))[int(p)] for p in rest}
        own, sets = labels.abnormal[rest], [labels.sets[p] for p in rest]
        tried = []
        for k, choice in enumerate(learner.choices):
            tried.append((choice, mean_auc(highest([logits[int(p)][k] for p in rest]), own, sets)))
        best = int(np.argmax([value for _, value in tried]))
        platt = fit_platt(highest([logits[int(p)][best] for p in rest]), own)
        away = judged if left_out is None else everyone[(labels.folds == number) | ~usable]
        learned = _apart(labels, rest, away)
        scorer = learner.fit(learned, learner.choices[best])
        folds.append(
            Fold(
                number,
                learner.choices[best],
                judged,
                tuple(platt(scorer(int(p))) for p in judged),
                rest,
                tuple(platt(logits[int(p)][best]) for p in rest),
                platt,
                scorer,
                learned,
                tuple((choice, round(value, 4)) for choice, value in tried),
            )
        )
    return folds


def _apart(labels: Labels, learned: Ints, judged: Ints) -> Ints:
    require_apart(labels.groups, learned.tolist(), judged.tolist())
    kept = labels.purged(learned, judged)
    if len(set(labels.abnormal[kept].tolist())) < 2:
        raise DataError("a training side has one label only; give more groups or fewer folds")
    return kept


def gathered(folds: Sequence[Fold], count: int) -> list[Floats]:
    """Return the outer scores of all clips in their order, one array of windows per clip. Raises DataError if one is
    missing.
    """
    result: list[Floats | None] = [None] * count
    for fold in folds:
        for place, scores in zip(fold.places.tolist(), fold.scores, strict=True):
            result[place] = scores
    if any(scores is None for scores in result):
        raise DataError("some clips are in no fold; every clip needs one")
    return [scores for scores in result if scores is not None]
