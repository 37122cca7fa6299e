"""The head on frozen features: weak labels, one bag of windows per clip; then Platt scaling.

    bags of features (n, D) + clip labels ──fit_head──▶ Head ──calibrate──▶ temperature and bias set

The loss is binary cross entropy on the mean logit of the k highest windows of a bag (k = a third of the bag, at least
one). The weight of a set is its share, whatever its size. Weight decay is strong because the sets are small and each
has its own picture style, which a head without decay learns. After calibration a score is a probability.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from stream_detector.adaptation.fitting import padded as padded_rows
from stream_detector.adaptation.fitting import top_mean as top_mean
from stream_detector.errors import DataError
from stream_detector.models.heads import Head
from stream_detector.types import Float32Array

Float64Array = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Bag:
    """One clip for the head. features: float32 (n, D), n windows in order.  set, abnormal: as in `Clip`."""

    features: Float32Array
    set: str
    abnormal: bool


@dataclass(frozen=True, slots=True)
class HeadConfig:
    """hidden: widths between the features and the score, () is a logistic regression.  decay: L2 factor.

    space: where it is fitted, see `trainer.recipes.embedded.spaces`.
    """

    hidden: tuple[int, ...] = ()
    decay: float = 0.03
    space: str = "features"
    steps: int = 300
    rate: float = 0.01
    dropout: float = 0.4
    seed: int = 0


def cell_weights(bags: Sequence[Bag], shares: Mapping[str, float] | None = None, default: float = 0.1) -> Tensor:
    """(len(bags),) weights that sum to 1: a set by its share, its labels half each (a lone label gets all)."""
    cells: dict[tuple[str, bool], int] = {}
    for bag in bags:
        cells[bag.set, bag.abnormal] = cells.get((bag.set, bag.abnormal), 0) + 1
    labels = {name: sum((name, a) in cells for a in (False, True)) for name, _ in cells}
    weights = [(shares or {}).get(bag.set, default) / labels[bag.set] / cells[bag.set, bag.abnormal] for bag in bags]
    result = torch.tensor(weights)
    return result / result.sum()


def window_weights(bags: Sequence[Bag]) -> Float64Array:
    """Return one weight per window, sum 1; every set has the same total weight."""
    sizes: dict[str, int] = {}
    for bag in bags:
        sizes[bag.set] = sizes.get(bag.set, 0) + len(bag.features)
    weights = np.concatenate([np.full(len(bag.features), 1.0 / sizes[bag.set]) for bag in bags])
    result: Float64Array = weights / weights.sum()
    return result


def fit_head(bags: Sequence[Bag], config: HeadConfig, shares: Mapping[str, float] | None = None) -> Head:
    """Train a head; in eval mode, not calibrated. Raises DataError unless both labels are there."""
    if len({bag.abnormal for bag in bags}) < 2:
        raise DataError("a head needs normal and abnormal clips to learn from; the clips given have one label only")
    torch.manual_seed(config.seed)
    features, mask = padded(bags)
    head = Head((features.shape[-1], *config.hidden, 1), dropout=config.dropout).train()
    weights = cell_weights(bags, shares)
    spread = weights[:, None] * mask / mask.sum(dim=1, keepdim=True)
    mean = (features * spread[..., None]).sum(dim=(0, 1))
    head.feature_mean.copy_(mean)
    head.feature_std.copy_((((features - mean) ** 2 * spread[..., None]).sum(dim=(0, 1))).sqrt().clamp_min(1e-3))
    labels = torch.tensor([float(bag.abnormal) for bag in bags])
    present, windows = mask.bool(), features[mask.bool()]  # without the padding, which is large when bags are long
    optimiser = torch.optim.Adam(head.parameters(), lr=config.rate)
    for step in range(config.steps):
        for group in optimiser.param_groups:
            group["lr"] = config.rate * (1 - step / config.steps)
        bag_logits = top_mean(torch.zeros_like(mask).masked_scatter(present, head.logits(windows)), mask)
        loss = (F.binary_cross_entropy_with_logits(bag_logits, labels, reduction="none") * weights).sum()
        loss = loss + config.decay * torch.stack([p.pow(2).sum() for p in head.layers.parameters() if p.ndim > 1]).sum()
        optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
    return head.eval().requires_grad_(False)


def calibrate(head: Head, bags: Sequence[Bag], shares: Mapping[str, float] | None = None) -> None:
    """Set temperature and bias (Platt 1999) so that the highest window of a bag gives the bag's probability.

    bags: not those that the head was trained on.  The slope stays positive, so the order of scores does not change.
    """
    features, mask = padded(bags)
    highest = head.logits(features).masked_fill(mask == 0, -1e9).max(dim=1).values.detach()
    labels = torch.tensor([float(bag.abnormal) for bag in bags])
    weights = cell_weights(bags, shares)
    # Platt's targets: a little away from 0 and 1, so that separable data do not give an infinite slope.
    positive, negative = labels.sum(), (1 - labels).sum()
    soft = torch.where(labels > 0.5, (positive + 1) / (positive + 2), 1 / (negative + 2))
    log_slope, bias = torch.zeros((), requires_grad=True), torch.zeros((), requires_grad=True)
    optimiser = torch.optim.LBFGS([log_slope, bias], max_iter=200, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimiser.zero_grad()
        logits = highest * log_slope.exp() + bias
        loss = (F.binary_cross_entropy_with_logits(logits, soft, reduction="none") * weights).sum()
        loss.backward()  # type: ignore[no-untyped-call]
        return loss

    optimiser.step(closure)  # type: ignore[no-untyped-call]
    head.temperature.copy_((-log_slope.detach()).exp())
    head.bias.copy_(bias.detach())


def clip_scores(head: Head, bags: Sequence[Bag]) -> Float32Array:
    """(len(bags),): the highest window score of each bag, in [0, 1]."""
    scores = [float(head(torch.from_numpy(bag.features)).max()) for bag in bags]
    return np.array(scores, dtype=np.float32)


def padded(bags: Sequence[Bag]) -> tuple[Tensor, Tensor]:
    """Features (B, n, D) of the bags, zeros behind the shorter ones, and the mask (B, n) of what is there."""
    return padded_rows([bag.features for bag in bags])
