"""3D residual networks in the layout of Hara, Kataoka and Satoh (CVPR 2018), whose Kinetics weights are public.

    input (B, 3, T, H, W) → conv1 7×7×7 /(1,2,2) → max pool /2 → layer1 … layer4 (/2 each but the first) → mean → (B, D)

The parameters have the names of the published checkpoints (`conv1`, `bn1`, `layer1.0.conv1` …, `fc`), so these load
without renaming. There are two kinds of shortcuts where the shape changes: "A" has no parameters (subsampling, zero
channels), "B" is a 1×1×1 convolution with batch normalisation. The mean over all positions allows any clip length and
size. `width` scales all channel counts (Zagoruyko and Komodakis 2016, "wide" factor; below 1 here, for small machines).

The published stem needs 57 % of the multiply-adds at width 0.5: 7×7×7 over three channels at the full frame rate. A
lean stem is shorter in time, k×7×7, and uses every other frame; the pool after it then keeps the time axis, so all
later layers have the same shapes as in the published network. The saved time allows more pixels or more width.
"""

from __future__ import annotations

from typing import Literal

from torch import Tensor, nn
from torch.nn import functional

from stream_detector.models.backbones.network import FeatureNetwork

Shortcut = Literal["A", "B"]
PUBLISHED_STEM = 7  # frames that the first filters span; any other number makes a lean stem
PLANES = (64, 128, 256, 512)
LAYERS = {10: (1, 1, 1, 1), 18: (2, 2, 2, 2), 34: (3, 4, 6, 3), 50: (3, 4, 6, 3)}


class ShortcutA(nn.Module):
    """Identity with a stride, padded with zero channels (He et al. 2016, option A). Gradients flow through."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.missing = outputs - inputs
        self.stride = stride

    def forward(self, x: Tensor) -> Tensor:
        """(B, inputs, T, H, W) → (B, outputs, ⌈T/s⌉, ⌈H/s⌉, ⌈W/s⌉)."""
        step = self.stride
        return functional.pad(x[:, :, ::step, ::step, ::step], (0, 0, 0, 0, 0, 0, 0, self.missing))


class BasicBlock(nn.Module):
    """Two 3×3×3 convolutions and a shortcut."""

    expansion = 1

    def __init__(self, inputs: int, planes: int, stride: int, downsample: nn.Module | None) -> None:
        super().__init__()
        self.conv1 = nn.Conv3d(inputs, planes, 3, stride=stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm3d(planes)
        self.conv2 = nn.Conv3d(planes, planes, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm3d(planes)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = downsample

    def forward(self, x: Tensor) -> Tensor:
        """(B, inputs, T, H, W) → (B, planes, T/s, H/s, W/s)."""
        residual = x if self.downsample is None else self.downsample(x)
        out = self.relu(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        result: Tensor = self.relu(out + residual)
        return result


class Bottleneck(nn.Module):
    """1×1×1, 3×3×3, 1×1×1 convolutions and a shortcut; the output has four times as many channels."""

    expansion = 4

    def __init__(self, inputs: int, planes: int, stride: int, downsample: nn.Module | None) -> None:
        super().__init__()
        self.conv1 = nn.Conv3d(inputs, planes, 1, bias=False)
        self.bn1 = nn.BatchNorm3d(planes)
        self.conv2 = nn.Conv3d(planes, planes, 3, stride=stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm3d(planes)
        self.conv3 = nn.Conv3d(planes, planes * 4, 1, bias=False)
        self.bn3 = nn.BatchNorm3d(planes * 4)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = downsample

    def forward(self, x: Tensor) -> Tensor:
        """(B, inputs, T, H, W) → (B, 4·planes, T/s, H/s, W/s)."""
        residual = x if self.downsample is None else self.downsample(x)
        out = self.relu(self.bn1(self.conv1(x)))
        out = self.relu(self.bn2(self.conv2(out)))
        out = self.bn3(self.conv3(out))
        result: Tensor = self.relu(out + residual)
        return result


class ResNet3D(FeatureNetwork):
    """A 3D ResNet.

    depth: 10, 18, 34 or 50.  shortcut: "A" or "B".  width: factor on all channel counts.  stem: frames (an odd number)
    that the first filters span; any number but `PUBLISHED_STEM` makes a lean stem.  num_classes: None leaves the
    classifier `fc` out, and `forward` returns features.  Initial weights are random (He et al. 2015, fan-out); a new
    module is in training mode (`build_backbone` switches to eval).
    """

    def __init__(
        self,
        depth: int,
        shortcut: Shortcut = "B",
        width: float = 1.0,
        num_classes: int | None = None,
        stem: int = PUBLISHED_STEM,
    ) -> None:
        super().__init__()
        block = Bottleneck if depth == 50 else BasicBlock
        planes = [max(1, int(p * width)) for p in PLANES]
        counts = LAYERS[depth]
        self._inputs = planes[0]
        lean = stem != PUBLISHED_STEM
        strides = (2 if lean else 1, 2, 2)
        self.conv1 = nn.Conv3d(3, planes[0], (stem, 7, 7), stride=strides, padding=(stem // 2, 3, 3), bias=False)
        self.bn1 = nn.BatchNorm3d(planes[0])
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool3d(3, stride=2, padding=1)
        if lean:
            self.maxpool = nn.MaxPool3d((1, 3, 3), stride=(1, 2, 2), padding=(0, 1, 1))
        self.layer1 = self._layer(block, planes[0], counts[0], 1, shortcut)
        self.layer2 = self._layer(block, planes[1], counts[1], 2, shortcut)
        self.layer3 = self._layer(block, planes[2], counts[2], 2, shortcut)
        self.layer4 = self._layer(block, planes[3], counts[3], 2, shortcut)
        self.feature_dim = planes[3] * block.expansion
        self.fc = None if num_classes is None else nn.Linear(self.feature_dim, num_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv3d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def _layer(
        self, block: type[BasicBlock] | type[Bottleneck], planes: int, count: int, stride: int, shortcut: Shortcut
    ) -> nn.Sequential:
        outputs = planes * block.expansion
        downsample: nn.Module | None = None
        if stride != 1 or self._inputs != outputs:
            if shortcut == "A":
                downsample = ShortcutA(self._inputs, outputs, stride)
            else:
                convolution = nn.Conv3d(self._inputs, outputs, 1, stride=stride, bias=False)
                downsample = nn.Sequential(convolution, nn.BatchNorm3d(outputs))
        blocks: list[nn.Module] = [block(self._inputs, planes, stride, downsample)]
        self._inputs = outputs
        blocks += [block(outputs, planes, 1, None) for _ in range(1, count)]
        return nn.Sequential(*blocks)

    def maps(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Map float (B, 3, T, H, W), normalised, to the outputs of layer3 and layer4; 16 frames give 2 and 1 time
        steps.
        """
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        middle = self.layer3(self.layer2(self.layer1(x)))
        return middle, self.layer4(middle)

    def last_map(self, x: Tensor) -> Tensor:
        """See `FeatureNetwork.last_map`."""
        return self.maps(x)[1]

    def features(self, x: Tensor) -> Tensor:
        """Map float (B, 3, T, H, W), normalised, to (B, D): the mean over all positions of the last layer."""
        return self.last_map(x).mean(dim=(2, 3, 4))
