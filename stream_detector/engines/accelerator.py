"""The device operations of the GPU engine, apart from the engine, so that it also runs without CUDA.

    TorchCuda   NVIDIA, and AMD through ROCm (PyTorch also calls that CUDA): streams, pinned memory, captured graphs
    Eager       any device of PyTorch, one operation after the other: Apple's MPS, and the CPU in tests and benchmarks

Importing this module touches no device. ROCm and MPS are untested.
"""

from __future__ import annotations

import contextlib
import ctypes
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

Computation = Callable[[], tuple[Tensor, Tensor, Tensor | None]]


@dataclass(frozen=True, slots=True)
class Captured:
    """A computation that can be repeated on the same input memory. features (B, D), scores (B,), grids (B, h, w) or
    None: the memory of its results.
    """

    replay: Callable[[], None]
    features: Tensor
    scores: Tensor
    grids: Tensor | None = None


class Accelerator(Protocol):
    """A device. `stream` and `event` return PyTorch's CUDA objects, or objects that do nothing."""

    device: torch.device

    def entered(self) -> AbstractContextManager[Any]:
        """Return a context in which the device is the current one."""
        ...

    def host(self, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        """Allocate uninitialised host memory that the device reads fastest."""
        ...

    def stream(self) -> Any:
        """Create a queue of work."""
        ...

    def event(self) -> Any:
        """Create an event, a mark in a queue."""
        ...

    def on(self, stream: Any) -> AbstractContextManager[Any]:
        """Return a context that puts operations into `stream`."""
        ...

    def pool(self) -> Any:
        """Create memory that several captured computations share; they must never run at the same time."""
        ...

    def capture(self, run: Computation, stream: Any, pool: Any) -> Captured:
        """Warm `run` up and capture it for repetition, in memory of `pool`. Raises RuntimeError like PyTorch."""
        ...

    def free_bytes(self) -> tuple[int, int] | None:
        """Return free and total memory of the device in bytes; None if unknown."""
        ...

    def release(self) -> None:
        """Return unused memory to the device; never raises."""
        ...


class TorchCuda:
    """A device that PyTorch calls "cuda:N"."""

    def __init__(self, device: torch.device) -> None:
        self.device = device

    def entered(self) -> AbstractContextManager[Any]:
        """See `Accelerator`."""
        return torch.cuda.device(self.device)

    def host(self, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        """Allocate pinned memory."""
        return torch.empty(shape, dtype=dtype, pin_memory=True)

    def stream(self) -> Any:
        """See `Accelerator`."""
        make: Any = torch.cuda.Stream
        return make(self.device)

    def event(self) -> Any:
        """Create an event for which a thread waits asleep; the core is free for capture meanwhile."""
        make: Any = torch.cuda.Event
        return make(blocking=True)

    def on(self, stream: Any) -> AbstractContextManager[Any]:
        """See `Accelerator`."""
        return torch.cuda.stream(stream)

    def pool(self) -> Any:
        """See `Accelerator`."""
        return torch.cuda.graph_pool_handle()

    def capture(self, run: Computation, stream: Any, pool: Any) -> Captured:
        """Capture a CUDA graph: one launch for all kernels. Other threads may use the device meanwhile."""
        stream.wait_stream(torch.cuda.current_stream(self.device))
        with torch.cuda.stream(stream):
            for _ in range(3):  # cuDNN must choose its kernels before the capture
                run()
        stream.synchronize()
        graph = torch.cuda.CUDAGraph()
        # The outer context gives the former stream back even where the end of a capture fails.
        with (
            torch.cuda.stream(stream),
            torch.cuda.graph(graph, pool=pool, stream=stream, capture_error_mode="thread_local"),
        ):
            features, scores, grids = run()
        return Captured(graph.replay, features, scores, grids)

    def free_bytes(self) -> tuple[int, int] | None:
        """See `Accelerator`."""
        with contextlib.suppress(RuntimeError):
            free, total = torch.cuda.mem_get_info(self.device)
            return int(free), int(total)
        return None

    def release(self) -> None:
        """See `Accelerator`."""
        with contextlib.suppress(RuntimeError):  # a lost device cannot be cleaned up
            torch.cuda.empty_cache()


class _Nothing:
    """A stream or event of a device that works in order."""

    def __init__(self, wait: Callable[[], None]) -> None:
        self._wait = wait

    def wait_event(self, event: Any) -> None:
        """Do nothing: the work is in order."""

    def record(self, stream: Any = None) -> None:
        """Do nothing: the work is in order."""

    def synchronize(self) -> None:
        """Wait for all work."""
        self._wait()


class Eager:
    """Any device of PyTorch without streams or graphs: "mps", "cpu"."""

    def __init__(self, device: torch.device) -> None:
        self.device = device

    def entered(self) -> AbstractContextManager[Any]:
        """See `Accelerator`."""
        return contextlib.nullcontext()

    def host(self, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        """Allocate ordinary memory."""
        return torch.empty(shape, dtype=dtype)

    def stream(self) -> Any:
        """See `Accelerator`."""
        return _Nothing(self._wait)

    def event(self) -> Any:
        """See `Accelerator`."""
        return _Nothing(self._wait)

    def on(self, stream: Any) -> AbstractContextManager[Any]:
        """See `Accelerator`."""
        return contextlib.nullcontext()

    def pool(self) -> Any:
        """Return None: nothing is shared."""
        return None

    def capture(self, run: Computation, stream: Any, pool: Any) -> Captured:
        """Run the computation again at every replay."""
        features, scores, grids = run()

        def replay() -> None:
            new_features, new_scores, new_grids = run()
            features.copy_(new_features)
            scores.copy_(new_scores)
            if grids is not None and new_grids is not None:
                grids.copy_(new_grids)

        return Captured(replay, features, scores, grids)

    def free_bytes(self) -> tuple[int, int] | None:
        """Return None: the memory is not known."""
        return None

    def release(self) -> None:
        """See `Accelerator`."""
        if self.device.type == "mps":
            with contextlib.suppress(RuntimeError):
                torch.mps.empty_cache()

    def _wait(self) -> None:
        if self.device.type == "mps":
            torch.mps.synchronize()


def accelerator(device: str) -> Accelerator:
    """Return the accelerator for "cuda", "cuda:N", "mps" or "cpu"."""
    if device.startswith("cuda"):
        return TorchCuda(torch.device(device if ":" in device else "cuda:0"))
    return Eager(torch.device(device))


# What PyTorch, cuDNN 8 and 9, MIOpen, HIP, NVRTC and Metal say when memory is full, in lower case.
FULL = (
    "out of memory",
    "out_of_memory",
    "outofmemory",
    "alloc_failed",
    "allocation_failed",
    "allocfailed",
    "failed to allocate",
    "can't allocate memory",
)


def out_of_memory(error: BaseException) -> bool:
    """Return whether a PyTorch error means that device memory is full (other libraries report that only in text).

    The errors behind it count as well: a capture that runs out of memory ends with a second error about the capture.
    """
    seen: set[int] = set()
    waiting: list[BaseException | None] = [error]
    while waiting:
        found = waiting.pop()
        if found is None or id(found) in seen:
            continue
        seen.add(id(found))
        text = str(found).lower()
        if isinstance(found, torch.OutOfMemoryError) or any(name in text for name in FULL):
            return True
        waiting += [found.__context__, found.__cause__]
    return False


_ABANDONED: list[tuple[object, ...]] = []


def abandon(*objects: object) -> None:
    """Keep objects of a lost device until the process ends, on purpose.

    After such a failure every call into CUDA fails. Freeing pinned memory that a stream has used makes such a call, in
    a destructor that must not fail: it would end the process instead of the engine. The list is never freed either,
    not even when the interpreter ends, hence the reference that nobody gives back.
    """
    if not _ABANDONED:
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(_ABANDONED))
    _ABANDONED.append(objects)
