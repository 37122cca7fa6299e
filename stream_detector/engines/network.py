"""All steps between uint8 windows and scores as one module, so that every engine runs the same computation.

uint8 (B, 16, H, W, 3) RGB → normalise → backbone → features (B, D) → head → scores (B,)
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from stream_detector.errors import EngineError
from stream_detector.models.backbones.network import FeatureNetwork
from stream_detector.models.bundle import Bundle
from stream_detector.models.heads import Head
from stream_detector.models.preprocess import Normalise, Recipe
from stream_detector.models.saliency import contributions
from stream_detector.types import EngineOutput, Float32Array, UInt8Array


class Network(nn.Module):
    """The whole network of a bundle, in eval mode, without gradients."""

    def __init__(self, bundle: Bundle) -> None:
        super().__init__()
        backbone, head, recipe = bundle.build()
        self.normalise: Normalise | OnePassNormalise = Normalise(recipe)
        self.backbone: Any = backbone
        self.head = head
        self.dtype = torch.float32
        self.eval().requires_grad_(False)

    def forward(self, frames: Tensor) -> tuple[Tensor, Tensor]:
        """Map uint8 (B, 16, H, W, 3) RGB to features (B, D) and scores (B,)."""
        features: Tensor = self.backbone.features(self.normalise(frames).to(self.dtype))
        # The head is small; its standardisation and sigmoid run in full precision.
        features = features.float()
        return features, self.head(features)

    def explained(self, frames: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
        """`forward`, and what each cell of the last map adds to the logit (B, h, w); None where that is not known.

        Features and scores are those of `forward` to the last bit: they are computed by the same operations.
        """
        if isinstance(self.head, Head) and isinstance(self.backbone, FeatureNetwork):
            last = self.backbone.last_map(self.normalise(frames).to(self.dtype))
            if last is not None:
                features = last.mean(dim=(2, 3, 4)).float()
                return features, self.head(features), contributions(self.head, features, last)
        features, scores = self.forward(frames)
        return features, scores, None

    def to_compute(self, device: torch.device, dtype: torch.dtype) -> Network:
        """Prepare for PyTorch's fast kernels, in place: fused, channels last, only the backbone in `dtype`."""
        fuse_batchnorm(self.backbone)
        self.to(device)
        self.backbone.to(dtype=dtype, memory_format=torch.channels_last_3d)
        self.dtype = dtype
        return self


class OnePassNormalise(nn.Module):
    """`Normalise` and the conversion to `dtype` in one operation, which reads every pixel once. For GPUs.

    The device adds and multiplies in float32, so it differs from `Normalise` by one rounding at most.
    """

    gain: Tensor
    offset: Tensor

    def __init__(self, recipe: Recipe, dtype: torch.dtype) -> None:
        super().__init__()
        self.dtype = dtype
        self.register_buffer("gain", torch.tensor(recipe.gain), persistent=False)
        self.register_buffer("offset", torch.tensor(recipe.offset), persistent=False)

    def forward(self, frames: Tensor) -> Tensor:
        """Map uint8 (B, T, H, W, 3) RGB to (B, 3, T, H, W) in `dtype`, in channels-last memory."""
        out = torch.empty(frames.shape, dtype=self.dtype, device=frames.device)
        torch.addcmul(self.offset, frames, self.gain, out=out)
        return out.permute(0, 4, 1, 2, 3)


def fuse_batchnorm(module: nn.Module) -> None:
    """Fold every batch normalisation into the convolution before it, in place (eval mode; exact up to rounding).

    Pairs are found by name (`conv1`, `bn1`) and by position in an `nn.Sequential`; a module with a method `fuse` does
    it itself. What is no plain layer (a subclass, hooks) is left alone.
    """
    fuse = getattr(module, "fuse", None)
    if callable(fuse):
        fuse()
        return
    children = dict(module.named_children())
    names = list(children)
    for index, name in enumerate(names):
        after = names[index + 1] if isinstance(module, nn.Sequential) and index + 1 < len(names) else ""
        partner = after or name.replace("conv", "bn")
        first, second = children[name], children.get(partner)
        if type(first) is nn.Conv3d and type(second) is nn.BatchNorm3d and is_plain(first) and is_plain(second):
            setattr(module, name, fuse_conv_bn_eval(first, second))
            setattr(module, partner, nn.Identity())
        else:
            fuse_batchnorm(first)


def is_plain(layer: nn.Module) -> bool:
    """Return whether calling a layer runs its class's `forward` and nothing else: no hooks, no `forward` of its own."""
    hooks = (layer._forward_hooks, layer._forward_pre_hooks, layer._backward_hooks, layer._backward_pre_hooks)
    return not any(hooks) and "forward" not in vars(layer)


class BatchError(EngineError):
    """A caller gave what is not a batch of windows; the engine is as good as before."""


def check_windows(frames: UInt8Array, recipe: Recipe, max_batch: int) -> None:
    """Raise BatchError unless frames are uint8 (1..max_batch, 16, H, W, 3) of the recipe's size."""
    wanted = (recipe.frames, *recipe.size, 3)
    if frames.dtype != np.uint8 or frames.ndim != 5 or frames.shape[1:] != wanted or not 1 <= len(frames) <= max_batch:
        raise BatchError(
            f"a batch must be uint8 (1..{max_batch}, {', '.join(map(str, wanted))}), got {frames.dtype} {frames.shape}"
        )


def check_each(windows: Sequence[UInt8Array], recipe: Recipe, max_batch: int) -> None:
    """Raise BatchError unless there are 1..max_batch windows, each uint8 (16, H, W, 3) of the recipe's size."""
    wanted = (recipe.frames, *recipe.size, 3)
    if not 1 <= len(windows) <= max_batch:
        raise BatchError(f"a batch holds 1 to {max_batch} windows, got {len(windows)}")
    for window in windows:
        if window.shape != wanted or window.dtype != np.uint8:
            raise BatchError(f"a window must be uint8 {wanted}, got {window.dtype} {window.shape}")


def checked_output(
    features: Float32Array,
    scores: Float32Array,
    preprocess_s: float,
    forward_s: float,
    grids: Float32Array | None = None,
) -> EngineOutput:
    """Return an EngineOutput. Raises EngineError if it contains NaN or infinity: that is a fault of the engine."""
    if not (np.isfinite(features).all() and np.isfinite(scores).all()):
        raise EngineError("the network returned NaN or infinity; use --precision fp32, or check the bundle")
    return EngineOutput(features, scores, preprocess_s, forward_s, grids)


def blank(recipe: Recipe, batch: int = 1) -> Tensor:
    """Return grey windows for a warm-up: uint8 (batch, 16, H, W, 3)."""
    return torch.full((batch, recipe.frames, *recipe.size, 3), 128, dtype=torch.uint8)
