"""Threads that share a GPU engine, load several, or close one in the middle of a batch; and the worker that uses it."""

from __future__ import annotations

import threading
import time
from contextlib import closing
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from fake_gpu import FakeGpu
from model_samples import noise_windows, small_bundle

from stream_detector.engines import FallbackEngine, cuda_engine
from stream_detector.engines.accelerator import Captured
from stream_detector.engines.cuda_engine import CudaEngine
from stream_detector.engines.torch_engine import TorchEngine
from stream_detector.errors import EngineError
from stream_detector.models.bundle import Bundle

WAIT_S = 60.0


@pytest.fixture(autouse=True)
def few_buckets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cuda_engine, "BUCKETS", (1, 2, 4, 8))
    monkeypatch.setattr(cuda_engine, "demo_windows", lambda _recipe: noise_windows(4, seed=9))  # rendering takes longer


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return small_bundle(tmp_path_factory.mktemp("small") / "small")


def made(bundle: Bundle, gpu: FakeGpu) -> CudaEngine:
    return CudaEngine(bundle, precision="fp32", on=gpu)


def expected(bundle: Bundle, frames: Any) -> Any:
    with closing(TorchEngine(bundle)) as engine:
        return engine.infer(frames).scores


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
