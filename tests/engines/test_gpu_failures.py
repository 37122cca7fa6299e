"""What failures of a GPU lead to, on a device that fails as told: fewer windows at once, one sentence, or the CPU."""

from __future__ import annotations

import gc
import logging
import weakref
from contextlib import closing
from typing import Any

import numpy as np
import pytest
import torch
from fake_gpu import FULL, LOST, FakeGpu
from model_samples import noise_windows, small_bundle

from stream_detector.config import EngineConfig
from stream_detector.engines import FallbackEngine, Hardware, accelerator, cuda_engine, load_engine
from stream_detector.engines.accelerator import Captured, out_of_memory
from stream_detector.engines.cuda_engine import CudaEngine
from stream_detector.engines.gpu_runner import GpuRunner
from stream_detector.engines.torch_engine import TorchEngine
from stream_detector.errors import EngineError
from stream_detector.models.bundle import Bundle

SENTENCE = "unspecified launch failure"


@pytest.fixture(autouse=True)
def few_buckets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cuda_engine, "BUCKETS", (1, 2, 4, 8))
    monkeypatch.setattr(cuda_engine, "demo_windows", lambda _recipe: noise_windows(4, seed=9))  # rendering takes longer


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return small_bundle(tmp_path_factory.mktemp("small") / "small")


@pytest.fixture
def abandoned(monkeypatch: pytest.MonkeyPatch) -> list[tuple[object, ...]]:
    found: list[tuple[object, ...]] = []
    monkeypatch.setattr(accelerator, "_ABANDONED", found)
    return found


def made(bundle: Bundle, gpu: FakeGpu, precision: str = "fp32", **options: Any) -> CudaEngine:
    return CudaEngine(bundle, precision=precision, on=gpu, **options)


def expected(bundle: Bundle, frames: Any) -> Any:
    with closing(TorchEngine(bundle)) as engine:
        return engine.infer(frames).scores


# --- memory ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("behind", [False, True])
def test_too_little_memory_at_load_leaves_out_the_largest_buckets(
    bundle: Bundle, caplog: pytest.LogCaptureFixture, behind: bool
) -> None:
    frames = noise_windows(11)
    with closing(made(bundle, FakeGpu(largest=4, behind=behind))) as engine:
        assert engine.buckets == (1, 2, 4)
        np.testing.assert_allclose(engine.infer(frames).scores, expected(bundle, frames), atol=1e-5)
    assert "memory of cpu is too small for 8 windows at once; trying 4" in caplog.text


@pytest.mark.parametrize("deterministic", [False, True])
def test_too_little_memory_for_one_window_is_a_sentence(bundle: Bundle, deterministic: bool) -> None:
    with pytest.raises(EngineError, match=r"too small for one window, 1.5 of 80.0 GB free; .*--device cpu") as caught:
        made(bundle, FakeGpu(largest=0), deterministic=deterministic)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_memory_that_only_the_first_launch_finds_missing_costs_buckets_at_load(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch, precision: str
) -> None:
    monkeypatch.setattr(cuda_engine, "DTYPES", dict.fromkeys(cuda_engine.DTYPES, torch.float32))
    gpu = FakeGpu()
    gpu.full = 2  # the first launch of the first try, and that of the second
    with closing(made(bundle, gpu, precision)) as engine:
        assert engine.buckets == (1, 2) and engine.precision == precision


def test_memory_that_runs_out_in_the_check_of_the_precision_costs_buckets_too(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cuda_engine, "DTYPES", dict.fromkeys(cuda_engine.DTYPES, torch.float32))
    gpu = FakeGpu()
    real = CudaEngine._apart

    def apart(engine: CudaEngine, *rest: Any) -> float:
        gpu.full = 1
        return real(engine, *rest)

    monkeypatch.setattr(CudaEngine, "_apart", apart)
    with closing(made(bundle, gpu, "fp16")) as engine:
        assert engine.buckets == (1, 2, 4) and engine.precision == "fp16"


def test_a_reference_that_does_not_fit_is_computed_on_the_cpu(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cuda_engine, "DTYPES", dict.fromkeys(cuda_engine.DTYPES, torch.float32))
    real, asked = CudaEngine._reference_on, []

    def reference(engine: CudaEngine, device: torch.device, windows: Any) -> Any:
        asked.append(device.type)
        if device.type != "cpu":
            raise torch.OutOfMemoryError(FULL)
        return real(engine, device, windows)

    monkeypatch.setattr(CudaEngine, "_reference_on", reference)
    with closing(made(bundle, FakeGpu(), "fp16")) as engine:
        engine._on.device = torch.device("meta")  # any that is not the CPU
        wanted = real(engine, torch.device("cpu"), noise_windows(2))
        np.testing.assert_array_equal(engine._reference(noise_windows(2)), wanted)
        assert asked == ["cpu", "meta", "cpu"]


def test_memory_that_runs_out_later_costs_buckets_not_windows(bundle: Bundle, caplog: pytest.LogCaptureFixture) -> None:
    gpu = FakeGpu()
    frames = noise_windows(20, seed=8)
    with closing(made(bundle, gpu)) as engine:
        wanted = engine.infer(frames).scores
        gpu.full = 1
        np.testing.assert_allclose(engine.infer(frames).scores, wanted, atol=1e-5)
        assert engine.buckets == (1, 2, 4) and "at most 4 windows" in caplog.text
        gpu.full = 99
        for _ in range(2):
            with pytest.raises(EngineError, match="too small for one window"):
                engine.infer(frames)


def test_the_memory_of_what_failed_is_free_when_the_next_try_begins(bundle: Bundle) -> None:
    """A traceback holds the objects of its frames; so does an engine that shrinks inside of an exception handler."""
    gpu = FakeGpu()
    with closing(made(bundle, gpu)) as engine:
        old = weakref.ref(engine._runner)  # type: ignore[arg-type]
        alive: list[bool] = []
        real = gpu.pool
        gpu.pool = lambda: (alive.append(old() is not None), real())[1]  # type: ignore[method-assign]
        gpu.full = 1
        engine.infer(noise_windows(8))
    assert alive == [False]


def _linked(error: BaseException, context: BaseException | None = None, cause: BaseException | None = None) -> Any:
    error.__context__, error.__cause__ = context, cause
    return error


@pytest.mark.parametrize(
    ("error", "wanted"),
    [
        (torch.OutOfMemoryError(FULL), True),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling"), True),
        (RuntimeError("CUDA error: out of memory"), True),
        (RuntimeError("MPS backend out of memory"), True),
        (RuntimeError("CUDA error: unspecified launch failure"), False),
        (_linked(RuntimeError("capture failed"), context=torch.OutOfMemoryError(FULL)), True),
        (_linked(RuntimeError("a"), cause=_linked(RuntimeError("b"), context=torch.OutOfMemoryError(FULL))), True),
        (_linked(RuntimeError("a"), context=RuntimeError("b"), cause=RuntimeError("c")), False),
    ],
)
def test_full_memory_is_told_from_other_failures(error: RuntimeError, wanted: bool) -> None:
    assert out_of_memory(error) == wanted


def test_errors_that_lead_to_each_other_are_no_obstacle() -> None:
    first, second = RuntimeError("a"), RuntimeError("b")
    first.__context__, second.__context__ = second, first
    assert not out_of_memory(first)


# --- a lost device ---------------------------------------------------------------------------------------------------


def test_a_lost_device_is_a_sentence_and_never_called_again(
    bundle: Bundle, abandoned: list[tuple[object, ...]]
) -> None:
    gpu = FakeGpu()
    engine = made(bundle, gpu)
    pinned = weakref.ref(gpu.hosts[0])
    gpu.lost = True
    with pytest.raises(EngineError, match=SENTENCE) as caught:
        engine.infer(noise_windows(3))
    assert "\n" not in str(caught.value)
    gpu.calls.clear()
    gpu.hosts.clear()
    engine.close()
    with pytest.raises(EngineError, match=SENTENCE):
        engine.infer(noise_windows(3))
    assert gpu.calls == []
    del engine, caught
    gc.collect()
    assert pinned() is not None  # freeing pinned memory would call the device
    assert any(isinstance(held, GpuRunner) for held in abandoned[0])


def test_a_device_lost_between_batches_is_noticed_before_its_memory_is_freed(
    bundle: Bundle, abandoned: list[tuple[object, ...]], caplog: pytest.LogCaptureFixture
) -> None:
    gpu = FakeGpu()
    engine = made(bundle, gpu)
    gpu.lost = True
    gpu.calls.clear()
    engine.close()
    engine.close()
    assert gpu.calls == ["synchronize"] and len(abandoned) == 1 and SENTENCE in caplog.text


def test_a_device_lost_at_load_is_abandoned(
    bundle: Bundle, abandoned: list[tuple[object, ...]], monkeypatch: pytest.MonkeyPatch
) -> None:
    gpu = FakeGpu()
    real = gpu.capture

    def capture(*arguments: Any) -> Captured:
        gpu.lost = gpu.captured == [8]
        gpu.calls.clear()
        return real(*arguments)

    monkeypatch.setattr(gpu, "capture", capture)
    with pytest.raises(EngineError, match=SENTENCE):
        made(bundle, gpu)
    assert gpu.calls == ["capture"] and any(isinstance(held, GpuRunner) for held in abandoned[0])


@pytest.mark.parametrize("on_failure", ["stop", "fallback"])
@pytest.mark.parametrize("when", ["at load", "later"])
def test_a_lost_device_leads_to_what_is_configured(
    bundle: Bundle,
    abandoned: list[tuple[object, ...]],
    monkeypatch: pytest.MonkeyPatch,
    on_failure: Any,
    when: str,
) -> None:
    gpu = FakeGpu()
    gpu.lost = when == "at load"
    monkeypatch.setattr(cuda_engine, "accelerator", lambda _device: gpu)
    config = EngineConfig(precision="fp32", on_failure=on_failure)
    frames = noise_windows(9, seed=4)

    def run() -> Any:
        engine = load_engine(bundle, config, Hardware(("H100",), False, False))
        gpu.lost = True
        scores = engine.infer(frames).scores
        engine.close()
        return engine, scores

    if on_failure == "stop":
        with pytest.raises(EngineError, match=SENTENCE):
            run()
    else:
        engine, scores = (
            run() if when == "later" else (load_engine(bundle, config, Hardware(("H100",), False, False)), None)
        )
        if scores is not None:
            np.testing.assert_allclose(scores, expected(bundle, frames), atol=1e-6)
        assert engine.device == "cpu" and SENTENCE in engine.reason and "\n" not in engine.reason
        assert engine.good_batch == TorchEngine.good_batch  # batches are no longer gathered for a GPU


def test_an_engine_that_cannot_even_be_closed_is_replaced(bundle: Bundle, caplog: pytest.LogCaptureFixture) -> None:
    class Stuck(TorchEngine):
        device = "cuda:0"

        def infer(self, frames: Any) -> Any:
            raise EngineError("the device is lost")

        def close(self) -> None:
            raise RuntimeError(LOST)

    whole = FallbackEngine(Stuck(bundle), lambda why: TorchEngine(bundle, reason=why))
    frames = noise_windows(2)
    np.testing.assert_array_equal(whole.infer(frames).scores, expected(bundle, frames))
    assert whole.device == "cpu" and "could not be closed" in caplog.text
    whole.close()


def test_logging_of_a_replaced_engine_is_one_line(bundle: Bundle, caplog: pytest.LogCaptureFixture) -> None:
    gpu = FakeGpu()
    whole = FallbackEngine(made(bundle, gpu), lambda why: TorchEngine(bundle, reason=why))
    gpu.lost = True
    with caplog.at_level(logging.WARNING):
        whole.infer(noise_windows(1))
    whole.close()
    assert [record.getMessage().count("\n") for record in caplog.records] == [0]
