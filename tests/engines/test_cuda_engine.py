"""The GPU engine where there is no GPU: the same code on a device that is the CPU, or that fails as GPUs do."""

from __future__ import annotations

import logging
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import numpy as np
import pytest
import torch
from fake_gpu import FakeGpu
from model_samples import noise_windows, small_bundle

from stream_detector.config import EngineConfig
from stream_detector.engines import FallbackEngine, Hardware, choose_engine, cuda_engine, detect_hardware
from stream_detector.engines.accelerator import Eager, TorchCuda, accelerator
from stream_detector.engines.batch_dependence import batch_dependence, demo_windows, tolerance
from stream_detector.engines.cuda_engine import BUCKETS, FIXED_BUCKET, CudaEngine
from stream_detector.engines.torch_engine import TorchEngine
from stream_detector.errors import ConfigError, EngineError
from stream_detector.models.bundle import Bundle


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bundle]:
    yield small_bundle(tmp_path_factory.mktemp("small") / "small")


@pytest.fixture
def few_buckets(monkeypatch: pytest.MonkeyPatch) -> None:
    """Loads in a tenth of the time."""
    monkeypatch.setattr(cuda_engine, "BUCKETS", (1, 2, 4))


def made(bundle: Bundle, gpu: FakeGpu, precision: str = "fp32", **options: Any) -> CudaEngine:
    return CudaEngine(bundle, precision=precision, on=gpu, **options)


def test_every_count_agrees_with_the_reference(bundle: Bundle) -> None:
    frames = noise_windows(70, seed=2)
    with closing(TorchEngine(bundle)) as reference:
        wanted = np.concatenate([reference.infer(frames[:64]).scores, reference.infer(frames[64:]).scores])
    with closing(made(bundle, FakeGpu())) as engine:
        assert engine.buckets == BUCKETS
        for count in (1, 2, 3, 5, 31, 32, 33, 70):  # whole buckets, padded ones, several chunks
            found = engine.infer(frames[:count])
            np.testing.assert_allclose(found.scores, wanted[:count], atol=1e-5)
            assert found.features.shape == (count, 64)
        assert batch_dependence(engine, frames[:9]) <= 1e-5 == tolerance_of("fp32")
    with pytest.raises(EngineError, match="closed"):
        engine.infer(frames[:1])


def tolerance_of(precision: str) -> float:
    class OnGpu:
        name, device = "torch", "cuda:0"

    engine: Any = OnGpu()
    engine.precision = precision
    return tolerance(engine)


def test_the_output_does_not_change_when_the_next_batch_is_scored(bundle: Bundle, few_buckets: None) -> None:
    with closing(made(bundle, FakeGpu())) as engine:
        first = engine.infer(noise_windows(3, seed=1)).scores
        kept = first.copy()
        engine.infer(noise_windows(3, seed=2))
        assert np.array_equal(first, kept)


@pytest.mark.parametrize(
    ("precision", "deterministic", "wanted"),
    [
        ("fp32", False, (True, False, "ieee", "ieee")),  # fp32 means fp32
        ("tf32", False, (True, False, "tf32", "tf32")),
        ("fp32", True, (False, True, "ieee", "ieee")),
    ],
)
def test_what_kernels_may_be_chosen(
    bundle: Bundle, few_buckets: None, precision: str, deterministic: bool, wanted: tuple[bool, bool, str, str]
) -> None:
    gpu = FakeGpu()
    made(bundle, gpu, precision, deterministic=deterministic).close()
    assert set(gpu.settings) == {wanted}


def test_graphs_share_their_memory_the_largest_is_captured_first_and_each_is_launched(bundle: Bundle) -> None:
    gpu = FakeGpu()
    with closing(made(bundle, gpu)) as engine:
        assert engine.buckets == BUCKETS == tuple(sorted(gpu.captured)) and gpu.captured == sorted(BUCKETS)[::-1]
        assert len(set(map(id, gpu.pools))) == 1 and set(gpu.replayed) == set(BUCKETS)


def test_deterministic_has_one_bucket_and_is_bit_equal(bundle: Bundle) -> None:
    with closing(made(bundle, FakeGpu(), deterministic=True)) as engine:
        assert len(engine.buckets) == 1 and engine.buckets[0] in (1, FIXED_BUCKET)
        assert batch_dependence(engine, noise_windows(20, seed=5)) == tolerance(engine) == 0.0


def test_deterministic_takes_a_bucket_of_one_where_the_place_shows(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cuda_engine, "batch_dependence", lambda _engine, _windows: 1e-7)
    with closing(made(bundle, FakeGpu(), deterministic=True)) as engine:
        assert engine.buckets == (1,)
        assert engine.infer(noise_windows(3)).scores.shape == (3,)


# --- precision -------------------------------------------------------------------------------------------------------


@pytest.fixture
def all_fp32(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every precision computes in fp32, because the CPU's fp16 is slow."""
    monkeypatch.setattr(cuda_engine, "DTYPES", dict.fromkeys(cuda_engine.DTYPES, torch.float32))


def test_bf16_that_agrees_is_kept(bundle: Bundle, few_buckets: None, caplog: pytest.LogCaptureFixture) -> None:
    with closing(made(bundle, FakeGpu(), "bf16", reason="asked for")) as engine:
        assert (engine.precision, engine.reason, caplog.text) == ("bf16", "asked for", "")


@pytest.mark.parametrize(
    ("asked", "bad", "wanted", "told"),
    [
        ("fp16", {"fp16": 0.1}, "bf16", "fp16 moved a score of the demo by 0.1"),
        ("fp16", {"fp16": np.inf}, "bf16", "fp16 overflowed"),
        ("fp16", {"fp16": 0.1, "bf16": 0.02}, "fp32", "bf16 moved a score of the demo by 0.02"),
        ("fp16", {"fp16": 0.004, "bf16": 1.0}, "fp16", ""),
        ("bf16", {"bf16": 0.016, "fp16": 0.0014}, "fp16", "bf16 moved a score of the demo by 0.016"),
        ("bf16", {"bf16": 0.016, "fp16": np.inf}, "fp32", "fp16 overflowed"),
    ],
)
def test_a_precision_that_disagrees_is_given_up(
    bundle: Bundle,
    few_buckets: None,
    all_fp32: None,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    asked: str,
    bad: dict[str, float],
    wanted: str,
    told: str,
) -> None:
    monkeypatch.setattr(CudaEngine, "_apart", lambda engine, *_: bad.get(engine.precision, 0.0))
    with caplog.at_level(logging.WARNING), closing(made(bundle, FakeGpu(), asked)) as engine:
        assert engine.precision == wanted
        assert told in engine.reason and told in caplog.text and "\n" not in engine.reason
        assert engine.infer(noise_windows(2)).scores.shape == (2,)


def test_the_difference_is_that_of_scores_alone_and_together(bundle: Bundle, few_buckets: None) -> None:
    windows = demo_windows(bundle.recipe)
    assert windows.shape == (4, 16, 32, 32, 3) and len({w.tobytes() for w in windows}) == 4
    with closing(made(bundle, FakeGpu())) as engine:
        reference = engine._reference_on(torch.device("cpu"), windows)
        assert engine._apart(windows, reference) < 1e-5
        reference[2] += 0.25
        assert engine._apart(windows, reference) == pytest.approx(0.25, abs=1e-4)
        reference[1] = np.nan
        assert engine._apart(windows, reference) == np.inf


class Overflowing:
    """Makes the networks of some precisions return infinity, in features or scores, from the moment it is `on`."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, precisions: set[str], what: str) -> None:
        self.on = True
        real = CudaEngine._load_network

        def load(engine: CudaEngine) -> None:
            real(engine)
            network = engine._network
            assert network is not None
            if engine.precision in precisions:
                explained = network.explained

                def overflows(frames: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:
                    features, scores, grids = explained(frames)
                    bad = torch.tensor(np.inf if self.on else 0.0)
                    return (features + bad, scores, grids) if what == "features" else (features, scores + bad, grids)

                network.explained = overflows  # type: ignore[method-assign]

        monkeypatch.setattr(CudaEngine, "_load_network", load)


@pytest.mark.parametrize("what", ["features", "scores"])
def test_a_precision_that_overflows_at_load_is_given_up(
    bundle: Bundle, few_buckets: None, all_fp32: None, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    Overflowing(monkeypatch, {"fp16", "bf16"}, what)
    with closing(made(bundle, FakeGpu(), "fp16")) as engine:
        assert engine.precision == "fp32" and "fp16 overflowed" in engine.reason


def test_a_precision_that_overflows_later_is_replaced_and_the_windows_are_scored_again(
    bundle: Bundle, few_buckets: None, all_fp32: None, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    overflow = Overflowing(monkeypatch, {"fp16"}, "features")
    overflow.on = False
    frames = noise_windows(6, seed=1)
    whole = FallbackEngine(made(bundle, FakeGpu(), "fp16", reason="chosen"), lambda why: pytest.fail(why))
    with closing(whole), closing(TorchEngine(bundle)) as reference:
        assert whole.precision == "fp16"
        overflow.on = True
        np.testing.assert_allclose(whole.infer(frames).scores, reference.infer(frames).scores, atol=1e-5)
        assert (whole.precision, whole.reason) == ("bf16", "chosen; fp16 overflowed, so this is bf16")
    assert "fp16 overflowed on cpu; continuing in bf16" in caplog.text


def test_an_overflow_in_fp32_is_a_sentence(bundle: Bundle, few_buckets: None, monkeypatch: pytest.MonkeyPatch) -> None:
    Overflowing(monkeypatch, {"fp32"}, "features")
    with closing(made(bundle, FakeGpu())) as engine, pytest.raises(EngineError, match=r"NaN or infinity; .*bundle"):
        engine.infer(noise_windows(1))


# --- devices ---------------------------------------------------------------------------------------------------------


def test_which_device_is_which() -> None:
    cuda, first, apple = accelerator("cuda:1"), accelerator("cuda"), accelerator("mps")
    assert isinstance(cuda, TorchCuda) and str(cuda.device) == "cuda:1" and str(first.device) == "cuda:0"
    assert isinstance(apple, Eager) and apple.device.type == "mps"


@pytest.mark.parametrize(
    ("asked", "hardware", "wanted"),
    [
        ({"device": "mps"}, Hardware((), True, False, mps=True), ("torch", "mps", "fp16")),
        ({}, Hardware((), True, False, mps=True), ("openvino", "cpu", "fp32")),  # untried: only when asked for
        ({}, Hardware(("MI300X",), True, True, rocm=True), ("torch", "cuda:0", "fp16")),
        ({"precision": "tf32"}, Hardware(("H200",), True, True), ("torch", "cuda:0", "tf32")),
        ({}, Hardware(("", "H200"), True, True, broken="busy"), ("torch", "cuda:1", "fp16")),
        ({}, Hardware(("",), True, False, broken="busy"), ("openvino", "cpu", "fp32")),
        ({"device": "cpu"}, Hardware(("",), True, False, broken="busy"), ("openvino", "cpu", "fp32")),
    ],
)
def test_the_choice_among_gpus(asked: dict[str, str], hardware: Hardware, wanted: tuple[str, str, str]) -> None:
    choice = choose_engine(EngineConfig.model_validate(asked), hardware)
    assert (choice.engine, choice.device, choice.precision) == wanted
    assert ("ROCm" in choice.reason) == hardware.rocm
    assert ("busy" in choice.reason) == (choice.device == "cpu" and not asked and bool(hardware.broken))


@pytest.mark.parametrize(
    ("asked", "hardware"),
    [
        ({"device": "mps"}, Hardware((), True, False)),
        ({"device": "mps", "engine": "openvino"}, Hardware((), True, False, mps=True)),
        ({"device": "mps", "precision": "tf32"}, Hardware((), True, False, mps=True)),
        ({"precision": "tf32"}, Hardware((), True, False)),
        ({"precision": "tf32"}, Hardware(("MI300X",), True, True, rocm=True)),
        ({"device": "cuda"}, Hardware(("", "H200"), True, True, broken="busy")),
        ({"device": "cuda:2"}, Hardware(("", "H200"), True, True, broken="busy")),
    ],
)
def test_what_a_gpu_cannot_do_is_refused(asked: dict[str, str], hardware: Hardware) -> None:
    with pytest.raises(ConfigError):
        choose_engine(EngineConfig.model_validate(asked), hardware)


@pytest.mark.parametrize("where", ["is_available", "device_count", "get_device_name"])
def test_a_broken_gpu_is_no_obstacle_for_the_cpu(monkeypatch: pytest.MonkeyPatch, where: str) -> None:
    def broken(*_: Any) -> Any:
        raise RuntimeError("CUDA error: CUDA-capable device(s) is/are busy or unavailable\nmore")

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, where, broken)
    hardware = detect_hardware()
    assert hardware.usable == () and "busy or unavailable" in hardware.broken and "\n" not in hardware.broken
    for device in ("cpu", "auto"):
        assert choose_engine(EngineConfig(device=device), hardware).device == "cpu"
    with pytest.raises(ConfigError, match=r"busy or unavailable|none.*--device cpu"):
        choose_engine(EngineConfig(device="cuda:0"), hardware)


def test_importing_the_engine_touches_no_device() -> None:
    code = (
        "import torch, sys\n"
        "class Gone:\n"
        "    def __getattr__(self, name): raise AssertionError('torch.cuda.' + name)\n"
        "torch.cuda = Gone(); sys.modules['torch.cuda'] = torch.cuda\n"
        "import stream_detector.engines.cuda_engine"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
