"""An engine that several camera hosts share. Windows that wait while it is busy form its next batch, up to
`good_batch`.

Callers wait in their own threads, in `infer` or for the result of `submit`; one worker thread runs the engine. A camera
host sends batches whose windows have already waited for each other up to the deadline (`batch.max_wait_ms`). Here a
batch waits again only if `max_wait_s` is given; that pays off on a GPU that many hosts share.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any

import numpy as np

from stream_detector.engines.feeding import infer_windows
from stream_detector.errors import EngineError
from stream_detector.types import Engine, EngineOutput, UInt8Array


@dataclass(frozen=True, slots=True, eq=False)
class _Call:
    frames: UInt8Array
    came_s: float
    answer: Future[EngineOutput]


class EngineHost:
    """Runs an engine in its own thread. engine: closed by `close`.  windows, batches: number processed so far."""

    def __init__(self, engine: Engine, max_wait_s: float = 0.0) -> None:
        self._engine, self._max_wait_s = engine, max_wait_s
        self._calls: deque[_Call] = deque()
        self._changed = threading.Condition()
        self._closed = False
        self.windows = self.batches = 0
        self._thread = threading.Thread(target=self._work, name="engine", daemon=True)
        self._thread.start()

    @property
    def about(self) -> dict[str, Any]:
        """Return the name and the preferred batch, (windows, seconds to wait for them), of the engine in use."""
        engine = self._engine
        return {
            "engine": f"{engine.name} · {engine.device} · {engine.precision} ({engine.reason})",
            "good": (min(engine.good_batch, engine.max_batch), engine.good_wait_s),
        }

    def infer(self, frames: UInt8Array) -> EngineOutput:
        """Submit and wait; see `submit`. Raises EngineError."""
        return self.submit(frames).result()

    def submit(self, frames: UInt8Array) -> Future[EngineOutput]:
        """Queue windows and return a future of the result.

        frames: uint8 (B, 16, H, W, 3), may be read-only; the caller must not change them until the result is there. The
        seconds in the result are those of the engine's batches that held these windows. Raises EngineError, here or
        later.
        """
        call = _Call(frames, time.monotonic(), Future())
        with self._changed:
            if self._closed:
                raise EngineError("the engine is closed")
            self._calls.append(call)
            self._changed.notify_all()
        return call.answer

    def close(self) -> None:
        """End the thread and release the device; pending calls fail. Safe to call twice."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        self._thread.join(10.0)
        for call in self._calls:
            call.answer.set_exception(EngineError("the engine is closed"))
        self._calls.clear()
        self._engine.close()

    def _work(self) -> None:
        while (calls := self._next()) is not None:
            try:
                self._score(calls)
            except Exception as error:
                for call in calls:
                    if not call.answer.done():
                        call.answer.set_exception(error)

    def _next(self) -> list[_Call] | None:
        """Return the calls of the next batch: at least one, and as many more as fit well."""
        limit = min(self._engine.good_batch, self._engine.max_batch)  # of now: an engine that failed was replaced
        with self._changed:
            while True:
                if self._closed:
                    return None
                waiting = sum(len(call.frames) for call in self._calls)
                left_s = self._calls[0].came_s + self._max_wait_s - time.monotonic() if self._calls else None
                if left_s is not None and (waiting >= limit or left_s <= 0):
                    break
                self._changed.wait(left_s)
            calls = [self._calls.popleft()]
            count = len(calls[0].frames)
            while self._calls and count + len(self._calls[0].frames) <= limit:
                calls.append(self._calls.popleft())
                count += len(calls[-1].frames)
            return calls

    def _score(self, calls: list[_Call]) -> None:
        limit = self._engine.max_batch
        windows = [window for call in calls for window in call.frames]
        outputs = [infer_windows(self._engine, windows[at : at + limit]) for at in range(0, len(windows), limit)]
        self.batches += len(outputs)
        self.windows += len(windows)
        features = np.concatenate([output.features for output in outputs])
        scores = np.concatenate([output.scores for output in outputs])
        found = [output.grids for output in outputs if output.grids is not None]
        grids = np.concatenate(found) if len(found) == len(outputs) else None
        preprocess_s = sum(output.preprocess_s for output in outputs)
        forward_s = sum(output.forward_s for output in outputs)
        at = 0
        for call in calls:
            own = slice(at, at + len(call.frames))
            cells = None if grids is None else grids[own]
            call.answer.set_result(EngineOutput(features[own], scores[own], preprocess_s, forward_s, cells))
            at = own.stop
