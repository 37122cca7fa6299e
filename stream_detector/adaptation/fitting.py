"""Fits the hidden units that are added to a head: they lower calm pieces, raise incidents, and keep known scores.

    known windows ──▶ the added logit stays small (their scores are kept)
    calm pieces   ──▶ their highest windows below a bound       ┐ hinges on the mean logit of a piece's
    incidents     ──▶ their highest windows above a bound       ┘ highest windows

The head itself stays unchanged; `Units` add to its logit. A penalty keeps the added logit of known windows small, as in
"Learning without Forgetting" (Li and Hoiem, 2016). A ReLU unit gives 0 on one side of a plane, so it can change the
scores of one kind of picture and leave those of another kind unchanged; a linear change cannot. The overlays of a site
(`overlay`) and the trainer's `adapt` both use this module.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from stream_detector.adaptation.fit_config import FitConfig
from stream_detector.errors import DataError
from stream_detector.types import Float32Array

USUAL = FitConfig()


class Units(NamedTuple):
    """One hidden layer: relu(inward x + level) · outward + bias. inward (H, D), level (H,), outward (H,), bias ()."""

    inward: Tensor
    level: Tensor
    outward: Tensor
    bias: Tensor

    def __call__(self, x: Tensor) -> Tensor:
        """(..., D) → (...)"""
        return torch.relu(x @ self.inward.T + self.level) @ self.outward + self.bias


@dataclass(frozen=True, slots=True)
class Piece:
    """Consecutive windows of one kind. features: float32 (n, D).  logits: (n,), calibrated, before the fit.

    abnormal: an incident, to be lifted; else calm, to be pushed down.  weight: among the pieces of its kind.
    """

    features: Float32Array
    logits: NDArray[np.float64]
    abnormal: bool
    weight: float = 1.0


@dataclass(frozen=True, slots=True)
class Fitted:
    """units: what was fitted, on (features - mean) / std, float64.  moved: rms change of the known logits."""

    units: Units
    mean: Tensor
    std: Tensor
    moved: float


def scaling(known: Float32Array, weights: NDArray[np.float64]) -> tuple[Tensor, Tensor]:
    """(mean, std) of known windows, (D,) float64. weights: (n,), sum 1."""
    rows, shares = torch.from_numpy(known).double(), torch.from_numpy(weights)
    mean = shares @ rows
    return mean, (shares @ (rows - mean) ** 2).sqrt().clamp_min(1e-3)


def fit_units(
    known: Float32Array, weights: NDArray[np.float64], pieces: Sequence[Piece], config: FitConfig = USUAL
) -> Fitted:
    """Fit the units that are added to a head; deterministic.

    known: (n, D), windows whose scores are kept.  weights: (n,), sum 1.  Raises DataError without new units and
    without calm or known windows.
    """
    if config.hidden < 1:
        raise DataError(f"a head needs at least one new hidden unit to adapt, got {config.hidden}")
    calm = [piece for piece in pieces if not piece.abnormal]
    if not calm or not len(known):
        raise DataError("a head is adapted to calm footage and keeps its scores of known clips; give some of both")
    mean, std = scaling(known, weights)
    scaled = (torch.from_numpy(known).double() - mean) / std
    shares = torch.from_numpy(weights)
    wanted = (  # pieces, side that they should lie on, of which logit, share of windows, weight
        (calm, -1.0, config.calm_below, config.calm_share, config.calm),
        ([piece for piece in pieces if piece.abnormal], 1.0, config.loud_above, config.loud_share, config.loud),
    )
    terms = []
    for chosen, side, bound, share, weight in wanted:
        if chosen:
            features, mask = padded([piece.features for piece in chosen])
            before, _ = padded([piece.logits[:, None] for piece in chosen])
            each = torch.tensor([piece.weight for piece in chosen], dtype=torch.float64)
            x = (features.double() - mean) / std
            terms.append((x, before[..., 0].double(), mask, side, bound, share, weight * each / each.sum()))
    new = _beginning(config, known.shape[1])

    def moved() -> Tensor:
        return shares @ new(scaled) ** 2

    def loss() -> Tensor:
        total = config.keep * moved() + config.decay * ((new.inward**2).sum() + (new.outward**2).sum())
        for x, before, mask, side, bound, share, each in terms:
            highest = top_mean(before + new(x), mask, share)
            amiss = config.sharpness * side * (bound - highest)
            total = total + (each * F.softplus(amiss)).sum() / config.sharpness
        return total

    optimiser = torch.optim.LBFGS(list(new), max_iter=config.steps, history_size=20, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimiser.zero_grad()
        value = loss()
        value.backward()  # type: ignore[no-untyped-call]
        return value

    optimiser.step(closure)  # type: ignore[no-untyped-call]
    with torch.no_grad():
        return Fitted(Units(*(part.detach() for part in new)), mean, std, float(moved().sqrt()))


def _beginning(config: FitConfig, dim: int) -> Units:
    """Units that add almost nothing yet; these are trained."""
    generator = torch.Generator().manual_seed(config.seed)
    inward = torch.randn(config.hidden, dim, generator=generator, dtype=torch.float64) / dim**0.5
    outward = 0.01 * torch.randn(config.hidden, generator=generator, dtype=torch.float64)
    level, bias = torch.zeros(config.hidden, dtype=torch.float64), torch.zeros((), dtype=torch.float64)
    return Units(*(part.requires_grad_(True) for part in (inward, level, outward, bias)))


def top_mean(logits: Tensor, mask: Tensor, share: float = 1 / 3) -> Tensor:
    """(B, n) logits and mask → (B,): the mean of the highest `share` of each piece's windows, at least one."""
    ranked = logits.masked_fill(mask == 0, -1e9).sort(dim=1, descending=True).values
    keep = (mask.sum(dim=1) * share).floor().clamp_min(1)
    chosen = (torch.arange(logits.shape[1])[None, :] < keep[:, None]).float()
    result: Tensor = (ranked * chosen).sum(dim=1) / keep
    return result


def padded(rows: Sequence[NDArray[np.floating]]) -> tuple[Tensor, Tensor]:
    """(B, n, D) of arrays (n_i, D), zeros behind the shorter ones, in their type; the mask (B, n) of what is there."""
    longest = max(len(part) for part in rows)
    features = torch.zeros(len(rows), longest, rows[0].shape[1], dtype=torch.from_numpy(rows[0][:0]).dtype)
    mask = torch.zeros(len(rows), longest)
    for row, part in enumerate(rows):
        features[row, : len(part)] = torch.from_numpy(part)
        mask[row, : len(part)] = 1
    return features, mask
