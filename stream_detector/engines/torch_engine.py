"""PyTorch on the CPU: the reference for the other engines.

fp32 runs up to 8 windows at once: oneDNN chooses kernels by batch size, so a score depends on its batch by up to 1e-6
(2e-7 measured). `deterministic` runs windows one by one: bit-equal, at up to twice the cost of a batch of 8. bf16 (only
if the CPU has the instructions) runs windows one by one, because PyTorch chooses its kernels by the shape of the batch.
"""

from __future__ import annotations

import time

import numpy as np
import torch

from stream_detector.engines.network import Network, blank, check_windows, checked_output
from stream_detector.errors import EngineError
from stream_detector.models.bundle import Bundle
from stream_detector.types import EngineOutput, UInt8Array

CHUNK = {"fp32": 8, "bf16": 1}
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


class TorchEngine:
    """Implements `types.Engine` on the CPU. precision: "fp32" or "bf16".  threads: 0 leaves the choice to PyTorch."""

    name = "torch"
    device = "cpu"
    max_batch = 64
    good_batch = 8
    good_wait_s = 0.01

    def __init__(
        self,
        bundle: Bundle,
        precision: str = "fp32",
        reason: str = "asked for",
        threads: int = 0,
        deterministic: bool = False,
    ) -> None:
        self.deterministic = deterministic
        self.precision = precision
        self.reason = reason
        self._recipe = bundle.recipe
        self._chunk = 1 if deterministic else CHUNK[precision]
        if threads:
            torch.set_num_threads(threads)
        try:
            self._network: Network | None = Network(bundle).to_compute(torch.device("cpu"), DTYPES[precision])
            self._forward(blank(self._recipe))
        except (RuntimeError, MemoryError) as error:
            raise _failed(error) from error

    def infer(self, frames: UInt8Array) -> EngineOutput:
        """Score windows: uint8 (B, 16, H, W, 3) RGB. Normalisation is part of the forward pass. Raises EngineError."""
        check_windows(frames, self._recipe, self.max_batch)
        started = time.perf_counter()
        windows = torch.from_numpy(np.ascontiguousarray(frames))
        try:
            parts = [self._forward(windows[i : i + self._chunk]) for i in range(0, len(windows), self._chunk)]
        except (RuntimeError, MemoryError) as error:
            raise _failed(error) from error
        features = torch.cat([part[0] for part in parts]).numpy()
        scores = torch.cat([part[1] for part in parts]).numpy()
        found = [part[2] for part in parts if part[2] is not None]
        grids = torch.cat(found).numpy() if found else None
        return checked_output(features, scores, 0.0, time.perf_counter() - started, grids)

    def close(self) -> None:
        """Release the network."""
        self._network = None

    def _forward(self, windows: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:
        if self._network is None:
            raise EngineError("the engine was closed already; load it again")
        with torch.inference_mode():
            return self._network.explained(windows)


def _failed(error: BaseException) -> EngineError:
    text = str(error).strip().splitlines() or [type(error).__name__]
    return EngineError(f"torch failed on the CPU ({text[0][:200]}); free memory, or use a smaller batch.max_size")
