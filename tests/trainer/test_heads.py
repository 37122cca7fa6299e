"""Heads: streaming equals the framework's own forward pass, nothing leaks from the future."""

from __future__ import annotations

import importlib.util
import warnings
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

if importlib.util.find_spec("keras") is None:  # importing it here would fix its backend for the whole process
    pytest.skip("keras is not installed (extra: train)", allow_module_level=True)

from stream_detector.errors import DataError
from stream_detector.models.streaming_heads import Scaling, StreamingHead, view_parts
from trainer.mil.backend import seed_everything, use_backend
from trainer.mil.heads import HeadSpec, build_head, fit_scaling, principal_axes, see, weights_of

SPECS = {
    "paper": HeadSpec(24, "mlp", (12, 5)),
    "dilated": HeadSpec(24, "causal", (10,), dilations=(1, 2, 4), views=("rows", "change:8")),
    "gru": HeadSpec(24, "gru", (10,), views=("mean:4+change:16",), projection=7),
    "members": HeadSpec(24, "causal", (6,), dilations=(3,), views=("rows+change:4",), members=3),
}


@pytest.fixture(autouse=True)
def keras() -> Iterator[Any]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Keras' own deprecations
        yield use_backend("torch")


def made(spec: HeadSpec, rows: np.ndarray) -> tuple[StreamingHead, Any]:
    """The streaming head, and a function that gives the framework's logits (V, T)."""
    from trainer.mil.step import predict

    seed_everything(5)
    scaling = fit_scaling(rows.reshape(-1, spec.dim), 8.0, False, spec.projection)
    models = [[build_head(spec, view) for _ in range(spec.members)] for view in spec.views]

    def framework(x: np.ndarray) -> np.ndarray:
        total = np.zeros(x.shape[:2])
        for view, group in zip(spec.views, models, strict=True):
            total += np.mean([predict(m, see(scaling.apply(x), view)) for m in group], axis=0)
        return total

    return StreamingHead(spec, scaling, [weights_of(m) for group in models for m in group]), framework


@pytest.mark.parametrize("name", SPECS)
def test_streaming_equals_offline(name: str) -> None:
    spec, rows = SPECS[name], np.random.default_rng(1).normal(size=(3, 40, 24)).astype(np.float32)
    head, framework = made(spec, rows)
    wanted = framework(rows)
    for video, logits in zip(rows, wanted, strict=True):
        head.reset()
        assert np.abs([head.logit(row) for row in video] - logits).max() < 1e-5
        scores = head.score_rows(video)
        assert np.abs(scores - 1 / (1 + np.exp(-logits))).max() < 1e-5


@pytest.mark.parametrize("name", SPECS)
def test_the_future_changes_nothing(name: str) -> None:
    spec, rows = SPECS[name], np.random.default_rng(1).normal(size=(1, 30, 24)).astype(np.float32)
    _, framework = made(spec, rows)
    other = rows.copy()
    other[:, 17:] += 9
    assert np.array_equal(framework(rows)[:, :17], framework(other)[:, :17])
    assert not np.allclose(framework(rows)[:, 17:], framework(other)[:, 17:])


def test_reset_forgets() -> None:
    rows = np.random.default_rng(2).normal(size=(1, 9, 24)).astype(np.float32)
    head, _ = made(SPECS["dilated"], rows)
    first = head.score_rows(rows[0])
    assert np.array_equal(first, head.score_rows(rows[0]))


def test_change_is_measured_against_the_past_alone() -> None:
    x = np.array([[[2.0], [4.0], [9.0]]], np.float32)
    assert see(x, "change:8")[0, :, 0].tolist() == [0.0, 2.0, 6.0]
    assert see(x, "mean:2")[0, :, 0].tolist() == [2.0, 3.0, 6.0]


def test_principal_axes_are_those_of_the_covariance() -> None:
    x = np.random.default_rng(0).normal(size=(400, 30)).astype(np.float32) * np.linspace(4, 0.1, 30, dtype=np.float32)
    x -= x.mean(axis=0)
    wanted = np.linalg.eigh(x.T @ x)[1][:, ::-1][:, :3]
    assert np.abs((wanted * principal_axes(x, 3)).sum(axis=0)) == pytest.approx([1, 1, 1], abs=1e-4)


def test_rescaling_brings_rows_to_the_target_norm() -> None:
    rows = np.random.default_rng(0).uniform(size=(50, 8)).astype(np.float32)
    scaled = fit_scaling(rows, 8.0, False, 0).apply(rows)
    assert np.linalg.norm(scaled, axis=1).mean() == pytest.approx(8.0, rel=1e-5)


@pytest.mark.parametrize("view", ["", "rows:3", "mean", "mean:0", "next:4", "rows+"])
def test_unknown_views_are_one_sentence(view: str) -> None:
    with pytest.raises(DataError, match="unknown view"):
        view_parts(view)


def test_wrong_width_is_one_sentence() -> None:
    spec = HeadSpec(4, "mlp", (3,))
    weights = {
        "dense_0/kernel": np.zeros((4, 3)),
        "dense_0/bias": np.zeros(3),
        "logit/kernel": np.zeros((3, 1)),
        "logit/bias": np.zeros(1),
    }
    head = StreamingHead(spec, Scaling(np.zeros(4, np.float32), np.ones(4, np.float32)), [weights])
    with pytest.raises(DataError, match="row of 4 features"):
        head.step(np.zeros(5, np.float32))
    assert head.step(np.zeros(4, np.float32)) == 0.5
