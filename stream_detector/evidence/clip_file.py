"""Files of evidence: a WebM clip at a constant rate and a captioned JPEG; each appears completely or not at all.

A file is written under a temporary name (`.NAME.PID.part.SUFFIX`) beside its place and renamed when complete. All
failures raise OSError with a sentence; `writer` handles them.
"""

from __future__ import annotations

import contextlib
import os
import re
import time
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np
from av.container import OutputContainer
from av.video.stream import VideoStream

from stream_detector.types import Preview, UInt8Array

_PART = re.compile(r"\..+\.(\d+)\.part\.(?:webm|jpg)")
_EBML_SEGMENT = b"\x18\x53\x80\x67"
_ABANDONED_S = 3600.0  # where one cannot ask for a process: a temporary file this old is nobody's
_ENCODER = "libvpx"  # VP8: every browser plays it, and PyAV's wheels bring it
# At most so many bits a second. Measured beside OpenCV's writer on two clips (320x240, 128x64): a fifth of the time, 45
# and 79 % of the bytes, 1 dB less in PSNR (37 and 38 dB).
_BITS_PER_S = 4_000_000
_OPTIONS = {"deadline": "realtime", "cpu-used": "4", "crf": "10", "threads": "1"}
_being_written: set[Path] = set()  # temporary names of this process; the set is changed by one operation at a time


class ClipFile:
    """A VP8 clip in WebM, which every browser plays.

    Pictures come with media times at any rate; picture k of the clip shows the newest one at first + k / fps.
    path: where the clip will lie.  fps: rate of the clip.  max_s: it takes nothing beyond this length.
    Raises OSError if it cannot be opened.
    """

    def __init__(self, path: Path, fps: float, max_s: float) -> None:
        self.path = path
        self._fps, self._max_frames = fps, max(1, round(max_s * fps))
        self._part = part_name(path)
        self._container: OutputContainer | None = None
        self._stream: VideoStream | None = None
        self._size = (0, 0)
        self._first_s = 0.0
        self._held: UInt8Array | None = None
        self._written = 0
        path.parent.mkdir(parents=True, exist_ok=True)

    def add(self, preview: Preview, skip: Callable[[], bool] = lambda: False) -> bool:
        """Take the next picture; False once the clip has its full length. skip: true when there is no time left to
        encode (the picture is then left out). Raises OSError.
        """
        if self._container is None:
            self._open(preview)
        slot = round((preview.media_s - self._first_s) * self._fps)
        while self._written < min(slot, self._max_frames) and not skip():
            self._write()
        height, width = preview.image.shape[:2]
        image = preview.image
        self._held = (
            image if (width, height) == self._size else np.asarray(cv2.resize(image, self._size), dtype=np.uint8)
        )
        return slot < self._max_frames

    def close(self) -> bool:
        """Finish and rename; False if no picture ever came. Raises OSError if the file did not become whole."""
        if self._container is None:
            return False
        try:
            if self._written < self._max_frames:
                self._write()
            self._end()
            if not is_complete(self._part):
                raise OSError("the clip could not be written to its end; is the disk full?")
            os.replace(self._part, self.path)
        except OSError:
            self.discard()
            raise
        _being_written.discard(self._part)
        return True

    def discard(self) -> None:
        """Give up without leaving a file. Never raises."""
        with contextlib.suppress(OSError):
            self._end()
        with contextlib.suppress(OSError):
            self._part.unlink(missing_ok=True)
        _being_written.discard(self._part)

    def _open(self, preview: Preview) -> None:
        height, width = preview.image.shape[:2]
        self._size = (max(2, width // 2 * 2), max(2, height // 2 * 2))  # VP8 stores colour at half size
        self._first_s = preview.media_s
        _being_written.add(self._part)
        self._part.write_bytes(b"")  # says why, if it cannot be written
        rate = Fraction(self._fps).limit_denominator(1000)
        try:
            self._container = av.open(f"file:{self._part.absolute()}", "w", format="webm")
            stream = self._container.add_stream(_ENCODER, rate=rate, options=dict(_OPTIONS))
        except (av.FFmpegError, ValueError) as error:  # a build without the encoder
            self.discard()
            raise OSError(f"this PyAV cannot write VP8 ({error}); install av from PyPI") from None
        assert isinstance(stream, VideoStream)
        stream.width, stream.height = self._size
        stream.pix_fmt, stream.bit_rate = "yuv420p", _BITS_PER_S
        stream.codec_context.time_base = 1 / rate
        self._stream = stream

    def _write(self) -> None:
        if self._held is not None:
            frame = av.VideoFrame.from_ndarray(self._held, format="bgr24")
            frame.pts = self._written
            self._encode(frame)
        self._written += 1

    def _encode(self, frame: av.VideoFrame | None) -> None:
        """One picture, or None for the end. Raises OSError."""
        if self._container is None or self._stream is None:
            return
        try:
            self._container.mux(self._stream.encode(frame))
        except (av.FFmpegError, ValueError) as error:
            raise OSError(f"the clip could not be encoded ({error})") from None

    def _end(self) -> None:
        """Write what the encoder holds back, and close. Raises OSError."""
        container = self._container
        if container is None:
            return
        try:
            self._encode(None)
        finally:
            self._container = self._stream = None
            try:
                container.close()
            except av.FFmpegError as error:
                raise OSError(f"the clip could not be written to its end ({error.strerror})") from None


def write_snapshot(path: Path, preview: Preview, caption: str) -> None:
    """The picture as JPEG with a line of text below it. Raises OSError."""
    width = preview.image.shape[1]
    scale = max(0.4, width / 1100)
    (text_width, text_height), base = cv2.getTextSize(caption, cv2.FONT_HERSHEY_SIMPLEX, scale, 1)
    scale *= min(1.0, (width - 12) / max(text_width, 1))
    bar = np.full((text_height + base + 8, width, 3), 28, np.uint8)
    cv2.putText(bar, caption, (6, text_height + 4), cv2.FONT_HERSHEY_SIMPLEX, scale, (235, 235, 235), 1, cv2.LINE_AA)
    picture = np.vstack([preview.image, bar])
    data = cv2.imencode(".jpg", picture, [cv2.IMWRITE_JPEG_QUALITY, 88])[1].tobytes()
    path.parent.mkdir(parents=True, exist_ok=True)
    part = part_name(path)
    try:
        part.write_bytes(data)
        os.replace(part, path)
    except OSError:
        with contextlib.suppress(OSError):
            part.unlink(missing_ok=True)
        raise


def part_name(path: Path) -> Path:
    """The temporary name of a file that this process writes."""
    return path.with_name(f".{path.stem}.{os.getpid()}.part{path.suffix}")


def is_complete(path: Path) -> bool:
    """Whether a WebM file ends where its header says: the header's size is filled in last (Matroska, RFC 9559)."""
    with path.open("rb") as file:
        head = file.read(256)
    at = head.find(_EBML_SEGMENT)
    if at < 0 or head[at + 4] != 0x01:  # 0x01: the size takes 8 bytes, as FFmpeg writes it
        return False
    size = int.from_bytes(head[at + 5 : at + 12], "big")
    return at + 12 + size == path.stat().st_size


def remove_stale(directory: Path) -> list[Path]:
    """Delete the temporary files of processes that are no more, from directory/*/; returns them. Raises OSError."""
    removed = []
    for path in directory.glob("*/.*.part.*"):
        match = _PART.fullmatch(path.name)
        if match and not _in_use(path, int(match[1])):
            path.unlink(missing_ok=True)
            removed.append(path)
    return removed


def _in_use(path: Path, pid: int) -> bool:
    if os.name != "posix":  # there, os.kill would end the process instead of asking for it
        return time.time() - path.stat().st_mtime < _ABANDONED_S
    if pid == os.getpid():  # or an earlier process of the same number, as in containers
        return path in _being_written
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
