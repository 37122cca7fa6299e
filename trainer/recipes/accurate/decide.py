"""The rule that chooses the network of the bundle. It was written before any result was known.

The second candidate is the I3D, the MC3-18 or both, chosen inside the training folds. It wins if its mean AUC, over the
sets that both candidates may be judged on and in the folds that rotate, is higher, and a 95 % bootstrap interval of the
difference (both on the same drawn clips) lies above 0. Otherwise it is a tie, and the I3D is taken: it was trained on
no label of these sets, and it has 400 classes. The kept-out fold is not used for the choice, so its figures come from
clips that no choice was made on.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from trainer.evaluation.figures import FEW, Floats, Judged
from trainer.ranking import auc


def compared(first: Mapping[str, float], second: Mapping[str, float], judged: Judged, rounds: int) -> dict[str, Any]:
    """{"first", "second", "difference", "low", "high", "sets"}: mean AUC over the sets of `judged`, and the interval.

    first, second: score of each clip, by path; `judged.kinds` holds the paths.  Whole groups are drawn where a set has
    `FEW` of each label, clips elsewhere.
    """
    paths = judged.kinds
    a, b = (np.array([scores[path] for path in paths]) for scores in (first, second))
    sets = np.array(judged.sets)
    cells = []
    for name in sorted(set(judged.sets)):
        pair = [np.flatnonzero((sets == name) & (judged.abnormal == label)) for label in (True, False)]
        if all(len(places) for places in pair):
            cells.append((name, [_units(places, judged.groups) for places in pair]))
    rng = np.random.default_rng(0)
    drawn = []
    for _ in range(rounds):
        chosen = [[np.concatenate([u[k] for k in rng.integers(0, len(u), len(u))]) for u in pair] for _, pair in cells]
        drawn.append(_mean(b, chosen) - _mean(a, chosen))
    whole = [[np.concatenate(units) for units in pair] for _, pair in cells]
    low, high = np.percentile(drawn, [2.5, 97.5])
    return {
        "first": round(_mean(a, whole), 4),
        "second": round(_mean(b, whole), 4),
        "difference": round(_mean(b, whole) - _mean(a, whole), 4),
        "low": round(float(low), 4),
        "high": round(float(high), 4),
        "sets": [name for name, _ in cells],
    }


def _units(places: np.ndarray[Any, np.dtype[np.int64]], groups: Sequence[str]) -> list[Any]:
    """Return the units of the bootstrap: whole groups where there are enough, else single clips."""
    of: dict[str, list[int]] = {}
    for place in places.tolist():
        of.setdefault(groups[place], []).append(place)
    return [np.array(rows) for rows in (of.values() if len(of) >= FEW else ([p] for p in places.tolist()))]


def _mean(scores: Floats, cells: Sequence[Sequence[Any]]) -> float:
    return float(np.mean([auc(scores[positive], scores[negative]) for positive, negative in cells]))
