"""What failures of a GPU lead to, on a device that fails as told: fewer windows at once, one sentence, or the CPU."""

from __future__ import annotations

import gc
import logging
import threading
import time
import weakref
from contextlib import closing
from types import SimpleNamespace
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
WAIT_S = 60.0


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
    assert gpu.calls == ["settle"] and len(abandoned) == 1 and SENTENCE in caplog.text


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


# --- threads ---------------------------------------------------------------------------------------------------------


def test_two_threads_that_share_an_engine_get_their_own_scores(bundle: Bundle) -> None:
    frames = noise_windows(24, seed=6)
    wanted = expected(bundle, frames)
    wrong: list[Any] = []
    with closing(made(bundle, FakeGpu())) as engine:

        def use(order: list[int]) -> None:
            for count in (24, 5, 17, 9):
                chosen = order[:count]
                found = engine.infer_windows([frames[i] for i in chosen]).scores
                if not np.allclose(found, wanted[chosen], atol=1e-5):
                    wrong.append(chosen)

        threads = [threading.Thread(target=use, args=(order,)) for order in (list(range(24)), list(range(24))[::-1])]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(WAIT_S)
    assert wrong == []


def test_engines_are_loaded_one_after_the_other(bundle: Bundle) -> None:
    inside, most = [0], [0]

    class Watched(FakeGpu):
        def capture(self, *arguments: Any) -> Captured:
            inside[0] += 1
            most[0] = max(most[0], inside[0])
            try:
                return super().capture(*arguments)
            finally:
                inside[0] -= 1

    engines: list[CudaEngine] = []
    threads = [threading.Thread(target=lambda: engines.append(made(bundle, Watched()))) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(WAIT_S)
    for engine in engines:
        engine.close()
    assert len(engines) == 3 and most == [1]


class Paused:
    """Holds the next launch back until it may go on."""

    def __init__(self, gpu: FakeGpu, monkeypatch: pytest.MonkeyPatch) -> None:
        self.begun, self.go_on = threading.Event(), threading.Event()
        real = gpu.touched

        def touched(name: str) -> None:
            if name == "replay":
                self.begun.set()
                assert self.go_on.wait(WAIT_S)
            real(name)

        monkeypatch.setattr(gpu, "touched", touched)


@pytest.mark.parametrize("patient", [True, False])
def test_an_engine_is_closed_in_the_middle_of_a_batch(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch, patient: bool
) -> None:
    """patient: the batch ends in time; else `close` returns, and the batch releases the memory at its end."""
    monkeypatch.setattr(cuda_engine, "CLOSE_WAIT_S", WAIT_S if patient else 0.0)
    gpu = FakeGpu()
    engine = made(bundle, gpu)
    paused = Paused(gpu, monkeypatch)
    ended: list[BaseException | None] = []

    def use() -> None:
        try:
            engine.infer(noise_windows(24))
        except EngineError as error:
            ended.append(error)

    worker, closer = threading.Thread(target=use), threading.Thread(target=engine.close)
    worker.start()
    assert paused.begun.wait(WAIT_S)
    closer.start()
    if not patient:
        closer.join(WAIT_S)
        assert not closer.is_alive() and engine.buckets
    else:
        deadline_s = time.monotonic() + WAIT_S
        while not engine._closed and time.monotonic() < deadline_s:  # `close` was called, and waits
            closer.join(0.001)
    paused.go_on.set()
    for thread in (worker, closer):
        thread.join(WAIT_S)
    assert len(ended) == 1 and "closed" in str(ended[0]) and not engine.buckets


def test_closing_from_within_a_batch_is_a_sentence(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    gpu = FakeGpu()
    engine = made(bundle, gpu)
    real = gpu.touched
    monkeypatch.setattr(gpu, "touched", lambda name: (engine.close() if name == "replay" else None, real(name))[1])
    with pytest.raises(EngineError, match="closed"):
        engine.infer(noise_windows(24))
    assert not engine.buckets


def test_the_worker_asks_for_batches_of_the_engine_in_use() -> None:
    from stream_detector.runtime.pipeline import Pipeline
    from stream_detector.testing.engine import ConstantEngine
    from stream_detector.types import Batch, SystemClock, Window, WindowRef

    first, spare = ConstantEngine(max_batch=128, fail_after=1), ConstantEngine(max_batch=64)
    spare.good_batch, spare.good_wait_s = 8, 0.03
    whole = FallbackEngine(first, lambda _why: spare)
    pixels = np.zeros((16, 2, 2, 3), np.uint8)
    ref = WindowRef("c", "s", 0, 0, 15, 0.0, 0.6, 0.0, 0.0, 0.0)
    asked: list[tuple[int, float]] = []

    def take(size: int, wait_s: float) -> Any:
        asked.append((size, wait_s))
        batch = Batch(tuple(Window(ref, pixels) for _ in range(2)), 0.0)
        return None if len(asked) > 3 else SimpleNamespace(batch=batch, ended=())

    pipeline: Any = SimpleNamespace(
        config=SimpleNamespace(batch=SimpleNamespace(max_size=None, max_wait_ms=None)),
        engine=whole,
        _buffer=SimpleNamespace(take=take),
        telemetry=SimpleNamespace(batch=lambda _count: None),
        clock=SystemClock(),
        _busy_s=0.0,
        _stop=threading.Event(),
        _put=lambda _item: None,
    )
    with_wait = (128, ConstantEngine.good_wait_s)
    Pipeline._work(pipeline)
    assert asked == [with_wait, with_wait, (8, 0.03), (8, 0.03)]


def test_logging_of_a_replaced_engine_is_one_line(bundle: Bundle, caplog: pytest.LogCaptureFixture) -> None:
    gpu = FakeGpu()
    whole = FallbackEngine(made(bundle, gpu), lambda why: TorchEngine(bundle, reason=why))
    gpu.lost = True
    with caplog.at_level(logging.WARNING):
        whole.infer(noise_windows(1))
    whole.close()
    assert [record.getMessage().count("\n") for record in caplog.records] == [0]
