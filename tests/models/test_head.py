"""The head: arithmetic, calibration, refusals."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from stream_detector.errors import BundleError
from stream_detector.models.heads import Head, build_head, head_numpy


def seeded(dims: list[int]) -> Head:
    torch.manual_seed(3)
    head = build_head({"arch": "mlp", "dims": dims})
    with torch.no_grad():
        head.feature_mean.normal_()
        head.feature_std.uniform_(0.5, 2)
        head.temperature.fill_(1.7)
        head.bias.fill_(-0.4)
    return head


@pytest.mark.parametrize("dims", [[8, 1], [8, 5, 1], [64, 128, 32, 1]])
def test_numpy_twin_agrees(dims: list[int]) -> None:
    head = seeded(dims)
    features = np.random.default_rng(0).normal(size=(4, 7, dims[0])).astype(np.float32)
    state = {key: value.numpy() for key, value in head.state_dict().items()}
    with torch.inference_mode():
        ours = head(torch.from_numpy(features)).numpy()
    assert ours.shape == (4, 7)
    np.testing.assert_allclose(ours, head_numpy(state, features), atol=1e-6)


def test_calibration_is_platt_scaling() -> None:
    head = seeded([6, 4, 1])
    features = torch.randn(5, 6)
    wanted = 1 / (1 + torch.exp(-(head.logits(features) / 1.7 - 0.4)))
    torch.testing.assert_close(head(features), wanted)


def test_standardisation_uses_the_buffers() -> None:
    head = seeded([3, 1])
    layer = head.layers[0]
    assert isinstance(layer, torch.nn.Linear)
    torch.testing.assert_close(head.logits(head.feature_mean[None]), layer.bias)


def test_dropout_only_while_training() -> None:
    head = seeded([16, 64, 1])
    features = torch.randn(1, 16)
    assert torch.equal(head(features), head(features))
    head.train()
    assert len({round(head(features).item(), 6) for _ in range(8)}) > 1


def test_gradients_reach_every_layer() -> None:
    head = seeded([6, 4, 1])
    head.logits(torch.randn(32, 6)).sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in head.parameters())


@pytest.mark.parametrize(
    "arch",
    [
        {"arch": "lstm", "dims": [8, 1]},
        {"arch": "mlp"},
        {"arch": "mlp", "dims": [8]},
        {"arch": "mlp", "dims": [8, 2]},
        {"arch": "mlp", "dims": [8, 0, 1]},
        {"arch": "mlp", "dims": [8, True, 1]},
        {"arch": "mlp", "dims": [8.5, 1]},
        {"arch": "mlp", "dims": [10**9, 1]},
        {"arch": "mlp", "dims": "88"},
    ],
)
def test_impossible_heads_are_refused(arch: dict[str, object]) -> None:
    with pytest.raises(BundleError):
        build_head(arch)
