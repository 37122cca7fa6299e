"""Small real bundles for tests: seeded weights, milliseconds a window."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from parity_weights import seeded_state, uniform

from stream_detector.models.backbones import build_backbone
from stream_detector.models.backbones.tensors import write_tensors
from stream_detector.models.bundle import Bundle, write_bundle
from stream_detector.models.heads import Head
from stream_detector.models.preprocess import Recipe
from stream_detector.types import UInt8Array

ARCH = "resnet3d-10-b-w0.125"
DIM = 64
SMALL = Recipe("small-32", (32, 32), (0.43, 0.39, 0.38), (0.23, 0.22, 0.22), 1 / 255)


def small_states() -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    head = Head((DIM, 8, 1))
    state = head.state_dict()
    for name in state:
        if name.startswith("layers."):
            state[name] = uniform(name, tuple(state[name].shape), -0.3, 0.3)
    state["feature_mean"], state["feature_std"] = torch.full((DIM,), 0.5), torch.full((DIM,), 2.0)
    state["temperature"], state["bias"] = torch.tensor(1.5), torch.tensor(-0.2)
    return seeded_state(build_backbone(ARCH).state_dict()), state


def small_parts(**changes: Any) -> dict[str, Any]:
    return {
        "name": "small",
        "backbone": {"arch": ARCH},
        "preprocess": SMALL,
        "head": {"dims": [DIM, 8, 1]},
        "threshold": {"value": 0.4, "calibrated": "on nothing", "false_alarms_per_hour": 2.0},
        "training": {"sets": ["noise"]},
        "licences": {"noise": "CC0"},
        **changes,
    }


def small_bundle(directory: Path) -> Bundle:
    backbone, head = small_states()
    return write_bundle(directory, small_parts(), backbone, head)


def noise_windows(count: int, seed: int = 0, size: tuple[int, int] = SMALL.size) -> UInt8Array:
    return np.random.default_rng(seed).integers(0, 256, (count, 16, *size, 3), dtype=np.uint8)


def edit(folder: Path, change: Callable[[dict[str, Any]], None]) -> None:
    path = folder / "bundle.json"
    manifest = json.loads(path.read_text(encoding="utf-8"))
    change(manifest)
    path.write_text(json.dumps(manifest), encoding="utf-8")


def replace_tensors(folder: Path, part: str, change: Callable[[dict[str, torch.Tensor]], None]) -> None:
    """Other tensors, with the right checksum in the manifest: what is left to find are the tensors themselves."""
    bundle = Bundle.load(folder)
    state = dict(bundle.backbone_state if part == "backbone" else bundle.head_state)
    change(state)
    sha = write_tensors(folder / f"{part}.safetensors", state)
    edit(folder, lambda m: m[part].update({"weights_sha256" if part == "backbone" else "sha256": sha}))
