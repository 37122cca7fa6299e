"""The first layer as a 2D convolution says what the 3D form says."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from stream_detector.engines.fold import FoldedConv3d, can_fold, fold_first_layer
from stream_detector.engines.network import fuse_batchnorm
from stream_detector.models.backbones import build_backbone


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


@pytest.mark.parametrize(
    ("arch", "size"),
    [("resnet3d-10-b-w0.125", 32), ("resnet3d-18-a-w0.125", 48), ("r3d_18", 32), ("mc3_18", 32), ("i3d", 64)],
)
def test_every_backbone_is_the_same_with_its_first_layer_folded(arch: str, size: int) -> None:
    torch.manual_seed(0)
    plain: Any = build_backbone(arch)
    fuse_batchnorm(plain)
    x = torch.randn(2, 3, 16, size, size)
    with torch.inference_mode():
        wanted = plain.features(x)
        assert fold_first_layer(plain)
        found = plain.features(x)
    assert [m for m in plain.modules() if isinstance(m, FoldedConv3d)]
    torch.testing.assert_close(found, wanted, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(
    "layer",
    [
        nn.Conv3d(64, 8, 3),
        nn.Conv3d(4, 4, 3, groups=2),
        nn.Conv3d(3, 4, 3, dilation=2),
        nn.Conv3d(3, 4, 3, padding=1, padding_mode="circular"),
        nn.Conv3d(3, 4, 3, padding="same"),
        nn.Linear(3, 4),
    ],
)
def test_what_cannot_be_folded_is_left_alone(layer: nn.Module) -> None:
    network = nn.Sequential(nn.Identity(), layer)
    assert not can_fold(layer) and not fold_first_layer(network) and network[1] is layer
