"""Adapts a head to normal footage that it raises false alarms on, and keeps its scores of everything else.

    old head ───────────────────────────────┐  windows of known clips: logits kept
                                            ├─ + ─┬─ normal pieces: their highest windows pushed below a bound
    features ── a few new hidden units ─────┘     └─ incidents: their windows pulled above a bound

The old head stays as it is; hidden units beside it add to its logit. A penalty keeps what they add to known windows
small, as in "Learning without Forgetting" (Li and Hoiem, 2016). A ReLU unit gives 0 on one side of a plane, so it can
change the scores of one kind of picture and leave those of another kind unchanged; a linear change cannot. Logits are
the calibrated ones, so scores stay probabilities. The result has one hidden layer and can be adapted again.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from stream_detector.errors import DataError
from stream_detector.models.heads import Head
from trainer.recipes.embedded.fit_head import Bag, padded, top_mean, window_weights


@dataclass(frozen=True, slots=True)
class AdaptConfig:
    """Weights of the losses and their bounds.

    keep: weight of the known logits' mean squared change.  calm, loud: weights of normal pieces and of incidents.
    calm_below, loud_above: logits that these should have.  calm_share, loud_share: the share of a piece's windows that
    counts, the highest first; at least one.  sharpness: of the hinge.  hidden: number of added units.  decay: L2 on
    their weights.  seed: of their first weights.
    """

    keep: float = 15.0
    calm: float = 5.0
    loud: float = 10.0
    calm_below: float = -1.0
    loud_above: float = 1.2
    calm_share: float = 0.03
    loud_share: float = 0.34
    sharpness: float = 4.0
    hidden: int = 8
    decay: float = 0.01
    steps: int = 300
    seed: int = 0


class Units(NamedTuple):
    """One hidden layer: relu(inward x + level) · outward + bias. inward (H, D), level (H,), outward (H,), bias ()."""

    inward: Tensor
    level: Tensor
    outward: Tensor
    bias: Tensor

    def __call__(self, x: Tensor) -> Tensor:
        """(..., D) → (...)"""
        return torch.relu(x @ self.inward.T + self.level) @ self.outward + self.bias


def adapt_head(
    head: Head, known: Sequence[Bag], calm: Sequence[Bag], loud: Sequence[Bag], config: AdaptConfig = AdaptConfig()
) -> tuple[Head, float]:
    """Adapt a head; returns it in eval mode, calibrated as before, and the rms change of the known clips' logits.

    known: clips whose scores are kept; every set has the same weight.  calm: normal pieces.  loud: incidents.
    Raises DataError for a head with more than one hidden layer, without new units, and without calm or known pieces.
    """
    if len(head.dims) > 3:
        raise DataError(f"only a head with at most one hidden layer can be adapted, this one has {list(head.dims)}")
    if config.hidden < 1:
        raise DataError(f"a head needs at least one new hidden unit to adapt, got {config.hidden}")
    if not calm or not known:
        raise DataError("a head is adapted to calm footage and keeps its scores of known clips; give some of both")
    windows = torch.cat([torch.from_numpy(bag.features) for bag in known]).double()
    weights = torch.from_numpy(window_weights(known))
    mean = weights @ windows
    std = (weights @ (windows - mean) ** 2).sqrt().clamp_min(1e-3)
    scaled = (windows - mean) / std
    old = units_of(head, mean, std)
    wanted = (  # bags, side that they should lie on, of which logit, share of windows, weight
        (calm, -1.0, config.calm_below, config.calm_share, config.calm),
        (loud, 1.0, config.loud_above, config.loud_share, config.loud),
    )
    pieces = []
    for bags, side, bound, share, weight in wanted:
        if bags:
            features, mask = padded(bags)
            x = (features.double() - mean) / std
            pieces.append((x, old(x), mask, side, bound, share, weight))
    new = _beginning(config, windows.shape[1])

    def moved() -> Tensor:
        return weights @ new(scaled) ** 2

    def loss() -> Tensor:
        total = config.keep * moved() + config.decay * ((new.inward**2).sum() + (new.outward**2).sum())
        for x, before, mask, side, bound, share, weight in pieces:
            highest = top_mean(before + new(x), mask, share)
            amiss = config.sharpness * side * (bound - highest)
            total = total + weight * F.softplus(amiss).mean() / config.sharpness
        return total

    optimiser = torch.optim.LBFGS(list(new), max_iter=config.steps, history_size=20, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimiser.zero_grad()
        value = loss()
        value.backward()  # type: ignore[no-untyped-call]
        return value

    optimiser.step(closure)  # type: ignore[no-untyped-call]
    with torch.no_grad():
        inward, level, outward = (torch.cat(pair) for pair in zip(old[:3], new[:3], strict=True))
        both = Units(inward, level, outward, old.bias + new.bias)
        return _head_of(both, mean, std), float(moved().sqrt())


def units_of(head: Head, mean: Tensor, std: Tensor) -> Units:
    """A head's calibrated logit of x = (features - mean) / std, float64; a linear head is two units, z = z⁺ - (-z)⁺.

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


def _beginning(config: AdaptConfig, dim: int) -> Units:
    """Units that add almost nothing yet; these are trained."""
    generator = torch.Generator().manual_seed(config.seed)
    inward = torch.randn(config.hidden, dim, generator=generator, dtype=torch.float64) / dim**0.5
    outward = 0.01 * torch.randn(config.hidden, generator=generator, dtype=torch.float64)
    level, bias = torch.zeros(config.hidden, dtype=torch.float64), torch.zeros((), dtype=torch.float64)
    return Units(*(part.requires_grad_(True) for part in (inward, level, outward, bias)))


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
