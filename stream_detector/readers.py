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
from stream_detector.containers import codec_named, wanted_bytes
from stream_detector.decoded import AnyPicture, DecodedPicture, Picture
from stream_detector.decoder import DEFAULT_FPS, Decoded, DecodeError, Decoder, UnknownCodecError
from stream_detector.errors import SourceError
from stream_detector.pictures import to_bgr
from stream_detector.sources import demo_options
from stream_detector.types import DegradedCause, UInt8Array

GrabStatus = Literal["frame", "bad", "lost", "end"]

_LOST_AFTER = 3  # False in a row after which a live source is lost (one alone may be a damaged packet)
_BACKLOG_S = 2.0  # at most so much is skipped when a live source was opened
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

    def retrieve(self) -> AnyPicture | None:
        """The grabbed frame, or an array uint8 (h, w, 3) BGR; None when it cannot be decoded."""
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
        self.duration_s: float | None = None  # as the container says, for a progress bar
        self._path = path
        self._decoder = Decoder(
            _file_address(path),
            options={"protocol_whitelist": "file,crypto,data"},  # a playlist that poses as a video opens no network
            threads=config.decoder_threads,
            hwaccel=config.hwaccel,
        )
        self._open = False
        self._ahead: Decoded | None = None  # open() read the first frame already
        self._now: Decoded | None = None

    def open(self) -> None:
        """Open and decode the first frame. Raises SourceError when there is none."""
        name = shown_path(self._path)
        if not self._path.is_file():
            raise SourceError(f"video file {name} does not exist; give an existing file")
        if not os.access(self._path, os.R_OK):
            raise SourceError(f"video file {name} may not be read; give the user read permission")
        if self._path.stat().st_size == 0:
            raise SourceError(f"{name} is empty; give a complete video file")
        try:
            self._decoder.open()
        except UnknownCodecError:
            codec = codec_named(self._path) or "a way that it does not name"
            raise SourceError(
                f"{name} holds video encoded in {codec}, which this build cannot decode; convert it to H.264"
            ) from None
        except DecodeError as error:
            raise SourceError(f"{name} {error}; give a complete video file") from None
        while self._ahead is None and not self._decoder.ended:
            self._ahead = self._decoder.next()
        if self._ahead is None:
            codec = self._decoder.codec
            self.close()
            if not self._decoder.packets:
                raise SourceError(f"{name} holds no frames at all; give a complete video file")
            raise SourceError(
                f"{name} holds no frame that can be decoded (its video is encoded in {codec}); give a video with frames"
            )
        self.fps, self.duration_s = self._decoder.fps, self._decoder.duration_s
        self._open = True

    def grab(self) -> GrabResult:
        """The next frame with its media time; "end" after the last. `missed`: packets before it without a picture."""
        if not self._open:
            return GrabResult("end")
        found, self._ahead = self._ahead or self._decoder.next(), None
        self._now = found
        if found is None:
            if not self._decoder.ended:
                return GrabResult("bad")
            self._finish()
            return GrabResult("end")
        cause: DegradedCause | None = "corrupt" if found.missed or found.corrupt else "seek" if found.cut else None
        return GrabResult("frame", found.media_s, cause, found.missed)

    def _finish(self) -> None:
        """Say in `detail` what is missing or damaged, by what was decoded."""
        decoder = self._decoder
        told = f"{decoder.pictures} frames could be read"
        if decoder.broken_end or max(decoder.last_byte(), wanted_bytes(self._path)) > self._path.stat().st_size:
            self.detail = f"truncated: the file ends in the middle of the video; {told}"
        elif decoder.damaged:
            self.detail = f"damaged: {decoder.damaged} frames are lost or damaged, {told}"

    def retrieve(self) -> Picture | None:
        """The grabbed frame, upright as the file says."""
        return None if self._now is None else DecodedPicture(self._now.frame)

    def seek(self, media_s: float) -> bool:
        """Go on with the key frame at or before a media time; False where the file cannot: then open it again."""
        self._ahead = self._now = None
        return self._decoder.seek(media_s)

    def close(self) -> None:
        """Release the file."""
        self._open = False
        self._ahead = self._now = None
        self._decoder.close()


def shown_path(path: Path) -> str:
    """A path in quotes for people: bytes that are no text are shown as \\xNN."""
    return repr(os.fsencode(path).decode("utf-8", "backslashreplace"))


def _file_address(path: Path) -> str:
    """What FFmpeg opens: with the protocol's name, because it takes any other "name:" at the front for a protocol."""
    return f"file:{path.absolute()}"


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
        self.duration_s: float | None = None
        self.detail = ""
        self._options = demo_options(source)
        self._make = scene
        self._scene: _Scene | None = None
        self._index = -1

    def open(self) -> None:
        """Set the scene."""
        self._scene = self._make() if self._make else self._demo_scene()
        self.fps = float(self._scene.fps)
        self.duration_s = self._scene.frame_count / self.fps
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
