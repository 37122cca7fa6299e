"""Figures of clips with intervals: AUC, calibration error, shares, rates.

An interval that is drawn over the clips of one recording is too narrow. With at least `FEW` groups of each label the
bootstrap draws whole groups. With fewer groups it draws clips; the figure then names the number of groups, and its
interval has no stated coverage.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stream_detector.alarms.calibration import poisson_lower, poisson_upper
from trainer.ranking import auc

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]
FEW = 10  # groups of a label; with fewer, the interval has no stated coverage
ROUNDS = 1000
BINS = 10


@dataclass(frozen=True, slots=True)
class Judged:
    """n judged clips. scores: (n,) in [0, 1].  abnormal: (n,).  groups, kinds: one per clip."""

    scores: Floats
    abnormal: Bools
    groups: tuple[str, ...]
    sets: tuple[str, ...]
    kinds: tuple[str, ...]

    def where(self, chosen: Bools) -> Judged:
        """Return the chosen clips only."""
        places = np.flatnonzero(chosen).tolist()

        def some(values: Sequence[str]) -> tuple[str, ...]:
            return tuple(values[p] for p in places)

        return Judged(self.scores[chosen], self.abnormal[chosen], some(self.groups), some(self.sets), some(self.kinds))


def auc_figure(
    positive: Floats,
    negative: Floats,
    positive_groups: Sequence[str],
    negative_groups: Sequence[str],
    rounds: int = ROUNDS,
    seed: int = 0,
) -> dict[str, Any]:
    """AUC with a 95 % percentile interval, the unit of the bootstrap, and the numbers of clips and groups.

    {"value", "low", "high", "over": "groups" or "clips", "abnormal", "normal", "abnormal_groups", "normal_groups"};
    value, low and high are None where a label is missing.
    """
    counts = {
        "abnormal": len(positive),
        "normal": len(negative),
        "abnormal_groups": len(set(positive_groups)),
        "normal_groups": len(set(negative_groups)),
    }
    if not len(positive) or not len(negative):
        return {"value": None, "low": None, "high": None, "over": "clips", **counts}
    over = "groups" if min(counts["abnormal_groups"], counts["normal_groups"]) >= FEW else "clips"
    rng = np.random.default_rng(seed)
    whole = over == "groups"
    draw_positive, draw_negative = _drawer(positive, positive_groups, whole), _drawer(negative, negative_groups, whole)
    drawn = [auc(draw_positive(rng), draw_negative(rng)) for _ in range(rounds)]
    low, high = np.percentile(drawn, [2.5, 97.5])
    value = auc(positive, negative)
    return {
        "value": round(value, 4),
        "low": round(float(low), 4),
        "high": round(float(high), 4),
        "over": over,
        **counts,
    }


def _drawer(values: Floats, groups: Sequence[str], whole: bool) -> Callable[[np.random.Generator], Floats]:
    if not whole:
        return lambda rng: rng.choice(values, len(values))
    places: dict[str, list[int]] = {}
    for place, group in enumerate(groups):
        places.setdefault(group, []).append(place)
    parts = [values[rows] for rows in places.values()]
    return lambda rng: np.concatenate([parts[k] for k in rng.integers(0, len(parts), len(parts))])


def auc_of(judged: Judged) -> dict[str, Any]:
    """`auc_figure` of all clips in `judged`."""
    names = np.array(judged.groups, dtype=object)
    a = judged.abnormal
    return auc_figure(judged.scores[a], judged.scores[~a], list(names[a]), list(names[~a]))


def by_source(judged: Judged) -> dict[str, Any]:
    """AUC of every set that has both labels, and "pooled" over all clips."""
    result = {}
    sets = np.array(judged.sets)
    for name in sorted(set(judged.sets)):
        mine = judged.where(sets == name)
        if mine.abnormal.any() and not mine.abnormal.all():
            result[name] = auc_of(mine)
    return {**result, "pooled": auc_of(judged)}


def by_kind(judged: Judged) -> dict[str, Any]:
    """Return the AUC of the abnormal clips of every kind against all normal clips."""
    kinds = np.array(judged.kinds)
    found = sorted({k for k, a in zip(judged.kinds, judged.abnormal, strict=True) if a})
    return {kind: auc_of(judged.where(~judged.abnormal | (kinds == kind))) for kind in found}


def cross(judged: Judged, mine: Bools) -> dict[str, Any]:
    """Compare the clips of one source (`mine`) with the clips of the other label of all other sources.

    "value" is the share of pairs in the right order, ties count half: abnormal clips of the source against normal clips
    of other sources, and normal clips of the source against abnormal clips of other sources.  low, high: bootstrap over
    clips.
    """
    a, s = judged.abnormal, judged.scores
    parts = [s[mine & a], s[~mine & ~a], s[~mine & a], s[mine & ~a]]

    def value(own_bad: Floats, other_good: Floats, other_bad: Floats, own_good: Floats) -> float:
        pairs = [(own_bad, other_good), (other_bad, own_good)]
        sizes = [len(p) * len(n) for p, n in pairs]
        if not sum(sizes):
            return float("nan")
        return sum(auc(p, n) * size for (p, n), size in zip(pairs, sizes, strict=True) if size) / sum(sizes)

    rng = np.random.default_rng(0)
    drawn = [value(*(rng.choice(p, len(p)) if len(p) else p for p in parts)) for _ in range(ROUNDS // 2)]
    low, high = np.percentile(drawn, [2.5, 97.5])
    bounds = {"low": round(float(low), 4), "high": round(float(high), 4)}
    return {"value": round(value(*parts), 4), **bounds, "over": "clips"}


def calibration_error(scores: Floats, abnormal: Bools, bins: int = BINS) -> float:
    """Expected calibration error: mean |mean score - share abnormal| over bins with equal numbers of clips.

    NaN without clips.  The bins have equal numbers because most scores are low; bins of equal width would put nearly
    all clips into one.
    """
    if not len(scores):
        return float("nan")
    order = np.argsort(scores, kind="stable")
    total = 0.0
    for part in np.array_split(order, min(bins, len(scores))):
        total += len(part) * abs(float(scores[part].mean()) - float(abnormal[part].mean()))
    return total / len(scores)


def rate_figure(count: int, hours: float, confidence: float = 0.95) -> dict[str, Any]:
    """Events an hour with exact two-sided Poisson bounds (Garwood 1936): {"count", "hours", "rate", "low", "high"}."""
    side = 1.0 - (1.0 - confidence) / 2
    return {
        "count": count,
        "hours": round(hours, 3),
        "rate": round(count / hours, 4) if hours > 0 else None,
        "low": round(poisson_lower(count, side) / hours, 4) if hours > 0 else None,
        "high": round(poisson_upper(count, side) / hours, 4) if hours > 0 else None,
    }


def share_figure(hits: int, of: int) -> dict[str, Any]:
    """A share with Wilson's 95 % interval: {"hits", "of", "value", "low", "high"}; None without trials."""
    if of == 0:
        return {"hits": 0, "of": 0, "value": None, "low": None, "high": None}
    z, p = 1.959964, hits / of
    middle, half = p + z * z / (2 * of), z * math.sqrt(p * (1 - p) / of + z * z / (4 * of * of))
    low, high = ((middle + sign * half) / (1 + z * z / of) for sign in (-1, 1))
    return {
        "hits": hits,
        "of": of,
        "value": round(p, 4),
        "low": round(max(0.0, low), 4),
        "high": round(min(1.0, high), 4),
    }
