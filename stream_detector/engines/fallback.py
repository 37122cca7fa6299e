"""`[engine] on_failure = "fallback"`: an engine that fails is replaced, and nothing is lost."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence

import numpy as np

from stream_detector.engines.feeding import GathersWindows
from stream_detector.engines.network import BatchError
from stream_detector.errors import EngineError
from stream_detector.types import Engine, EngineOutput, UInt8Array

log = logging.getLogger(__name__)


class FallbackEngine:
    """An engine that is replaced by torch on the CPU when it fails; the replacement scores the failed batch again.

    replacement: makes it, with the reason.  All attributes are those of the engine in use, but for `max_batch`. For
    several threads, as far as the engines are. A batch that is none (`BatchError`) replaces no engine.
    """

    def __init__(self, first: Engine, replacement: Callable[[str], Engine]) -> None:
        self._engine = first
        self._replacement: Callable[[str], Engine] | None = replacement
        self._lock = threading.Lock()  # of replacing and closing
        self._closed = False
        self._follow()
        self.max_batch = first.max_batch

    def infer(self, frames: UInt8Array) -> EngineOutput:
        """See `types.Engine`. Raises EngineError if the replacement fails as well."""
        return self._infer(frames)

    def infer_windows(self, windows: Sequence[UInt8Array]) -> EngineOutput:
        """See `types.Engine`; takes separate windows. Raises EngineError if the replacement fails as well."""
        return self._infer(windows)

    def close(self) -> None:
        """Close the engine in use; none replaces it any more."""
        with self._lock:
            self._closed = True
            self._engine.close()

    def _infer(self, windows: UInt8Array | Sequence[UInt8Array]) -> EngineOutput:
        while True:
            engine = self._engine
            try:
                return _scored(engine, windows)
            except BatchError:
                raise
            except EngineError as error:
                failed = error
            finally:
                self._follow()
            self._replace(engine, failed)

    def _replace(self, old: Engine, error: EngineError) -> None:
        """Replace an engine that failed, unless another thread did. Raises the error if there is no replacement."""
        with self._lock:
            if self._engine is not old:
                return
            if self._closed or self._replacement is None:
                raise error
            log.warning("engine %s on %s failed: %s; continuing with torch on the CPU", old.name, old.device, error)
            self._engine = self._replacement(f"{old.name} on {old.device} failed: {error}")
            self._replacement = None
            self._follow()
        try:
            old.close()
        except Exception as failure:  # what is left of a failed engine must not end the run
            log.warning("engine %s on %s could not be closed: %s", old.name, old.device, failure)

    def _follow(self) -> None:
        engine = self._engine
        self.name, self.device = engine.name, engine.device
        self.precision, self.reason = engine.precision, engine.reason
        self.good_batch, self.good_wait_s = engine.good_batch, engine.good_wait_s
        self.deterministic: bool = getattr(engine, "deterministic", False)


def _scored(engine: Engine, windows: UInt8Array | Sequence[UInt8Array]) -> EngineOutput:
    """Score a batch, in parts if the engine takes fewer windows at once than the first one promised."""
    limit = engine.max_batch
    if len(windows) > limit:
        return _joined([_scored(engine, windows[i : i + limit]) for i in range(0, len(windows), limit)])
    if isinstance(windows, np.ndarray):
        return engine.infer(windows)
    if isinstance(engine, GathersWindows):
        return engine.infer_windows(windows)
    shapes = {window.shape for window in windows}
    if len(shapes) != 1:
        raise BatchError(f"the windows of a batch must have one shape, got {sorted(map(str, shapes)) or 'no window'}")
    return engine.infer(np.stack(windows))


def _joined(parts: list[EngineOutput]) -> EngineOutput:
    grids = [p.grids for p in parts if p.grids is not None]
    return EngineOutput(
        np.concatenate([p.features for p in parts]),
        np.concatenate([p.scores for p in parts]),
        sum(p.preprocess_s for p in parts),
        sum(p.forward_s for p in parts),
        np.concatenate(grids) if len(grids) == len(parts) else None,
    )
