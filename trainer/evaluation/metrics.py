"""Frame metrics over pieces (see timeline.py), with bootstrap intervals over the videos.

    auc            frame ROC AUC, pooled over all frames of all videos (micro; Sultani's evaluation)
    ap             frame average precision, pooled
    auc_abnormal   the same AUC over the frames of abnormal videos only: a video classifier gets 0.5 here
    auc_macro      mean of the per-video AUC over abnormal videos that have both kinds of frames
    far_at_half    share of frames of *normal* videos with a score of 0.5 or more
    brier, ece     mean squared error, and expected calibration error over 15 equal bins, weighted by frames

A frame weighs 1, so a long video weighs more. Intervals: 95 % percentiles over resampled videos (with replacement).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from stream_detector.errors import DataError
from trainer.data.timeline import Float64, Ints, Pieces
from trainer.ranking import by_threshold, rank, ranked_auc, roc_auc

BINS = 15


@dataclass(frozen=True)
class Figure:
    """One figure with its 95 % interval; NaN where the data cannot give it (no event, one class only)."""

    value: float
    low: float
    high: float

    def to_dict(self) -> dict[str, float | None]:
        """JSON has no NaN: it becomes null."""
        pairs = {"value": self.value, "low": self.low, "high": self.high}
        return {k: round(v, 6) if np.isfinite(v) else None for k, v in pairs.items()}

    def __str__(self) -> str:
        return f"{self.value:.3f} [{self.low:.3f}, {self.high:.3f}]" if np.isfinite(self.value) else "not defined"


def average_precision(score: Float64, positive: Float64, negative: Float64) -> float:
    """Sum of precision × recall step over the distinct thresholds; NaN without positives."""
    return ranked_ap(rank(score), positive, negative)


def ranked_ap(ranks: Ints, positive: Float64, negative: Float64) -> float:
    """`average_precision` from ranks."""
    pos, neg = by_threshold(ranks, positive, negative)
    if pos.sum() == 0:
        return float("nan")
    hits, all_above = np.cumsum(pos), np.cumsum(pos + neg)
    precision = np.divide(hits, all_above, out=np.zeros_like(hits), where=all_above > 0)
    return float(np.sum(precision * pos) / pos.sum())


def roc_curve(p: Pieces) -> tuple[Float64, Float64]:
    """False and true positive rate from the highest threshold to the lowest, both starting at 0. Needs both classes."""
    pos, neg = by_threshold(rank(p.score), p.positive, p.negative)
    return np.r_[0.0, np.cumsum(neg) / neg.sum()], np.r_[0.0, np.cumsum(pos) / pos.sum()]


def precision_recall(p: Pieces) -> tuple[Float64, Float64]:
    """Precision and recall from the highest threshold to the lowest. Needs positives."""
    pos, neg = by_threshold(rank(p.score), p.positive, p.negative)
    return np.cumsum(pos) / np.maximum(np.cumsum(pos + neg), 1e-12), np.cumsum(pos) / pos.sum()


def per_video_auc(p: Pieces, videos: int) -> Float64:
    """Return the ROC AUC inside each video, (videos,); NaN for videos with one kind of frames."""
    found = np.full(videos, np.nan)
    for v in range(videos):
        mine = p.video == v
        found[v] = roc_auc(p.score[mine], p.positive[mine], p.negative[mine])
    return found


def far(score: Float64, negative: Float64, threshold: float = 0.5) -> float:
    """Return the fraction of normal frames scored at or above the threshold: 1.0 if all, 0.0 if none."""
    total = negative.sum()
    return float(negative[score >= threshold].sum() / total) if total else float("nan")


def reliability(score: Float64, positive: Float64, negative: Float64) -> tuple[Float64, Float64, Float64]:
    """Return, per bin of score, the mean score, the observed share of abnormal frames, and the weight: (BINS,) each,
    NaN in empty bins.
    """
    weight = positive + negative
    bins = np.minimum((score * BINS).astype(int), BINS - 1)
    total = np.bincount(bins, weight, BINS).astype(np.float64)
    with np.errstate(invalid="ignore", divide="ignore"):
        mean = np.bincount(bins, weight * score, BINS) / total
        observed = np.bincount(bins, positive, BINS) / total
    return mean, observed, total


def calibration_error(score: Float64, positive: Float64, negative: Float64) -> float:
    """Expected calibration error: weighted mean |mean score - observed share| over the bins."""
    mean, observed, total = reliability(score, positive, negative)
    gap = np.where(total > 0, np.abs(mean - observed), 0.0)
    return float(np.nansum(gap * total) / total.sum()) if total.sum() else float("nan")


def brier(score: Float64, positive: Float64, negative: Float64) -> float:
    """Mean squared difference between score and truth over the frames."""
    total = (positive + negative).sum()
    return float((positive * (1 - score) ** 2 + negative * score**2).sum() / total) if total else float("nan")


def frame_figures(p: Pieces, labels: NDArray[np.int64], bootstrap: int = 1000, seed: int = 0) -> dict[str, Figure]:
    """All frame figures. labels: (V,) 1 abnormal, 0 normal, by the video index of the pieces. Raises DataError."""
    if set(np.unique(labels)) != {0, 1}:
        kind = "abnormal" if (labels == 1).all() else "normal"
        raise DataError(f"all {len(labels)} videos are {kind}; a figure needs abnormal and normal videos")
    if not p.is_event.any():
        raise DataError("no frame is annotated as abnormal; give annotations with at least one event")
    abnormal = labels[p.video] == 1
    macro = per_video_auc(p, len(labels))
    has_macro, ranks = np.isfinite(macro), rank(p.score)

    def at(multiplicity: Float64) -> dict[str, float]:
        weight = multiplicity[p.video]
        pos, neg = p.positive * weight, p.negative * weight
        usable = multiplicity * has_macro
        return {
            "auc": ranked_auc(ranks, pos, neg),
            "ap": ranked_ap(ranks, pos, neg),
            "auc_abnormal": ranked_auc(ranks[abnormal], pos[abnormal], neg[abnormal]),
            "auc_macro": float(np.nansum(macro * usable) / usable.sum()) if usable.sum() else float("nan"),
            "far_at_half": far(p.score[~abnormal], neg[~abnormal]),
            "brier": brier(p.score, pos, neg),
            "ece": calibration_error(p.score, pos, neg),
        }

    return with_intervals(at, len(labels), bootstrap, seed)


def with_intervals(
    at: Callable[[Float64], dict[str, float]], videos: int, bootstrap: int, seed: int
) -> dict[str, Figure]:
    """Evaluate `at(multiplicity of each video)` once for all videos and `bootstrap` times for resampled ones."""
    values = at(np.ones(videos))
    rng = np.random.default_rng(seed)
    draws = [at(np.bincount(rng.integers(0, videos, videos), minlength=videos).astype(float)) for _ in range(bootstrap)]
    figures = {}
    for name, value in values.items():
        sample = np.array([d[name] for d in draws], dtype=float)
        sample = sample[np.isfinite(sample)]
        low, high = np.percentile(sample, [2.5, 97.5]) if len(sample) else (float("nan"), float("nan"))
        figures[name] = Figure(value, float(low), float(high))
    return figures
