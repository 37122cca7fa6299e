"""One window, one score: on the machine's own engine, under narrower instruction sets, in process after process."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from model_samples import noise_windows, small_bundle
from one_score import look

from stream_detector.config import EngineConfig
from stream_detector.engines import load_engine
from stream_detector.engines.batch_dependence import batch_dependence, describe_tolerance, probe_windows, tolerance
from stream_detector.engines.layout import instruction_set
from stream_detector.engines.torch_engine import TorchEngine
from stream_detector.models.bundle import Bundle
from stream_detector.testing.engine import ConstantEngine
from stream_detector.types import EngineOutput, UInt8Array

SCRIPT = Path(__file__).parents[1] / "one_score.py"
DEADLINE_S = 300
needs_openvino = pytest.mark.skipif(importlib.util.find_spec("openvino") is None, reason="openvino is missing")
needs_nncf = pytest.mark.skipif(importlib.util.find_spec("nncf") is None, reason="nncf is missing")


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("STREAM_DETECTOR_CACHE", str(folder))
        yield folder


@pytest.fixture(scope="module")
def small(cache: Path) -> Bundle:
    return small_bundle(cache / "small")


def elsewhere(*asks: str, isa: str = "") -> list[dict[str, Any]]:
    """What `one_score.py` finds in a process of its own, under no more instructions than `isa`: one answer an ask."""
    environment = {**os.environ, **({"ONEDNN_MAX_CPU_ISA": isa} if isa else {})}
    process = subprocess.run(
        [sys.executable, str(SCRIPT), *asks], env=environment, capture_output=True, text=True, timeout=DEADLINE_S
    )
    assert process.returncode == 0, process.stderr
    return [json.loads(line) for line in process.stdout.splitlines()[-len(asks) :]]


def test_the_engine_of_this_machine_gives_one_window_one_score(cache: Path) -> None:
    bundle = Bundle.load("embedded")
    with closing(load_engine(bundle, EngineConfig())) as engine:
        found = look(engine, bundle)
    assert found["moved"] <= found["promised"], found
    if engine.name == "openvino":
        assert found["promised"] == found["moved"] == 0.0
    if engine.device == "cpu":
        (again,) = elsewhere("auto")  # a replay by another process
        assert again["scores"] == found["scores"]


@needs_openvino
@pytest.mark.parametrize("isa", ["AVX2", "AVX512_CORE", "AVX512_CORE_BF16"])
def test_so_it_does_under_narrower_instruction_sets(cache: Path, isa: str) -> None:
    asks = ["openvino", "refused"] if isa == "AVX2" else ["openvino"]
    found, *refused = elsewhere(*asks, isa=isa)
    can_bf16 = instruction_set(environment={"ONEDNN_MAX_CPU_ISA": isa}) == "avx512_bf16"
    assert found["precision"] == ("bf16" if can_bf16 else "fp32")
    assert found["moved"] == 0.0
    for told in refused:  # bf16, which OpenVINO refuses there: fp32, in one sentence
        assert told["precision"] == "fp32" and "refused bf16" in told["reason"] and "\n" not in told["reason"]
        assert told["moved"] == 0.0 and told["scores"] == found["scores"]


@needs_openvino
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_openvino_is_bit_equal_in_every_precision(small: Bundle, precision: str) -> None:
    from stream_detector.engines.openvino_engine import OpenVinoEngine

    with closing(OpenVinoEngine(small, precision, threads=2)) as engine:
        assert batch_dependence(engine, noise_windows(9, seed=3)) == 0.0


@needs_openvino
@needs_nncf
@pytest.mark.filterwarnings("ignore")  # of nncf's own
def test_openvino_int8_is_bit_equal(small: Bundle) -> None:
    from stream_detector.engines.openvino_engine import OpenVinoEngine
    from stream_detector.engines.quantise import quantise

    path = quantise(small, noise_windows(16, seed=7))
    try:
        with closing(OpenVinoEngine(small, "int8", threads=2)) as engine:
            assert batch_dependence(engine, noise_windows(9, seed=3)) == 0.0
    finally:
        path.unlink()


def test_torch_on_the_cpu_keeps_to_its_promise() -> None:
    bundle = Bundle.load("embedded")
    windows = probe_windows(bundle.recipe, 3)
    with closing(TorchEngine(bundle)) as engine:
        assert batch_dependence(engine, windows) <= tolerance(engine) == 1e-6
    with closing(TorchEngine(bundle, deterministic=True)) as engine:
        assert batch_dependence(engine, windows) == tolerance(engine) == 0.0


def test_deterministic_reaches_the_engine(small: Bundle) -> None:
    for on_failure in ("stop", "fallback"):
        asked = EngineConfig(engine="torch", device="cpu", deterministic=True, on_failure=on_failure)
        with closing(load_engine(small, asked)) as engine:
            assert tolerance(engine) == 0.0


class CrowdEngine(ConstantEngine):
    """Two graphs, as it were: a window alone scores otherwise than in a batch."""

    def infer(self, frames: UInt8Array) -> EngineOutput:
        out = super().infer(frames)
        return EngineOutput(out.features, out.scores + np.float32(2e-4 * (len(frames) > 1)), 0.0, 0.0)


def test_the_check_finds_an_engine_that_breaks_the_promise() -> None:
    assert batch_dependence(CrowdEngine(0.5), noise_windows(4)) == pytest.approx(2e-4, rel=1e-2)
    assert batch_dependence(ConstantEngine(0.5), noise_windows(4)) == 0.0


def test_the_promises_in_words() -> None:
    assert (
        describe_tolerance(0.0) == "bit-equal in any batch" and describe_tolerance(1e-6) == "within 1e-06 in any batch"
    )
    engine = ConstantEngine()
    engine.name, engine.device, engine.precision = "torch", "cuda:0", "fp16"
    assert tolerance(engine) == 2e-3
    engine.precision = "fp32"
    assert tolerance(engine) == 1e-5
