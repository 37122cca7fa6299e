"""Small heads that remember, with seeded weights, as bundles and as checkpoints."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from model_samples import DIM, small_parts, small_states

from stream_detector.models.bundle import Bundle, write_bundle
from stream_detector.models.streaming_heads import Scaling
from trainer.export import head_state
from trainer.mil.checkpoint import Checkpoint
from trainer.mil.heads import HeadSpec

SPECS = {
    "causal-conv": HeadSpec(
        DIM, "causal", (12,), dilations=(1, 2), views=("rows", "change:4"), members=2, projection=20
    ),
    "causal-gru": HeadSpec(DIM, "gru", (10,), views=("rows+mean:3",)),
    "causal-mlp": HeadSpec(DIM, "mlp", (9, 5), views=("change:8",)),
}


def small_checkpoint(arch: str, features: dict[str, Any] | None = None) -> Checkpoint:
    """features: the manifest of the features that it was (not) trained on."""
    spec, rng = SPECS[arch], np.random.default_rng(3)
    networks = []
    for view in spec.views:
        for _ in range(spec.members):
            weights = {}
            for name, shape in spec.shapes(view).items():  # scaled by fan-in: logits stay within a few units
                weights[name] = (rng.normal(size=shape) / np.sqrt(np.prod(shape[:-1]))).astype(np.float32)
            networks.append(weights)
    axes = np.linalg.qr(rng.normal(size=(DIM, spec.projection)))[0].astype(np.float32) if spec.projection else None
    scaling = Scaling(np.full(DIM, 0.3, np.float32), np.full(DIM, 0.8, np.float32), axes)
    return Checkpoint(
        spec, scaling, tuple(networks), {}, (), 0.5, (), features or {}, "torch", {}, temperature=1.3, bias=-0.2
    )


def temporal_bundle(directory: Path, arch: str) -> Bundle:
    """A bundle with the small backbone and that head."""
    head, state = head_state(small_checkpoint(arch))
    assert head["arch"] == arch
    return write_bundle(directory, small_parts(name="temporal", head=head), small_states()[0], state)


def feature_rows(count: int, seed: int = 0) -> torch.Tensor:
    """(count, DIM) float32."""
    return torch.from_numpy(np.random.default_rng(seed).normal(size=(count, DIM)).astype(np.float32))
