"""Heads with a state: features of one camera, window by window, to scores.

    row (D,) → (x - mean) / std → [axes] → view → layers → logit;  score = sigmoid(sum over views / temperature + bias)

    kind "mlp"     dense layers (only the views depend on the past)
    kind "causal"  a dense layer, then residual causal dilated convolutions over windows (after Bai, Kolter and Koltun,
                   "An Empirical Evaluation of Generic Convolutional and Recurrent Networks", 2018)
    kind "gru"     a dense layer, then a GRU (Cho et al. 2014, in Keras' `reset_after` form)

A view is an input of a network, computed from the rows so far; parts joined by "+" are concatenated:

    rows        x_t                          the window alone
    mean:H      m_t, the running mean        what the scene looks like
    change:H    x_t - m_{t-1}, 0 at first    what is new, independent of the scene

    m_t = m_{t-1} + (x_t - m_{t-1}) / min(t, H): a plain mean for H windows, then an exponential one, so the state is
    one row and a camera that never stops works as well

Every entry of `views` has its own networks, whose logits are averaged; the logits of the views are added. The trainer
scores whole videos with the same code (`score_rows`), so offline and streaming scores cannot differ. float32 NumPy.
"""

from __future__ import annotations

import base64
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from stream_detector.errors import DataError
from stream_detector.types import Float32Array

Kind = Literal["mlp", "causal", "gru"]
KINDS = ("mlp", "causal", "gru")
# After one of these causes the past belongs to another scene or has an unknown age. A drop under overload has neither.
CUTS = frozenset({"reconnect", "seek", "gap", "cut", "corrupt", "truncated"})

Weights = Mapping[str, NDArray[np.float32]]


@dataclass(frozen=True)
class TemporalSpec:
    """All values that determine a head's shape.

    dim: number of features.  widths: of the hidden dense layers ("causal", "gru": the first one only, also the
    channels). kernel, dilations: of the causal convolutions; their reach is 1 + (kernel - 1) * sum(dilations) windows.
    projection: principal axes kept, 0 for none.  views: see the module.  members: networks per view whose logits are
    averaged.  Raises DataError.
    """

    dim: int
    kind: Kind = "mlp"
    widths: tuple[int, ...] = (128, 32)
    kernel: int = 3
    dilations: tuple[int, ...] = ()
    projection: int = 0
    views: tuple[str, ...] = ("rows",)
    members: int = 1

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise DataError(f"unknown head {self.kind!r}; use one of: {', '.join(KINDS)}")
        counts = (self.dim, self.kernel, self.members, *self.widths, *self.dilations)
        if min(counts) < 1 or not self.widths or not self.views or not 0 <= self.projection <= self.dim:
            raise DataError(f"a head needs positive sizes and at most {self.dim} principal axes, got {asdict(self)}")
        for view in self.views:
            view_parts(view)

    @property
    def hidden(self) -> tuple[int, ...]:
        """Return the widths of the dense layers before the part with a state."""
        return self.widths if self.kind == "mlp" else self.widths[:1]

    @property
    def reach(self) -> int:
        """The number of windows that one score depends on directly; 0 for the whole past (running mean, GRU)."""
        if self.kind == "gru" or any(horizon for view in self.views for _, horizon in view_parts(view)):
            return 0
        return 1 + (self.kernel - 1) * sum(self.dilations) if self.kind == "causal" else 1

    def input_width(self, view: str) -> int:
        """Return the width of the first trained layer's input."""
        return (self.projection or self.dim) * len(view_parts(view))

    def shapes(self, view: str) -> dict[str, tuple[int, ...]]:
        """Return the trained arrays of one network of a view: name → shape, Keras' layout (inputs first)."""
        found: dict[str, tuple[int, ...]] = {}
        width = self.input_width(view)
        for i, out in enumerate(self.hidden):
            found |= {f"dense_{i}/kernel": (width, out), f"dense_{i}/bias": (out,)}
            width = out
        if self.kind == "causal":
            for i in range(len(self.dilations)):
                found |= {f"conv_{i}/kernel": (self.kernel, width, width), f"conv_{i}/bias": (width,)}
        elif self.kind == "gru":
            gates = 3 * width
            found |= {"gru_0/kernel": (width, gates), "gru_0/recurrent_kernel": (width, gates)}
            found["gru_0/bias"] = (2, gates)
        return found | {"logit/kernel": (width, 1), "logit/bias": (1,)}


@dataclass(frozen=True)
class Scaling:
    """The fixed part of a head, from training rows only. mean, std: (D,).  axes: (D, projection) or None."""

    mean: Float32Array
    std: Float32Array
    axes: Float32Array | None = None

    def apply(self, rows: Float32Array) -> Float32Array:
        """Map (..., D) to (..., D or projection)."""
        x = ((rows - self.mean) / self.std).astype(np.float32, copy=False)
        return x if self.axes is None else np.asarray(x @ self.axes, np.float32)


def view_parts(view: str) -> tuple[tuple[str, int], ...]:
    """Parse "rows+change:32" to (("rows", 0), ("change", 32)). Raises DataError."""
    parts = []
    for part in view.split("+"):
        name, _, horizon = part.partition(":")
        remembers = name in {"mean", "change"} and horizon.isascii() and horizon.isdigit() and len(horizon) < 7
        if (part == "rows") or (remembers and int(horizon) > 0):
            parts.append((name, int(horizon or 0)))
        else:
            raise DataError(f"unknown view {view[:60]!r}; join 'rows', 'mean:H' and 'change:H' by '+', H in windows")
    return tuple(parts)


def sigmoid(x: NDArray[np.float64] | float) -> NDArray[np.float64]:
    """Compute 1 / (1 + e^-x) without overflow."""
    x = np.asarray(x, np.float64)
    return np.where(x >= 0, 1 / (1 + np.exp(-np.abs(x))), np.exp(-np.abs(x)) / (1 + np.exp(-np.abs(x))))


def _packed(array: Float32Array) -> str:
    """Encode float32, little-endian, in base64: a third of the size of JSON digits."""
    return base64.b64encode(array.astype("<f4").tobytes()).decode("ascii")


def _unpacked(text: str) -> Float32Array:
    return np.frombuffer(base64.b64decode(text), "<f4").astype(np.float32)


class _Member:
    """The trained layers of one network, with their state."""

    def __init__(self, spec: TemporalSpec, weights: Weights) -> None:
        self.spec = spec
        self.w = weights
        self.reset()

    def reset(self) -> None:
        width, kernel = self.spec.widths[0], self.spec.kernel
        self._past = [np.zeros(((kernel - 1) * d + 1, width), np.float32) for d in self.spec.dilations]
        self._hidden = np.zeros(width, np.float32)

    def state(self) -> list[str]:
        """Return the past rows of each convolution and the GRU's hidden row, see `_packed`."""
        return [_packed(array) for array in (*self._past, self._hidden)]

    def restore(self, state: Sequence[str]) -> None:
        """Continue from a `state`."""
        for past, text in zip(self._past, state[:-1], strict=True):
            past[:] = _unpacked(text).reshape(past.shape)
        self._hidden = _unpacked(state[-1])

    def step(self, x: Float32Array) -> float:
        """Map a prepared row (P,) to a logit."""
        for i in range(len(self.spec.hidden)):
            x = np.maximum(x @ self.w[f"dense_{i}/kernel"] + self.w[f"dense_{i}/bias"], 0)
        if self.spec.kind == "causal":
            for i, dilation in enumerate(self.spec.dilations):
                past = self._past[i]
                past[:-1] = past[1:]
                past[-1] = x
                taps = past[::dilation].reshape(-1)  # (kernel * width,), oldest first, in the order of the kernel
                y = taps @ self.w[f"conv_{i}/kernel"].reshape(len(taps), -1) + self.w[f"conv_{i}/bias"]
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
    """Scores the features of one camera, window by window. Make one per camera; `reset` after a discontinuity."""

    def __init__(
        self,
        spec: TemporalSpec,
        scaling: Scaling,
        networks: Sequence[Weights],
        temperature: float = 1.0,
        bias: float = 0.0,
    ) -> None:
        """Create a scorer.

        networks: weights of every network, `members` of them for the first view, then for the next.  temperature, bias:
        Platt scaling, score = sigmoid(logit / temperature + bias).  Raises DataError.
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

    def state(self) -> dict[str, Any]:
        """Return the state as values that JSON holds exactly; another process can `restore` it."""
        return {
            "seen": self._seen,
            "means": {str(horizon): _packed(mean) for horizon, mean in self._means.items()},
            "networks": [network.state() for network in self._networks],
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Continue from a `state` of the same head."""
        self._seen = int(state["seen"])
        self._means = {int(horizon): _unpacked(text) for horizon, text in state["means"].items()}
        for network, packed in zip(self._networks, state["networks"], strict=True):
            network.restore(packed)

    def logit(self, row: Float32Array) -> float:
        """Map float32 (D,) to the logit before calibration: the sum over views of the members' mean. Raises
        DataError.
        """
        if row.shape != (self.spec.dim,):
            raise DataError(f"the head takes a row of {self.spec.dim} features, got shape {row.shape}")
        return self._logit(self.scaling.apply(row.astype(np.float32)))

    def _logit(self, x: Float32Array) -> float:
        """Map a scaled row (P,) to a logit."""
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
        """Map float32 (D,) to a score in [0, 1]."""
        return float(sigmoid(self.logit(row) / self.temperature + self.bias))

    def score_rows(self, rows: Float32Array, cuts: Collection[int] = ()) -> NDArray[np.float64]:
        """Score the rows (T, D) of one video from a new state: (T,). cuts: indices of rows that do not continue the
        previous one.

        Raises DataError.
        """
        self.reset()
        scores = np.empty(len(rows))
        if rows.ndim != 2 or rows.shape[1] != self.spec.dim:
            raise DataError(f"the head takes rows of {self.spec.dim} features, got shape {rows.shape}")
        for t, x in enumerate(self.scaling.apply(rows.astype(np.float32))):
            if t in cuts:
                self.reset()
            scores[t] = sigmoid(self._logit(x) / self.temperature + self.bias)
        return scores
