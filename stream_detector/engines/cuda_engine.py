"""PyTorch on a GPU: uploads overlap with computing, and captured graphs launch all kernels at once.

    windows ─▶ host pinned slot ──copy stream──▶ device slot ──compute stream──▶ graph input → network → pinned results

A batch is split into chunks of at most 32 windows. While one chunk is computed, the next one is gathered and uploaded;
the host waits only to reuse a slot, and once at the end. Windows are copied once, from their own memory (for instance a
capture host's shared memory) to pinned memory. Every chunk runs a graph that was captured for its bucket (1, 2, 4 … 32
windows); the unused rows of a bucket hold old windows, whose results are dropped. The first layer runs as a 2D
convolution (`fold`).

cuDNN chooses kernels by shape and by timing, so a score may differ between buckets and between loads by rounding. With
`deterministic` there is one bucket and no timing; if a score depends on its row in that bucket, the bucket size is 1.

At load, fp16 and bf16 are compared with fp32 on windows of the rendered demo; a precision is rejected if a score
differs by more than 5e-3. If memory is short, at load or later, the largest buckets are removed. `accelerator` lists
the operations that a device needs; tests use the CPU.
"""

from __future__ import annotations

import contextlib
import logging
import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from stream_detector.engines.accelerator import Accelerator, Captured, accelerator, out_of_memory
from stream_detector.engines.batch_dependence import batch_dependence, demo_windows, probe_windows
from stream_detector.engines.fold import fold_first_layer
from stream_detector.engines.network import Network, blank, check_each, check_windows, checked_output
from stream_detector.errors import EngineError
from stream_detector.models.bundle import Bundle
from stream_detector.types import EngineOutput, Float32Array, UInt8Array

log = logging.getLogger(__name__)

BUCKETS = (1, 2, 4, 8, 16, 32)
FIXED_BUCKET = 8  # with `deterministic`: a compromise between one camera and many
SLOTS = 2
DTYPES = {"fp32": torch.float32, "tf32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
NEXT = {"fp16": "bf16", "bf16": "fp32"}  # what replaces a precision that was rejected
MAX_APART = 5e-3  # largest accepted difference of a score from fp32


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


class CudaEngine:
    """Implements `types.Engine`. device: "cuda", "cuda:N" or "mps".  precision: "fp16", "bf16", "tf32" or "fp32".

    on: the device; None: PyTorch's.  fold: the first layer in 2D.  Both for tests and benchmarks.
    """

    name = "torch"
    max_batch = 128
    good_batch = 128
    good_wait_s = 0.005

    def __init__(
        self,
        bundle: Bundle,
        device: str = "cuda",
        precision: str = "fp16",
        reason: str = "asked for",
        deterministic: bool = False,
        on: Accelerator | None = None,
        fold: bool = True,
    ) -> None:
        self._fold = fold
        self.precision, self.reason, self.deterministic = precision, reason, deterministic
        self._bundle, self._recipe = bundle, bundle.recipe
        self._on = on or accelerator(device)
        self.device = str(self._on.device)
        self._network: Network | None = None
        self._graphs: dict[int, _Graph] = {}
        self._slots: list[_Slot] = []
        try:
            with self._on.entered():
                self._copy, self._compute, self._done = self._on.stream(), self._on.stream(), self._on.event()
                self._load_checked()
                if deterministic and batch_dependence(self, probe_windows(self._recipe, FIXED_BUCKET)) > 0:
                    self._load_buckets((1,))
        except RuntimeError as error:
            self.close()
            raise self._failed(error) from error
        except EngineError:
            self.close()
            raise

    def infer(self, frames: UInt8Array) -> EngineOutput:
        """Score windows: uint8 (B, 16, H, W, 3) RGB, 1 <= B <= 128. The upload counts as forward time. Raises
        EngineError.
        """
        check_windows(frames, self._recipe, self.max_batch)
        return self._infer(np.require(frames, requirements=["C", "W"]))

    def infer_windows(self, windows: Sequence[UInt8Array]) -> EngineOutput:
        """Score 1 to 128 separate windows, uint8 (16, H, W, 3) RGB each; they may be read-only. Raises EngineError."""
        check_each(windows, self._recipe, self.max_batch)
        return self._infer(windows)

    def _infer(self, windows: UInt8Array | Sequence[UInt8Array]) -> EngineOutput:
        if self._network is None:
            raise EngineError("the engine was closed already; load it again")
        started = time.perf_counter()
        while True:
            try:
                features, scores, grids = self._run(windows)
                break
            except RuntimeError as error:
                if not (out_of_memory(error) and self._shrink()):
                    raise self._failed(error) from error
        return checked_output(features, scores, 0.0, time.perf_counter() - started, grids)

    def close(self) -> None:
        """Release graphs, buffers and the network."""
        self._drop()
        self._network = None
        self._on.release()

    @property
    def buckets(self) -> tuple[int, ...]:
        """The chunk sizes for which there is a graph, ascending."""
        return tuple(self._graphs)

    def _load_checked(self) -> None:
        """Load in the requested precision, or in the next one that agrees with fp32."""
        buckets = (FIXED_BUCKET,) if self.deterministic else BUCKETS
        reference: Float32Array | None = None
        while True:
            if self.precision not in NEXT:
                self._load(buckets)
                return
            windows = demo_windows(self._recipe)
            if reference is None:
                reference = self._reference(windows)
            self._load(buckets)
            apart = self._apart(windows, reference)
            if apart <= MAX_APART:
                return
            given_up, self.precision = self.precision, NEXT[self.precision]
            found = (
                f"{given_up} overflowed"
                if apart == math.inf
                else f"{given_up} moved a score of the demo by {apart:.2g}"
            )
            log.warning("%s on %s; continuing in %s", found, self.device, self.precision)
            self.reason = f"{self.reason}; {found}, so this is {self.precision}"

    def _reference(self, windows: UInt8Array) -> Float32Array:
        """Return the scores in fp32, one window at a time, without graphs."""
        network = Network(self._bundle).to_compute(self._on.device, torch.float32)
        with torch.inference_mode(), self._kernels("fp32"):
            parts = [network(torch.from_numpy(windows[i : i + 1]).to(self._on.device))[1] for i in range(len(windows))]
            scores: Float32Array = torch.cat(parts).cpu().numpy()
        return scores

    def _apart(self, windows: UInt8Array, reference: Float32Array) -> float:
        """Return the largest difference from `reference`, alone and together; infinite if a score is not a number."""
        alone = np.concatenate([self._run(windows[i : i + 1])[1] for i in range(len(windows))])
        together = self._run(windows)[1]
        apart = max(np.abs(alone - reference).max(), np.abs(together - reference).max())
        return float(apart) if math.isfinite(apart) else math.inf

    def _load(self, buckets: tuple[int, ...]) -> None:
        self._drop()
        self._network = None
        self._on.release()
        network = Network(self._bundle).to_compute(self._on.device, DTYPES[self.precision])
        if self._fold:
            fold_first_layer(network.backbone)
        self._network = network
        while True:
            try:
                self._load_buckets(buckets)
                return
            except RuntimeError as error:
                fewer = buckets[:-1] if len(buckets) > 1 else tuple(b for b in (1,) if b < buckets[0])
                if not out_of_memory(error) or not fewer:
                    raise
            self._drop()  # outside the handler, whose traceback holds tensors
            self._on.release()
            log.warning(
                "the memory of %s is too small for %d windows at once; trying %d", self.device, buckets[-1], fewer[-1]
            )
            buckets = fewer

    def _load_buckets(self, buckets: tuple[int, ...]) -> None:
        self._drop()
        self._on.release()
        shape = tuple(blank(self._recipe, buckets[-1]).shape)
        self._slots = [self._slot(shape) for _ in range(SLOTS)]
        with self._kernels(self.precision):
            for bucket in buckets:
                self._graphs[bucket] = self._capture(bucket)
        dim = self._graphs[buckets[0]].captured.features.shape[1]
        self._features = self._on.host((self.max_batch, dim), torch.float32)
        self._scores = self._on.host((self.max_batch,), torch.float32)
        grids = self._graphs[buckets[0]].captured.grids
        self._grids = None if grids is None else self._on.host((self.max_batch, *grids.shape[1:]), torch.float32)

    def _shrink(self) -> bool:
        """Remove the largest bucket; return False if only one is left."""
        if len(self._graphs) < 2:
            return False
        largest = max(self._graphs)
        with contextlib.suppress(RuntimeError):
            self._done.record(self._compute)
            self._done.synchronize()
        del self._graphs[largest]
        self._on.release()
        log.warning(
            "the memory of %s ran out; going on with at most %d windows at once", self.device, max(self._graphs)
        )
        return True

    def _run(
        self, windows: UInt8Array | Sequence[UInt8Array]
    ) -> tuple[Float32Array, Float32Array, Float32Array | None]:
        count, top = len(windows), max(self._graphs)
        with torch.inference_mode(), self._on.entered():
            for number, start in enumerate(range(0, count, top)):
                self._launch(self._slots[number % SLOTS], windows[start : start + top], start)
            self._done.record(self._compute)
            self._done.synchronize()
            grids = None if self._grids is None else self._grids[:count].numpy().copy()
            return self._features[:count].numpy().copy(), self._scores[:count].numpy().copy(), grids

    def _launch(self, slot: _Slot, windows: UInt8Array | Sequence[UInt8Array], start: int) -> None:
        count = len(windows)
        graph = self._graphs[next(bucket for bucket in self._graphs if bucket >= count)]
        slot.consumed.synchronize()
        if isinstance(windows, np.ndarray):
            slot.host[:count].copy_(torch.from_numpy(windows))
        else:
            for row, window in enumerate(windows):
                np.copyto(slot.rows[row], window)
        with self._on.on(self._copy):
            slot.device[:count].copy_(slot.host[:count], non_blocking=True)
            slot.uploaded.record(self._copy)
        with self._on.on(self._compute):
            self._compute.wait_event(slot.uploaded)
            graph.frames[:count].copy_(slot.device[:count])
            slot.consumed.record(self._compute)
            graph.captured.replay()
            self._features[start : start + count].copy_(graph.captured.features[:count], non_blocking=True)
            self._scores[start : start + count].copy_(graph.captured.scores[:count], non_blocking=True)
            if self._grids is not None and graph.captured.grids is not None:
                self._grids[start : start + count].copy_(graph.captured.grids[:count], non_blocking=True)

    def _slot(self, shape: tuple[int, ...]) -> _Slot:
        device = torch.empty(shape, dtype=torch.uint8, device=self._on.device)
        host = self._on.host(shape, torch.uint8)
        return _Slot(host, host.numpy(), device, self._on.event(), self._on.event())

    def _capture(self, bucket: int) -> _Graph:
        network = self._network
        assert network is not None
        frames = blank(self._recipe, bucket).to(self._on.device)
        with torch.inference_mode():
            return _Graph(frames, self._on.capture(lambda: network.explained(frames), self._compute))

    @contextlib.contextmanager
    def _kernels(self, precision: str) -> Iterator[None]:
        """Return a context in which cuDNN and cuBLAS choose kernels for `precision` while graphs are captured."""
        matmul = torch.backends.cuda.matmul
        before, matmul.allow_tf32 = matmul.allow_tf32, precision == "tf32"
        try:
            with torch.backends.cudnn.flags(
                enabled=True,
                benchmark=not self.deterministic,  # shapes are few and fixed
                deterministic=self.deterministic,
                allow_tf32=precision == "tf32",
            ):
                yield
        finally:
            matmul.allow_tf32 = before

    def _drop(self) -> None:
        self._graphs, self._slots = {}, []

    def _failed(self, error: BaseException) -> EngineError:
        text = (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
        if out_of_memory(error):
            memory = self._on.free_bytes()
            left = f", {memory[0] / 1e9:.1f} of {memory[1] / 1e9:.1f} GB free" if memory else ""
            return EngineError(
                f"the memory of {self.device} is too small for one window{left}; "
                "end other processes on it, or run with --device cpu"
            )
        return EngineError(f"{self.device} failed ({text}); run with --device cpu")
