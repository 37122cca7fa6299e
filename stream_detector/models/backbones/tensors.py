"""Tensors on disk, without unpickling: read, write, hash, and load strictly into a module.

Weights live in safetensors files. They are written without free-text metadata and in sorted order, so equal tensors
give equal bytes. Reading refuses anything that is not finite, and anything larger than the caller expects.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load as parse_safetensors
from safetensors.torch import save as dump_safetensors
from torch import Tensor, nn

from stream_detector.errors import CheckpointError, StreamDetectorError

FLOATS = (torch.float32, torch.float16, torch.bfloat16)
_HEADER_BYTES = 1_000_000


def file_sha256(path: Path) -> str:
    """Return the hexadecimal sha256 of a file's bytes. Raises OSError."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def tensor_digest(state: Mapping[str, Tensor]) -> str:
    """Return the hexadecimal sha256 over names, dtypes, shapes and bytes, in sorted order; independent of file
    formats.
    """
    digest = hashlib.sha256()
    for name in sorted(state):
        value = state[name].detach().cpu().contiguous()
        digest.update(f"{name}\0{value.dtype}\0{tuple(value.shape)}\0".encode())
        digest.update(value.reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def to_half(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return convolutions and matrices as float16, vectors (biases, statistics) unchanged. Raises CheckpointError."""
    result: dict[str, Tensor] = {}
    for name, value in state.items():
        half = value.detach().cpu()
        if half.is_floating_point() and half.ndim >= 2:
            half = half.half()
            if not bool(torch.isfinite(half).all()):
                raise CheckpointError(f"tensor {name!r} has values that float16 cannot hold; store it as float32")
        result[name] = half
    return result


def write_tensors(path: Path, state: Mapping[str, Tensor]) -> str:
    """Write a safetensors file, whole or not at all; return its sha256."""
    content = dump_safetensors({name: state[name].detach().cpu().contiguous() for name in sorted(state)})
    partial = path.with_name(path.name + ".partial")
    partial.write_bytes(content)
    os.replace(partial, path)
    return hashlib.sha256(content).hexdigest()


def expected_bytes(module: nn.Module) -> int:
    """Return the largest size of a safetensors file of this module: float32 and a header."""
    values: list[Tensor] = list(module.state_dict().values())
    return sum(v.numel() * max(4, v.element_size()) for v in values) + _HEADER_BYTES


def read_tensors(
    path: Path, max_bytes: int, sha256: str | None = None, error: type[StreamDetectorError] = CheckpointError
) -> dict[str, Tensor]:
    """Read a safetensors file; all numbers must be finite. Raises `error` with one sentence.

    max_bytes: a larger file is refused before it is read.  sha256: of the file, checked before it is parsed.
    """
    try:
        size = path.stat().st_size
        if size > max_bytes:
            raise error(f"{path.name} has {size:,} bytes, at most {max_bytes:,} were expected; use the original file")
        content = path.read_bytes()
    except OSError as problem:
        raise error(f"{str(path)!r} cannot be read ({problem.strerror}); restore the file") from None
    if sha256 is not None and hashlib.sha256(content).hexdigest() != sha256:
        raise error(f"{path.name} does not have the sha256 {sha256[:12]}… that was recorded; restore the original file")
    try:
        state = parse_safetensors(content)
    except (SafetensorError, ValueError, KeyError, TypeError, RuntimeError, AttributeError, OverflowError) as problem:
        raise error(f"{path.name} is not a readable safetensors file ({problem}); restore the original file") from None
    for name, value in state.items():
        if value.is_floating_point() and not bool(torch.isfinite(value).all()):
            raise error(f"{path.name}: tensor {name!r} holds NaN or infinity; restore the original file")
    return state


def load_strict(
    module: nn.Module, state: Mapping[str, Tensor], what: str, error: type[StreamDetectorError] = CheckpointError
) -> None:
    """Copy a state dict into a module; every name, shape and kind of number must fit. Raises `error`.

    Floating-point tensors of any width become the module's float32; integers must stay integers.
    """
    wanted = module.state_dict()
    missing, unexpected = sorted(wanted.keys() - state.keys()), sorted(state.keys() - wanted.keys())
    if missing or unexpected:
        raise error(f"{what} does not fit the network: missing {_some(missing)}; unexpected {_some(unexpected)}")
    for name, value in state.items():
        target = wanted[name]
        if value.shape != target.shape:
            raise error(
                f"{what}: tensor {name!r} has shape {tuple(value.shape)}, the network needs {tuple(target.shape)}; "
                "use weights of this architecture"
            )
        if not (value.dtype in FLOATS if target.is_floating_point() else value.dtype == target.dtype):
            raise error(f"{what}: tensor {name!r} is {value.dtype}, the network needs {target.dtype}; convert it")
        if name.endswith("running_var") and bool((value < 0).any()):
            raise error(f"{what}: {name!r} holds a negative variance; restore the original file")
    module.load_state_dict(dict(state), strict=True)


def as_numpy(state: Mapping[str, Tensor]) -> dict[str, np.ndarray]:
    """Return float32 arrays of a state dict."""
    return {name: value.detach().float().cpu().numpy() for name, value in state.items()}


def _some(names: list[str]) -> str:
    if not names:
        return "none"
    shown = ", ".join(names[:5])
    return shown if len(names) <= 5 else f"{shown} and {len(names) - 5} more"
