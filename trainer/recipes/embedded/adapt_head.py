"""Adapts a head to normal footage that it raises false alarms on, and keeps its scores of other footage.

    old head ───────────────────────────────┐  windows of known clips: logits kept
                                            ├─ + ─┬─ normal pieces: their highest windows pushed below a bound
    features ── a few new hidden units ─────┘     └─ incidents: their windows pulled above a bound

`stream_detector.adaptation.fitting` fits the new units, as it fits the overlays of a site. Logits are the calibrated
ones, so scores stay probabilities. The result has one hidden layer and can be adapted again.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from stream_detector.adaptation.fit_config import FitConfig as AdaptConfig
from stream_detector.adaptation.fitting import Piece, Units, fit_units, scaling
from stream_detector.errors import DataError
from stream_detector.models.heads import Head
from trainer.recipes.embedded.fit_head import Bag, window_weights

__all__ = ["AdaptConfig", "Units", "adapt_head", "units_of"]


USUAL = AdaptConfig()


def adapt_head(
    head: Head, known: Sequence[Bag], calm: Sequence[Bag], loud: Sequence[Bag], config: AdaptConfig = USUAL
) -> tuple[Head, float]:
    """Adapt a head; returns it in eval mode, calibrated as before, and the rms change of the known clips' logits.

    known: clips whose scores are kept; every set has the same weight.  calm: normal pieces.  loud: incidents.
    Raises DataError for a head with more than one hidden layer, without new units, and without calm or known pieces.
    """
    if len(head.dims) > 3:
        raise DataError(f"only a head with at most one hidden layer can be adapted, this one has {list(head.dims)}")
    windows = np.concatenate([bag.features for bag in known]) if known else np.empty((0, head.dims[0]), np.float32)
    weights = window_weights(known) if known else np.empty(0)
    if not len(windows):
        fit_units(windows, weights, [], config)  # raises DataError with what is missing
    mean, std = scaling(windows, weights)
    old = units_of(head, mean, std)
    pieces = []
    for bags, abnormal in ((calm, False), (loud, True)):
        for bag in bags:
            logits = old((torch.from_numpy(bag.features).double() - mean) / std)
            pieces.append(Piece(bag.features, logits.numpy(), abnormal))
    fitted = fit_units(windows, weights, pieces, config)
    inward, level, outward = (torch.cat(pair) for pair in zip(old[:3], fitted.units[:3], strict=True))
    both = Units(inward, level, outward, old.bias + fitted.units.bias)
    return _head_of(both, mean, std), fitted.moved


def units_of(head: Head, mean: Tensor, std: Tensor) -> Units:
    """Return a head's calibrated logit of x = (features - mean) / std, float64; a linear head is two units, z = z⁺ -
    (-z)⁺.

    mean, std: (D,).
    """
    first = head.layers[0]
    inward = first.get_parameter("weight").double() / head.feature_std
    level = first.get_parameter("bias") + inward @ (mean - head.feature_mean)
    inward = inward * std
    if len(head.dims) == 2:
        outward, bias = torch.tensor([1.0, -1.0], dtype=torch.float64), torch.zeros((), dtype=torch.float64)
        inward, level = torch.cat([inward, -inward]), torch.cat([level, -level])
    else:
        outward = head.layers[1].get_parameter("weight")[0].double()
        bias = head.layers[1].get_parameter("bias")[0].double()
    return Units(inward, level, outward / head.temperature, bias / head.temperature + head.bias)


def _head_of(units: Units, mean: Tensor, std: Tensor) -> Head:
    head = Head((len(mean), len(units.outward), 1)).eval().requires_grad_(False)
    head.feature_mean.copy_(mean)
    head.feature_std.copy_(std)
    for layer, weight, bias in zip(
        head.layers, (units.inward, units.outward[None]), (units.level, units.bias[None]), strict=True
    ):
        layer.get_parameter("weight").copy_(weight)
        layer.get_parameter("bias").copy_(bias)
    return head
