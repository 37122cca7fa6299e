"""`[engine] on_failure = "fallback"`: an engine that fails is replaced, and nothing is lost."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence

import numpy as np

from stream_detector.engines.feeding import GathersWindows
from stream_detector.errors import EngineError
from stream_detector.types import Engine, EngineOutput, UInt8Array

log = logging.getLogger(__name__)


class FallbackEngine:
    """An engine that is replaced by torch on the CPU when it fails; the replacement scores the failed batch again.

    replacement: makes it, with the reason.  All attributes are those of the engine in use, but for `max_batch`.
    """

    def __init__(self, first: Engine, replacement: Callable[[str], Engine]) -> None:
        self._engine = first
        self._replacement: Callable[[str], Engine] | None = replacement
        self._follow()
        self.max_batch = first.max_batch

    def infer(self, frames: UInt8Array) -> EngineOutput:
        """See `types.Engine`. Raises EngineError if the replacement fails as well."""
        limit = self._engine.max_batch
        if len(frames) > limit:  # the replacement takes fewer windows at once than the first engine promised
            return _joined([self._engine.infer(frames[i : i + limit]) for i in range(0, len(frames), limit)])
        try:
            return self._engine.infer(frames)
        except EngineError as error:
            if self._replacement is None:
                raise
            failed = str(error)
        finally:
            self._follow()
        self._replace(failed)
        return self.infer(frames)

    def infer_windows(self, windows: Sequence[UInt8Array]) -> EngineOutput:
        """See `types.Engine`; takes separate windows. Raises EngineError if the replacement fails as well."""
        if self._replacement is None or not isinstance(self._engine, GathersWindows):
            return self.infer(np.stack(windows))
        try:
            return self._engine.infer_windows(windows)
        except EngineError as error:
            failed = str(error)
        finally:
            self._follow()
        self._replace(failed)
        return self.infer(np.stack(windows))

    def close(self) -> None:
        """Close the engine in use."""
        self._engine.close()

    def _replace(self, error: str) -> None:
        assert self._replacement is not None
        log.warning("engine %s on %s failed: %s; continuing with torch on the CPU", self.name, self.device, error)
        old, replacement = self._engine, self._replacement
        self._engine, self._replacement = replacement(f"{self.name} on {self.device} failed: {error}"), None
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


def _joined(parts: list[EngineOutput]) -> EngineOutput:
    grids = [p.grids for p in parts if p.grids is not None]
    return EngineOutput(
        np.concatenate([p.features for p in parts]),
        np.concatenate([p.scores for p in parts]),
        sum(p.preprocess_s for p in parts),
        sum(p.forward_s for p in parts),
        np.concatenate(grids) if len(grids) == len(parts) else None,
    )
