"""Videos to windows of pixels, several videos at once, never more than a few windows of each in memory.

The windows are those of `stream_detector.capture.recordings`, so a feature made here is the one that the stream would
see. One thread per video being decoded; each hands its windows over through a short queue and waits when that is full.
"""

from __future__ import annotations

import queue
import threading
from collections import deque
from collections.abc import Iterator, Sequence
from pathlib import Path

from stream_detector.capture.recordings import DecodeState, windows
from stream_detector.errors import SourceError
from stream_detector.models.recipe import Recipe
from stream_detector.types import Window

__all__ = ["DecodeState", "Decoding", "decode_all", "windows"]

QUEUE_WINDOWS = 16


class Decoding:
    """One video being decoded by a thread of its own. Iterate it for its windows; `state` is complete afterwards."""

    def __init__(self, path: Path, recipe: Recipe, stride_frames: int) -> None:
        self.state = DecodeState()
        self._stop = threading.Event()
        self._queue: queue.Queue[Window | None] = queue.Queue(QUEUE_WINDOWS)
        self._thread = threading.Thread(target=self._work, args=(path, recipe, stride_frames), daemon=True)
        self._thread.start()

    def _work(self, path: Path, recipe: Recipe, stride_frames: int) -> None:
        try:
            for window in windows(path, recipe, stride_frames, self.state):
                if not self._put(window):
                    return
        except SourceError as error:
            self.state.error = str(error)
        except Exception as error:  # a decoder's own failure must not end an extraction of days
            self.state.error = f"{path} could not be decoded ({type(error).__name__}: {error})"
        self._put(None)

    def _put(self, window: Window | None) -> bool:
        while not self._stop.is_set():
            try:
                self._queue.put(window, timeout=0.1)
                return True
            except queue.Full:
                continue
        return False

    def __iter__(self) -> Iterator[Window]:
        while (window := self._queue.get()) is not None:
            yield window

    def close(self) -> None:
        """Stop decoding; the thread ends within a tenth of a second or at its next frame."""
        self._stop.set()
        self._thread.join()


def decode_all(paths: Sequence[Path], recipe: Recipe, stride_frames: int, at_once: int) -> Iterator[Decoding]:
    """Decodings in the order of `paths`, `at_once` of them running ahead. Closes them all when the caller stops."""
    running: deque[Decoding] = deque()
    upcoming = iter(paths)
    try:
        for path in upcoming:
            running.append(Decoding(path, recipe, stride_frames))
            if len(running) >= at_once:
                yield running[0]
                running.popleft().close()
        while running:
            yield running[0]
            running.popleft().close()
    finally:
        for decoding in running:
            decoding.close()
