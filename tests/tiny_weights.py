"""The smallest network's weights, and files of them, for the tests of reading and of fetching weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from parity_weights import seeded_state

from stream_detector.models.backbones import build_backbone

TINY = "resnet3d-10-b-w0.125"


def tiny_state(classes: int | None = 5, arch: str = TINY) -> dict[str, torch.Tensor]:
    return seeded_state(build_backbone(arch, classes).state_dict())


def saved(path: Path, content: Any, **options: Any) -> Path:
    torch.save(content, path, **options)
    return path
