"""Decodes several videos at once into windows of pixels, with only a few windows of each in memory.

The windows are those of `stream_detector.capture.recordings`, so features made here equal those of the stream. Each
video has a thread, which passes its windows through a short queue and waits when that is full.
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
    """One video that a thread decodes. Iterate over it for its windows; afterwards `state` is complete."""

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
        except Exception as error:  # the failure of one decoder must not end an extraction of days
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
    """Yield decodings in the order of `paths`; `at_once` of them run ahead. All are closed when the caller stops."""
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
