"""The lean stem: what is saved, and that everything behind it sees what it saw before."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from stream_detector.errors import BundleError
from stream_detector.models.backbones import backbone_spec, build_backbone
from stream_detector.models.backbones.checkpoints import read_checkpoint
from stream_detector.models.backbones.resnet3d import ResNet3D


def work(network: nn.Module, size: int) -> int:
    """Multiply-adds of the convolutions for one window."""
    total = 0

    def count(module: nn.Module, _: object, out: torch.Tensor) -> None:
        nonlocal total
        assert isinstance(module, nn.Conv3d)
        total += out[0].numel() * module.weight[0].numel()

    for module in network.modules():
        if isinstance(module, nn.Conv3d):
            module.register_forward_hook(count)
    with torch.no_grad():
        network(torch.zeros(1, 3, 16, size, size))
    return total


def test_it_costs_little_more_than_half_and_buys_144_pixels() -> None:
    published = work(build_backbone("resnet3d-18-b-w0.5"), 112)
    assert work(build_backbone("resnet3d-18-b-w0.5-s3"), 112) < 0.56 * published
    assert work(build_backbone("resnet3d-18-b-w0.5-s3"), 144) < 0.95 * published
    assert work(build_backbone("resnet3d-18-b-w0.6-s3"), 144) < 1.3 * published


@pytest.mark.parametrize("stem", [3, 5])
def test_all_layers_behind_it_see_the_published_shapes(stem: int) -> None:
    x = torch.randn(2, 3, 16, 48, 48)
    lean, published = ResNet3D(10, "B", 0.125, stem=stem).eval(), ResNet3D(10, "B", 0.125).eval()
    with torch.no_grad():
        assert [m.shape for m in lean.maps(x)] == [m.shape for m in published.maps(x)]
    theirs = {name: value.shape for name, value in published.state_dict().items() if name != "conv1.weight"}
    assert theirs == {name: value.shape for name, value in lean.state_dict().items() if name != "conv1.weight"}


def test_its_name_says_it_and_a_checkpoint_is_recognised(tmp_path: Path) -> None:
    assert backbone_spec("resnet3d-18-b-w0.6-s3").feature_dim == 307
    assert backbone_spec("resnet3d-18-b-s3").recipe == "stream-112"
    assert backbone_spec("resnet3d-18-b").recipe == "hara-112"
    with pytest.raises(BundleError, match="not known"):
        build_backbone("resnet3d-18-b-w0.5-s4")
    network = build_backbone("resnet3d-10-b-w0.125-s3")
    torch.save(network.state_dict(), tmp_path / "lean.pth")
    found = read_checkpoint(tmp_path / "lean.pth")
    assert found.arch == "resnet3d-10-b-w0.125-s3" and found.state.keys() == network.state_dict().keys()
