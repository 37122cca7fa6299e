"""The heads that are trained, in Keras: features of a video, window by window, to one logit a window.

    rows (B, T, D) → (x - mean) / std → [projection] → view → layers → logit (B, T);  score = sigmoid(sum over views)

kind "mlp"     dense layers, each window alone: the paper's 512-128-32-1 (MILR IV-A2; ReLU after every hidden layer,
               60 % dropout; the paper states no activation for its layer of 32, ReLU is our choice)
kind "causal"  a dense layer, then residual causal dilated convolutions (and nothing from the future)
kind "gru"     a dense layer, then a GRU

`projection` are principal axes of the training rows, fixed. What a view is, what is carried from window to window, and
the same arithmetic without Keras: `stream_detector.models.streaming_heads`. Every entry of `views` is an expert; their
logits are added (a product of experts: suspicious place times sudden change). All is causal.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stream_detector.errors import DataError
from stream_detector.models.streaming_heads import Scaling, TemporalSpec, view_parts
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
        """Return JSON-ready values."""
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


def fit_scaling(
    rows: Float32Array, target_norm: float, standardise: bool, projection: int, centre: bool = True
) -> Scaling:
    """Fit a Scaling to training rows (R, D).

    standardise: False: one factor for all dimensions that brings the mean row norm to `target_norm` (unit rows are too
    small for the usual learning rates). True: every dimension to mean 0, deviation 1.  projection: number of principal
    axes of the result. centre: whether the axes pass through the mean of the rows; without it they are the leading
    right singular vectors, and published methods for unit rows are trained on unit rows.
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
    if centre and not standardise:
        mean = rows.mean(axis=0)  # axes through the centre
    x = (rows - mean) / std
    axes = principal_axes(x.astype(np.float32), projection)
    axes = axes * np.sign(
        axes[np.abs(axes).argmax(axis=0), np.arange(projection)]
    )  # a fixed sign, so that runs can be compared
    return Scaling(mean.astype(np.float32), std.astype(np.float32), np.ascontiguousarray(axes, np.float32))


def principal_axes(x: Float32Array, count: int, passes: int = 4) -> Float32Array:
    """Return the `count` leading principal axes of centred rows (R, D), as columns (D, count), by randomised SVD.

    This is ten times cheaper than computing all D axes. Seeded, so repeatable. Raises DataError for more axes than rows
    or dimensions.
    """
    from sklearn.utils.extmath import randomized_svd

    if count > min(x.shape):
        raise DataError(f"{count} principal axes need at least as many rows and dimensions, got {x.shape}")
    found = randomized_svd(x, count, n_oversamples=16, n_iter=passes, power_iteration_normalizer="QR", random_state=0)
    return np.asarray(found[2].T, np.float32)


def running_mean_matrix(length: int, horizon: int) -> Float32Array:
    """Return the (T, T) lower triangular M with (M x)_t = m_t, the running mean of the module's docstring."""
    matrix = np.zeros((length, length), np.float64)
    row = np.zeros(length, np.float64)
    for t in range(length):
        share = 1.0 / min(t + 1, horizon)
        row = row * (1 - share)
        row[t] += share
        matrix[t] = row
    return matrix.astype(np.float32)


def see(x: Float32Array, view: str) -> Float32Array:
    """Map scaled rows (V, T, P) to the input of a network of this view, (V, T, P * parts)."""
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
        )  # of the past only, because x_t itself would reduce early changes
        shown.append(x - before)
    return np.concatenate(shown, axis=-1).astype(np.float32, copy=False)


def build_head(
    spec: HeadSpec,
    view: str = "rows",
    length: int | None = None,
    initializer: str = "glorot_uniform",
    linear_last: bool = False,
) -> Any:
    """Build the trained part of one network as a Keras model: the view's input (B, T, P) → logits (B, T).

    initializer: of the dense kernels.  linear_last: whether the last hidden layer ends without ReLU ("mlp"; see
    `merged`).
    """
    import keras
    from keras import layers

    inputs = keras.Input((length, spec.input_width(view)))
    x = inputs
    for i, width in enumerate(spec.hidden):
        linear = linear_last and i == len(spec.hidden) - 1
        x = layers.Dense(
            width, activation=None if linear else "relu", kernel_initializer=initializer, name=f"dense_{i}"
        )(x)
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
    x = layers.Dense(1, kernel_initializer=initializer, name="logit")(x)
    return keras.Model(inputs, keras.ops.squeeze(x, axis=-1))


def weights_of(model: Any) -> dict[str, NDArray[np.float32]]:
    """Return the trained arrays by name (`dense_0/kernel` …), the same names on both backends."""
    import keras

    named = {}
    for layer in model.layers:
        for variable in layer.weights:
            if "seed_generator" not in variable.path:
                part = variable.path.rsplit("/", 1)[-1]
                # A copy: on PyTorch the array is the parameter's own memory, and training goes on in place.
                named[f"{layer.name}/{part}"] = np.array(keras.ops.convert_to_numpy(variable), np.float32)
    return named


def merged(
    spec: HeadSpec, networks: Sequence[dict[str, NDArray[np.float32]]]
) -> tuple[HeadSpec, list[dict[str, NDArray[np.float32]]]]:
    """Return the same function without the last hidden layer, which has no ReLU: two linear layers in a row are one.

    Between them is dropout, which is the identity after training. Raises DataError for any head but "mlp" with at least
    two hidden layers.
    """
    if spec.kind != "mlp" or len(spec.widths) < 2:
        raise DataError("linear_last needs a head of kind mlp with at least two hidden layers; leave it out")
    last, found = f"dense_{len(spec.widths) - 1}", []
    for network in networks:
        kernel, bias = network["logit/kernel"].astype(np.float64), network["logit/bias"].astype(np.float64)
        kept = {name: array for name, array in network.items() if not name.startswith((f"{last}/", "logit/"))}
        kept["logit/kernel"] = (network[f"{last}/kernel"] @ kernel).astype(np.float32)
        kept["logit/bias"] = (network[f"{last}/bias"] @ kernel + bias).astype(np.float32)
        found.append(kept)
    return replace(spec, widths=spec.widths[:-1]), found


def kernels_of(model: Any) -> list[Any]:
    """Return the variables that a weight norm reduces: all except the biases."""
    return [v for v in model.trainable_variables if not v.path.endswith("bias")]
