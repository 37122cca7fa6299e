"""torchvision's video networks: layout and behaviour (numbers: test_parity)."""

from __future__ import annotations

import pytest
import torch

from stream_detector.models.backbones import build_backbone

ARCHS = ["r3d_18", "mc3_18", "r2plus1d_18"]


@pytest.mark.parametrize(
    ("arch", "count"), [("r3d_18", 33_371_472), ("mc3_18", 11_695_440), ("r2plus1d_18", 31_505_325)]
)
def test_parameter_counts_are_the_published_ones(arch: str, count: int) -> None:
    assert sum(p.numel() for p in build_backbone(arch, 400).parameters()) == count


def test_names_are_those_of_the_published_checkpoints() -> None:
    plain, split = (build_backbone(arch, 400).state_dict() for arch in ("r3d_18", "r2plus1d_18"))
    names = {"stem.0.weight", "stem.1.running_var", "layer1.0.conv1.0.weight", "layer4.1.conv2.1.bias", "fc.weight"}
    assert names <= set(plain) and "layer2.0.downsample.0.weight" in plain
    assert {"stem.3.weight", "stem.4.bias", "layer1.0.conv1.0.3.weight", "layer1.0.conv1.1.weight"} <= set(split)
    assert split["layer2.0.conv1.0.0.weight"].shape == (230, 64, 1, 3, 3)


@pytest.mark.parametrize("arch", ARCHS)
def test_features_of_any_size_and_no_dependence_on_the_batch(arch: str) -> None:
    torch.manual_seed(0)
    model = build_backbone(arch)
    assert not model.training
    clips = torch.randn(2, 3, 4, 16, 24)
    with torch.inference_mode():
        together = model(clips)
        alone = torch.cat([model(clip[None]) for clip in clips])
    assert together.shape == (2, 512)
    torch.testing.assert_close(alone, together, atol=1e-5, rtol=1e-5)
