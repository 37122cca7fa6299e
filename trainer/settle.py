"""Settle a head: teach it whole scenes of a kind that it startles at, and keep what it says of everything else.

    head ──┬─ windows of real clips: logits kept ──────────────┐
           ├─ calm pieces: their highest windows pushed below ─┼─ convex, L-BFGS ──▶ head
           └─ loud pieces: their windows pulled above ─────────┘

A fit from the beginning moves all scores when a kind of footage is added. Here the change u of the weights is held by
what it does to the logits of known windows, u' C u with C their second moments, as in "Learning without Forgetting"
(Li and Hoiem, 2016): where known footage does not vary the head is free to learn, elsewhere it stays. Logits are the
calibrated ones, so scores stay probabilities.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from stream_detector.errors import DataError
from stream_detector.head import Head
from trainer.fit import Bag, padded, top_mean, window_weights


@dataclass(frozen=True, slots=True)
class SettleConfig:
    """How strongly. keep: of the kept logits' mean squared change.  calm, loud: of the pieces.

    calm_below, loud_above: logits that the pieces should have.  calm_share, loud_share: the part of a piece's windows
    that is looked at, from the highest; at least one.  sharpness: of the hinge.  decay: L2 on what nothing else holds.
    """

    keep: float = 15.0
    calm: float = 5.0
    loud: float = 5.0
    calm_below: float = -0.7
    loud_above: float = 1.2
    calm_share: float = 0.05
    loud_share: float = 0.34
    sharpness: float = 4.0
    decay: float = 1e-3
    steps: int = 200


def settle(
    head: Head, known: Sequence[Bag], calm: Sequence[Bag], loud: Sequence[Bag], config: SettleConfig = SettleConfig()
) -> tuple[Head, float]:
    """The head after it has settled, in eval mode and calibrated as before; and by how much known logits moved, rms.

    known: clips whose scores are kept, every set counting the same.  Raises DataError for a head with hidden layers,
    and without calm pieces.
    """
    if len(head.dims) != 2:
        raise DataError(f"only a linear head can be settled, this one has widths {list(head.dims)}")
    if not calm or not known:
        raise DataError("a head settles on calm footage, and keeps what it says of known clips; give some of both")
    windows = torch.cat([torch.from_numpy(bag.features) for bag in known]).double()
    weights = torch.from_numpy(window_weights(known))
    mean = weights @ windows
    std = (weights @ (windows - mean) ** 2).sqrt().clamp_min(1e-3)
    scaled = (windows - mean) / std
    moments = (scaled * weights[:, None]).T @ scaled
    old = (head.layers[0].get_parameter("weight")[0] / head.feature_std / head.temperature).double()
    shift = head.layers[0].get_parameter("bias")[0] - (old * head.temperature * head.feature_mean).sum()
    offset = (shift / head.temperature + head.bias).double() + old @ mean
    wanted = (  # bags, side that they should lie on, of which logit, share of windows, weight
        (calm, -1.0, config.calm_below, config.calm_share, config.calm),
        (loud, 1.0, config.loud_above, config.loud_share, config.loud),
    )
    pieces = [
        (_scaled(bags, mean, std), side, bound, share, weight) for bags, side, bound, share, weight in wanted if bags
    ]
    change = torch.zeros_like(old, requires_grad=True)
    raised = torch.zeros((), dtype=torch.float64, requires_grad=True)

    def moved() -> Tensor:
        return change @ moments @ change + raised**2

    def loss() -> Tensor:
        now, level = old * std + change, offset + raised
        total = config.keep * moved() + config.decay * (change**2).sum()
        for (features, mask), side, bound, share, weight in pieces:
            highest = top_mean(features @ now + level, mask, share)
            total = total + weight * _hinge(side * (bound - highest), config.sharpness)
        return total

    optimiser = torch.optim.LBFGS([change, raised], max_iter=config.steps, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimiser.zero_grad()
        value = loss()
        value.backward()  # type: ignore[no-untyped-call]
        return value

    optimiser.step(closure)  # type: ignore[no-untyped-call]
    settled = Head(head.dims).eval().requires_grad_(False)
    with torch.no_grad():
        weight = (old * std + change) / std
        settled.layers[0].get_parameter("weight").copy_(weight[None])
        settled.layers[0].get_parameter("bias").copy_((offset + raised - weight @ mean)[None])
        return settled, float(moved().sqrt())


def _hinge(amiss: Tensor, sharpness: float) -> Tensor:
    return F.softplus(sharpness * amiss).mean() / sharpness


def _scaled(bags: Sequence[Bag], mean: Tensor, std: Tensor) -> tuple[Tensor, Tensor]:
    features, mask = padded(bags)
    return (features.double() - mean) / std, mask
