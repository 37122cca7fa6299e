"""The benefit of marking novel pictures: on a source that no model learned from, is the AUC of the unmarked clips
higher?

    windows of all other sources ──fitted──▶ NoveltyModel     of the fold kept for good ──▶ limit
    clips of the source left out ──distance──▶ marked or not ──▶ AUC of all, of those not marked

A clip is marked if its middle window lies beyond the limit. Some sources have no marked clip; so the AUC without the
farthest quarter of the clips is reported for every source as well.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from stream_detector.errors import DataError
from stream_detector.models.novelty import NoveltyModel
from stream_detector.types import Float32Array
from trainer.evaluation import figures
from trainer.evaluation.figures import Bools, Floats, Judged
from trainer.evaluation.folds import KEPT
from trainer.evaluation.nested import Labels
from trainer.evaluation.novelty_limits import AXES, SHARE

WINDOWS = 4  # windows per clip, for the fit
ASIDE = 0.25  # share of a source's clips, the farthest, that the second AUC leaves out


def fit_axes(features: Floats, weights: Floats, axes: int = AXES) -> NoveltyModel:
    """Weighted mean, leading principal axes and mean residual. features: (n, D).  weights: (n,), sum 1.

    Raises DataError for too few windows.
    """
    if len(features) <= axes or not 0 < axes < features.shape[1]:
        raise DataError(
            f"{axes} axes need more windows and more features than that, got {features.shape}; give more clips"
        )
    mean = weights @ features
    centred = features - mean
    values, vectors = np.linalg.eigh((centred * weights[:, None]).T @ centred)
    model = NoveltyModel(features.shape[1], axes)
    model.mean.copy_(torch.from_numpy(mean))
    model.axes.copy_(torch.from_numpy(np.ascontiguousarray(vectors[:, ::-1][:, :axes])))
    spread = float(values[:-axes].clip(min=0).sum())
    if spread <= 1e-12:
        raise DataError(f"nothing is left of these features outside {axes} axes; give more clips, or fewer axes")
    model.spread.fill_(spread)
    return model


def quantile_limit(distances: Float32Array, weights: Floats, share: float = SHARE) -> float:
    """Return the distance that `share` of the windows exceed, by weight. Raises DataError without windows."""
    if not len(distances):
        raise DataError("no windows to find the limit on; give clips of both splits")
    order = np.argsort(distances)
    reached = np.cumsum(weights[order])
    return float(distances[order][int(np.searchsorted(reached, 1.0 - share).clip(max=len(order) - 1))])


def worth(
    judged: Judged, labels: Labels, features: Sequence[Float32Array], mine: Bools, axes: int = AXES
) -> dict[str, Any]:
    """Figures of the clips `mine`, a source left out: {"marked", "of", "not_marked": AUC, "near": AUC of the nearest
    clips}.

    judged: all clips, scored by models that learned nothing from `mine`.
    """
    theirs = {labels.groups[p] for p in np.flatnonzero(mine).tolist()}
    outside = np.array([not own and g not in theirs for own, g in zip(mine, labels.groups, strict=True)])
    fitted = np.flatnonzero(outside & (labels.folds != KEPT)).tolist()
    held = np.flatnonzero(outside & (labels.folds == KEPT)).tolist()
    model = fit_axes(*weighted_windows(features, labels.sets, fitted), axes)
    rows, weights = weighted_windows(features, labels.sets, held, None)
    limit = quantile_limit(model.distance(rows.astype(np.float32)), weights)
    far = np.full(len(features), -np.inf)
    for place in np.flatnonzero(mine).tolist():
        far[place] = float(np.median(model.distance(features[place])))
    own = far[mine]
    nearest: Bools = mine & (far <= np.quantile(own, 1.0 - ASIDE))
    return {
        "marked": int((own > limit).sum()),
        "of": int(mine.sum()),
        "not_marked": figures.auc_of(judged.where(mine & (far <= limit))),
        "near": figures.auc_of(judged.where(nearest)),
    }


def weighted_windows(
    features: Sequence[Float32Array], sets: Sequence[str], places: Sequence[int], most: int | None = WINDOWS
) -> tuple[Floats, Floats]:
    """Return windows of the clips at these indices, at most a given number of each, and weights with sum 1, equal for
    every set.
    """
    parts = [features[place][:most] for place in places]
    counts: dict[str, int] = {}
    for place, rows in zip(places, parts, strict=True):
        counts[sets[place]] = counts.get(sets[place], 0) + len(rows)
    shares = [np.full(len(rows), 1.0 / counts[sets[p]] / len(counts)) for p, rows in zip(places, parts, strict=True)]
    if not parts:
        raise DataError("no other source is left to fit on; give more sets")
    return np.concatenate(parts).astype(np.float64), np.concatenate(shares)
