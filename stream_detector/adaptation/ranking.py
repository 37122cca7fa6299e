"""The area under the ROC curve for scores with weights: of a bundle's anchors and the trainer's frames and clips."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Float64 = NDArray[np.float64]
Ints = NDArray[np.int64]


def rank(score: Float64) -> Ints:
    """Rank of each score among the distinct ones, 0 for the highest."""
    found: Ints = np.unique(-score, return_inverse=True)[1].astype(np.int64)
    return found


def by_threshold(ranks: Ints, positive: Float64, negative: Float64) -> tuple[Float64, Float64]:
    """Weights of positives and negatives per distinct score, highest score first."""
    return np.bincount(ranks, positive).astype(np.float64), np.bincount(ranks, negative).astype(np.float64)


def roc_auc(score: Float64, positive: Float64, negative: Float64) -> float:
    """P(positive frame scores above negative one), ties half. Weights (P,); NaN when a class is empty."""
    return ranked_auc(rank(score), positive, negative)


def ranked_auc(ranks: Ints, positive: Float64, negative: Float64) -> float:
    """`roc_auc` from ranks: sorting once serves a whole bootstrap."""
    pos, neg = by_threshold(ranks, positive, negative)
    total = pos.sum() * neg.sum()
    if total == 0:
        return float("nan")
    above = np.cumsum(pos) - pos  # positives strictly above each level
    return float(np.sum(neg * (above + pos / 2)) / total)
