"""Frames of recordings as JPEG, for scrubbing: any file that the detector can read, and the rendered demo.

Only sources of this run are opened, by camera name; no path comes from a viewer. One worker thread decodes, one frame
at a time, so that scrubbing takes at most one core from the detection.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Protocol

import numpy as np

from stream_detector.capture.bgr import MaskPainter, shrink
from stream_detector.capture.readers import FileReader
from stream_detector.config import CameraConfig, CaptureConfig
from stream_detector.config.source import Source
from stream_detector.demo.reader import DemoReader
from stream_detector.errors import DataError, SourceError
from stream_detector.types import UInt8Array
from stream_detector.web.streams import encode_picture

LONG_SIDE = 960
MAX_WAITING = 8
KEEP_OPEN = 2
STEP_ON_S = 1.0  # seconds; a frame this little ahead is reached by reading on


class FrameSource(Protocol):
    """A recording with a picture at any time."""

    def frame_at(self, media_s: float) -> UInt8Array | None: ...

    def close(self) -> None: ...


class VideoFrameSource:
    """A video file, read by the detector's own reader: same pictures and times. Raises SourceError if it cannot be
    read.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._reader = FileReader(path, CaptureConfig())
        self._at_s = -1.0
        self._reader.open()

    def frame_at(self, media_s: float) -> UInt8Array | None:
        """Return the picture shown at this media time, or None after the end."""
        if not 0.0 <= media_s - self._at_s <= STEP_ON_S or self._at_s < 0:
            if not self._reader.seek(media_s):
                self._reader.close()
                self._reader = FileReader(self._path, CaptureConfig())
                self._reader.open()
            self._at_s = -1.0
        while self._at_s < media_s - 1e-3:
            grabbed = self._reader.grab()
            if grabbed.status == "end":
                self._at_s = -1.0
                return None
            if grabbed.media_s is not None:
                self._at_s = grabbed.media_s
        picture = self._reader.retrieve()
        return None if picture is None else picture.bgr(LONG_SIDE)

    def close(self) -> None:
        """Close the file."""
        self._reader.close()


class DemoFrameSource:
    """The rendered scene, drawn at any time."""

    def __init__(self, source: Source) -> None:
        reader = DemoReader(source)
        reader.open()
        self._scene = reader.scene
        self._fps = reader.fps

    def frame_at(self, media_s: float) -> UInt8Array | None:
        """Return the picture shown at this media time, or None after the end."""
        index = round(media_s * self._fps)
        return None if self._scene is None or not 0 <= index < self._scene.frame_count else self._scene.frame(index)

    def close(self) -> None:
        """Release the scene."""
        self._scene = None


class Recordings:
    """The sources of this run that allow scrubbing. `frame` is for the event loop."""

    def __init__(self, cameras: Callable[[], Sequence[CameraConfig]]) -> None:
        """cameras: those of this run now."""
        self._cameras = cameras
        self._open: OrderedDict[str, tuple[CameraConfig, FrameSource]] = OrderedDict()
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="web-replay")
        self._waiting = 0

    @property
    def names(self) -> tuple[str, ...]:
        """The cameras with a recording."""
        return tuple(self._all())

    def _all(self) -> dict[str, CameraConfig]:
        return {c.name: c for c in self._cameras() if c.source.kind in ("file", "demo")}

    async def frame(self, camera: str, media_s: float) -> bytes | None:
        """Return a JPEG of at most LONG_SIDE pixels, or None if there is none. Raises DataError if too many requests
        wait.
        """
        found = self._all().get(camera)
        if found is None:
            return None
        if self._waiting >= MAX_WAITING:
            raise DataError("too many requests for pictures; move the slider more slowly")
        self._waiting += 1
        try:
            return await asyncio.get_running_loop().run_in_executor(self._pool, self._frame, found, media_s)
        finally:
            self._waiting -= 1

    def close(self) -> None:
        """Close all open recordings."""
        self._pool.shutdown(wait=False, cancel_futures=True)

    def _frame(self, camera: CameraConfig, media_s: float) -> bytes | None:
        try:
            picture = self._source(camera).frame_at(media_s)
        except SourceError:
            return None
        if picture is None:
            return None
        if camera.mask:  # what is masked for the detector is masked for viewers as well
            picture = MaskPainter(camera.mask).paint(np.array(picture))
        return encode_picture(shrink(picture, LONG_SIDE))

    def _source(self, camera: CameraConfig) -> FrameSource:
        of, frames = self._open.get(camera.name, (None, None))
        if frames is not None and of is not None and of.source == camera.source:
            return frames
        if frames is not None:  # a reload gave the name another source
            frames.close()
            del self._open[camera.name]
        made = DemoFrameSource(camera.source) if camera.source.kind == "demo" else VideoFrameSource(camera.source.path)
        self._open[camera.name] = camera, made
        while len(self._open) > KEEP_OPEN:
            self._open.popitem(last=False)[1][1].close()
        return made
