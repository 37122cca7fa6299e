"""A logistic regression on frozen features, for `nested`, which chooses its L2 factor and the weights of the clips.

clip ──mean over its windows──▶ standardised ──▶ weighted logistic loss + L2/2 · |w|² ──▶ logit of every window
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

from stream_detector.types import Float32Array
from trainer.evaluation.figures import Bools, Floats
from trainer.evaluation.folds import Ints

DECAYS = (10.0, 3.0, 1.0, 0.3, 0.1, 0.03)
WEIGHTS = ("clips", "sets")
Choice = tuple[float, str] | tuple[float, str, str]


def choices_of(parts: Sequence[str]) -> tuple[Choice, ...]:
    """Return every combination of L2 factor, weighting and part of the features."""
    return tuple((decay, by, part) for part in parts for by in WEIGHTS for decay in DECAYS)


def weights_of(abnormal: Bools, sets: Sequence[str], by: str) -> Floats:
    """Return (n,) weights with sum 1, half for each label. by: "clips" gives equal weights inside a label, "sets" gives
    every set the same weight.
    """
    result = np.zeros(len(abnormal))
    for label in (False, True):
        mine = np.flatnonzero(abnormal == label)
        if by == "clips":
            result[mine] = 0.5 / max(1, len(mine))
            continue
        sizes: dict[str, int] = {}
        for place in mine.tolist():
            sizes[sets[place]] = sizes.get(sets[place], 0) + 1
        for place in mine.tolist():
            result[place] = 0.5 / len(sizes) / sizes[sets[place]]
    return result


@dataclass(slots=True)
class Logistic:
    """features: float32 (n_i, D) windows of each clip.  abnormal: (n,).  sets: one per clip.

    parts: first and end column of the features, by name; the regression then uses the columns of one part only. A
    choice is (L2 factor, weights) or (L2 factor, weights, part): see DECAYS, WEIGHTS and `choices_of`.
    """

    features: Sequence[Float32Array]
    abnormal: Bools
    sets: Sequence[str]
    choices: tuple[Choice, ...] = tuple((decay, by) for by in WEIGHTS for decay in DECAYS)
    parts: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    _means: NDArray[np.float32] | None = None
    _last: tuple[Any, ...] | None = None  # inputs of the last fit: the next fit mostly differs in its L2 factor only

    def fit(self, places: Ints, choice: Choice) -> Callable[[int], Floats]:
        """Fit and return the scorer, which takes the index of a clip."""
        of_rows = self.rows(places, choice)
        return lambda place: of_rows(self.features[place])

    def rows(self, places: Ints, choice: Choice) -> Callable[[Float32Array], Floats]:
        """Fit and return a scorer for features of any footage: float32 (n, D) → (n,) logits."""
        if self._means is None:
            self._means = np.stack([rows.mean(axis=0) for rows in self.features])
        decay, by, *part = choice
        dim = self._means.shape[1]
        first, end = self.parts[part[0]] if part else (0, dim)
        key = (places.tobytes(), by, first, end)
        if self._last is None or self._last[0] != key:
            x = self._means[places, first:end].astype(np.float64)
            weights = weights_of(self.abnormal[places], [self.sets[p] for p in places.tolist()], by)
            mean = weights @ x
            deviation = np.maximum(np.sqrt(weights @ (x - mean) ** 2), 1e-6)
            self._last = (key, weights, mean, deviation, *row_space((x - mean) / deviation))
        _, weights, mean, deviation, z, back = self._last
        w, bias = minimised(z, self.abnormal[places], weights, decay)
        w = w if back is None else back @ w
        direction = np.zeros(dim)
        direction[first:end] = w / deviation
        offset = bias - float(mean @ direction[first:end])
        return lambda rows: rows.astype(np.float64) @ direction + offset


def row_space(x: Floats) -> tuple[Floats, Floats | None]:
    """Return (n, r) coordinates of the rows in the space that they span, and the (D, r) map back; x itself unless n <
    D.

    The best coefficients under L2 lie in that space, so the optimiser has fewer unknowns.
    """
    if len(x) >= x.shape[1]:
        return x, None
    values, vectors = np.linalg.eigh(x @ x.T)
    kept = values > values[-1] * 1e-12
    roots = np.sqrt(values[kept])
    return vectors[:, kept] * roots, x.T @ (vectors[:, kept] / roots)


def minimised(x: Floats, abnormal: Bools, weights: Floats, decay: float, steps: int = 60) -> tuple[Floats, float]:
    """Return the coefficients (D,) and the intercept that minimise Σ weight · log-loss + decay/2 · |w|², by L-BFGS in
    double precision.
    """
    data, target = torch.from_numpy(x), torch.from_numpy(abnormal.astype(np.float64))
    share = torch.from_numpy(weights)
    w = torch.zeros(x.shape[1] + 1, dtype=torch.float64, requires_grad=True)
    optimiser = torch.optim.LBFGS([w], max_iter=steps, history_size=10, line_search_fn="strong_wolfe")

    def closure() -> torch.Tensor:
        optimiser.zero_grad()
        logits = data @ w[:-1] + w[-1]
        loss = (F.binary_cross_entropy_with_logits(logits, target, reduction="none") * share).sum()
        loss = loss + decay / 2 * w[:-1].square().sum()
        loss.backward()  # type: ignore[no-untyped-call]
        return loss

    optimiser.step(closure)  # type: ignore[no-untyped-call]
    found: Floats = w.detach().numpy()
    return found[:-1], float(found[-1])
