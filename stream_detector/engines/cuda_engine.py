"""PyTorch on a CUDA device: uploads overlap with computing, and nothing but kernels is launched twice.

    host pinned slot ──copy stream──▶ device slot ──compute stream──▶ graph input → normalise → network → pinned results

A batch is cut into chunks of at most 32 windows. While one chunk is computed, the next one is uploaded; the host waits
only to reuse a slot, and once at the end. Every chunk runs a CUDA graph that was captured for its bucket (1, 2, 4 … 32
windows; the unused rows of a bucket hold old windows, whose results are dropped). cuDNN picks kernels by shape, so a
score may differ by the rounding of the half-precision format between buckets.
"""

from __future__ import annotations

import contextlib
import time
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from stream_detector.bundle import Bundle
from stream_detector.engines.network import Network, blank, check_windows, checked_output
from stream_detector.errors import EngineError
from stream_detector.types import EngineOutput, UInt8Array

BUCKETS = (1, 2, 4, 8, 16, 32)
SLOTS = 2
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True)
class _Graph:
    """A captured run. frames: uint8 (bucket, 16, H, W, 3).  features (bucket, D), scores (bucket,): float32."""

    graph: Any
    frames: Tensor
    features: Tensor
    scores: Tensor


@dataclass(frozen=True)
class _Slot:
    """One place on the way up. uploaded: recorded on the copy stream.  consumed: on the compute stream."""

    host: Tensor
    device: Tensor
    uploaded: Any
    consumed: Any


class CudaEngine:
    """Implements `types.Engine`. device: "cuda" or "cuda:N".  precision: "fp16", "bf16" or "fp32"."""

    name = "torch"
    max_batch = 128
    good_batch = 128
    good_wait_s = 0.005

    def __init__(
        self, bundle: Bundle, device: str = "cuda", precision: str = "fp16", reason: str = "asked for"
    ) -> None:
        self.precision = precision
        self.reason = reason
        self._recipe = bundle.recipe
        self._device = torch.device(device if ":" in device else "cuda:0")
        self.device = str(self._device)
        self._graphs: dict[int, _Graph] = {}
        try:
            with torch.cuda.device(self._device):
                torch.backends.cudnn.benchmark = True  # shapes are few and fixed
                self._network: Network | None = Network(bundle).to_compute(self._device, DTYPES[precision])
                make_stream: Any = torch.cuda.Stream
                self._copy, self._compute = make_stream(self._device), make_stream(self._device)
                shape = tuple(blank(self._recipe, BUCKETS[-1]).shape)
                self._slots = [self._slot(shape) for _ in range(SLOTS)]
                for bucket in BUCKETS:
                    self._graphs[bucket] = self._capture(bucket)
                dim = self._graphs[1].features.shape[1]
                self._features = torch.empty((self.max_batch, dim), pin_memory=True)
                self._scores = torch.empty(self.max_batch, pin_memory=True)
                self._done = _event()
        except RuntimeError as error:
            self.close()
            raise _failed(error) from error

    def infer(self, frames: UInt8Array) -> EngineOutput:
        """frames: uint8 (B, 16, H, W, 3) RGB, 1 <= B <= 128. The upload counts as forward time. Raises EngineError."""
        check_windows(frames, self._recipe, self.max_batch)
        if self._network is None:
            raise EngineError("the engine was closed already; load it again")
        started = time.perf_counter()
        windows = torch.from_numpy(np.ascontiguousarray(frames))
        count = len(windows)
        try:
            with torch.inference_mode(), torch.cuda.device(self._device):
                for number, start in enumerate(range(0, count, BUCKETS[-1])):
                    self._launch(self._slots[number % SLOTS], windows[start : start + BUCKETS[-1]], start)
                self._done.record(self._compute)
                self._done.synchronize()
                features, scores = self._features[:count].numpy().copy(), self._scores[:count].numpy().copy()
        except RuntimeError as error:
            raise _failed(error) from error
        return checked_output(features, scores, 0.0, time.perf_counter() - started)

    def close(self) -> None:
        """Release graphs, buffers and the network."""
        self._graphs = {}
        self._slots = []
        self._network = None
        with contextlib.suppress(RuntimeError):  # a lost device cannot be tidied up
            torch.cuda.empty_cache()

    def _launch(self, slot: _Slot, windows: Tensor, start: int) -> None:
        count = len(windows)
        graph = self._graphs[next(bucket for bucket in BUCKETS if bucket >= count)]
        slot.consumed.synchronize()
        slot.host[:count].copy_(windows)
        with torch.cuda.stream(self._copy):
            slot.device[:count].copy_(slot.host[:count], non_blocking=True)
            slot.uploaded.record(self._copy)
        with torch.cuda.stream(self._compute):
            self._compute.wait_event(slot.uploaded)
            graph.frames[:count].copy_(slot.device[:count])
            slot.consumed.record(self._compute)
            graph.graph.replay()
            self._features[start : start + count].copy_(graph.features[:count], non_blocking=True)
            self._scores[start : start + count].copy_(graph.scores[:count], non_blocking=True)

    def _slot(self, shape: tuple[int, ...]) -> _Slot:
        host = torch.empty(shape, dtype=torch.uint8, pin_memory=True)
        device = torch.empty(shape, dtype=torch.uint8, device=self._device)
        return _Slot(host, device, _event(), _event())

    def _capture(self, bucket: int) -> _Graph:
        network = self._network
        assert network is not None
        frames = blank(self._recipe, bucket).to(self._device)
        with torch.inference_mode():
            self._compute.wait_stream(torch.cuda.current_stream(self._device))
            with torch.cuda.stream(self._compute):
                for _ in range(3):  # cuDNN chooses its kernels now, not while capturing
                    network(frames)
            self._compute.synchronize()
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph, stream=self._compute):
                features, scores = network(frames)
        return _Graph(graph, frames, features, scores)


def _event() -> Any:
    make: Any = torch.cuda.Event
    return make()


def _failed(error: BaseException) -> EngineError:
    text = str(error).strip().splitlines() or [type(error).__name__]
    return EngineError(f"CUDA failed ({text[0][:200]}); lower batch.max_size, or run with --device cpu")
