"""What engines say of the place in the picture that a score comes from, and that saying it changes no score."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from stream_detector.engines import cuda_engine
from stream_detector.engines.accelerator import Eager
from stream_detector.engines.batch_dependence import probe_windows
from stream_detector.engines.cuda_engine import CudaEngine
from stream_detector.engines.layout import has_bf16
from stream_detector.engines.network import Network
from stream_detector.engines.torch_engine import TorchEngine
from stream_detector.models.bundle import EMBEDDED, Bundle
from stream_detector.models.heads import Head
from stream_detector.models.saliency import contributions, head_gradient


@pytest.fixture(scope="module")
def bundle() -> Bundle:
    return Bundle.load(EMBEDDED)


@pytest.fixture(scope="module")
def windows(bundle: Bundle) -> np.ndarray:
    return probe_windows(bundle.recipe, 2)


@pytest.mark.parametrize("dims", [(7, 1), (7, 5, 1), (7, 6, 4, 1)])
def test_the_written_gradient_is_that_of_autograd(dims: tuple[int, ...]) -> None:
    torch.manual_seed(3)
    head = Head(dims).eval()
    head.feature_mean.copy_(torch.randn(7))
    head.feature_std.copy_(torch.rand(7) + 0.5)
    features = torch.randn(9, 7, requires_grad=True)
    (wanted,) = torch.autograd.grad(head.logits(features).sum(), features)
    torch.testing.assert_close(head_gradient(head, features.detach()), wanted)


def test_contributions_of_a_linear_head_add_up_to_its_logit() -> None:
    torch.manual_seed(4)
    head = Head((6, 1)).eval()
    maps = torch.rand(2, 6, 2, 3, 4)
    features = maps.mean(dim=(2, 3, 4))
    grid = contributions(head, features, maps)
    assert grid.shape == (2, 3, 4)
    without_bias = head.logits(features) - head.layers[0].bias
    torch.testing.assert_close(grid.mean(dim=(1, 2)), without_bias)


def test_explaining_changes_no_bit_of_features_and_scores(bundle: Bundle, windows: np.ndarray) -> None:
    network = Network(bundle).to_compute(torch.device("cpu"), torch.float32)
    frames = torch.from_numpy(windows[:1])
    with torch.inference_mode():
        features, scores = network(frames)
        explained, its_scores, grids = network.explained(frames)
    assert torch.equal(features, explained) and torch.equal(scores, its_scores)
    assert grids is not None and grids.shape == (1, 4, 4)


@pytest.mark.parametrize("precision", ["fp32", *(["bf16"] if has_bf16() else [])])
def test_the_map_as_an_output_changes_no_bit_of_openvinos_features(
    bundle: Bundle, windows: np.ndarray, precision: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("openvino")
    from stream_detector.engines import openvino_engine as module

    explaining = module.OpenVinoEngine(bundle, precision, threads=1)
    shown = explaining.infer(windows)
    monkeypatch.setattr(module, "expose_last_map", lambda *_: False)
    plain = module.OpenVinoEngine(bundle, precision, threads=1)
    hidden = plain.infer(windows)
    assert shown.features.tobytes() == hidden.features.tobytes() and shown.scores.tobytes() == hidden.scores.tobytes()
    assert hidden.grids is None and shown.grids is not None and shown.grids.shape == (len(windows), 4, 4)
    alone = np.concatenate([explaining.infer(windows[row : row + 1]).grids for row in range(len(windows))])
    assert alone.tobytes() == shown.grids.tobytes()  # a window's grid does not depend on its batch
    for engine in (explaining, plain):
        engine.close()


def test_engines_agree_on_the_grid(bundle: Bundle, windows: np.ndarray, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cuda_engine, "BUCKETS", (1, 2))  # as many as are scored here
    engines = [TorchEngine(bundle), CudaEngine(bundle, "cpu", "fp32", on=Eager(torch.device("cpu")))]
    grids = [engine.infer(windows).grids for engine in engines]
    with torch.inference_mode():
        network = Network(bundle)
        reference = network.explained(torch.from_numpy(windows))[2].numpy()
    for grid in grids:
        assert grid is not None
        np.testing.assert_allclose(grid, reference, rtol=1e-3, atol=1e-4 * np.abs(reference).max())
    for engine in engines:
        engine.close()
