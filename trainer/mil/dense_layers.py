"""Heads of dense layers in PyTorch, with a hand-written forward and backward pass: the arithmetic of Keras' layers,
faster.

A ranking loss depends on few segments of a bag: of 32, the gradient of MILR reaches all of an abnormal bag (smoothness)
but only one of a normal bag; that of top-k cross entropy reaches k. Rows without a gradient are left out of the
backward pass, which changes nothing. Dropout in PyTorch takes as long as the largest matrix product; here 16 random
bits per element decide.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

Tensor = Any


@dataclass(frozen=True, slots=True)
class Dense:
    """One layer. kernel: (in, out).  relu: whether it ends with one.  dropout: rate after it."""

    kernel: Tensor
    bias: Tensor
    relu: bool
    dropout: float = 0.0


def chain_of(model: Any) -> list[Dense] | None:
    """Return the layers of a Keras model of dense layers and dropout that ends in one logit; None for any other
    model.
    """
    from keras import activations, layers

    chain: list[Dense] = []
    for layer in model.layers:
        if isinstance(layer, layers.Dense) and layer.activation in (activations.relu, activations.linear):
            chain.append(Dense(layer.kernel.value, layer.bias.value, layer.activation is activations.relu))
        elif isinstance(layer, layers.Dropout) and chain:
            chain[-1] = replace(chain[-1], dropout=layer.rate)
        elif not isinstance(layer, layers.InputLayer) and layer.weights:
            return None
    return chain if chain and chain[-1].kernel.shape[1] == 1 and not chain[-1].dropout else None


def value_and_gradients(
    chain: Sequence[Dense], objective: Callable[[Tensor], Tensor], features: Tensor, rng: np.random.Generator
) -> tuple[Tensor, list[Tensor]]:
    """Return the value of `objective(logits)` in training and its gradients: kernel and bias of every layer in order.

    features: (B, T, D).  objective: of logits (B, T) and, for a weight norm, of the kernels.
    """
    with torch.no_grad():
        x, inputs, slopes = features.reshape(-1, features.shape[-1]), [], []
        for layer in chain:
            inputs.append(x)
            x = torch.addmm(layer.bias, x, layer.kernel)
            slope = None  # gradient with respect to the layer's output, from that of its product
            if layer.dropout:
                bits = np.frombuffer(rng.bytes(2 * x.numel()), np.uint16).reshape(x.shape)
                slope = torch.from_numpy(bits >= round(layer.dropout * 65536)).to(x.dtype).mul_(1 / (1 - layer.dropout))
            if layer.relu:
                slope = (x > 0).to(x.dtype) if slope is None else slope.mul_(x > 0)
            x = x if slope is None else x.mul_(slope)
            slopes.append(slope)
    logits = x.reshape(features.shape[:2]).requires_grad_()
    parameters = [part for layer in chain for part in (layer.kernel, layer.bias)]
    value = objective(logits)
    back, *direct = torch.autograd.grad(value, [logits, *parameters], allow_unused=True)
    with torch.no_grad():
        back = back.reshape(-1, 1)
        rows = back[:, 0].nonzero()[:, 0]
        back, found = back[rows], list[Tensor]()
        for number in reversed(range(len(chain))):
            slope = slopes[number]
            if slope is not None:
                back = back * slope.index_select(0, rows)
            found += [back.sum(0), inputs[number].index_select(0, rows).T @ back]
            if number:
                back = back @ chain[number].kernel.T
    gradients = [g if d is None else g + d for g, d in zip(reversed(found), direct, strict=True)]
    return value.detach(), gradients
