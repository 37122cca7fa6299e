"""The heads that are trained, in Keras: features of a video, window by window, to one logit a window.

    rows (B, T, D) → (x - mean) / std → [projection] → view → layers → logit (B, T);  score = sigmoid(sum over views)

kind "mlp"     dense layers, each window alone: the paper's 512-128-32-1 (MILR IV-A2; ReLU after every hidden layer,
               60 % dropout; the paper states no activation for its layer of 32, ReLU is our choice)
kind "causal"  a dense layer, then residual causal dilated convolutions (and nothing from the future)
kind "gru"     a dense layer, then a GRU

`projection` are principal axes of the training rows, fixed. What a view is, what is carried from window to window, and
the same arithmetic without Keras: `stream_detector.temporal`. Every entry of `views` is an expert trained by itself;
their logits are added (a product of experts: suspicious place times sudden change). All is causal.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stream_detector.errors import DataError
from stream_detector.temporal import Scaling, TemporalSpec, view_parts
from stream_detector.types import Float32Array


@dataclass(frozen=True)
class HeadSpec(TemporalSpec):
    """Everything that fixes a head's shape, and its training. dropout: after every hidden layer. Raises DataError."""

    dropout: float = 0.6

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.dropout < 1:
            raise DataError(f"dropout must lie in [0, 1), got {self.dropout}")

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return {k: list(v) if isinstance(v, tuple) else v for k, v in asdict(self).items()}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> HeadSpec:
        """The inverse of to_dict. Raises DataError for unknown fields."""
        try:
            typed: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in values.items()}
            return cls(**typed)
        except TypeError:
            raise DataError(
                f"head has unknown or missing fields: {sorted(values)}; it comes from another version"
            ) from None


def fit_scaling(rows: Float32Array, target_norm: float, standardise: bool, projection: int) -> Scaling:
    """Scaling from training rows (R, D).

    standardise False: one factor for all dimensions that brings the mean row norm to `target_norm` (unit rows are too
    small for the usual learning rates). True: every dimension to mean 0, deviation 1. projection: principal axes of
    what results.
    """
    dim = rows.shape[1]
    if standardise:
        mean = rows.mean(axis=0)
        std = np.maximum(rows.std(axis=0), 1e-6)
    else:
        norm = float(np.linalg.norm(rows, axis=1).mean())
        mean, std = np.zeros(dim, np.float32), np.full(dim, max(norm, 1e-12) / target_norm, np.float32)
    if not projection:
        return Scaling(mean.astype(np.float32), std.astype(np.float32))
    if not standardise:
        mean = rows.mean(axis=0)  # axes through the centre
    x = (rows - mean) / std
    axes = principal_axes(x.astype(np.float32), projection)
    axes = axes * np.sign(
        axes[np.abs(axes).argmax(axis=0), np.arange(projection)]
    )  # a fixed sign: runs can be compared
    return Scaling(mean.astype(np.float32), std.astype(np.float32), np.ascontiguousarray(axes, np.float32))


def principal_axes(x: Float32Array, count: int, passes: int = 4) -> Float32Array:
    """The `count` leading principal axes of centred rows (R, D), as columns, by subspace iteration.

    Halko, Martinsson, Tropp 2011, algorithm 4.4: an order of magnitude cheaper than all D axes. Seeded, so repeatable.
    """
    width = min(count + 16, *x.shape)
    if count > width:
        raise DataError(f"{count} principal axes need at least as many rows and dimensions, got {x.shape}")
    basis = np.random.default_rng(0).standard_normal((x.shape[1], width)).astype(np.float32)
    for _ in range(passes):
        basis = np.linalg.qr(x.T @ (x @ basis))[0]
    rotation = np.linalg.svd(x @ basis, full_matrices=False)[2]
    axes: Float32Array = (basis @ rotation.T)[:, :count].astype(np.float32)
    return axes


def running_mean_matrix(length: int, horizon: int) -> Float32Array:
    """(T, T) lower triangular M with (M x)_t = m_t, the running mean of the module's docstring."""
    matrix = np.zeros((length, length), np.float64)
    row = np.zeros(length, np.float64)
    for t in range(length):
        share = 1.0 / min(t + 1, horizon)
        row = row * (1 - share)
        row[t] += share
        matrix[t] = row
    return matrix.astype(np.float32)


def see(x: Float32Array, view: str) -> Float32Array:
    """Scaled rows (V, T, P) → what a network of this view is shown, (V, T, P * parts)."""
    shown = []
    for name, horizon in view_parts(view):
        if name == "rows":
            shown.append(x)
            continue
        mean = np.matmul(running_mean_matrix(x.shape[1], horizon), x)
        if name == "mean":
            shown.append(mean)
            continue
        before = np.concatenate(
            [x[:, :1], mean[:, :-1]], axis=1
        )  # of the past alone: x_t itself would shrink early ones
        shown.append(x - before)
    return np.concatenate(shown, axis=-1).astype(np.float32, copy=False)


def build_head(spec: HeadSpec, view: str = "rows", length: int | None = None) -> Any:
    """The trained part of one network as a Keras model: what the view shows (B, T, P) → logits (B, T)."""
    import keras
    from keras import layers

    inputs = keras.Input((length, spec.input_width(view)))
    x = inputs
    for i, width in enumerate(spec.hidden):
        x = layers.Dense(width, activation="relu", name=f"dense_{i}")(x)
        x = layers.Dropout(spec.dropout)(x)
    if spec.kind == "causal":
        for i, dilation in enumerate(spec.dilations):
            y = layers.Conv1D(
                spec.widths[0],
                spec.kernel,
                padding="causal",
                dilation_rate=dilation,
                activation="relu",
                name=f"conv_{i}",
            )(x)
            x = layers.Add()([x, layers.Dropout(spec.dropout)(y)])
    elif spec.kind == "gru":
        x = layers.GRU(spec.widths[0], return_sequences=True, reset_after=True, name="gru_0")(x)
        x = layers.Dropout(spec.dropout)(x)
    x = layers.Dense(1, name="logit")(x)
    return keras.Model(inputs, keras.ops.squeeze(x, axis=-1))


def weights_of(model: Any) -> dict[str, NDArray[np.float32]]:
    """The trained arrays by name (`dense_0/kernel` …), the same names on both backends."""
    import keras

    named = {}
    for layer in model.layers:
        for variable in layer.weights:
            if "seed_generator" not in variable.path:
                part = variable.path.rsplit("/", 1)[-1]
                # A copy: on PyTorch the array is the parameter's own memory, and training goes on in place.
                named[f"{layer.name}/{part}"] = np.array(keras.ops.convert_to_numpy(variable), np.float32)
    return named


def kernels_of(model: Any) -> list[Any]:
    """The variables that a weight norm shrinks: all but the biases."""
    return [v for v in model.trainable_variables if not v.path.endswith("bias")]
