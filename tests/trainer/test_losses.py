"""The losses: the specification against finite differences and known values, both backends against it."""

from __future__ import annotations

import importlib.util

import numpy as np
import pytest

from trainer.mil import losses_numpy as spec

RNG = np.random.default_rng(3)
BAGS = ([RNG.uniform(0, 1, n) for n in (9, 5, 32)], [RNG.uniform(0, 1, n) for n in (7, 3, 32)])
LOSSES = {
    "sultani": lambda a, n: spec.sultani(a, n, mu1=0.3, mu2=0.2),
    "milr": lambda a, n: spec.milr(a, n, mu1=0.3, mu2=0.2),
    "milr-printed": lambda a, n: spec.milr(a, n, mu1=0.3, mu2=0.2, sparsity_on="normal"),
    "topk": lambda a, n: spec.topk_cross_entropy(a, n, k=4),
}


@pytest.mark.parametrize("name", LOSSES)
def test_gradients_are_those_of_finite_differences(name: str) -> None:
    loss = LOSSES[name]
    _, grad_a, grad_n = loss(*BAGS)
    step = 1e-6
    for side, grads in ((0, grad_a), (1, grad_n)):
        for i, grad in enumerate(grads):
            for t in range(len(grad)):
                values = []
                for sign in (1, -1):
                    moved = [[b.copy() for b in bags] for bags in BAGS]
                    moved[side][i][t] += sign * step
                    values.append(loss(*moved)[0])
                assert (values[0] - values[1]) / (2 * step) == pytest.approx(grad[t], abs=1e-6)


def test_constant_scores_have_known_values() -> None:
    half = [np.full(32, 0.5)] * 30
    assert spec.milr(half, half)[0] == pytest.approx(4 + 8e-5 * 16)  # four hinges of 1, weighed alike
    assert spec.sultani(half, half)[0] == pytest.approx(30 * (1 + 8e-5 * 16))
    zero = [np.zeros(32)] * 30
    assert spec.topk_cross_entropy(zero, zero)[0] == pytest.approx(np.log(2))


def test_gradient_pushes_ranks_one_two_and_three_up_and_the_minimum_down() -> None:
    a, n = np.array([0.5, 0.4, 0.3, 0.2, 0.1]), np.array([0.6, 0.1, 0.1])
    grad = spec.milr([a], [n], mu1=0, mu2=0)[1][0]
    assert grad.tolist() == [-2.0, -1.0, -1.0, 0.0, 1.0]  # l1 and l2; l3; l4; nothing; l2


def test_any_number_of_pairs_gives_the_same_loss() -> None:
    pair = (BAGS[0][:1], BAGS[1][:1])
    once = spec.milr(*pair)[0]
    assert spec.milr(pair[0] * 7, pair[1] * 7)[0] == pytest.approx(once)


def test_weight_norm() -> None:
    value, (grad,) = spec.weight_norm([np.array([[3.0, 4.0]])], mu3=0.01)
    assert value == pytest.approx(0.25)
    assert grad.tolist() == [[0.06, 0.08]]


@pytest.mark.parametrize("backend", ["torch", "tensorflow"])
def test_backend_equals_the_specification(backend: str) -> None:
    for package in ("keras", backend):
        if importlib.util.find_spec(package) is None:
            pytest.skip(f"{package} is not installed (extra: train)")
    from benchmarks.losses import measured

    rows = measured(backend)  # in a process of its own: Keras keeps one backend per process
    assert len(rows) == 36
    for row in rows:
        limit = 1e-6 if row["dtype"] == "float64" else 1e-6 * max(1.0, row["specification"])
        assert row["value_difference"] <= limit, row
        assert row["gradient_difference"] is None or row["gradient_difference"] <= 1e-6, row
