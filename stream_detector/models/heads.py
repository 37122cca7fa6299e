"""The head: features of a backbone → probability that a window is abnormal.

    features (B, D) → standardise → layers with ReLU (and dropout) → logit → sigmoid(logit/temperature + bias)

After Sultani, Chen and Shah, "Real-world Anomaly Detection in Surveillance Videos" (CVPR 2018): a small fully connected
network with 60 % dropout. `temperature` and `bias` are the two parameters of Platt scaling (Platt 1999); they are
fitted after training, so a score can be read as a probability on data like the calibration set. The mean and deviation
of the training features are part of the head: a head belongs to exactly one backbone and recipe.

Arch "mlp" scores each window alone and runs inside the engine. The others ("causal-conv", "causal-gru", "causal-mlp")
carry a state from window to window: `TemporalHead.stream` makes one `streaming_heads.StreamingHead` per camera, for the
decision thread. For these the engine computes the score of a window without a past.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from stream_detector.errors import BundleError, DataError
from stream_detector.models.streaming_heads import Kind, Scaling, StreamingHead, TemporalSpec, view_parts
from stream_detector.types import Float32Array

DROPOUT = 0.6
MAX_WIDTH = 16_384
MAX_NUMBERS = 64_000_000  # limit of the sizes of a temporal head, so that a manifest cannot allocate all memory
TEMPORAL: dict[str, Kind] = {"causal-conv": "causal", "causal-gru": "gru", "causal-mlp": "mlp"}


class Head(nn.Module):
    """A fully connected head.

    dims: from the feature dimension to 1, for instance (256, 128, 32, 1); (256, 1) is a logistic regression. Parameters
    `layers.<i>.weight/bias`; buffers `feature_mean`, `feature_std` (D,), `temperature`, `bias` (scalars).
    """

    feature_mean: Tensor
    feature_std: Tensor
    temperature: Tensor
    bias: Tensor

    def __init__(self, dims: Sequence[int], dropout: float = DROPOUT) -> None:
        super().__init__()
        self.dims = check_dims(dims)
        self.layers = nn.ModuleList(nn.Linear(a, b) for a, b in zip(self.dims, self.dims[1:], strict=False))
        self.dropout = nn.Dropout(dropout)
        self.register_buffer("feature_mean", torch.zeros(self.dims[0]))
        self.register_buffer("feature_std", torch.ones(self.dims[0]))
        self.register_buffer("temperature", torch.ones(()))
        self.register_buffer("bias", torch.zeros(()))

    def logits(self, features: Tensor) -> Tensor:
        """Map float (..., D) to (...): the uncalibrated logit, for a loss."""
        x = (features - self.feature_mean) / self.feature_std
        for layer in self.layers[:-1]:
            x = self.dropout(torch.relu(layer(x)))
        logits: Tensor = self.layers[-1](x).squeeze(-1)
        return logits

    def forward(self, features: Tensor) -> Tensor:
        """Map float (..., D) to (...) in [0, 1], calibrated."""
        return torch.sigmoid(self.logits(features) / self.temperature + self.bias)


def check_dims(dims: Sequence[int]) -> tuple[int, ...]:
    """Return the layer widths as a tuple. Raises BundleError unless there are at least 2, each in 1..16384, the
    last 1.
    """
    widths = tuple(dims)
    whole = all(isinstance(d, int) and not isinstance(d, bool) and 1 <= d <= MAX_WIDTH for d in widths)
    if not whole or not 2 <= len(widths) <= 8 or widths[-1] != 1:
        raise BundleError(
            f"head dims must be 2 to 8 whole numbers of 1 to {MAX_WIDTH}, the last one 1, "
            f"got {str(list(widths))[:60]}; write for instance [256, 128, 32, 1]"
        )
    return widths


class TemporalHead(nn.Module):
    """The arrays of a head with a state; it scores a window without a past.

    Buffers `feature_mean`, `feature_std` (D,), [`axes` (D, projection)], `temperature`, `bias` (scalars) and
    `network_<i>/<layer>/<part>`, in Keras' layout; see `streaming_heads.TemporalSpec.shapes`.
    """

    feature_mean: Tensor
    feature_std: Tensor
    temperature: Tensor
    bias: Tensor

    def __init__(self, spec: TemporalSpec) -> None:
        super().__init__()
        self.spec = spec
        self.register_buffer("feature_mean", torch.zeros(spec.dim))
        self.register_buffer("feature_std", torch.ones(spec.dim))
        self.register_buffer("temperature", torch.ones(()))
        self.register_buffer("bias", torch.zeros(()))
        if spec.projection:
            self.register_buffer("axes", torch.zeros(spec.dim, spec.projection))
        self._layers: list[dict[str, str]] = []
        for view in spec.views:
            for _ in range(spec.members):
                number, shapes = len(self._layers), spec.shapes(view)
                self._layers.append({name: f"network_{number}/{name}" for name in shapes})
                for name, shape in shapes.items():
                    self.register_buffer(f"network_{number}/{name}", torch.zeros(shape))

    def forward(self, features: Tensor) -> Tensor:
        """Map float (B, D) to (B,) in [0, 1]: every window as if it were the first one of its camera."""
        x = (features - self.feature_mean) / self.feature_std
        if self.spec.projection:
            x = x @ self.get_buffer("axes")
        total = torch.zeros_like(x[:, 0])
        for number, layers in enumerate(self._layers):
            parts = view_parts(self.spec.views[number // self.spec.members])
            shown = torch.cat([torch.zeros_like(x) if name == "change" else x for name, _ in parts], dim=1)
            total = total + self._logit(shown, {name: self.get_buffer(key) for name, key in layers.items()})
        return torch.sigmoid(total / self.spec.members / self.temperature + self.bias)

    def stream(self) -> StreamingHead:
        """Make a scorer for one camera, with a new state; all scorers share the arrays of this head."""
        arrays = {name: value.detach().cpu().numpy() for name, value in self.named_buffers()}
        networks = [{name: arrays[key] for name, key in layers.items()} for layers in self._layers]
        scaling = Scaling(arrays["feature_mean"], arrays["feature_std"], arrays.get("axes"))
        return StreamingHead(self.spec, scaling, networks, float(self.temperature), float(self.bias))

    def _logit(self, x: Tensor, w: Mapping[str, Tensor]) -> Tensor:
        for i in range(len(self.spec.hidden)):
            x = torch.relu(x @ w[f"dense_{i}/kernel"] + w[f"dense_{i}/bias"])
        if self.spec.kind == "causal":
            for i in range(len(self.spec.dilations)):
                x = x + torch.relu(x @ w[f"conv_{i}/kernel"][-1] + w[f"conv_{i}/bias"])  # the other taps read zeros
        elif self.spec.kind == "gru":
            bias = w["gru_0/bias"]
            inputs = (x @ w["gru_0/kernel"] + bias[0]).chunk(3, dim=1)
            state = bias[1].chunk(3)
            update, reset = torch.sigmoid(inputs[0] + state[0]), torch.sigmoid(inputs[1] + state[1])
            x = (1 - update) * torch.tanh(inputs[2] + reset * state[2])
        return (x @ w["logit/kernel"] + w["logit/bias"])[:, 0]


def temporal_spec(arch: Mapping[str, Any]) -> TemporalSpec:
    """Parse {"arch": "causal-conv", "dim": …, "widths": … and the other keys of `TemporalSpec`}. Raises BundleError."""
    values: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in arch.items() if k != "arch"}
    try:
        spec = TemporalSpec(kind=TEMPORAL[arch["arch"]], **values)
        # Checked before any shape is listed, because `members` alone could be a billion.
        numbers = sum(spec.members * sum(math.prod(s) for s in spec.shapes(view).values()) for view in spec.views)
        numbers += spec.dim * (spec.projection + 2)
    except (TypeError, KeyError):
        raise BundleError(f"a temporal head has unknown or missing keys: {sorted(arch)}; export it again") from None
    except DataError as error:
        raise BundleError(str(error)) from None
    if numbers > MAX_NUMBERS:
        raise BundleError(
            f"the head would have {numbers:,} numbers, at most {MAX_NUMBERS:,} are allowed; train a smaller one"
        )
    return spec


def build_head(arch: Mapping[str, Any]) -> Head | TemporalHead:
    """Build a head in eval mode, from {"arch": "mlp", "dims": [...]} (random weights) or a temporal head's keys
    (zeros).

    Raises BundleError.
    """
    name = arch.get("arch")
    if name in TEMPORAL:
        return TemporalHead(temporal_spec(arch)).eval()
    if name != "mlp":
        raise BundleError(f"head {name!r} is not known; use one of: mlp, {', '.join(TEMPORAL)}")
    dims = arch.get("dims")
    if not isinstance(dims, list | tuple):
        raise BundleError("a head of arch 'mlp' needs 'dims'; write for instance [256, 128, 32, 1]")
    return Head(dims).eval()


def head_numpy(state: Mapping[str, Float32Array], features: Float32Array) -> Float32Array:
    """Compute `Head.forward` in eval mode in NumPy. state: arrays of `Head.state_dict()`.  features: (..., D)."""
    x = (features - state["feature_mean"]) / state["feature_std"]
    last = max(int(key.split(".")[1]) for key in state if key.startswith("layers."))
    for index in range(last + 1):
        x = x @ state[f"layers.{index}.weight"].T + state[f"layers.{index}.bias"]
        if index < last:
            x = np.maximum(x, 0)
    logits = x[..., 0] / state["temperature"] + state["bias"]
    result: Float32Array = (1 / (1 + np.exp(-logits))).astype(np.float32)
    return result
