"""Blocking readers: one per kind of source, all with the same five calls. Used by one capture thread each.

    FileReader     a video file; media time is its presentation time stamps
    StreamReader   RTSP, HTTP or USB camera; the capture thread stamps the time
    DemoReader     the rendered scene; behaves like a file

Everything is decoded by OpenCV's FFmpeg backend, by name: without the name its time-outs are ignored. What that backend
does not tell: a decoder that conceals damage delivers the picture as good, so "corrupt" here means a frame that could
not be had at all.
"""

from __future__ import annotations

import math
import os
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

import cv2
from cv2.utils import logging as _log

from stream_detector.address import Source
from stream_detector.config import CameraConfig, CaptureConfig
from stream_detector.errors import SourceError
from stream_detector.pictures import to_bgr
from stream_detector.sources import demo_options
from stream_detector.types import DegradedCause, UInt8Array

GrabStatus = Literal["frame", "bad", "lost", "end"]

DEFAULT_FPS = 25.0
_MISSES_AT_END = 8  # False in a row that end a file whose frames have all been seen
_MISSES_ALWAYS = 100  # False in a row that end any file
_LOST_AFTER = 3  # False in a row after which a live source is lost (one alone may be a damaged packet)
_BACKLOG_S = 2.0  # at most so much is skipped when a live source was opened
_SEEK_BACK_S = 1.0  # a step back of the time stamps by more than this is a cut, less is disorder
_OPTIONS = "OPENCV_FFMPEG_CAPTURE_OPTIONS"
_options_lock = threading.Lock()
_options_ours = ""

os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")  # quiet: FFmpeg's own lines name URLs with their passwords


@dataclass(frozen=True, slots=True)
class GrabResult:
    """What one `grab` brought.

    status: "frame" (retrieve may be called), "bad" (no frame this time, go on), "lost" (live source gone: reopen),
    "end" (nothing more will come).  media_s: seconds of media time; None for a live source.
    cause: why this frame does not follow on from the one before it, or None.  missed: reads that failed before it.
    """

    status: GrabStatus
    media_s: float | None = None
    cause: DegradedCause | None = None
    missed: int = 0


class Reader(Protocol):
    """A source being read. fps: frames a second as the source says (an estimate).  detail: how it ended, or ""."""

    fps: float
    detail: str

    def open(self) -> None:
        """Open the source; may block for the open time-out. Raises SourceError."""
        ...

    def grab(self) -> GrabResult:
        """Take the next frame off the source without converting it; may block for the read time-out or longer."""
        ...

    def retrieve(self) -> UInt8Array | None:
        """The grabbed frame: uint8 (h, w, 3) BGR, the caller's to change; None when it cannot be decoded."""
        ...

    def close(self) -> None:
        """Release the source. Safe to call twice."""
        ...


def make_reader(camera: CameraConfig, config: CaptureConfig) -> Reader:
    """The reader for a camera's source. Raises SourceError for a source that cannot exist."""
    source = camera.source
    if source.kind == "file":
        return FileReader(source.path, config)
    if source.kind == "demo":
        return DemoReader(source)
    return StreamReader(source, config)


def check_source(camera: CameraConfig, config: CaptureConfig) -> None:
    """Open a file or demo, see its first frame, close it; live sources are not touched. Raises SourceError."""
    if camera.source.live:
        return
    reader = make_reader(camera, config)
    try:
        reader.open()
    finally:
        reader.close()


class FileReader:
    """A video file, read to its true end: a damaged stretch is skipped, a missing end is told in `detail`."""

    def __init__(self, path: Path, config: CaptureConfig) -> None:
        self.fps = DEFAULT_FPS
        self.detail = ""
        self.frame_count = 0  # as the container says; 0 when it does not
        self._path = path
        self._config = config
        self._cap: cv2.VideoCapture | None = None
        self._ahead = False  # open() grabbed the first frame already
        self._grabbed = 0
        self._missed = 0
        self._media_s = -1.0
        self._shift_s = 0.0

    def open(self) -> None:
        """Open and grab the first frame. Raises SourceError when there is none."""
        if not self._path.is_file():
            raise SourceError(f"video file {str(self._path)!r} does not exist; give an existing file")
        if not os.access(self._path, os.R_OK):
            raise SourceError(f"video file {str(self._path)!r} may not be read; give the user read permission")
        # An absolute path, because FFmpeg takes a leading "name:" for a protocol.
        cap = _open(str(self._path.absolute()), [cv2.CAP_PROP_N_THREADS, self._config.decoder_threads], self._config)
        if cap is None:
            why = "is not a video that can be decoded, or was cut off before its index was written"
            if self._path.stat().st_size == 0:
                why = "is empty"
            raise SourceError(f"{str(self._path)!r} {why}; give a complete video file")
        self._cap = cap
        self.fps = _sane_fps(cap.get(cv2.CAP_PROP_FPS))
        count = cap.get(cv2.CAP_PROP_FRAME_COUNT)
        self.frame_count = int(count) if 0 < count < 1e9 else 0
        if not any(_grab(cap) for _ in range(_MISSES_ALWAYS)):
            self.close()
            raise SourceError(f"{str(self._path)!r} holds no frame that can be decoded; give a video with frames")
        self._ahead = True

    def grab(self) -> GrabResult:
        """The next frame with its media time; "end" after the last. Reads that fail on the way are in `missed`."""
        cap = self._cap
        if cap is None:
            return GrabResult("end")
        missed = 0
        got, self._ahead = self._ahead or _grab(cap), False
        while not got:
            missed += 1
            all_seen = self._grabbed >= self.frame_count > 0
            if missed >= (_MISSES_AT_END if all_seen else _MISSES_ALWAYS):
                self._finish()
                return GrabResult("end")
            got = _grab(cap)
        self._grabbed += 1
        self._missed += missed
        media_s, cut = self._time(cap.get(cv2.CAP_PROP_POS_MSEC) / 1000.0)
        return GrabResult("frame", media_s, "corrupt" if missed else "seek" if cut else None, missed)

    def _time(self, pts_s: float) -> tuple[float, bool]:
        """Media time that always rises; where stamps stand still or go back, it goes on by one frame from there."""
        step_s = 1.0 / self.fps
        if not math.isfinite(pts_s):
            pts_s = -self._shift_s + self._media_s + step_s
        media_s = pts_s + self._shift_s
        cut = False
        if media_s <= self._media_s or media_s < 0.0:
            cut = self._media_s >= 0.0 and media_s < self._media_s - _SEEK_BACK_S
            media_s = self._media_s + step_s if self._media_s >= 0.0 else 0.0
            self._shift_s = media_s - pts_s
        self._media_s = media_s
        return media_s, cut

    def _finish(self) -> None:
        """Say in `detail` what is missing, where the container promised more than there was."""
        missing = self.frame_count - self._grabbed
        if missing > max(2, self.frame_count // 50):
            length_s = self.frame_count / self.fps
            cut_off = length_s - (self._media_s + 1.0 / self.fps) > max(3.0 / self.fps, 0.02 * length_s)
            if cut_off:  # for variable rates the count is a guess, the length is not
                self.detail = f"truncated: {self._grabbed} of {self.frame_count} frames could be read"
        if not self.detail and self._missed:
            self.detail = f"damaged: {self._missed} reads failed, {self._grabbed} frames could be read"

    def retrieve(self) -> UInt8Array | None:
        """uint8 (h, w, 3) BGR, rotated as the file says; None when it cannot be decoded."""
        return _retrieve(self._cap)

    def close(self) -> None:
        """Release the file."""
        _release(self._cap)
        self._cap = None


class StreamReader:
    """A live camera over RTSP, HTTP (MJPEG, MPEG-TS) or USB."""

    def __init__(self, source: Source, config: CaptureConfig) -> None:
        self.fps = DEFAULT_FPS
        self.detail = ""
        self._source = source
        self._config = config
        self._cap: cv2.VideoCapture | None = None
        self._ahead = False  # open() grabbed the first fresh frame already

    def open(self) -> None:
        """Connect. Raises SourceError without the credentials."""
        if self._source.kind == "usb":
            cap = cv2.VideoCapture(self._source.usb_index, cv2.CAP_ANY)
            self._cap = cap if cap.isOpened() else None
        else:
            settings = [
                cv2.CAP_PROP_OPEN_TIMEOUT_MSEC,
                max(1, round(1000 * self._config.open_timeout_s)),
                cv2.CAP_PROP_READ_TIMEOUT_MSEC,
                max(1, round(1000 * self._config.read_timeout_s)),
                cv2.CAP_PROP_N_THREADS,
                self._config.decoder_threads,
            ]
            self._cap = _open(self._source.reveal(), settings, self._config)
        if self._cap is None:
            raise SourceError(
                f"source {self._source.shown!r} cannot be opened; check that the camera is on, reachable and that "
                "the address, user and password are right"
            )
        self.fps = _sane_fps(self._cap.get(cv2.CAP_PROP_FPS))
        self._skip_backlog(self._cap)

    def _skip_backlog(self, cap: cv2.VideoCapture) -> None:
        """Throw away what FFmpeg kept while it probed the stream (a second of RTSP): it is old, and comes at once."""
        began_s = now_s = time.monotonic()
        for _ in range(round(_BACKLOG_S * self.fps)):
            self._ahead = _grab(cap)
            before_s, now_s = now_s, time.monotonic()
            if not self._ahead or now_s - before_s > 0.2 / self.fps or now_s - began_s > _BACKLOG_S:
                break

    def grab(self) -> GrabResult:
        """The next frame, however old; "lost" when the connection is gone."""
        for missed in range(_LOST_AFTER):
            began_s = time.monotonic()
            if self._cap is None:
                break
            got, self._ahead = self._ahead or _grab(self._cap), False
            if got:
                return GrabResult("frame", None, "corrupt" if missed else None, missed)
            if time.monotonic() - began_s > 0.5 * self._config.read_timeout_s:
                break  # a time-out: asking again would wait as long
        return GrabResult("lost")

    def retrieve(self) -> UInt8Array | None:
        """uint8 (h, w, 3) BGR; None when it cannot be decoded."""
        return _retrieve(self._cap)

    def close(self) -> None:
        """Hang up."""
        _release(self._cap)
        self._cap = None


class _Scene(Protocol):
    fps: float
    frame_count: int

    def frame(self, index: int) -> UInt8Array: ...


class DemoReader:
    """The rendered demo, drawn frame by frame as it is read. scene: injectable; else `demo.DemoScene`."""

    def __init__(self, source: Source, scene: Callable[[], _Scene] | None = None) -> None:
        self.fps = DEFAULT_FPS
        self.frame_count = 0
        self.detail = ""
        self._options = demo_options(source)
        self._make = scene
        self._scene: _Scene | None = None
        self._index = -1

    def open(self) -> None:
        """Set the scene."""
        self._scene = self._make() if self._make else self._demo_scene()
        self.fps = float(self._scene.fps)
        self.frame_count = self._scene.frame_count
        self._index = -1

    @property
    def scene(self) -> _Scene | None:
        """The scene once it is set."""
        return self._scene

    def _demo_scene(self) -> _Scene:
        from stream_detector.demo import DemoScene

        options = self._options
        chosen: dict[str, int | float | bool] = {}
        if "duration" in options:
            chosen["duration_s"] = float(options["duration"])
        if "incident" in options:
            chosen["incident"] = bool(options["incident"])
        make: Callable[..., _Scene] = DemoScene
        return make(seed=int(options.get("seed", 0)), **chosen)

    def grab(self) -> GrabResult:
        """Step to the next frame; nothing is drawn yet."""
        if self._scene is None or self._index + 1 >= self._scene.frame_count:
            return GrabResult("end")
        self._index += 1
        return GrabResult("frame", self._index / self.fps)

    def retrieve(self) -> UInt8Array | None:
        """Draw the frame: uint8 (h, w, 3) BGR."""
        return None if self._scene is None else self._scene.frame(self._index)

    def close(self) -> None:
        """Forget the scene."""
        self._scene = None


def _open(target: str, settings: list[int], config: CaptureConfig) -> cv2.VideoCapture | None:
    """An opened capture of the FFmpeg backend, or None."""
    global _options_ours
    with _options_lock:  # the environment is the only way to these options, and is read when a source is opened
        wanted = f"rtsp_transport;{config.rtsp_transport}"
        present = os.environ.get(_OPTIONS, "")
        if present != wanted and present == _options_ours:  # what the user has set stays
            os.environ[_OPTIONS] = _options_ours = wanted
    _log.setLogLevel(_log.LOG_LEVEL_SILENT)  # OpenCV's warnings would name the URL
    try:
        cap = cv2.VideoCapture(target, cv2.CAP_FFMPEG, settings)
    except cv2.error:
        return None
    if not cap.isOpened():
        cap.release()
        return None
    return cap


def _grab(cap: cv2.VideoCapture) -> bool:
    try:
        return bool(cap.grab())
    except cv2.error:
        return False


def _retrieve(cap: cv2.VideoCapture | None) -> UInt8Array | None:
    if cap is None:
        return None
    try:
        ok, image = cap.retrieve()
        return to_bgr(image) if ok and image is not None and image.size else None
    except cv2.error:
        return None


def _release(cap: cv2.VideoCapture | None) -> None:
    if cap is not None:
        cap.release()


def _sane_fps(fps: float) -> float:
    return fps if math.isfinite(fps) and 0.1 <= fps <= 240.0 else DEFAULT_FPS
