"""Runs a network over a batch in chunks: uploads overlap with computing, a captured graph launches all kernels at once.

    windows ─▶ host pinned slot ──copy stream──▶ device slot ──compute stream──▶ graph input → network → pinned results

While one chunk is computed, the next one is gathered and uploaded; the host waits only to reuse a slot, and once at the
end. Windows are copied once, from their own memory (for instance a capture host's shared memory) to pinned memory.
Every chunk runs a graph that was captured for its bucket (1, 2, 4 … windows); the unused rows of a bucket hold old
windows, whose results are dropped.

The graphs share the memory of their intermediate results. That is safe because they run one after the other on one
stream, and because results are copied away before the next graph runs. The largest is captured first; the others then
fit into its memory. So the memory is given back only with all of them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from stream_detector.engines.accelerator import Accelerator, Captured
from stream_detector.engines.network import Network, blank
from stream_detector.models.preprocess import Recipe
from stream_detector.types import Float32Array, UInt8Array

SLOTS = 2


class Outputs(NamedTuple):
    """features (B, D), scores (B,), grids (B, h, w) or None: see `types.EngineOutput`."""

    features: Float32Array
    scores: Float32Array
    grids: Float32Array | None

    @property
    def finite(self) -> bool:
        """Whether every feature and score is a finite number."""
        return bool(np.isfinite(self.features).all() and np.isfinite(self.scores).all())


@dataclass(frozen=True)
class Queues:
    """The streams of an engine, and an event at the end of a batch."""

    copy: Any
    compute: Any
    done: Any

    def settle(self) -> None:
        """Wait for all work of the streams. Raises RuntimeError if the device is lost.

        Not for the whole device: that is not allowed while another thread captures a graph.
        """
        self.copy.synchronize()
        self.compute.synchronize()


@dataclass(frozen=True)
class _Graph:
    """A captured run and its input. frames: uint8 (bucket, 16, H, W, 3)."""

    frames: Tensor
    captured: Captured


@dataclass(frozen=True)
class _Slot:
    """One upload buffer. uploaded: recorded on the copy stream.  consumed: recorded on the compute stream.

    rows: `host` as a NumPy array.
    """

    host: Tensor
    rows: UInt8Array
    device: Tensor
    uploaded: Any
    consumed: Any


class GpuRunner:
    """Graphs of a network, and the buffers around them. Not safe for use by several threads at once.

    buckets: chunk sizes, ascending.  most: the largest batch.  ready: whether `load` has succeeded; else it cannot run.
    """

    def __init__(
        self, network: Network, recipe: Recipe, on: Accelerator, queues: Queues, buckets: tuple[int, ...], most: int
    ) -> None:
        self.buckets, self.ready = buckets, False
        self._network, self._recipe, self._on, self._queues, self._most = network, recipe, on, queues, most
        self._graphs: dict[int, _Graph] = {}
        self._slots: list[_Slot] = []

    def load(self) -> None:
        """Allocate the buffers, capture every graph and launch it once: what the device needs for that is then there.

        Raises RuntimeError like PyTorch.
        """
        shape = tuple(blank(self._recipe, self.buckets[-1]).shape)
        for _ in range(SLOTS):
            self._slots.append(self._slot(shape))
        pool = self._on.pool()
        for bucket in reversed(self.buckets):
            self._graphs[bucket] = self._capture(bucket, pool)
        first = self._graphs[self.buckets[0]].captured
        self._features = self._on.host((self._most, first.features.shape[1]), torch.float32)
        self._scores = self._on.host((self._most,), torch.float32)
        grids = first.grids
        self._grids = None if grids is None else self._on.host((self._most, *grids.shape[1:]), torch.float32)
        with torch.inference_mode(), self._on.on(self._queues.compute):
            for bucket in self.buckets:
                self._graphs[bucket].captured.replay()
        self._wait()
        self.ready = True

    def run(self, windows: UInt8Array | Sequence[UInt8Array], check: Callable[[], None]) -> Outputs:
        """Score windows. check: called before every chunk, may raise. Raises RuntimeError like PyTorch."""
        count, top = len(windows), self.buckets[-1]
        with torch.inference_mode():
            for number, start in enumerate(range(0, count, top)):
                check()
                self._launch(self._slots[number % SLOTS], windows[start : start + top], start)
            self._wait()
            grids = None if self._grids is None else self._grids[:count].numpy().copy()
            return Outputs(self._features[:count].numpy().copy(), self._scores[:count].numpy().copy(), grids)

    def _wait(self) -> None:
        self._queues.done.record(self._queues.compute)
        self._queues.done.synchronize()

    def _launch(self, slot: _Slot, windows: UInt8Array | Sequence[UInt8Array], start: int) -> None:
        count = len(windows)
        graph = self._graphs[next(bucket for bucket in self.buckets if bucket >= count)]
        slot.consumed.synchronize()
        if isinstance(windows, np.ndarray):
            slot.host[:count].copy_(torch.from_numpy(windows))
        else:
            for row, window in enumerate(windows):
                np.copyto(slot.rows[row], window)
        with self._on.on(self._queues.copy):
            slot.device[:count].copy_(slot.host[:count], non_blocking=True)
            slot.uploaded.record(self._queues.copy)
        with self._on.on(self._queues.compute):
            self._queues.compute.wait_event(slot.uploaded)
            graph.frames[:count].copy_(slot.device[:count])
            slot.consumed.record(self._queues.compute)
            graph.captured.replay()
            self._features[start : start + count].copy_(graph.captured.features[:count], non_blocking=True)
            self._scores[start : start + count].copy_(graph.captured.scores[:count], non_blocking=True)
            if self._grids is not None and graph.captured.grids is not None:
                self._grids[start : start + count].copy_(graph.captured.grids[:count], non_blocking=True)

    def _slot(self, shape: tuple[int, ...]) -> _Slot:
        device = torch.empty(shape, dtype=torch.uint8, device=self._on.device)
        host = self._on.host(shape, torch.uint8)
        return _Slot(host, host.numpy(), device, self._on.event(), self._on.event())

    def _capture(self, bucket: int, pool: Any) -> _Graph:
        network = self._network
        frames = blank(self._recipe, bucket).to(self._on.device)
        with torch.inference_mode():
            return _Graph(frames, self._on.capture(lambda: network.explained(frames), self._queues.compute, pool))
