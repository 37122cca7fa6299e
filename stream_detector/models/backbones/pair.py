"""Two networks that look at the same window, their features side by side: the Kinetics I3D and the MC3-18.

    clip (B, 3, T, H, W) in [-1, 1] ─┬──────────────────────────────▶ I3D ────▶ 1024 ─┐
                                     └─ to 112×112, other numbers ──▶ MC3-18 ──▶ 512 ─┴─▶ features (B, 1536)

Parameters are those of the two, under `first.` and `second.`.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from stream_detector.models.backbones.i3d import I3D
from stream_detector.models.backbones.network import FeatureNetwork
from stream_detector.models.backbones.videoresnet import VideoResNet
from stream_detector.models.preprocess import RECIPES

SECOND = "mc3_18"
FEATURE_DIM = I3D.feature_dim + VideoResNet.feature_dim


class Pair(FeatureNetwork):
    """I3D and MC3-18 without their classifiers. Input: float (B, 3, T, H, W), RGB in [-1, 1]; features (B, 1536)."""

    gain: Tensor
    offset: Tensor
    feature_dim = FEATURE_DIM

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = I3D(), VideoResNet(SECOND)
        self.fc = None
        recipe = RECIPES["torchvision-112"]
        mean, std = torch.tensor(recipe.mean), torch.tensor(recipe.std)
        self.side = recipe.size
        # (x / 2 + 1 / 2 - mean) / std; not stored, for they are no weights
        self.register_buffer("gain", (0.5 / std).view(1, 3, 1, 1, 1), persistent=False)
        self.register_buffer("offset", ((0.5 - mean) / std).view(1, 3, 1, 1, 1), persistent=False)

    def for_second(self, x: Tensor) -> Tensor:
        """float (B, 3, T, H, W) in [-1, 1] → (B, 3, T, 112, 112), normalised as the MC3-18 wants it."""
        small = F.interpolate(x, (x.shape[2], *self.side), mode="trilinear", align_corners=False)
        return small * self.gain + self.offset

    def features(self, x: Tensor) -> Tensor:
        """float (B, 3, T, H, W) in [-1, 1] → (B, 1536): first those of the I3D, then those of the MC3-18."""
        return torch.cat([self.first.features(x), self.second.features(self.for_second(x))], dim=1)
