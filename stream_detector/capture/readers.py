"""Blocking readers: one per kind of source, all with the same five methods. One capture thread uses each.

    FileReader      a video file; media time is its presentation time stamps
    NetworkReader   RTSP, HTTP, a pipe (`network_readers`)
    UsbReader       a USB camera; the capture thread stamps the time
    demo.reader     the rendered scene; behaves like a file

PyAV decodes everything except USB cameras, because OpenCV's opener holds one lock of the whole process while it opens.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from stream_detector.capture.bgr import to_bgr
from stream_detector.capture.container_headers import declared_bytes, declared_codec
from stream_detector.capture.decoder import DEFAULT_FPS, DecodedFrame, DecodeError, Decoder, UnknownCodecError, sane_fps
from stream_detector.capture.grabs import GrabResult, GrabStatus
from stream_detector.capture.network_readers import ALL_KEYS, NetworkReader
from stream_detector.capture.picture import AnyPicture, DecodedPicture, Picture
from stream_detector.capture.taps import PacketTap
from stream_detector.config import CameraConfig, CaptureConfig
from stream_detector.config.kinds import SOURCE_KINDS
from stream_detector.config.source import Source, printable
from stream_detector.errors import SourceError
from stream_detector.system.registry import Registry
from stream_detector.types import DegradedCause, UInt8Array

if TYPE_CHECKING:
    import cv2

__all__ = [
    "READERS",
    "FileReader",
    "GrabResult",
    "GrabStatus",
    "NetworkReader",
    "Reader",
    "ReaderFactory",
    "UsbReader",
    "make_reader",
]

_LOST_AFTER = 3  # failed reads in a row after which a USB camera is lost (a single one may be a damaged packet)


class Reader(Protocol):
    """Reads one source. fps: declared frames per second (an estimate).  detail: how the source ended, or ""."""

    fps: float
    detail: str

    def open(self) -> None:
        """Open the source; may block for the open time-out. Raises SourceError."""
        ...

    def grab(self) -> GrabResult:
        """Take the next frame without converting it; may block for the read time-out or longer."""
        ...

    def retrieve(self) -> AnyPicture | None:
        """Return the grabbed frame, or an array uint8 (h, w, 3) BGR; None if it cannot be decoded."""
        ...

    def close(self) -> None:
        """Release the source. Safe to call twice."""
        ...


def make_file_reader(camera: CameraConfig, config: CaptureConfig) -> Reader:
    """Make the reader of a video file."""
    return FileReader(camera.source.path, config)


def make_usb_reader(camera: CameraConfig, config: CaptureConfig) -> Reader:
    """Make the reader of a USB camera."""
    return UsbReader(camera.source, config)


ReaderFactory = Callable[[CameraConfig, CaptureConfig], Reader]  # cameras have an attribute `live = True`
READERS: Registry[ReaderFactory] = SOURCE_KINDS  # by kind of source; the same registry holds the names for the parser


def make_reader(camera: CameraConfig, config: CaptureConfig) -> Reader:
    """Make the reader for a camera's source. Raises SourceError for an impossible source."""
    return READERS.get(camera.source.kind)(camera, config)


def check_source(camera: CameraConfig, config: CaptureConfig) -> None:
    """Open a file or demo, decode its first frame, close it; live sources are not opened. Raises SourceError."""
    if camera.source.live:
        return
    reader = make_reader(camera, config)
    try:
        reader.open()
    finally:
        reader.close()


class FileReader:
    """A video file, read to its true end: a damaged part is skipped, a missing end is reported in `detail`."""

    def __init__(self, path: Path, config: CaptureConfig) -> None:
        self.fps = DEFAULT_FPS
        self.detail = ""
        self.duration_s: float | None = None  # declared by the container, for a progress bar
        self._path = path
        self._decoder = Decoder(
            _file_address(path),
            # a playlist disguised as a video must not open a network connection
            options={"protocol_whitelist": "file,crypto,data"},
            threads=config.decoder_threads,
            hwaccel=config.hwaccel,
        )
        self._open = False
        self._ahead: DecodedFrame | None = None  # open() has already read the first frame
        self._now: DecodedFrame | None = None

    def open(self) -> None:
        """Open the file and decode the first frame. Raises SourceError if there is none."""
        name = repr(printable(self._path))
        if not self._path.is_file():
            raise SourceError(f"video file {name} does not exist; give an existing file")
        if not os.access(self._path, os.R_OK):
            raise SourceError(f"video file {name} may not be read; give the user read permission")
        if self._path.stat().st_size == 0:
            raise SourceError(f"{name} is empty; give a complete video file")
        try:
            self._decoder.open()
        except UnknownCodecError:
            codec = declared_codec(self._path) or "a way that it does not name"
            raise SourceError(
                f"{name} holds {codec} video, which this build cannot decode; convert it to H.264"
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
        """Take the next frame with its media time; "end" after the last. `missed`: packets before it without a
        picture."""
        if not self._open:
            return GrabResult("end")
        self._now = None  # lets the decoder reuse the memory
        found, self._ahead = self._ahead or self._decoder.next(), None
        self._now = found
        if found is None:
            if not self._decoder.ended:
                return GrabResult("bad")
            self._finish()
            return GrabResult("end")
        cause: DegradedCause | None = "corrupt" if found.missed or found.corrupt else "seek" if found.cut else None
        key = None if self._decoder.codec in ALL_KEYS else found.key
        return GrabResult("frame", found.media_s, cause, found.missed, key, found.stamp_s)

    def _finish(self) -> None:
        """Describe in `detail` what is missing or damaged, by what was decoded."""
        decoder = self._decoder
        told = f"{decoder.pictures} frames could be read"
        if decoder.broken_end or max(decoder.last_byte(), declared_bytes(self._path)) > self._path.stat().st_size:
            self.detail = f"truncated: the file ends in the middle of the video; {told}"
        elif decoder.damaged:
            self.detail = f"damaged: {decoder.damaged} frames are lost or damaged, {told}"

    def retrieve(self) -> Picture | None:
        """Return the grabbed frame, upright as the file says."""
        return None if self._now is None else DecodedPicture(self._now.frame)

    def attach(self, tap: PacketTap) -> None:
        """Let `tap` see the packets; before `open`."""
        self._decoder.tap = tap

    def stream(self) -> tuple[str, int]:
        """Return (codec, bytes of video read so far)."""
        return self._decoder.codec, self._decoder.bytes

    def seek(self, media_s: float) -> bool:
        """Continue at the key frame at or before a media time; return False if the file cannot seek: reopen it then."""
        self._ahead = self._now = None
        return self._decoder.seek(media_s)

    def close(self) -> None:
        """Release the file."""
        self._open = False
        self._ahead = self._now = None
        self._decoder.close()


def _file_address(path: Path) -> str:
    """Return the address for FFmpeg, with the protocol's name: FFmpeg takes any leading "name:" for a protocol."""
    return f"file:{path.absolute()}"


class UsbReader:
    """A USB camera, read with OpenCV."""

    def __init__(self, source: Source, config: CaptureConfig) -> None:
        self.fps = DEFAULT_FPS
        self.detail = ""
        self._source = source
        self._config = config
        self._cap: cv2.VideoCapture | None = None

    def open(self) -> None:
        """Open the device. Raises SourceError."""
        import cv2  # here, not above: a capture host's process without USB cameras does not need it

        cap = cv2.VideoCapture(self._source.usb_index, cv2.CAP_ANY)
        if not cap.isOpened():
            cap.release()
            raise SourceError(
                f"USB camera {self._source.shown!r} cannot be opened; check that it is plugged in, that the user may "
                "read it, and that no other program has it"
            )
        self._cap = cap
        self.fps = sane_fps(cap.get(cv2.CAP_PROP_FPS))

    def grab(self) -> GrabResult:
        """Take the next frame; "lost" when the camera is gone."""
        for missed in range(_LOST_AFTER):
            began_s = time.monotonic()
            if self._cap is None:
                break
            if _grab(self._cap):
                return GrabResult("frame", None, "corrupt" if missed else None, missed)
            if time.monotonic() - began_s > 0.5 * self._config.read_timeout_s:
                break  # a time-out: a further read would wait as long
        return GrabResult("lost")

    def retrieve(self) -> UInt8Array | None:
        """Return uint8 (h, w, 3) BGR; None if the frame cannot be decoded."""
        return _retrieve(self._cap)

    def close(self) -> None:
        """Release the device."""
        if self._cap is not None:
            self._cap.release()
        self._cap = None


def _grab(cap: cv2.VideoCapture) -> bool:
    import cv2

    try:
        return bool(cap.grab())
    except cv2.error:
        return False


def _retrieve(cap: cv2.VideoCapture | None) -> UInt8Array | None:
    import cv2

    if cap is None:
        return None
    try:
        ok, image = cap.retrieve()
        return to_bgr(image) if ok and image is not None and image.size else None
    except cv2.error:
        return None
