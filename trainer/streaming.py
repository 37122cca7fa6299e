"""A trained head, one window at a time: the state is carried from window to window, nothing waits for the future.

This is also how whole videos are scored (`score_rows`), so offline and streaming scores cannot differ; the tests hold
both to Keras' own forward pass to 1e-5. NumPy only: scoring needs neither Keras nor a deep-learning framework.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from stream_detector.errors import DataError
from stream_detector.types import Float32Array
from trainer.heads import HeadSpec, Scaling, view_parts

Weights = Mapping[str, NDArray[np.float32]]


def sigmoid(x: NDArray[np.float64] | float) -> NDArray[np.float64]:
    """1 / (1 + e^-x) without overflow."""
    x = np.asarray(x, np.float64)
    return np.where(x >= 0, 1 / (1 + np.exp(-np.abs(x))), np.exp(-np.abs(x)) / (1 + np.exp(-np.abs(x))))


class _Member:
    """The trained layers of one network, with their state."""

    def __init__(self, spec: HeadSpec, weights: Weights) -> None:
        self.spec = spec
        self.w = weights
        self.reset()

    def reset(self) -> None:
        width, kernel = self.spec.widths[0], self.spec.kernel
        self._past = [np.zeros(((kernel - 1) * d + 1, width), np.float32) for d in self.spec.dilations]
        self._hidden = np.zeros(width, np.float32)

    def step(self, x: Float32Array) -> float:
        """Prepared row (P,) → logit."""
        hidden = self.spec.widths if self.spec.kind == "mlp" else self.spec.widths[:1]
        for i in range(len(hidden)):
            x = np.maximum(x @ self.w[f"dense_{i}/kernel"] + self.w[f"dense_{i}/bias"], 0)
        if self.spec.kind == "causal":
            for i, dilation in enumerate(self.spec.dilations):
                past = self._past[i]
                past[:-1] = past[1:]
                past[-1] = x
                taps = past[::dilation]  # (kernel, width), oldest first, like the kernel (kernel, in, out)
                y = np.einsum("kc,kco->o", taps, self.w[f"conv_{i}/kernel"]) + self.w[f"conv_{i}/bias"]
                x = x + np.maximum(y, 0)
        elif self.spec.kind == "gru":
            x = self._gru(x)
        return float(x @ self.w["logit/kernel"][:, 0] + self.w["logit/bias"][0])

    def _gru(self, x: Float32Array) -> Float32Array:
        """Keras' GRU with reset_after: gates in the order update, reset, candidate."""
        bias = self.w["gru_0/bias"]
        from_input = np.split(x @ self.w["gru_0/kernel"] + bias[0], 3)
        from_state = np.split(self._hidden @ self.w["gru_0/recurrent_kernel"] + bias[1], 3)
        update = sigmoid(from_input[0] + from_state[0])
        reset = sigmoid(from_input[1] + from_state[1])
        candidate = np.tanh(from_input[2] + reset * from_state[2])
        self._hidden = (update * self._hidden + (1 - update) * candidate).astype(np.float32)
        return self._hidden


class StreamingHead:
    """Features of one camera, window by window, to scores. Make one per camera; `reset` after a discontinuity."""

    def __init__(
        self,
        spec: HeadSpec,
        scaling: Scaling,
        networks: Sequence[Weights],
        temperature: float = 1.0,
        bias: float = 0.0,
    ) -> None:
        """networks: weights of every network, `members` of them for the first view, then for the next.

        temperature, bias: Platt scaling, score = sigmoid(logit / temperature + bias). Raises DataError.
        """
        if len(networks) != spec.members * len(spec.views):
            raise DataError(
                f"the head has {len(spec.views)} views of {spec.members} members but {len(networks)} sets of weights "
                "were given; train it again"
            )
        self.spec, self.scaling = spec, scaling
        self.temperature, self.bias = temperature, bias
        self._networks = [_Member(spec, w) for w in networks]
        self._views = [view_parts(view) for view in spec.views]
        self._horizons = sorted({h for parts in self._views for _, h in parts if h})
        self.reset()

    def reset(self) -> None:
        """Forget the past."""
        self._seen = 0
        self._means: dict[int, Float32Array] = {}
        for network in self._networks:
            network.reset()

    def logit(self, row: Float32Array) -> float:
        """float32 (D,) → logit before calibration: sum over views of the members' mean. Raises DataError."""
        if row.shape != (self.spec.dim,):
            raise DataError(f"the head takes a row of {self.spec.dim} features, got shape {row.shape}")
        return self._logit(self.scaling.apply(row.astype(np.float32)))

    def _logit(self, x: Float32Array) -> float:
        """Scaled row (P,) → logit."""
        self._seen += 1
        before = {horizon: self._means.get(horizon, x) for horizon in self._horizons}
        for horizon, old in before.items():
            self._means[horizon] = old + (x - old) * np.float32(1.0 / min(self._seen, horizon))
        total = 0.0
        for i, parts in enumerate(self._views):
            shown = np.concatenate(
                [x if n == "rows" else self._means[h] if n == "mean" else x - before[h] for n, h in parts]
            )
            mine = self._networks[i * self.spec.members : (i + 1) * self.spec.members]
            total += float(np.mean([network.step(shown) for network in mine]))
        return total

    def step(self, row: Float32Array) -> float:
        """float32 (D,) → score in [0, 1]."""
        return float(sigmoid(self.logit(row) / self.temperature + self.bias))

    def score_rows(self, rows: Float32Array) -> NDArray[np.float64]:
        """(T, D) of one video, from a fresh state → scores (T,)."""
        self.reset()
        logits = np.array([self._logit(x) for x in self.scaling.apply(rows.astype(np.float32))])
        return sigmoid(logits / self.temperature + self.bias)
