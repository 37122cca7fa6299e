"""What makes `FallbackEngine` replace an engine, and what does not."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from stream_detector.engines.fallback import FallbackEngine
from stream_detector.engines.network import BatchError, check_each, check_windows
from stream_detector.errors import EngineError
from stream_detector.models.recipe import Recipe
from stream_detector.types import EngineOutput, UInt8Array

RECIPE = Recipe("tiny", (8, 8), (0.0, 0.0, 0.0), (1.0, 1.0, 1.0), 1.0)
WINDOW = np.zeros((16, 8, 8, 3), np.uint8)


class Plain:
    """An engine on the CPU that scores by the mean."""

    name, device, precision, reason = "torch", "cpu", "fp32", "asked for"
    max_batch, good_batch, good_wait_s = 8, 8, 0.01

    def __init__(self, reason: str = "asked for") -> None:
        self.reason, self.closed = reason, False

    def infer(self, frames: UInt8Array) -> EngineOutput:
        check_windows(frames, RECIPE, self.max_batch)
        if self.closed:
            raise EngineError("the engine was closed already; load it again")
        return EngineOutput(np.zeros((len(frames), 2), np.float32), frames.mean((1, 2, 3, 4)).astype(np.float32), 0, 0)

    def close(self) -> None:
        self.closed = True


class Gpu(Plain):
    """An engine with larger batches, which takes separate windows, until it is lost."""

    device, max_batch, good_batch = "cuda:0", 128, 128
    lost = False

    def infer(self, frames: UInt8Array) -> EngineOutput:
        if self.lost:
            raise EngineError("cuda:0 failed (unspecified launch failure); run with --device cpu")
        return super().infer(frames)

    def infer_windows(self, windows: Any) -> EngineOutput:
        check_each(windows, RECIPE, self.max_batch)
        return self.infer(np.stack(windows))


@pytest.mark.parametrize(
    "wrong",
    [
        np.zeros((2, 16, 8, 8, 3), np.float32),
        np.zeros((2, 16, 9, 8, 3), np.uint8),
        np.zeros((0, 16, 8, 8, 3), np.uint8),
        [],
        [WINDOW, WINDOW[:15]],
        [WINDOW.astype(np.float32)],
    ],
    ids=["type", "size", "empty", "no window", "mixed", "type of one"],
)
@pytest.mark.parametrize("first", [Gpu, Plain])
def test_a_batch_that_is_none_replaces_no_engine(first: Callable[[], Plain], wrong: Any) -> None:
    engine = FallbackEngine(first(), lambda why: pytest.fail(why))
    with pytest.raises(BatchError):
        engine.infer(wrong) if isinstance(wrong, np.ndarray) else engine.infer_windows(wrong)
    assert len(engine.infer(WINDOW[None]).scores) == 1


@pytest.mark.parametrize("count", [1, 8, 9, 128, 129, 300])
@pytest.mark.parametrize("separate", [False, True])
@pytest.mark.parametrize("lost", [False, True])
def test_any_number_of_windows_is_scored_before_and_after_a_loss(count: int, separate: bool, lost: bool) -> None:
    first = Gpu()
    first.lost = lost
    engine = FallbackEngine(first, Plain)
    windows = np.stack([np.full_like(WINDOW, number % 250) for number in range(count)])
    found = engine.infer_windows(list(windows)) if separate else engine.infer(windows)
    assert found.scores.tolist() == [number % 250 for number in range(count)]
    assert engine.device == ("cpu" if lost else "cuda:0") and engine.good_batch == (8 if lost else 128)
    assert first.closed == lost


def test_a_closed_engine_does_not_come_back() -> None:
    engine = FallbackEngine(Gpu(), lambda why: pytest.fail(why))
    engine.close()
    for _ in range(2):
        with pytest.raises(EngineError, match="closed already"):
            engine.infer(WINDOW[None])


def test_several_threads_make_one_replacement() -> None:
    begun, made = threading.Barrier(4, timeout=10), []

    class Lost(Gpu):
        def infer(self, frames: UInt8Array) -> EngineOutput:
            begun.wait()
            raise EngineError("lost")

    def replacement(why: str) -> Plain:
        made.append(Plain(why))
        return made[-1]

    engine = FallbackEngine(Lost(), replacement)
    scores: list[float] = []
    threads = [threading.Thread(target=lambda: scores.extend(engine.infer(WINDOW[None]).scores)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10.0)
    assert len(made) == 1 and scores == [0.0] * 4


def test_the_replacement_s_own_failure_is_an_error() -> None:
    class Broken(Plain):
        def infer(self, frames: UInt8Array) -> EngineOutput:
            raise EngineError("the CPU is broken as well")

    first = Gpu()
    first.lost = True
    with pytest.raises(EngineError, match="broken as well"):
        FallbackEngine(first, Broken).infer(WINDOW[None])
