"""Hara's residual networks: layout, shortcuts, behaviour."""

from __future__ import annotations

import pytest
import torch

from stream_detector.errors import BundleError
from stream_detector.models.backbones import backbone_spec, build_backbone
from stream_detector.models.backbones.resnet3d import ResNet3D, ShortcutA


@pytest.mark.parametrize(
    ("arch", "millions"),
    [("resnet3d-10-b", 14.36), ("resnet3d-18-a", 33.0), ("resnet3d-34-a", 63.3), ("resnet3d-18-b-w0.5", 8.3)],
)
def test_size_is_the_published_one(arch: str, millions: float) -> None:
    count = sum(p.numel() for p in build_backbone(arch).parameters())
    assert count / 1e6 == pytest.approx(millions, rel=0.02)


@pytest.mark.parametrize("arch", ["resnet3d-10-a", "resnet3d-18-b-w0.5", "resnet3d-50-a-w0.25", "resnet3d-50-b-w0.25"])
def test_feature_dimension_and_any_size(arch: str) -> None:
    model = build_backbone(arch)
    assert not model.training
    dim = backbone_spec(arch).feature_dim
    with torch.inference_mode():
        for shape in [(1, 3, 16, 112, 112), (2, 3, 8, 64, 80), (1, 3, 3, 33, 47)]:
            assert model.features(torch.randn(shape)).shape == (shape[0], dim)  # type: ignore[operator]


def test_names_are_those_of_the_published_checkpoints() -> None:
    a, b = build_backbone("resnet3d-18-a", 400).state_dict(), build_backbone("resnet3d-18-b", 400).state_dict()
    assert {"conv1.weight", "bn1.running_mean", "layer1.0.conv1.weight", "layer4.1.bn2.bias", "fc.weight"} <= set(a)
    assert not any("downsample" in key for key in a)
    added = {key for key in set(b) - set(a) if not key.endswith("num_batches_tracked")}
    names = ("0.weight", "1.weight", "1.bias", "1.running_mean", "1.running_var")
    assert added == {f"layer{i}.0.downsample.{name}" for i in (2, 3, 4) for name in names}
    assert a["conv1.weight"].shape == (64, 3, 7, 7, 7)


def test_shortcut_a_is_subsampling_with_zero_channels() -> None:
    x = torch.randn(2, 4, 5, 6, 7)
    out = ShortcutA(4, 10, 2)(x)
    assert torch.equal(out[:, :4], torch.nn.functional.avg_pool3d(x, 1, stride=2))
    assert out.shape == (2, 10, 3, 3, 4) and not out[:, 4:].any()


def test_shortcut_a_lets_gradients_through() -> None:
    """The published code used `.data` here, which silently cut the gradient of the shortcut."""
    x = torch.randn(1, 3, 4, 4, 4, requires_grad=True)
    ShortcutA(3, 6, 2)(x).sum().backward()
    assert x.grad is not None
    wanted = torch.zeros_like(x)
    wanted[:, :, ::2, ::2, ::2] = 1
    assert torch.equal(x.grad, wanted)
    model = ResNet3D(10, "A", 0.125)
    with torch.no_grad():  # without the main path of layer4 only the shortcut can carry the gradient back
        model.layer4[0].bn2.weight.zero_()
        model.layer4[0].bn2.bias.zero_()
    model.eval()(torch.randn(1, 3, 16, 32, 32)).sum().backward()
    gradient = model.layer3[0].conv2.weight.grad
    assert gradient is not None and gradient.abs().sum() > 0


def test_a_clip_alone_equals_the_clip_in_a_batch() -> None:
    torch.manual_seed(0)
    model = build_backbone("resnet3d-18-a-w0.25")
    clips = torch.randn(5, 3, 16, 48, 48)
    with torch.inference_mode():
        together = model(clips)
        alone = torch.cat([model(clip[None]) for clip in clips])
    torch.testing.assert_close(alone, together, atol=1e-5, rtol=1e-5)


def test_all_parameters_can_be_trained() -> None:
    model = build_backbone("resnet3d-10-b-w0.125", 3).train()
    model(torch.randn(2, 3, 16, 32, 32)).sum().backward()
    missing = [name for name, p in model.named_parameters() if p.grad is None or not p.requires_grad]
    assert missing == []


@pytest.mark.parametrize("arch", ["resnet3d-101-a", "resnet3d-18", "resnet3d-18-c", "resnet3d-18-b-w0.0001", "vgg"])
def test_unknown_architectures_are_refused(arch: str) -> None:
    with pytest.raises(BundleError, match="resnet3d-18-a"):
        build_backbone(arch)
