"""PyTorch on a GPU: which precision and how many windows at once (`gpu_runner` runs them), and what failures lead to.

The first layer runs as a 2D convolution (`fold`). A batch is split into chunks of at most 32 windows.

cuDNN chooses kernels by shape and by timing, so a score may differ between buckets and between loads by rounding. With
`deterministic` there is one bucket and no timing; if a score depends on its row in that bucket, the bucket size is 1.

At load, fp16 and bf16 are compared with fp32 on windows of the rendered demo; a precision is rejected if a score
differs by more than 5e-3, or if something is not finite. The next one of `ORDER` replaces it, also later, when a window
overflows. If memory is short, at load or later, the graphs are captured again without the largest bucket. After any
other failure the engine never calls the device again (see `accelerator.abandon`). `accelerator` lists the operations
that a device needs; tests use the CPU.
"""

from __future__ import annotations

import contextlib
import logging
import math
import threading
import time
from collections.abc import Iterator, Sequence

import numpy as np
import torch

from stream_detector.engines.accelerator import Accelerator, abandon, accelerator, out_of_memory
from stream_detector.engines.batch_dependence import batch_dependence, demo_windows, probe_windows
from stream_detector.engines.fold import fold_few_channels
from stream_detector.engines.gpu_runner import GpuRunner, Outputs, Queues
from stream_detector.engines.kernels import LOADING, kernels
from stream_detector.engines.network import Network, OnePassNormalise, check_each, check_windows, checked_output
from stream_detector.errors import EngineError
from stream_detector.models.bundle import Bundle
from stream_detector.types import EngineOutput, Float32Array, UInt8Array

log = logging.getLogger(__name__)

BUCKETS = (1, 2, 4, 8, 16, 32)
FIXED_BUCKET = 8  # with `deterministic`: a compromise between one camera and many
DTYPES = {"fp32": torch.float32, "tf32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
# What is tried for a precision that was asked for. fp16 is more exact than bf16, which has the wider range: so bf16
# replaces an fp16 that overflows, and fp16 replaces a bf16 that is too coarse.
ORDER = {"fp16": ("fp16", "bf16", "fp32"), "bf16": ("bf16", "fp16", "fp32")}
MAX_APART = 5e-3  # largest accepted difference of a score from fp32
CLOSE_WAIT_S = 1.0  # `close` waits so long for a batch; what hangs longer releases its memory itself

Windows = UInt8Array | Sequence[UInt8Array]


class CudaEngine:
    """Implements `types.Engine`; several threads may use it, one batch at a time.

    device: "cuda", "cuda:N" or "mps".  precision: "fp16", "bf16", "tf32" or "fp32".  on: the device; None: PyTorch's.
    fold: the first layer in 2D.  Both for tests and benchmarks.
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
        self._order = list(ORDER.get(precision, (precision,)))  # the present precision, then what may replace it
        self.precision, self.reason, self.deterministic = precision, reason, deterministic
        self._bundle, self._recipe = bundle, bundle.recipe
        self._on = on or accelerator(device)
        self.device = str(self._on.device)
        self._lock = threading.RLock()  # of everything below
        self._closed = self._running = False
        self._failure = ""  # the sentence of a failure after which the device is not touched again
        self._network: Network | None = None
        self._runner: GpuRunner | None = None
        try:
            with self._loading():
                self._queues = Queues(self._on.stream(), self._on.stream(), self._on.event())
                self._load_checked((FIXED_BUCKET,) if deterministic else BUCKETS)
            if deterministic and batch_dependence(self, probe_windows(self._recipe, FIXED_BUCKET)) > 0:
                with self._loading():
                    self._load((1,))
        except RuntimeError as error:
            failed = self._failed(error)
            self.close()
            raise failed from error
        except BaseException:
            self.close()
            raise

    @property
    def buckets(self) -> tuple[int, ...]:
        """The chunk sizes for which there is a graph, ascending."""
        return self._runner.buckets if self._runner else ()

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

    def close(self) -> None:
        """Release graphs, buffers and the network. A batch that another thread is scoring ends with EngineError, or is
        still returned. Never calls a lost device.
        """
        self._closed = True
        if self._lock.acquire(timeout=CLOSE_WAIT_S):
            try:
                if not self._running:  # else this was called from within a batch, which releases it at its end
                    self._release()
            finally:
                self._lock.release()

    def _infer(self, windows: Windows) -> EngineOutput:
        with self._lock:
            self._check_open()
            self._running = True
            started = time.perf_counter()
            try:
                with self._on.entered():
                    found = self._scored_finite(windows)
            except RuntimeError as error:
                raise self._failed(error) from error
            finally:
                self._running = False
                if self._closed:
                    self._release()
            return checked_output(found.features, found.scores, 0.0, time.perf_counter() - started, found.grids)

    def _check_open(self) -> None:
        if self._failure:
            raise EngineError(self._failure)
        if self._closed:
            raise EngineError("the engine was closed already; load it again")

    # scoring, and what happens when memory or range do not suffice -------------------------------------------------

    def _scored_finite(self, windows: Windows) -> Outputs:
        """Score windows; a precision that overflows is replaced, and the windows are scored again."""
        found = self._scored(windows)
        while not found.finite and len(self._order) > 1:
            self._replace_precision(f"{self.precision} overflowed")
            with self._loading():
                # One window at a time is bit-equal in any precision; a larger bucket would have to be proved again.
                self._load_checked((1,) if self.deterministic else self.buckets)
            found = self._scored(windows)
        return found

    def _scored(self, windows: Windows) -> Outputs:
        """Score windows; with fewer of them at once if memory runs out."""
        while True:
            runner = self._runner
            assert runner is not None
            try:
                return runner.run(windows, self._check_open)
            except RuntimeError as error:
                if not out_of_memory(error) or runner.buckets == (1,):
                    raise
            # Outside the handler, whose traceback holds the memory.
            fewer = runner.buckets[:-1] or (1,)
            log.warning("the memory of %s ran out; going on with at most %d windows at once", self.device, fewer[-1])
            del runner
            with self._loading():
                self._load(fewer)

    # loading -------------------------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def _loading(self) -> Iterator[None]:
        with LOADING, self._on.entered():
            yield

    def _load_checked(self, buckets: tuple[int, ...]) -> None:
        """Load in the present precision, or in the next one that agrees with fp32."""
        reference: Float32Array | None = None
        while True:
            if len(self._order) > 1 and reference is None:
                reference = self._reference(demo_windows(self._recipe))
            self._load_network()
            self._load(buckets)
            if len(self._order) == 1 or reference is None:
                return
            apart = self._apart(demo_windows(self._recipe), reference)
            if apart <= MAX_APART:
                return
            found = "overflowed" if apart == math.inf else f"moved a score of the demo by {apart:.2g}"
            self._replace_precision(f"{self.precision} {found}")

    def _replace_precision(self, why: str) -> None:
        del self._order[0]
        self.precision = self._order[0]
        log.warning("%s on %s; continuing in %s", why, self.device, self.precision)
        self.reason = f"{self.reason}; {why}, so this is {self.precision}"

    def _reference(self, windows: UInt8Array) -> Float32Array:
        """Return the scores in fp32, one window at a time, without graphs; on the CPU if the device has no room."""
        self._drop()
        for device in (self._on.device, torch.device("cpu")):
            try:
                return self._reference_on(device, windows)
            except RuntimeError as error:
                if not out_of_memory(error) or device.type == "cpu":
                    raise
            self._on.release()
        raise AssertionError("not reached")

    def _reference_on(self, device: torch.device, windows: UInt8Array) -> Float32Array:
        network = Network(self._bundle).to_compute(device, torch.float32)
        with torch.inference_mode(), kernels("fp32", self.deterministic):
            parts = [network(torch.from_numpy(windows[i : i + 1]).to(device))[1] for i in range(len(windows))]
            scores: Float32Array = torch.cat(parts).cpu().numpy()
        return scores

    def _apart(self, windows: UInt8Array, reference: Float32Array) -> float:
        """Return the largest difference of a score from `reference`, alone and together; infinite if a score or a
        feature is not finite.
        """
        outputs = [self._scored(windows[i : i + 1]) for i in range(len(windows))]
        together = self._scored(windows)
        if not all(found.finite for found in [*outputs, together]):
            return math.inf
        alone = np.concatenate([found.scores for found in outputs])
        apart = max(np.abs(alone - reference).max(), np.abs(together.scores - reference).max())
        return float(apart) if math.isfinite(apart) else math.inf

    def _load_network(self) -> None:
        self._drop()
        dtype = DTYPES[self.precision]
        network = Network(self._bundle).to_compute(self._on.device, dtype)
        if self._fold:
            fold_few_channels(network.backbone)
        if self._on.device.type != "mps":  # there, operands of different types are untested
            network.normalise = OnePassNormalise(self._recipe, dtype).to(self._on.device)
        self._network = network

    def _load(self, buckets: tuple[int, ...]) -> None:
        """Capture the graphs, or fewer if memory is short. Raises RuntimeError, also if one window does not fit."""
        while not self._fits(buckets):
            fewer = buckets[:-1] or (1,)
            log.warning(
                "the memory of %s is too small for %d windows at once; trying %d", self.device, buckets[-1], fewer[-1]
            )
            buckets = fewer

    def _fits(self, buckets: tuple[int, ...]) -> bool:
        assert self._network is not None
        self._drop_runner()
        self._runner = GpuRunner(self._network, self._recipe, self._on, self._queues, buckets, self.max_batch)
        try:
            with kernels(self.precision, self.deterministic):
                self._runner.load()
        except RuntimeError as error:
            if not out_of_memory(error) or buckets == (1,):
                raise
        else:
            return True
        return False  # outside the handler, whose traceback holds the memory

    # ending --------------------------------------------------------------------------------------------------------

    def _drop_runner(self) -> None:
        if self._runner is not None:
            self._queues.settle()  # raises if the device is lost, before memory is freed that must then be abandoned
        self._runner = None
        self._on.release()

    def _drop(self) -> None:
        self._drop_runner()
        self._network = None
        self._on.release()

    def _release(self) -> None:
        if not self._failure:
            try:
                self._drop()
            except RuntimeError as error:
                log.warning("%s", self._failed(error))

    def _failed(self, error: BaseException) -> EngineError:
        """Return what to raise. After anything but a lack of memory, what the device holds is abandoned."""
        text = (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
        if not out_of_memory(error):
            self._failure = f"{self.device} failed ({text}); run with --device cpu"
            abandon(self._runner, self._network, getattr(self, "_queues", None))
            self._runner, self._network = None, None
            return EngineError(self._failure)
        memory = self._on.free_bytes()
        left = f", {memory[0] / 1e9:.1f} of {memory[1] / 1e9:.1f} GB free" if memory else ""
        sentence = (
            f"the memory of {self.device} is too small for one window{left}; "
            "end other processes on it, or run with --device cpu"
        )
        if self._runner is None or not self._runner.ready:  # else the next batch may find memory again
            self._release()
            self._failure = self._failure or sentence
        return EngineError(sentence)
