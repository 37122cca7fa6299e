"""The long runs of the MIL benchmark go on where they were left, and only from what they themselves left."""

from __future__ import annotations

import importlib.util
import warnings
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

if importlib.util.find_spec("keras") is None or importlib.util.find_spec("sklearn") is None:
    pytest.skip("keras or scikit-learn is not installed (extra: train)", allow_module_level=True)

from benchmarks import milcurves, trainertables
from benchmarks.milcurves import LONG, advance, kept_scores, path_of
from trainer.data.features import FeatureSet, VideoFeatures
from trainer.mil.backend import use_backend
from trainer.mil.train import begin


@pytest.fixture(autouse=True)
def torch_backend() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Keras' own deprecations
        use_backend("torch")
        yield


def features(split: str) -> FeatureSet:
    rng, videos = np.random.default_rng(len(split)), []
    for number in range(12):
        rows = rng.normal(size=(32, 6)).astype(np.float32)
        rows[4:8, 0] += 5.0 * (number % 2)
        rows /= np.linalg.norm(rows, axis=1, keepdims=True)
        videos.append(VideoFeatures(f"{split}{number}", "Fight" if number % 2 else "Normal", split, rows))
    return FeatureSet(tuple(videos), "made up", {})


def test_a_run_goes_on_with_its_weights_and_its_sums(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    training, test, hyper = features("train"), features("test"), replace(LONG["sultani"], seed=0)
    monkeypatch.setattr(milcurves, "CURVE", (25, 50))
    path = path_of(tmp_path, "sultani", "torch", 0)
    advance(["sultani"], "torch", 1, training, test, tmp_path, 25)
    first = kept_scores(path, hyper)
    assert list(first) == [25] and first[25].shape == (12, 32)
    with np.load(path) as data:
        left = {name: data[name] for name in data.files if name.startswith(("model_", "optimizer_"))}
    assert any(array.shape == (6, 128) and (array > 0).all() for name, array in left.items() if "optimizer" in name)

    taken = list[int]()

    def counted(*arguments: object) -> object:
        network = begin(*arguments)  # type: ignore[arg-type]
        return replace(network, step=lambda batch: taken.append(len(batch)) or network.step(batch))  # type: ignore[func-returns-value]

    monkeypatch.setattr(milcurves, "begin", counted)
    advance(["sultani"], "torch", 1, training, test, tmp_path, 25)
    assert not taken  # nothing to do
    advance(["sultani"], "torch", 1, training, test, tmp_path, 50)
    assert len(taken) == 25  # and not fifty
    second = kept_scores(path, hyper)
    assert list(second) == [25, 50] and np.array_equal(first[25], second[25])
    labels = test.labels()
    gap = second[50][labels == 1].max(axis=1).mean() - second[50][labels == 0].max(axis=1).mean()
    assert gap > first[25][labels == 1].max(axis=1).mean() - first[25][labels == 0].max(axis=1).mean()
    assert kept_scores(path, replace(hyper, accumulator=0.1)) == {}  # another run's, under the same name


def test_tables_show_the_step_that_a_row_is_of() -> None:
    figure = {"median": 0.8, "range": [0.7, 0.9]}
    content = {key: figure for key in trainertables.FIGURES}
    one = {
        "hyper": {"steps": 10_000},
        "steps": 2000,
        "content": content,
        "curve": [{"step": s, **figure} for s in (1000, 2000)],
    }
    changed = {"hyper": {"steps": 1000}, "steps": 1000, "content": content, "curve": []}
    record = {
        "settings": {"seeds": 5},
        "results": {"methods": {"milr (torch)": one, "milr, sums from 0.1 (torch)": changed}, "oracles": {}},
    }
    assert "| milr (torch) | 2,000 | 0.800 [0.700, 0.900]" in trainertables.mil(record)
    assert "sums from" not in trainertables.mil(record)
    assert "| milr (torch) | 0.800 [0.700, 0.900] | 0.800" in trainertables.milcurves(record)
    assert "| milr | sums from 0.1 | 1,000 | 0.800 [0.700, 0.900] | 0.800" in trainertables.milvariants(record)
