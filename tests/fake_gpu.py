"""A GPU that is the CPU, runs out of memory as told, and can be lost: for tests of the engine without a GPU."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch

from stream_detector.engines.accelerator import Captured, Computation, Eager

FULL = "CUDA out of memory. Tried to allocate 2.00 GiB"
LOST = "CUDA error: unspecified launch failure\nmore lines"


class _Queue:
    """A stream or an event that tells its device when it is used."""

    def __init__(self, gpu: FakeGpu) -> None:
        self._gpu = gpu

    def wait_event(self, event: Any) -> None:
        self._gpu.touched("wait_event")

    def record(self, stream: Any = None) -> None:
        self._gpu.touched("record")

    def synchronize(self) -> None:
        self._gpu.touched("synchronize")


class FakeGpu(Eager):
    """Holds graphs of at most `largest` windows.

    full: number of the next replays for which its memory is full.  lost: every further call fails.  behind: a capture
    that runs out of memory ends with another error, as PyTorch's does.  calls: what was asked of the device.
    """

    def __init__(self, largest: int = 99, behind: bool = False) -> None:
        super().__init__(torch.device("cpu"))
        self.largest, self.behind = largest, behind
        self.full, self.lost = 0, False
        self.captured: list[int] = []  # buckets in the order of their captures
        self.replayed: list[int] = []
        self.calls: list[str] = []
        self.settings: list[tuple[bool, bool, str, str]] = []
        self.pools: list[object] = []
        self.hosts: list[torch.Tensor] = []

    def touched(self, name: str) -> None:
        self.calls.append(name)
        if self.lost:
            raise RuntimeError(LOST)

    def host(self, shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
        self.touched("host")
        self.hosts.append(super().host(shape, dtype))
        return self.hosts[-1]

    def stream(self) -> Any:
        self.touched("stream")
        return _Queue(self)

    def event(self) -> Any:
        self.touched("event")
        return _Queue(self)

    @contextlib.contextmanager
    def on(self, stream: Any) -> Iterator[None]:
        self.calls.append("on")
        yield

    def pool(self) -> Any:
        self.touched("pool")
        return object()

    def capture(self, run: Computation, stream: Any, pool: Any) -> Captured:
        self.touched("capture")
        backends: Any = torch.backends
        cudnn = backends.cudnn
        conv, matmul = cudnn.conv.fp32_precision, backends.cuda.matmul.fp32_precision
        self.settings.append((cudnn.benchmark, cudnn.deterministic, conv, matmul))
        captured = super().capture(run, stream, pool)
        bucket = len(captured.scores)
        self.captured.append(bucket)
        self.pools.append(pool)
        if bucket > self.largest:
            try:
                raise torch.OutOfMemoryError(FULL)
            finally:
                if self.behind:
                    raise RuntimeError("CUDA error: operation failed due to a previous error during capture")

        def replay() -> None:
            self.touched("replay")
            if self.full:
                self.full -= 1
                raise torch.OutOfMemoryError(FULL)
            self.replayed.append(bucket)
            captured.replay()

        return Captured(replay, captured.features, captured.scores, captured.grids)

    def free_bytes(self) -> tuple[int, int] | None:
        self.calls.append("free_bytes")
        return 1_500_000_000, 80_000_000_000

    def release(self) -> None:
        self.calls.append("release")
