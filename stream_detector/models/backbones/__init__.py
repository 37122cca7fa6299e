"""3D ConvNets by name: `build_backbone("resnet3d-18-b-w0.5")`.

    arch                          recipe            features  layout of the parameters
    resnet3d-{10,18,34,50}-{a,b}  hara-112          512/2048  Hara et al. 2018
      … with -w0.5 (any width)    stream-112        × width   the same
      … with -s3 or -s5 behind    stream-112        × width   the same; a lean stem, see `resnet3d`
    r3d_18 mc3_18 r2plus1d_18     torchvision-112   512       torchvision
    i3d                           i3d-224           1024      Carreira and Zisserman 2017
    i3d+mc3_18                    i3d-224           1536      both, side by side; see `pair`

Every backbone is a module with `features(x) -> (B, D)` and, if it was built with `num_classes`, a classifier behind it.
One of your own is a `CustomBackbone` in `BACKBONES` (see `registry`), under a name that none of the above matches.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, Protocol

from torch import Tensor, nn

from stream_detector.errors import BundleError
from stream_detector.models.preprocess import RECIPES
from stream_detector.system.registry import Registry

__all__ = [
    "ARCHITECTURES",
    "BACKBONES",
    "Backbone",
    "BackboneSpec",
    "CustomBackbone",
    "backbone_spec",
    "build_backbone",
]

ARCHITECTURES = (
    *(f"resnet3d-{depth}-{shortcut}" for depth in (10, 18, 34, 50) for shortcut in "ab"),
    "resnet3d-18-b-w0.5",
    "resnet3d-18-b-w0.5-s3",
    "r3d_18",
    "mc3_18",
    "r2plus1d_18",
    "i3d",
    "i3d+mc3_18",
)
PAIR = "i3d+mc3_18"
_RESNET = re.compile(r"resnet3d-(10|18|34|50)-([ab])(?:-w(0\.\d{1,3}|[1-4](?:\.\d{1,3})?))?(?:-s([35]))?")


class Backbone(Protocol):
    """The interface of every backbone besides `nn.Module`."""

    def features(self, x: Tensor) -> Tensor:
        """Map float (B, 3, T, H, W), normalised by the backbone's recipe, to features (B, D)."""
        ...


@dataclass(frozen=True, slots=True)
class BackboneSpec:
    """The properties of an architecture. recipe: name in `RECIPES`.  feature_dim: D.  paper: its source."""

    arch: str
    recipe: str
    feature_dim: int
    paper: str


@dataclass(frozen=True, slots=True)
class CustomBackbone:
    """A backbone of another distribution. recipe, feature_dim: as in `BackboneSpec`.

    build: number of classes, or None for features only → a module with `features`, see `Backbone`.
    """

    recipe: str
    feature_dim: int
    build: Callable[[int | None], nn.Module]
    paper: str = ""


BACKBONES = Registry[CustomBackbone]("backbone", "stream_detector.backbones", {})


def backbone_spec(arch: str) -> BackboneSpec:
    """Return the specification of an architecture, without building it. Raises BundleError for an unknown one."""
    match = _RESNET.fullmatch(arch)
    if match:
        width = float(match[3] or 1)
        dim = int(512 * width) * (4 if match[1] == "50" else 1)
        recipe = "hara-112" if width == 1 and not match[4] else "stream-112"
        return BackboneSpec(arch, recipe, dim, RECIPES["hara-112"].paper)
    if arch in ("r3d_18", "mc3_18", "r2plus1d_18"):
        return BackboneSpec(arch, "torchvision-112", 512, RECIPES["torchvision-112"].paper)
    if arch == PAIR:
        return BackboneSpec(arch, "i3d-224", 1536, RECIPES["i3d-224"].paper)
    if arch == "i3d":
        return BackboneSpec(arch, "i3d-224", 1024, RECIPES["i3d-224"].paper)
    own = _custom(arch)
    return BackboneSpec(arch, own.recipe, own.feature_dim, own.paper)


def build_backbone(arch: str, num_classes: int | None = None) -> nn.Module:
    """Build a backbone with random weights, in eval mode (call `.train()` to train it). Raises BundleError.

    num_classes: None for features only.  The module has `features`, see `Backbone`.
    """
    backbone_spec(arch)
    return _builder(arch)(num_classes).eval()


def _builder(arch: str) -> Callable[[int | None], nn.Module]:
    # Imported here, because a process uses one network and each file takes up to a second to import.
    match = _RESNET.fullmatch(arch)
    if match:
        from stream_detector.models.backbones.resnet3d import ResNet3D

        shortcut: Literal["A", "B"] = "A" if match[2] == "a" else "B"
        depth, width, stem = int(match[1]), float(match[3] or 1), int(match[4] or 7)
        return lambda classes: ResNet3D(depth, shortcut, width, classes, stem)
    if arch == PAIR:
        from stream_detector.models.backbones.pair import Pair

        return lambda classes: Pair()
    if arch == "i3d":
        from stream_detector.models.backbones.i3d import I3D

        return lambda classes: I3D(classes)
    if arch not in ("r3d_18", "mc3_18", "r2plus1d_18"):
        return _custom(arch).build
    from stream_detector.models.backbones.videoresnet import VideoResNet

    return lambda classes: VideoResNet(arch, classes)


def _custom(arch: str) -> CustomBackbone:
    if arch not in BACKBONES.names():
        known = ", ".join((*ARCHITECTURES, *BACKBONES.names()))
        raise BundleError(f"backbone {arch!r} is not known; use one of {known}")
    return BACKBONES.get(arch)
