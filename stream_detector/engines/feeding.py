"""Windows that lie apart (in a capture host's shared memory, say) → an engine, with as few copies as it allows.

An engine that has `infer_windows` gathers them itself, straight into the memory that its device reads: one copy. Any
other engine gets a batch that is put together here.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

import numpy as np

from stream_detector.types import Engine, EngineOutput, UInt8Array


@runtime_checkable
class GathersWindows(Protocol):
    """An engine that takes windows from where they lie."""

    def infer_windows(self, windows: Sequence[UInt8Array]) -> EngineOutput:
        """windows: 1 to `max_batch` of uint8 (16, H, W, 3) RGB, may be read-only; free again when it returns."""
        ...


def infer_windows(engine: Engine, windows: Sequence[UInt8Array]) -> EngineOutput:
    """Score windows that lie anywhere: 1 to `engine.max_batch` of uint8 (16, H, W, 3) RGB. Raises EngineError."""
    if isinstance(engine, GathersWindows):
        return engine.infer_windows(windows)
    return engine.infer(np.stack(windows))
