"""Windows that lie apart reach the engine's memory by one copy, and nobody waits for what is not needed yet."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import Any

import numpy as np
import pytest
import torch
from model_samples import noise_windows, small_bundle

from stream_detector.engines import FallbackEngine
from stream_detector.engines.accelerator import Captured, Computation, Eager
from stream_detector.engines.cuda_engine import CudaEngine
from stream_detector.engines.feeding import GathersWindows, infer_windows
from stream_detector.engines.torch_engine import TorchEngine
from stream_detector.errors import EngineError
from stream_detector.models.bundle import Bundle
from stream_detector.types import Engine, EngineOutput, UInt8Array


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return small_bundle(tmp_path_factory.mktemp("small") / "small")


class Log:
    """A stream or an event that writes down what is asked of it."""

    def __init__(self, name: str, told: list[str]) -> None:
        self.name, self.told = name, told

    def wait_event(self, event: Log) -> None:
        self.told.append(f"{self.name} waits for {event.name}")

    def record(self, stream: Log) -> None:
        self.told.append(f"{self.name} in {stream.name}")

    def synchronize(self) -> None:
        self.told.append(f"host waits for {self.name}")


class WatchedGpu(Eager):
    """The CPU as a device whose streams and events are written down. told: what happened since it was cleared."""

    def __init__(self) -> None:
        super().__init__(torch.device("cpu"))
        self.told: list[str] = []
        self.streams = iter(("copy", "compute"))
        self.events = iter(("done", "uploaded 0", "consumed 0", "uploaded 1", "consumed 1"))
        self.hosts: list[torch.Tensor] = []

    def stream(self) -> Log:
        return Log(next(self.streams), self.told)

    def event(self) -> Log:
        return Log(next(self.events), self.told)

    @contextmanager
    def on(self, stream: Any) -> Iterator[None]:
        yield

    def host(self, shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
        self.hosts.append(super().host(shape, dtype))
        return self.hosts[-1]

    def capture(self, run: Computation, stream: Any, pool: Any) -> Captured:
        captured = super().capture(run, stream, pool)

        def replay() -> None:
            self.told.append("replay")
            captured.replay()

        return Captured(replay, captured.features, captured.scores)


def apart(frames: UInt8Array) -> list[UInt8Array]:
    """Read-only copies, as windows in another process's shared memory are."""
    windows = [window.copy() for window in frames]
    for window in windows:
        window.flags.writeable = False
    return windows


def engines(bundle: Bundle) -> Iterator[tuple[str, Engine]]:
    yield "gpu", CudaEngine(bundle, precision="fp32", on=Eager(torch.device("cpu")))
    yield "torch", TorchEngine(bundle)
    yield (
        "fallback",
        FallbackEngine(
            CudaEngine(bundle, precision="fp32", on=Eager(torch.device("cpu"))), lambda _why: TorchEngine(bundle)
        ),
    )
    try:
        from stream_detector.engines.openvino_engine import OpenVinoEngine

        yield "openvino", OpenVinoEngine(bundle, "fp32")
    except EngineError:  # not installed
        return


def test_every_engine_gives_windows_that_lie_apart_the_scores_of_a_batch(bundle: Bundle) -> None:
    frames = noise_windows(35, seed=3)
    for name, engine in engines(bundle):
        with closing(engine):
            batch, loose = engine.infer(frames), infer_windows(engine, apart(frames))
            assert np.array_equal(batch.scores, loose.scores) and np.array_equal(batch.features, loose.features), name


@pytest.mark.parametrize(
    ("windows", "told"),
    [
        ([], "1 to 128 windows, got 0"),
        ([np.zeros((16, 32, 32, 3), np.float32)], "must be uint8"),
        ([np.zeros((16, 32, 32, 3), np.uint8), np.zeros((1, 1, 1, 3), np.uint8)], r"got uint8 \(1, 1, 1, 3\)"),
    ],
)
def test_windows_that_are_none_are_refused(bundle: Bundle, windows: list[Any], told: str) -> None:
    with (
        closing(CudaEngine(bundle, precision="fp32", on=Eager(torch.device("cpu")))) as engine,
        pytest.raises(EngineError, match=told),
    ):
        engine.infer_windows(windows)


def test_pixels_go_from_where_they_lie_to_pinned_memory_and_nowhere_else(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    gpu = WatchedGpu()
    with closing(CudaEngine(bundle, precision="fp32", on=gpu)) as engine:
        assert isinstance(engine, GathersWindows)
        copies: list[bool] = []
        windows = apart(noise_windows(7))
        real = np.copyto
        pinned = [host.numpy() for host in gpu.hosts]

        def copyto(to: UInt8Array, what: UInt8Array) -> None:
            copies.append(any(np.shares_memory(to, host) for host in pinned))
            real(to, what)

        monkeypatch.setattr(np, "copyto", copyto)
        for name in ("stack", "concatenate", "ascontiguousarray"):
            monkeypatch.setattr(np, name, lambda *_, **__: pytest.fail("another copy"))
        infer_windows(engine, windows)
        assert copies == [True] * 7


def test_uploads_run_beside_the_computation_and_the_host_waits_for_slots_alone(bundle: Bundle) -> None:
    gpu = WatchedGpu()
    with closing(CudaEngine(bundle, precision="fp32", on=gpu)) as engine:
        gpu.told.clear()
        engine.infer_windows(apart(noise_windows(96)))  # three chunks of 32 through two slots
        told = list(gpu.told)
    chunk = (
        "host waits for consumed {0}|uploaded {0} in copy|compute waits for uploaded {0}|consumed {0} in compute|replay"
    )
    wanted = [line for slot in (0, 1, 0) for line in chunk.format(slot).split("|")]
    # Chunk 1 is sent while chunk 0 is computed; chunk 2 waits until slot 0 was read, not until chunk 0 was computed.
    assert told == [*wanted, "done in compute", "host waits for done"]


def test_a_lost_engine_is_replaced_for_windows_too(bundle: Bundle) -> None:
    class Lost:
        name, device, precision, reason = "torch", "cuda:0", "fp16", "asked for"
        max_batch, good_batch, good_wait_s = 128, 128, 0.0

        def infer(self, frames: UInt8Array) -> EngineOutput:
            raise EngineError("the device is lost")

        def infer_windows(self, windows: Any) -> EngineOutput:
            raise EngineError("the device is lost")

        def close(self) -> None:
            pass

    frames = noise_windows(70)
    whole = FallbackEngine(Lost(), lambda why: TorchEngine(bundle, reason=why))
    for _ in range(2):
        assert infer_windows(whole, apart(frames)).scores.shape == (70,)
    assert whole.device == "cpu" and "the device is lost" in whole.reason
    whole.close()
