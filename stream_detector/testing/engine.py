"""An engine without a network: it answers immediately with scores that the test chose."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from stream_detector.errors import EngineError
from stream_detector.types import EngineOutput, Float32Array, UInt8Array


class ConstantEngine:
    """Implements `types.Engine`. Every window gets `score`, or the result of `score_of`.

    score_of: uint8 (16, H, W, 3) → score in [0, 1].  fail_after: the number of batches after which EngineError is
    raised. batches: sizes served so far.  Features are zeros, float32 (B, feature_dim).
    """

    name = "constant"
    device = "cpu"
    precision = "fp32"
    reason = "a fake for tests"
    good_wait_s = 0.01

    def __init__(
        self,
        score: float = 0.5,
        *,
        score_of: Callable[[UInt8Array], float] | None = None,
        feature_dim: int = 8,
        max_batch: int = 16,
        fail_after: int | None = None,
    ) -> None:
        self.max_batch = self.good_batch = max_batch
        self.batches: list[int] = []
        self.closed = False
        self._score = score
        self._score_of = score_of
        self._feature_dim = feature_dim
        self._fail_after = fail_after

    def infer(self, frames: UInt8Array) -> EngineOutput:
        """Score a batch: uint8 (B, 16, H, W, 3). Raises EngineError after `fail_after` batches, or for a malformed
        batch.
        """
        if frames.ndim != 5 or frames.dtype != np.uint8 or not 1 <= len(frames) <= self.max_batch:
            raise EngineError(
                f"a batch must be uint8 (1..{self.max_batch}, 16, H, W, 3), got {frames.dtype} {frames.shape}"
            )
        if self._fail_after is not None and len(self.batches) >= self._fail_after:
            raise EngineError(f"the fake engine was told to fail after {self._fail_after} batches")
        self.batches.append(len(frames))
        scores: Float32Array = np.full(len(frames), self._score, np.float32)
        if self._score_of is not None:
            scores = np.array([self._score_of(window) for window in frames], np.float32)
        return EngineOutput(np.zeros((len(frames), self._feature_dim), np.float32), scores, 0.0, 0.0)

    def close(self) -> None:
        """Record that the engine was closed."""
        self.closed = True
