"""The first layer as a 2D convolution says what the 3D form says."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from stream_detector.engines.fold import FoldedConv3d, can_fold, fold_few_channels
from stream_detector.engines.network import OnePassNormalise, fuse_batchnorm
from stream_detector.models.backbones import build_backbone, i3d, videoresnet
from stream_detector.models.preprocess import RECIPES, Normalise, Recipe


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_the_folded_layer_is_the_layer(data: st.DataObject) -> None:
    def pick(low: int, high: int) -> int:
        return data.draw(st.integers(low, high))

    torch.manual_seed(pick(0, 1000))
    channels, kernel = pick(1, 4), (pick(1, 7), pick(1, 7), pick(1, 7))
    stride, padding = (pick(1, 3), pick(1, 3), pick(1, 3)), (pick(0, 3), pick(0, 3), pick(0, 3))
    shape = tuple(max(k, pick(1, 12)) for k in kernel)
    layer = nn.Conv3d(channels, pick(1, 9), kernel, stride, padding, bias=data.draw(st.booleans()))
    x = torch.randn(pick(1, 3), channels, *shape)
    if data.draw(st.booleans()):
        x = x.to(memory_format=torch.channels_last_3d)
    with torch.inference_mode():
        wanted, found = layer(x), FoldedConv3d(layer)(x)
    assert found.shape == wanted.shape and found.is_contiguous(memory_format=torch.channels_last_3d)
    torch.testing.assert_close(found, wanted, atol=2e-5, rtol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_it_keeps_the_dtype(dtype: torch.dtype) -> None:
    layer = nn.Conv3d(3, 5, 7, (1, 2, 2), 3).to(dtype)
    x = torch.randn(2, 3, 16, 20, 22).to(dtype)
    with torch.inference_mode():
        wanted, found = layer(x), FoldedConv3d(layer)(x)
    assert found.dtype == dtype
    scale = float(wanted.float().abs().max())
    assert float((found.float() - wanted.float()).abs().max()) < (1e-5 if dtype == torch.float32 else 1e-2) * scale


@pytest.mark.parametrize(("arch", "size"), [("resnet3d-10-b-w0.125", 32), ("resnet3d-18-a-w0.125", 48)])
def test_a_backbone_is_the_same_with_its_first_layer_folded(arch: str, size: int) -> None:
    torch.manual_seed(0)
    plain: Any = build_backbone(arch)
    fuse_batchnorm(plain)
    x = torch.randn(2, 3, 16, size, size)
    with torch.inference_mode():
        wanted = plain.features(x)
        assert fold_few_channels(plain) == 1
        found = plain.features(x)
    torch.testing.assert_close(found, wanted, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(
    "stem", [videoresnet._stem("full"), videoresnet._stem("split"), i3d.Unit(3, 8, (7,) * 3, (2,) * 3)]
)
def test_the_other_first_layers_are_the_same_when_they_are_folded(stem: nn.Module) -> None:
    stem.eval().requires_grad_(False)
    x = torch.randn(1, 3, 16, 33, 36)
    network = nn.Sequential(stem)
    with torch.inference_mode():
        fuse_batchnorm(network)
        wanted = network(x)
        assert fold_few_channels(network) == 1
        torch.testing.assert_close(network(x), wanted, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(("arch", "layers"), [("r3d_18", 1), ("mc3_18", 1), ("i3d", 1), ("i3d+mc3_18", 2)])
def test_every_first_layer_is_found_and_every_normalisation_is_fused(arch: str, layers: int) -> None:
    with torch.device("meta"):  # no weights: building them takes seconds
        network = build_backbone(arch)
    fuse_batchnorm(network)
    assert fold_few_channels(network) == layers
    assert not [m for m in network.modules() if isinstance(m, nn.BatchNorm3d)]
    assert all(unit.fused for unit in network.modules() if isinstance(unit, i3d.Unit))


class Doubled(nn.Conv3d):
    """Computes something else."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return 2 * super().forward(x)


def _changed(how: str) -> nn.Conv3d:
    layer = nn.Conv3d(3, 4, 3)
    if how == "hook":
        layer.register_forward_hook(lambda _module, _x, y: y + 1)
    elif how == "pre-hook":
        layer.register_forward_pre_hook(lambda _module, x: (x[0] + 1,))
    else:
        layer.forward = lambda x: x  # type: ignore[method-assign]
    return layer


@pytest.mark.parametrize(
    "layer",
    [
        nn.Conv3d(64, 8, 3),
        nn.Conv3d(4, 4, 3, groups=2),
        nn.Conv3d(3, 4, 3, dilation=2),
        nn.Conv3d(3, 4, 3, padding=1, padding_mode="circular"),
        nn.Conv3d(3, 4, 3, padding="same"),
        Doubled(3, 4, 3),
        _changed("hook"),
        _changed("pre-hook"),
        _changed("forward"),
        nn.Linear(3, 4),
    ],
)
def test_what_cannot_be_folded_is_left_alone(layer: nn.Module) -> None:
    network = nn.Sequential(nn.Identity(), layer)
    assert not can_fold(layer) and fold_few_channels(network) == 0 and network[1] is layer


@pytest.mark.parametrize("layer", [Doubled(3, 4, 3), _changed("hook"), _changed("pre-hook"), _changed("forward")])
def test_what_is_no_plain_layer_is_not_fused_either(layer: nn.Conv3d) -> None:
    network = nn.Sequential(layer, nn.BatchNorm3d(4)).eval()
    fuse_batchnorm(network)
    assert network[0] is layer and isinstance(network[1], nn.BatchNorm3d)


def test_a_layer_that_is_used_twice_is_folded_in_both_places() -> None:
    layer = nn.Conv3d(3, 3, 3, padding=1)
    network = nn.Sequential(layer, nn.ReLU(), layer)
    x = torch.randn(1, 3, 5, 6, 6)
    with torch.inference_mode():
        wanted = network(x)
        assert fold_few_channels(network) == 1 and network[0] is network[2]
        torch.testing.assert_close(network(x), wanted)
    alone = nn.Conv3d(3, 3, 3)
    assert fold_few_channels(alone) == 0


# --- what else is fused ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("recipe", RECIPES.values(), ids=lambda recipe: recipe.name)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_normalising_in_one_pass_is_normalising(recipe: Recipe, dtype: torch.dtype) -> None:
    values = torch.arange(256, dtype=torch.uint8).repeat(3, 1).T.reshape(1, 1, 16, 16, 3).repeat(2, 2, 1, 1, 1)
    wanted, found = Normalise(recipe)(values), OnePassNormalise(recipe, dtype)(values)
    assert found.dtype == dtype and found.shape == wanted.shape == (2, 3, 2, 16, 16)
    assert found.is_contiguous(memory_format=torch.channels_last_3d)
    scale = max(1.0, float(wanted.abs().max()))
    limit = 1e-6 if dtype == torch.float32 else 1e-3
    assert float((found.float() - wanted).abs().max()) <= limit * scale


@pytest.mark.parametrize(
    "make",
    [
        lambda: i3d.Unit(8, 16, (3, 3, 3)),
        lambda: i3d.Unit(8, 16),
        lambda: i3d.Unit(8, 16, (7, 7, 7), (2, 2, 2)),
        lambda: i3d.Unit(8, 16, (2, 3, 4)),
        lambda: i3d._Pool((3, 3, 3), (1, 1, 1)),
        lambda: i3d._Pool((2, 2, 2), (2, 2, 2)),
        lambda: i3d._Mixed(8, (8, 8, 8, 4, 4, 4)),
    ],
)
@pytest.mark.parametrize("size", [(16, 12, 14), (9, 7, 5)])
def test_the_parts_of_the_i3d_are_the_same_when_they_are_fused(
    make: Callable[[], nn.Module], size: tuple[int, int, int]
) -> None:
    torch.manual_seed(0)
    part = make().eval().requires_grad_(False)
    for name, value in [*part.named_buffers(), *part.named_parameters()]:
        if name.endswith("variance"):
            value.uniform_(0.5, 1.5)
        elif name.endswith(("mean", "shift")):
            value.uniform_(-0.3, 0.3)
    x = torch.rand(2, 8, *size)  # not negative, as behind a ReLU
    with torch.inference_mode():
        wanted = part(x)
        fuse_batchnorm(part)
        found = part(x)
        fuse_batchnorm(part)  # a second time changes nothing
        assert torch.equal(part(x), found)
    torch.testing.assert_close(found, wanted, atol=1e-6, rtol=1e-5)
