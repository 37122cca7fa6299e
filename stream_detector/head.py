"""The head: features of a backbone → probability that a window is abnormal.

    features (B, D) → standardise → layers with ReLU (and dropout) → logit → sigmoid(logit/temperature + bias)

After Sultani, Chen and Shah, "Real-world Anomaly Detection in Surveillance Videos" (CVPR 2018): a small fully connected
network with 60 % dropout. `temperature` and `bias` are the two numbers of Platt scaling (Platt 1999); they are fitted
after training, so a score can be read as a probability on data like the calibration set. The mean and deviation of the
training features travel with the head: a head belongs to exactly one backbone and recipe.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from stream_detector.errors import BundleError
from stream_detector.types import Float32Array

DROPOUT = 0.6
MAX_WIDTH = 16_384


class Head(nn.Module):
    """dims: from the feature dimension to 1, for instance (256, 128, 32, 1); (256, 1) is a logistic regression.

    Parameters `layers.<i>.weight/bias`; buffers `feature_mean`, `feature_std` (D,), `temperature`, `bias` (scalars).
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
        """float (..., D) → (...): the uncalibrated logit, what a loss wants."""
        x = (features - self.feature_mean) / self.feature_std
        for layer in self.layers[:-1]:
            x = self.dropout(torch.relu(layer(x)))
        logits: Tensor = self.layers[-1](x).squeeze(-1)
        return logits

    def forward(self, features: Tensor) -> Tensor:
        """float (..., D) → (...) in [0, 1], calibrated."""
        return torch.sigmoid(self.logits(features) / self.temperature + self.bias)


def check_dims(dims: Sequence[int]) -> tuple[int, ...]:
    """The layer widths as a tuple. Raises BundleError unless there are at least 2, each in 1..16384, the last 1."""
    widths = tuple(dims)
    whole = all(isinstance(d, int) and not isinstance(d, bool) and 1 <= d <= MAX_WIDTH for d in widths)
    if not whole or not 2 <= len(widths) <= 8 or widths[-1] != 1:
        raise BundleError(
            f"head dims must be 2 to 8 whole numbers of 1 to {MAX_WIDTH}, the last one 1, "
            f"got {str(list(widths))[:60]}; write for instance [256, 128, 32, 1]"
        )
    return widths


def build_head(arch: Mapping[str, Any]) -> Head:
    """A head with random weights, in eval mode, from {"arch": "mlp", "dims": [...]}. Raises BundleError."""
    name = arch.get("arch")
    if name != "mlp":
        raise BundleError(f"head {name!r} is not known; use 'mlp'")
    dims = arch.get("dims")
    if not isinstance(dims, list | tuple):
        raise BundleError("a head of arch 'mlp' needs 'dims'; write for instance [256, 128, 32, 1]")
    return Head(dims).eval()


def head_numpy(state: Mapping[str, Float32Array], features: Float32Array) -> Float32Array:
    """The same as `Head.forward` in eval mode, in NumPy. state: arrays of `Head.state_dict()`; features (..., D)."""
    x = (features - state["feature_mean"]) / state["feature_std"]
    last = max(int(key.split(".")[1]) for key in state if key.startswith("layers."))
    for index in range(last + 1):
        x = x @ state[f"layers.{index}.weight"].T + state[f"layers.{index}.bias"]
        if index < last:
            x = np.maximum(x, 0)
    logits = x[..., 0] / state["temperature"] + state["bias"]
    result: Float32Array = (1 / (1 + np.exp(-logits))).astype(np.float32)
    return result
