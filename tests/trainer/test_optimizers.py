"""The optimisers of the published heads: on both backends what Keras 1 computed, written out here in NumPy."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
import warnings
from typing import Any

import numpy as np
import pytest

if importlib.util.find_spec("keras") is None:
    pytest.skip("keras is not installed (extra: train)", allow_module_level=True)

from trainer.mil.backend import seed_everything, use_backend

STEPS, VIDEOS, SEGMENTS, DIM, HIDDEN = 20, 8, 6, 5, 4
BACKENDS = ["torch", *(["tensorflow"] if importlib.util.find_spec("tensorflow") else [])]
# A process of its own for each backend: Keras keeps the one that it was first imported with.
WORKER = """
import json, sys, warnings
warnings.simplefilter("ignore")
import numpy as np
from trainer.mil.backend import use_backend
backend, told = sys.argv[1], json.loads(sys.stdin.read())
use_backend(backend)
from keras import ops
from trainer.mil.heads import HeadSpec, build_head
from trainer.mil.step import make_step
from trainer.mil.train import Hyper, make_optimizer
rows, found = np.array(told["rows"], np.float32), []
for optimizer, rate, accumulator in told["cases"]:
    hyper = Hyper(optimizer=optimizer, learning_rate=rate, accumulator=accumulator)
    model = build_head(HeadSpec(rows.shape[2], "mlp", (told["hidden"],), dropout=0.0), "rows", rows.shape[1])
    for variable, value in zip(model.trainable_variables, told["start"], strict=True):
        variable.assign(np.array(value, np.float32))
    step = make_step(model, make_optimizer(hyper), lambda logits: ops.sum(ops.square(logits - 1.0)), rows)
    losses = [step(np.array(batch)) for batch in told["batches"]]
    end = [ops.convert_to_numpy(v).tolist() for v in model.trainable_variables]
    found.append({"losses": losses, "end": end})
print(json.dumps(found))
"""
CASES = [("adagrad", 0.01, 0.0), ("adagrad", 0.01, 0.1), ("adadelta", 1.0, 0.0)]


def material() -> dict[str, Any]:
    rng = np.random.default_rng(3)
    shapes = [(DIM, HIDDEN), (HIDDEN,), (HIDDEN, 1), (1,)]
    return {
        "rows": rng.normal(size=(VIDEOS, SEGMENTS, DIM)).tolist(),
        "start": [(0.4 * rng.normal(size=shape)).tolist() for shape in shapes],
        "batches": [rng.permutation(VIDEOS)[:4].tolist() for _ in range(STEPS)],
        "hidden": HIDDEN,
    }


def by_hand(told: dict[str, Any], optimizer: str, rate: float, accumulator: float) -> tuple[list[float], list[Any]]:
    """The same training in float64: gradients of sum (logit - 1)² by hand, then the rule of Keras 1."""
    rows, weights = np.array(told["rows"]), [np.array(w) for w in told["start"]]
    sums = [np.full_like(w, accumulator if optimizer == "adagrad" else 0.0) for w in weights]
    moved, losses = [np.zeros_like(w) for w in weights], []
    for batch in told["batches"]:
        x = rows[batch].reshape(-1, DIM)
        before = x @ weights[0] + weights[1]
        hidden = np.maximum(before, 0)
        error = hidden @ weights[2] + weights[3] - 1
        losses.append(float((error**2).sum()))
        back = 2 * error @ weights[2].T * (before > 0)
        gradients = [x.T @ back, back.sum(0), hidden.T @ (2 * error), (2 * error).sum(0)]
        for i, g in enumerate(gradients):
            if optimizer == "adagrad":
                sums[i] += g**2
                weights[i] -= rate * g / (np.sqrt(sums[i]) + 1e-8)
            else:
                sums[i] = 0.95 * sums[i] + 0.05 * g**2
                update = g * np.sqrt(moved[i] + 1e-8) / np.sqrt(sums[i] + 1e-8)
                moved[i] = 0.95 * moved[i] + 0.05 * update**2
                weights[i] -= rate * update
    return losses, weights


@pytest.mark.parametrize("backend", BACKENDS)
def test_twenty_steps_are_those_of_keras_1(backend: str) -> None:
    told = material()
    done = subprocess.run(
        [sys.executable, "-c", WORKER, backend],
        input=json.dumps({**told, "cases": CASES}),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    for case, found in zip(CASES, json.loads(done.stdout.strip().splitlines()[-1]), strict=True):
        losses, weights = by_hand(told, *case)
        assert found["losses"] == pytest.approx(losses, rel=1e-4), case
        for mine, wanted, start in zip(found["end"], weights, told["start"], strict=True):
            assert np.abs(np.array(mine) - wanted).max() < 1e-5 < np.abs(wanted - np.array(start)).max(), case


def test_where_the_sums_start_decides_how_far_a_head_moves() -> None:
    told = material()
    moved = [np.abs(by_hand(told, "adagrad", 0.01, start)[1][0] - told["start"][0]).mean() for start in (0.0, 0.1)]
    assert moved[0] > moved[1]


@pytest.mark.parametrize(("dropout", "linear_last"), [(0.0, False), (0.0, True), (0.6, False)])
def test_gradients_by_hand_are_those_of_the_framework(dropout: float, linear_last: bool) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Keras' own deprecations
        use_backend("torch")
        import torch
        from keras import ops

        from trainer.mil import losses
        from trainer.mil.dense_layers import chain_of, value_and_gradients
        from trainer.mil.heads import HeadSpec, build_head, kernels_of

        seed_everything(0)
        model = build_head(
            HeadSpec(DIM, "mlp", (7, HIDDEN), dropout=dropout), "rows", SEGMENTS, linear_last=linear_last
        )
        chain = chain_of(model)
        assert chain is not None and [layer.relu for layer in chain] == [True, not linear_last, False]
        features = torch.randn(12, SEGMENTS, DIM)

        def objective(logits: Any) -> Any:
            scores = ops.sigmoid(logits)
            return losses.milr(scores[:6], scores[6:]) + losses.weight_norm([w.value for w in kernels_of(model)], 0.01)

        value, found = value_and_gradients(chain, objective, features, np.random.default_rng(0))
        if dropout:  # the masks differ from the framework's: their shares and the mean of many draws do not
            draws = [
                float(value_and_gradients(chain, objective, features, np.random.default_rng(n))[0]) for n in range(300)
            ]
            theirs = [float(objective(model(features, training=True)).detach()) for _ in range(300)]
            error = np.hypot(np.std(draws), np.std(theirs)) / np.sqrt(300)
            assert abs(np.mean(draws) - np.mean(theirs)) < 4 * error and np.std(draws) > 0
            return
        wanted = objective(model(features, training=True))
        gradients = torch.autograd.grad(wanted, [v.value for v in model.trainable_variables])
        assert float(value) == pytest.approx(float(wanted.detach()), rel=1e-5)
        for mine, theirs_ in zip(found, gradients, strict=True):
            assert torch.allclose(mine, theirs_, atol=1e-6)
