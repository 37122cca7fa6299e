"""Where in the picture a score comes from: the last map of the network, weighed by the head.

    contribution(y, x) = mean over time of Σ_c g_c · map(c, t, y, x)      g_c: change of the logit with feature c

The features are the mean of the last map over time and space, so this is Grad-CAM (Selvaraju et al. 2017,
arXiv:1610.02391) without its rectification; for a head of one layer it is the class activation map of Zhou et al. 2016
(arXiv:1512.04150). It costs one small matrix product for each layer of the head, and no second pass of the network.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from stream_detector.models.heads import Head


def head_gradient(head: Head, features: Tensor) -> Tensor:
    """The gradient of the uncalibrated logit with respect to the features: float (B, D) → (B, D).

    Written out instead of derived, because engines run in inference mode and inside captured graphs.
    """
    x = (features - head.feature_mean) / head.feature_std
    layers: list[Any] = list(head.layers)
    slopes = []
    for layer in layers[:-1]:
        x = torch.relu(layer(x))
        slopes.append((x > 0).to(x.dtype))
    gradient: Tensor = layers[-1].weight.expand(len(features), -1)
    for layer, slope in zip(reversed(layers[:-1]), reversed(slopes), strict=True):
        gradient = (gradient * slope) @ layer.weight
    return gradient / head.feature_std


def contributions(head: Head, features: Tensor, maps: Tensor) -> Tensor:
    """What each cell of the last map adds to the logit: float32 (B, h, w).

    features: float32 (B, D).  maps: (B, D, T, h, w), whose mean over the last three axes are the features.
    """
    gradient = head_gradient(head, features)
    return (maps.float().mean(dim=2) * gradient[:, :, None, None]).sum(dim=1)
