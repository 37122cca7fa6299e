"""`--bundle auto` on machines that are made up: what it takes, what it says, what it refuses."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest
from model_samples import edit, small_bundle

from stream_detector.config import build_config
from stream_detector.engines import Hardware, bundle_choice
from stream_detector.engines.bundle_choice import ACCURATE, choose_bundle, with_bundle
from stream_detector.errors import CheckpointError, ConfigError
from stream_detector.models import weights

GPU = Hardware(("H100",), openvino=True, bf16=True)
CPU = Hardware((), openvino=False, bf16=False)


@pytest.fixture
def shipped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A place of shipped bundles with an accurate one that names weights; the cache has them."""
    folder = small_bundle(tmp_path / ACCURATE).directory
    edit(folder, lambda m: m["backbone"].update(reference="big-weights"))
    monkeypatch.setattr(bundle_choice, "SHIPPED", tmp_path)
    monkeypatch.setattr(weights, "show", lambda name: None)
    return tmp_path


def test_a_cuda_machine_takes_the_accurate_one_and_says_so(shipped: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        assert with_bundle(build_config({"bundle": "auto"}), GPU).bundle == "accurate"
    assert "bundle accurate: CUDA device H100" in caplog.text


@pytest.mark.parametrize("values", [{}, {"engine": {"device": "cpu"}}, {"engine": {"engine": "openvino"}}])
def test_what_runs_on_the_cpu_takes_the_embedded_one(shipped: Path, values: dict[str, Any]) -> None:
    hardware = CPU if not values else GPU
    config = build_config({"bundle": "auto", "alarm": {"threshold": 0.6}, **values})
    assert with_bundle(config, hardware).bundle == "embedded"


def test_a_bundle_that_is_named_is_taken_as_it_is(shipped: Path) -> None:
    config = build_config({"bundle": "embedded", "alarm": {"threshold": 0.6}})
    assert with_bundle(config, GPU) is config


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"alarm": {"threshold": 0.6}}, "alarm.threshold"),
        ({"smoothing": {"time_constant_s": 2.0}}, "smoothing"),
        ({"cameras": {"gate": {"source": "demo", "threshold": 0.3}}}, "threshold of camera 'gate'"),
        ({"cameras": {"gate": {"source": "demo", "smoothing": {"kind": "none"}}}}, "smoothing of camera 'gate'"),
    ],
)
def test_what_was_set_for_the_other_bundle_is_refused_in_one_sentence(
    shipped: Path, values: dict[str, Any], said: str
) -> None:
    with pytest.raises(ConfigError) as refused:
        with_bundle(build_config({"bundle": "auto", **values}), GPU)
    text = str(refused.value)
    assert said in text and "--bundle embedded" in text and "\n" not in text


def test_without_the_weights_it_stays_with_the_embedded_one_and_names_the_command(
    shipped: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing(name: str) -> None:
        raise CheckpointError("not in the cache")

    monkeypatch.setattr(weights, "show", missing)
    choice = choose_bundle(build_config({"bundle": "auto"}), GPU)
    assert choice.name == "embedded" and "models fetch big-weights" in choice.reason


def test_an_installation_without_the_accurate_one_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bundle_choice, "SHIPPED", tmp_path)
    choice = choose_bundle(build_config({"bundle": "auto"}), GPU)
    assert choice.name == "embedded" and "no bundle 'accurate'" in choice.reason
