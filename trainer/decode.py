"""Videos to windows of pixels, several videos at once, never more than a few windows of each in memory.

The same reader, frame spacing, resizing and windower as the stream's, so a feature made here is the one that the stream
would see. One thread per video being decoded; each hands its windows over through a short queue and waits when that is
full.
"""

from __future__ import annotations

import queue
import threading
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from stream_detector.config import CaptureConfig
from stream_detector.cuts import CutFinder
from stream_detector.errors import SourceError
from stream_detector.preprocess import Recipe, resize_frame
from stream_detector.readers import FileReader
from stream_detector.tally import Spacing
from stream_detector.types import Frame, SystemClock, Window
from stream_detector.window import Windower

QUEUE_WINDOWS = 16
MAX_GAP_S = 2.0


@dataclass
class DecodeState:
    """What is known of a video once it is decoded. frames: grabbed.  fps: of the file.  detail: damage, or ""."""

    frames: int = 0
    fps: float = 0.0
    detail: str = ""
    error: str = ""


def windows(path: Path, recipe: Recipe, stride_frames: int, state: DecodeState) -> Iterator[Window]:
    """Windows of one file in order. Fills `state`. Raises SourceError when it is not a video."""
    reader = FileReader(path, CaptureConfig())
    reader.open()
    state.fps = reader.fps
    spacing, clock = Spacing(recipe.fps), SystemClock()
    windower = Windower("video", path.name, stride_frames, MAX_GAP_S, clock, CutFinder())
    pending: set[str] = set()
    try:
        while (grabbed := reader.grab()).status == "frame":
            index, media_s = state.frames, grabbed.media_s or 0.0
            state.frames += 1
            if grabbed.cause:
                pending.add(grabbed.cause)
            if not spacing.wanted(media_s):
                continue
            picture = reader.retrieve()
            if picture is None:
                pending.add("corrupt")
                continue
            spacing.taken(media_s)
            causes = tuple(sorted(pending))
            pending.clear()
            window = windower.push(
                Frame("video", index, media_s, 0.0, 0.0, resize_frame(picture, recipe), None, causes)
            )
            if window is not None:
                yield window
        last = windower.finish()
        if last is not None:
            yield last
        state.detail = reader.detail
    finally:
        reader.close()


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
