"""The AUC of frames with weights and of bootstraps is that of the detector; here is that of two lists of clips."""

from __future__ import annotations

import numpy as np

from stream_detector.adaptation.ranking import Float64, by_threshold, rank, ranked_auc, roc_auc

__all__ = ["auc", "by_threshold", "rank", "ranked_auc", "roc_auc"]


def auc(positive: Float64, negative: Float64) -> float:
    """`roc_auc` of two lists of scores, (P,) and (N,), each counted once (Hanley and McNeil 1982)."""
    labels = np.arange(len(positive) + len(negative)) < len(positive)
    return roc_auc(np.concatenate([positive, negative]), labels.astype(float), (~labels).astype(float))
