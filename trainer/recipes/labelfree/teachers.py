"""The teachers: frozen networks, and their outputs for a view.

    name   network               input    outputs
    i3d    Kinetics-400 I3D      view     features 1024, 400 classes, map 1024 × 1×5×5
    mc3    MC3-18, see recipe    112      features 512, map 512 × 1×5×5; its two classes come from labels: not used

On CUDA in half precision; on a CPU compiled in bfloat16 by OpenVINO, else PyTorch in float32.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stream_detector.errors import DataError
from stream_detector.models import weights
from stream_detector.models.backbones import build_backbone
from stream_detector.models.backbones.i3d import I3D
from stream_detector.models.backbones.tensors import (
    expected_bytes,
    file_sha256,
    load_strict,
    read_tensors,
    to_half,
    write_tensors,
)
from stream_detector.models.backbones.videoresnet import VideoResNet
from stream_detector.models.preprocess import recipe_named
from stream_detector.types import WINDOW_FRAMES
from trainer.evaluation.compiled_teacher import GRID, compiled_module


class Answer(NamedTuple):
    """A teacher's outputs for B views: features (B, D), map (B, D, 1, 5, 5), logits (B, C) or None."""

    features: Tensor
    map: Tensor
    logits: Tensor | None


@dataclass(frozen=True, slots=True)
class Known:
    """weights: name for `models fetch`.  arch: its network.  dim, classes: of its outputs; 0: the classes are not
    used.
    """

    weights: str
    arch: str
    dim: int
    classes: int


KNOWN = {
    "i3d": Known("i3d-kinetics400", "i3d", 1024, 400),
    "mc3": Known("mc3-18-fights", "mc3_18", 512, 0),
}
_STORED_CLASSES = {"i3d": 400, "mc3": 2}


def place(name: str, folder: Path) -> Path:
    """Store a teacher's weights, in float16, in a folder, after a download if they are missing. Returns the file.

    The download is verified by its checksum. Raises CheckpointError if it fails.
    """
    file = folder / f"{name}.safetensors"
    if not file.exists():
        record = weights.fetch(KNOWN[name].weights)
        limit = expected_bytes(_network(name))
        state = read_tensors(Path(record.directory) / "weights.safetensors", limit, record.file_sha256)
        folder.mkdir(parents=True, exist_ok=True)
        write_tensors(file, to_half(state))
    return file


def load(name: str, file: Path) -> nn.Module:
    """Return the network of a file written by `place`, in float32, eval mode. Raises CheckpointError."""
    network = _network(name)
    load_strict(network, read_tensors(file, expected_bytes(network)), file.name)
    return network.eval().requires_grad_(False)


def _network(name: str) -> nn.Module:
    return build_backbone(KNOWN[name].arch, _STORED_CLASSES[name])


class Asked(nn.Module):
    """A teacher from bytes to outputs: uint8 (B, 16, S, S, 3) RGB → (features, map[, logits])."""

    def __init__(self, name: str, network: nn.Module) -> None:
        super().__init__()
        self.name, self.network = name, network

    def forward(self, views: Tensor) -> tuple[Tensor, ...]:
        """See `Answer` for the shapes."""
        pixels = views.permute(0, 4, 1, 2, 3).to(next(self.network.parameters()).dtype)
        if isinstance(self.network, I3D):
            last = self.network.stages(pixels / 127.5 - 1.0)
            features = last.mean(dim=(2, 3, 4))
            assert self.network.fc is not None
            return features, F.adaptive_avg_pool3d(last, (1, GRID, GRID)), self.network.fc(features)
        if not isinstance(self.network, VideoResNet):
            raise DataError(f"teacher {self.name!r} is a {type(self.network).__name__}, which is not supported")
        recipe = recipe_named("torchvision-112")
        mean = torch.tensor(recipe.mean, device=pixels.device, dtype=pixels.dtype).view(1, 3, 1, 1, 1)
        std = torch.tensor(recipe.std, device=pixels.device, dtype=pixels.dtype).view(1, 3, 1, 1, 1)
        small = F.interpolate(pixels, (WINDOW_FRAMES, *recipe.size), mode="trilinear", align_corners=False)
        n = self.network
        last = n.layer4(n.layer3(n.layer2(n.layer1(n.stem((small * recipe.scale - mean) / std)))))
        return last.mean(dim=(2, 3, 4)), F.adaptive_avg_pool3d(last, (1, GRID, GRID))


Ask = Callable[[Tensor], Answer]


def asker(name: str, network: nn.Module, device: str, side: int) -> Ask:
    """Return a function that runs a teacher on uint8 (B, 16, side, side, 3) views on `device`; outputs are float32, on
    the same device.

    Raises DataError if a compiled teacher differs from PyTorch's.
    """
    module = Asked(name, network)
    if device.startswith("cuda"):
        module.network.to(device=device, dtype=torch.float16, memory_format=torch.channels_last_3d)  # type: ignore[call-overload]

        @torch.no_grad()
        def on_cuda(views: Tensor) -> Answer:
            return _answer(module(views))

        return on_cuda
    probe = torch.randint(0, 256, (1, WINDOW_FRAMES, side, side, 3), generator=torch.Generator().manual_seed(0))
    compiled = compiled_module(module, probe.to(torch.uint8))

    @torch.no_grad()
    def on_cpu(views: Tensor) -> Answer:
        return _answer(module(views) if compiled is None else compiled(views.numpy()))

    return on_cpu


def _answer(parts: tuple[Tensor, ...]) -> Answer:
    whole = [part.float() for part in parts]
    if not all(bool(torch.isfinite(part).all()) for part in whole):
        raise DataError("a teacher gave a value that is not finite; check its weights file")
    return Answer(whole[0], whole[1], whole[2] if len(whole) > 2 else None)


def digest(files: dict[str, Path]) -> str:
    """Return a digest of the teachers' weights."""
    return " ".join(f"{name}:{file_sha256(file)[:16]}" for name, file in sorted(files.items()))
