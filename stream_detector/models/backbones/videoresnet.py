"""The three 18-layer video networks of Tran et al. (CVPR 2018), with torchvision's parameter names.

    r3d_18        3×3×3 convolutions throughout                       stem 3×7×7 /(1,2,2)
    mc3_18        3×3×3 in layer1, 1×3×3 (no time) in the others      the same stem
    r2plus1d_18   1×3×3 then 3×1×1, through `middle` channels         stem 1×7×7 then 3×1×1, through 45 channels

There is no pooling after the stem: layer1 works at half the input's size, hence these networks cost more than those of
`resnet3d`. `middle` is chosen so that the factorised pair has as many parameters as the 3×3×3 it replaces (§3.5).
"""

from __future__ import annotations

from typing import Literal

from torch import Tensor, nn

from stream_detector.models.backbones.network import FeatureNetwork

Kind = Literal["full", "flat", "split"]
KINDS: dict[str, tuple[Kind, Kind, Kind, Kind]] = {
    "r3d_18": ("full", "full", "full", "full"),
    "mc3_18": ("full", "flat", "flat", "flat"),
    "r2plus1d_18": ("split", "split", "split", "split"),
}
PLANES = (64, 128, 256, 512)


def _convolution(kind: Kind, inputs: int, outputs: int, middle: int, stride: int) -> nn.Module:
    if kind == "full":
        return nn.Conv3d(inputs, outputs, 3, stride=stride, padding=1, bias=False)
    if kind == "flat":
        return nn.Conv3d(inputs, outputs, (1, 3, 3), stride=(1, stride, stride), padding=(0, 1, 1), bias=False)
    return nn.Sequential(
        nn.Conv3d(inputs, middle, (1, 3, 3), stride=(1, stride, stride), padding=(0, 1, 1), bias=False),
        nn.BatchNorm3d(middle),
        nn.ReLU(inplace=True),
        nn.Conv3d(middle, outputs, (3, 1, 1), stride=(stride, 1, 1), padding=(1, 0, 0), bias=False),
    )


class VideoBlock(nn.Module):
    """Two convolutions of one kind and a shortcut (a 1×1×1 convolution where the shape changes)."""

    def __init__(self, kind: Kind, inputs: int, planes: int, stride: int) -> None:
        super().__init__()
        middle = (inputs * planes * 27) // (inputs * 9 + 3 * planes)
        first = _convolution(kind, inputs, planes, middle, stride)
        second = _convolution(kind, planes, planes, middle, 1)
        self.conv1 = nn.Sequential(first, nn.BatchNorm3d(planes), nn.ReLU(inplace=True))
        self.conv2 = nn.Sequential(second, nn.BatchNorm3d(planes))
        self.relu = nn.ReLU(inplace=True)
        self.downsample: nn.Module | None = None
        if stride != 1 or inputs != planes:
            strides = (1 if kind == "flat" else stride, stride, stride)
            shortcut = nn.Conv3d(inputs, planes, 1, stride=strides, bias=False)
            self.downsample = nn.Sequential(shortcut, nn.BatchNorm3d(planes))

    def forward(self, x: Tensor) -> Tensor:
        """(B, inputs, T, H, W) → (B, planes, T/s, H/s, W/s); "flat" keeps T."""
        residual = x if self.downsample is None else self.downsample(x)
        result: Tensor = self.relu(self.conv2(self.conv1(x)) + residual)
        return result


class VideoResNet(FeatureNetwork):
    """A video ResNet. arch: "r3d_18", "mc3_18" or "r2plus1d_18".  num_classes: None leaves the classifier `fc` out."""

    feature_dim = 512

    def __init__(self, arch: str, num_classes: int | None = None) -> None:
        super().__init__()
        kinds = KINDS[arch]
        self.stem = _stem(kinds[0])
        self.layer1 = self._layer(kinds[0], 64, PLANES[0], 1)
        self.layer2 = self._layer(kinds[1], PLANES[0], PLANES[1], 2)
        self.layer3 = self._layer(kinds[2], PLANES[1], PLANES[2], 2)
        self.layer4 = self._layer(kinds[3], PLANES[2], PLANES[3], 2)
        self.fc = None if num_classes is None else nn.Linear(self.feature_dim, num_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv3d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    @staticmethod
    def _layer(kind: Kind, inputs: int, planes: int, stride: int) -> nn.Sequential:
        return nn.Sequential(VideoBlock(kind, inputs, planes, stride), VideoBlock(kind, planes, planes, 1))

    def last_map(self, x: Tensor) -> Tensor:
        """See `FeatureNetwork.last_map`."""
        last: Tensor = self.layer4(self.layer3(self.layer2(self.layer1(self.stem(x)))))
        return last

    def features(self, x: Tensor) -> Tensor:
        """Map float (B, 3, T, H, W), normalised, to (B, 512): the mean over all positions of the last layer."""
        return self.last_map(x).mean(dim=(2, 3, 4))


def _stem(kind: Kind) -> nn.Sequential:
    if kind == "split":
        return nn.Sequential(
            nn.Conv3d(3, 45, (1, 7, 7), stride=(1, 2, 2), padding=(0, 3, 3), bias=False),
            nn.BatchNorm3d(45),
            nn.ReLU(inplace=True),
            nn.Conv3d(45, 64, (3, 1, 1), padding=(1, 0, 0), bias=False),
            nn.BatchNorm3d(64),
            nn.ReLU(inplace=True),
        )
    return nn.Sequential(
        nn.Conv3d(3, 64, (3, 7, 7), stride=(1, 2, 2), padding=(1, 3, 3), bias=False),
        nn.BatchNorm3d(64),
        nn.ReLU(inplace=True),
    )
