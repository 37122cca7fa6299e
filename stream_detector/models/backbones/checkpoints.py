"""Converts weights files of other projects to a state dict of one of our architectures, strictly checked.

    layout         recognised by                          architectures
    Hara           conv1.weight, layer1.0.conv1.weight    resnet3d-{10,18,34,50}-{a,b}, any width
    torchvision    stem.0.weight                          r3d_18, mc3_18, r2plus1d_18
    I3D            stages.…, or the published archive     i3d

`module.` prefixes (DataParallel) are removed; the classifier may have any number of classes or be absent. Files from
before PyTorch 0.4.1 lack `num_batches_tracked`, which inference does not use; it is filled with 0. Everything else must
fit exactly. Only tensors are unpickled (`weights_only=True`), and an archive that grows when opened is refused.
"""

from __future__ import annotations

import re
import tarfile
import warnings
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from stream_detector.errors import BundleError, CheckpointError
from stream_detector.models.backbones import build_backbone
from stream_detector.models.backbones.resnet3d import LAYERS, PUBLISHED_STEM
from stream_detector.models.backbones.tensors import load_strict, read_tensors

MAX_BYTES = 2_000_000_000
MAX_CLASSES = 100_000
_WRAPPERS = ("state_dict", "model_state_dict", "model")


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A converted file. arch: for `build_backbone`.  state: float32, complete.  num_classes: of the classifier `fc`, or
    None.
    """

    arch: str
    state: dict[str, Tensor]
    num_classes: int | None


def read_checkpoint(file: Path, arch: str | None = None) -> Checkpoint:
    """Read, recognise and check a weights file (.pth, .safetensors, or the I3D archive).

    arch: refuse anything else.  Raises CheckpointError, which names missing and unexpected keys.
    """
    try:
        size = file.stat().st_size
    except OSError as error:
        raise CheckpointError(f"{str(file)!r} cannot be read ({error.strerror}); give an existing file") from None
    if size > MAX_BYTES:
        raise CheckpointError(f"{file.name} has {size:,} bytes, at most {MAX_BYTES:,} are read; give another file")
    state = _plain_names(_read(file, size))
    found = recognise(state, file.name)
    if arch is not None and arch != found:
        raise CheckpointError(f"{file.name} holds a {found}, but {arch!r} was requested; give the file of that network")
    classes = _classes(state, file.name)
    network = build_backbone(found, classes)
    wanted = network.state_dict()
    if not any(name.endswith("num_batches_tracked") for name in state):
        state |= {n: torch.zeros_like(v) for n, v in wanted.items() if n.endswith("num_batches_tracked")}
    load_strict(network, state, file.name)
    state = {name: value.float() if value.is_floating_point() else value for name, value in state.items()}
    for name, value in state.items():
        if not bool(torch.isfinite(value).all()):
            raise CheckpointError(f"{file.name}: tensor {name!r} holds NaN or infinity; give the original file")
    return Checkpoint(found, state, classes)


def recognise(state: Mapping[str, Tensor], what: str) -> str:
    """Return the architecture of a state dict, by its names and shapes. Raises CheckpointError."""
    shapes = {name: tuple(value.shape) for name, value in state.items()}
    if "stem.0.weight" in shapes:
        if "stem.3.weight" in shapes:
            return "r2plus1d_18"
        return "mc3_18" if shapes.get("layer2.0.conv1.0.weight", ())[2:3] == (1,) else "r3d_18"
    if any(name.startswith("stages.Conv3d_1a_7x7.") for name in shapes):
        return "i3d"
    first = shapes.get("conv1.weight", ())
    if len(first) == 5 and "layer1.0.conv1.weight" in shapes:
        return _hara(shapes, first, what)
    some = ", ".join(sorted(shapes)[:3]) or "none"
    raise CheckpointError(
        f"{what} has neither Hara's nor torchvision's layout (its keys begin {some}); "
        "give a 3D ResNet checkpoint of one of these"
    )


def _hara(shapes: Mapping[str, tuple[int, ...]], first: tuple[int, ...], what: str) -> str:
    channels, stem = first[0], first[2]
    blocks = {(int(m[1]), int(m[2])) for name in shapes if (m := re.match(r"layer([1-4])\.(\d{1,3})\.", name))}
    counts = tuple(sum(layer == wanted for layer, _ in blocks) for wanted in (1, 2, 3, 4))
    bottleneck = "layer1.0.conv3.weight" in shapes
    depths = [depth for depth, layers in LAYERS.items() if layers == counts and (depth == 50) == bottleneck]
    if not depths:
        raise CheckpointError(f"{what} has {counts} blocks a layer; depths {', '.join(map(str, LAYERS))} are known")
    shortcut = "b" if any(".downsample." in name for name in shapes) else "a"
    width = channels / 64
    arch = f"resnet3d-{depths[0]}-{shortcut}" + ("" if width == 1 else f"-w{width:.3f}".rstrip("0").rstrip("."))
    arch += "" if stem == PUBLISHED_STEM else f"-s{stem}"
    try:
        build_backbone(arch)
    except BundleError:
        raise CheckpointError(
            f"{what} starts with {channels} channels over {stem} frames, no network here does; give another"
        ) from None
    return arch


def _read(file: Path, size: int) -> Mapping[str, Any]:
    if file.suffix == ".safetensors":
        return read_tensors(file, MAX_BYTES)
    if file.name.endswith((".tar.gz", ".tgz", ".ckpt")):
        from stream_detector.models.backbones.i3d import read_i3d_checkpoint

        try:
            return read_i3d_checkpoint(file)
        except CheckpointError:
            raise
        except Exception as error:  # a damaged archive fails in zlib, tarfile, pickle or NumPy
            raise _unreadable(file, error) from None
    try:
        if zipfile.is_zipfile(file):
            with zipfile.ZipFile(file) as archive:
                grown = sum(entry.file_size for entry in archive.infolist())
                if grown > size or any(entry.compress_type != zipfile.ZIP_STORED for entry in archive.infolist()):
                    raise CheckpointError(
                        f"{file.name} is a compressed archive ({grown:,} bytes), not a PyTorch file; give the original"
                    )
        elif tarfile.is_tarfile(file):
            raise CheckpointError(f"{file.name} is a tar archive, not a PyTorch file; give the .pth inside it")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            content = torch.load(file, map_location="cpu", weights_only=True)
    except CheckpointError:
        raise
    except Exception as error:  # torch.load raises almost any exception for a damaged or hostile file
        raise _unreadable(file, error) from None
    if not isinstance(content, Mapping):
        raise CheckpointError(f"{file.name} holds a {type(content).__name__}, not a state dict; give a checkpoint")
    for key in _WRAPPERS:
        if isinstance(content.get(key), Mapping):
            return dict(content[key])
    return dict(content)


def _unreadable(file: Path, error: Exception) -> CheckpointError:
    text = str(error).strip()
    detail = text.splitlines()[0][:160] if text else ""
    return CheckpointError(
        f"{file.name} cannot be read safely as weights ({type(error).__name__}: {detail}); "
        "give an undamaged file that holds nothing but tensors"
    )


def _plain_names(content: Mapping[str, Any]) -> dict[str, Tensor]:
    state: dict[str, Tensor] = {}
    for name, value in content.items():
        plain = isinstance(value, Tensor) and value.layout == torch.strided and value.device.type == "cpu"
        if not isinstance(name, str) or not plain or value.is_quantized or value.is_complex():
            raise CheckpointError(f"{str(name)[:80]!r} is not a plain tensor; give a file with a state dict only")
        while name.startswith("module."):
            name = name.removeprefix("module.")
        if name in state:
            raise CheckpointError(f"{name!r} occurs twice without its 'module.' prefix; give a file of one network")
        state[name] = value
    return state


def _classes(state: Mapping[str, Tensor], what: str) -> int | None:
    weight = state.get("fc.weight")
    if weight is None:
        return None
    if weight.ndim != 2 or not 1 <= weight.shape[0] <= MAX_CLASSES:
        raise CheckpointError(f"{what}: 'fc.weight' has shape {tuple(weight.shape)}, expected (classes, features)")
    return int(weight.shape[0])
