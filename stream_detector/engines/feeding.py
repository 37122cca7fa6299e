"""Passes separate windows (for instance in a capture host's shared memory) to an engine with few copies.

An engine with `infer_windows` gathers them itself, directly into the memory that its device reads: one copy. Other
engines get a batch that is assembled here.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

import numpy as np

from stream_detector.types import Engine, EngineOutput, UInt8Array


@runtime_checkable
class GathersWindows(Protocol):
    """An engine that takes separate windows."""

    def infer_windows(self, windows: Sequence[UInt8Array]) -> EngineOutput:
        """Score 1 to `max_batch` windows, uint8 (16, H, W, 3) RGB each, may be read-only; the caller may reuse them
        afterwards.
        """
        ...


def infer_windows(engine: Engine, windows: Sequence[UInt8Array]) -> EngineOutput:
    """Score windows that lie anywhere: 1 to `engine.max_batch` of uint8 (16, H, W, 3) RGB. Raises EngineError."""
    if isinstance(engine, GathersWindows):
        return engine.infer_windows(windows)
    return engine.infer(np.stack(windows))
