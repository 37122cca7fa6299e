"""Anchors: features of the clips that trained a bundle's head. An overlay of a site must keep their scores.

A bundle stores them as `anchors.safetensors` (features in half precision, labels, sets; under 2 MB). They are the only
array made of clips that a repository may hold. Without them an overlay could silence a camera by forgetting incidents.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from stream_detector.adaptation.overlay import Overlay
from stream_detector.adaptation.ranking import roc_auc
from stream_detector.errors import BundleError
from stream_detector.models.bundle import Bundle
from stream_detector.types import Float32Array

Float64Array = NDArray[np.float64]


@dataclass(frozen=True, slots=True, eq=False)
class Anchors:
    """features: (n, D) float32.  raw: (n,), the bundle's scores.  abnormal: (n,) bool.  weights: (n,), sum 1."""

    features: Float32Array
    raw: Float64Array
    abnormal: NDArray[np.bool_]
    weights: Float64Array

    def auc(self, model: Overlay) -> float:
        """Area under the ROC curve of the model's scores, anchors weighted; 0.5 where a label is missing."""
        return weighted_auc(model.adjust(self.features, self.raw), self.abnormal, self.weights)


def make_anchors(
    features: NDArray[Any], raw: Float64Array, abnormal: NDArray[np.bool_], sets: NDArray[np.integer]
) -> Anchors:
    """Anchors in which every set has the same weight, and in a set each of its labels."""
    cells = sets.astype(np.int64) * 2 + abnormal
    weights = np.zeros(len(cells))
    for number in np.unique(sets):
        mine = np.unique(cells[sets == number])
        for cell in mine:
            chosen = cells == cell
            weights[chosen] = 1.0 / (len(mine) * chosen.sum())
    weights /= weights.sum()
    return Anchors(features.astype(np.float32), raw, abnormal, weights)


def weighted_auc(scores: Float64Array, abnormal: NDArray[np.bool_], weights: Float64Array) -> float:
    """Return the probability that an abnormal window scores above a normal one, ties count half, both drawn by
    weight.
    """
    positive, negative = np.where(abnormal, weights, 0.0), np.where(abnormal, 0.0, weights)
    if not positive.sum() or not negative.sum():
        return 0.5
    return roc_auc(scores, positive, negative)


def anchors_of(bundle: Bundle) -> Anchors:
    """Return the anchors of a bundle, with its own scores of them. Raises BundleError if it has none."""
    if bundle.anchors_state is None:
        raise BundleError(
            f"bundle {bundle.name!r} has no anchor features, which an overlay needs to keep its scores; make them with "
            "`python -m trainer anchors`"
        )
    state = bundle.anchors_state
    features = state["features"].float()
    with torch.no_grad():
        raw = bundle.build_head()(features).double().numpy()
    sets = state["set"].numpy().astype(np.int64)
    return make_anchors(features.numpy(), raw, state["abnormal"].numpy().astype(bool), sets)


def anchor_state(
    features: NDArray[Any], abnormal: NDArray[np.bool_], sets: NDArray[np.integer]
) -> dict[str, torch.Tensor]:
    """The tensors of `anchors.safetensors`: features in half precision (n, D), labels (n,), numbers of sets (n,)."""
    return {
        "features": torch.from_numpy(features.astype(np.float16)),
        "abnormal": torch.from_numpy(abnormal.astype(np.uint8)),
        "set": torch.from_numpy(sets.astype(np.int16)),
    }
