"""Weights and clips that two implementations can share without sharing a random generator's history.

Every tensor is drawn from its own generator, keyed by the tensor's name, so the order of construction does not matter.
Only uniform numbers of PCG64 are used. The recorded outputs in `fixtures/parity` were made with these.
"""

from __future__ import annotations

import zlib

import numpy as np
import torch
from torch import Tensor

SHAPES = {"clip": (1, 3, 16, 64, 64), "odd": (1, 3, 11, 49, 63)}
CLASSES = 16


def uniform(key: str, shape: tuple[int, ...], low: float, high: float) -> Tensor:
    generator = np.random.Generator(np.random.PCG64(zlib.crc32(key.encode())))
    return torch.from_numpy((generator.random(shape) * (high - low) + low).astype(np.float32))


def seeded_state(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """New values for a state dict: activations stay near 1, and no two channels or statistics are alike."""
    result: dict[str, Tensor] = {}
    for name, value in state.items():
        shape = tuple(value.shape)
        if name.endswith("num_batches_tracked"):
            result[name] = torch.zeros_like(value)
        elif name.endswith("running_var"):
            result[name] = uniform(name, shape, 0.5, 1.5)
        elif value.ndim >= 2:
            bound = (6 / int(np.prod(shape[1:]))) ** 0.5
            result[name] = uniform(name, shape, -bound, bound)
        elif name.endswith("weight"):
            result[name] = uniform(name, shape, 0.5, 1.0)
        else:
            result[name] = uniform(name, shape, -0.2, 0.2)
    return result


def seeded_clip(name: str) -> Tensor:
    return uniform(f"clip {name}", SHAPES[name], -1.5, 1.5)
