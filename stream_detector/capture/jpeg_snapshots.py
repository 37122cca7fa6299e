"""JPEG pictures from a network camera: the parts of an MJPEG answer, or snapshots requested one by one. All sizes are
limited.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from typing import Protocol

import av

from stream_detector.capture.admission import Admission
from stream_detector.capture.decoder import DEFAULT_FPS, MAX_PIXELS, DecodedFrame, is_all_zero
from stream_detector.capture.http_io import Body, HttpError
from stream_detector.capture.taps import PacketTap

MAX_BYTES = 16 << 20  # bytes of one picture
MAX_HEADER = 16 << 10  # bytes of the header of one part
_LENGTH = re.compile(rb"(?im)^content-length:\s*(\d{1,12})\s*$")
_BOUNDARY = re.compile(r'(?i)boundary\s*=\s*"?([^";,\s]{1,200})')
_SOI, _EOI = b"\xff\xd8", b"\xff\xd9"
_FRAME_HEADERS = {*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC}


class JpegSource(Protocol):
    """A source of JPEG pictures."""

    def next(self) -> bytes:
        """Return the bytes of the next picture; b"" at the end. Raises HttpError."""
        ...

    def close(self) -> None:
        """Close the connection."""
        ...


class MultipartReader:
    """Reads the parts of a `multipart/x-mixed-replace` answer."""

    def __init__(self, body: Body) -> None:
        self._body = body
        named = _BOUNDARY.search(body.header)
        self._mark = b"--" + (named[1].removeprefix("--").encode("latin-1", "ignore") if named else b"")
        self._held = bytearray()

    def next(self) -> bytes:
        """See JpegSource. A part without a length ends where the next one begins."""
        self._body.allow()
        head = self._until(b"\r\n\r\n", MAX_HEADER)
        if head is None:
            return b""
        length = _LENGTH.search(head)
        if length is None:
            part = self._until(b"\r\n" + self._mark if len(self._mark) > 2 else _EOI, MAX_BYTES)
            if part is not None and len(self._mark) <= 2:
                part += _EOI
            return part or b""
        size = int(length[1])
        if size > MAX_BYTES:
            raise HttpError(f"sends a picture of more than {MAX_BYTES >> 20} MB")
        while len(self._held) < size:
            if not self._more():
                return b""
        part = bytes(self._held[:size])
        del self._held[:size]
        return part

    def _until(self, end: bytes, limit: int) -> bytes | None:
        seen = 0
        while (at := self._held.find(end, max(0, seen - len(end)))) < 0:
            seen = len(self._held)
            if seen > limit:
                raise HttpError(f"sends a picture of more than {limit >> 10} KB")
            if not self._more():
                return None
        part = bytes(self._held[:at])
        del self._held[: at + len(end)]
        return part

    def _more(self) -> bool:
        found = self._body.read(65_536)
        self._held += found
        return bool(found)

    def close(self) -> None:
        """Close the connection."""
        self._body.close()


class SnapshotPoller:
    """Requests one address again and again. first: its first answer.  wait: waits and returns whether to stop."""

    def __init__(self, first: Body, ask: Callable[[], Body], period_s: float, wait: Callable[[float], object]) -> None:
        self._ask, self._period_s, self._wait = ask, period_s, wait
        self._body: Body | None = first
        self._due_s = time.monotonic()

    def next(self) -> bytes:
        """See JpegSource. Waits until the next snapshot is due."""
        if self._body is None:
            self._wait(max(0.0, self._due_s - time.monotonic()))
            self._body = self._ask()
        self._due_s = max(self._due_s + self._period_s, time.monotonic())
        body, self._body = self._body, None
        data = bytearray()
        try:
            while found := body.read(65_536):
                data += found
                if len(data) > MAX_BYTES:
                    raise HttpError(f"sends a picture of more than {MAX_BYTES >> 20} MB")
        finally:
            body.close()
        return bytes(data)

    def close(self) -> None:
        """Close the connection."""
        if self._body is not None:
            self._body.close()


class JpegStream:
    """JpegSource → frames, with the interface of `decoder.Decoder`. media_s is 0; the capture thread stamps the
    time."""

    def __init__(self, pictures: JpegSource, tap: PacketTap | None = None) -> None:
        self.codec, self.fps = "mjpeg", DEFAULT_FPS
        self._pictures, self._tap = pictures, tap
        self._context = av.CodecContext.create("mjpeg", "r")
        self._context.thread_count = 1
        self._missed = 0
        self.ended = False
        self.admission: Admission | None = None  # says which pictures are decoded; None: all
        self.passed_s: float | None = None  # 0 where the last `next` passed a picture over

    def next(self) -> DecodedFrame | None:
        """Return the next frame; None for a picture that cannot be decoded, and at the end. Raises HttpError."""
        data = self._fetch()
        self.passed_s = None
        if not data:
            return None
        if self.admission is not None and not self.admission.wanted(True):
            self._keep(data)
            self.passed_s = 0.0
            return None
        try:
            frames = self._context.decode(av.Packet(data))
        except (av.FFmpegError, OSError, ValueError):
            frames = []
        if not frames or is_all_zero(frames[0]):
            self._missed += 1
            return None
        missed, self._missed = self._missed, 0
        stamp_s = self._keep(data)
        cut_short = _EOI not in data[-64:]
        corrupt = bool(frames[0].is_corrupt) or cut_short
        return DecodedFrame(frames[0], 0.0, False, missed, corrupt, True, stamped=False, stamp_s=stamp_s)

    def next_packet(self) -> tuple[float | None, float | None] | None:
        """Return (time of arrival, None) of the next picture, not decoded; None at the end. Raises HttpError."""
        data = self._fetch()
        return (self._keep(data), None) if data else None

    def _fetch(self) -> bytes:
        data = self._pictures.next()
        if not data:
            self.ended = True
            return b""
        width, height = jpeg_size(data)
        if width * height > MAX_PIXELS:
            raise HttpError(f"sends pictures of {width}×{height} pixels, more than the limit")
        return data

    def _keep(self, data: bytes) -> float:
        """Give a picture to the tap; returns the monotonic time that stands for its stamp."""
        stamp_s = time.monotonic()
        if self._tap is not None:
            self._tap.add_jpeg(data, *jpeg_size(data), stamp_s)
        return stamp_s

    def close(self) -> None:
        """Close the connection."""
        self.ended = True
        self._pictures.close()


def jpeg_size(jpeg: bytes) -> tuple[int, int]:
    """Return the (width, height) in a JPEG header, before anything is decoded; (0, 0) if this is not a JPEG."""
    at = jpeg.find(_SOI) + 2
    while 2 <= at < len(jpeg) - 9:
        if jpeg[at] != 0xFF:
            return 0, 0
        kind = jpeg[at + 1]
        if kind in _FRAME_HEADERS:
            return int.from_bytes(jpeg[at + 7 : at + 9], "big"), int.from_bytes(jpeg[at + 5 : at + 7], "big")
        at += 1 if kind == 0xFF else 2 if 0xD0 <= kind <= 0xD9 else 2 + int.from_bytes(jpeg[at + 2 : at + 4], "big")
    return 0, 0
