"""Readers for network cameras, and for programs that write to a pipe: RTSP, RTSPS and all forms of HTTP.

    rtsp, rtsps ───────────────────────────────────▶ Decoder (FFmpeg's RTSP; TCP first, then UDP)
    http, https ──Content-Type── multipart ────────▶ JpegStream of parts
                                 image/jpeg ───────▶ JpegStream of snapshots, requested `snapshot_fps` times a second
                                 mpegurl, .m3u8 ───▶ Decoder (HLS); `http_io` fetches its playlists and segments
                                 anything else ────▶ Decoder (MPEG-TS, FLV, a recording) on the body
    pipe: ─────────────────────────────────────────▶ Decoder on standard input, or on a named pipe

No call holds a lock that another camera waits for; OpenCV's opener, which does, is not used.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import IO, Any, Protocol
from urllib.parse import urlsplit

import av

from stream_detector.capture.admission import Admission
from stream_detector.capture.decoder import DEFAULT_FPS, DecodedFrame, DecodeError, Decoder
from stream_detector.capture.grabs import GrabResult, GrabStatus
from stream_detector.capture.http_io import Body, HttpError, fetch
from stream_detector.capture.jpeg_snapshots import JpegSource, JpegStream, MultipartReader, SnapshotPoller
from stream_detector.capture.picture import DecodedPicture, Picture
from stream_detector.capture.taps import PacketTap
from stream_detector.config import CameraConfig, CaptureConfig
from stream_detector.config.source import Source
from stream_detector.errors import SourceError
from stream_detector.types import DegradedCause

BACKLOG_S = 2.0  # seconds; the longest backlog that is skipped after opening a live source
ALL_KEYS = {"mjpeg", "mjpegb", "png", "rawvideo", "dvvideo", "prores", "jpeg2000"}  # codecs that have key frames only
# bytes, µs: the input that FFmpeg examines before it begins
PROBE = {"probesize": "2000000", "analyzeduration": "2000000"}
_RTSP = {"rtsp": "rtp,udp,tcp", "rtsps": "rtp,udp,tcp,tls"}


class DecodedStream(Protocol):
    """A stream of frames: `decoder.Decoder` or `jpeg_snapshots.JpegStream`."""

    fps: float
    codec: str

    @property
    def ended(self) -> bool: ...

    def next_packet(self) -> tuple[float | None, float | None] | None: ...

    def next(self) -> DecodedFrame | None: ...

    def close(self) -> None: ...


@dataclass(frozen=True, slots=True)
class SeenPacket:
    """A packet that went by without being decoded. stamp_s, wall_utc: see `decoder.DecodedFrame`."""

    stamp_s: float | None
    wall_utc: float | None = None


class NetworkReader:
    """A live camera, or a pipe. Implements `readers.Reader`."""

    def __init__(self, camera: CameraConfig, config: CaptureConfig) -> None:
        self.fps = DEFAULT_FPS
        self.detail = ""
        self._camera = camera
        self._source: Source = camera.source
        self._config = config
        self.admission: Admission | None = None  # says which packets are decoded; set it before `open`
        self._flow: DecodedStream | None = None
        self._tap: PacketTap | None = None
        self._bodies: list[Body] = []
        self._pipe: IO[bytes] | None = None
        self._closed = threading.Event()
        self._ahead: DecodedFrame | None = None  # open() has already read the first fresh frame
        self._now: DecodedFrame | None = None

    def open(self) -> None:
        """Connect. Raises SourceError, which contains neither the address nor FFmpeg's words."""
        flow = self._open(self._skip_backlog)
        self.fps = flow.fps

    def open_packets(self) -> None:
        """Connect for `next_packet`. Raises SourceError like `open`."""
        self._open(lambda _flow: None)

    def next_packet(self) -> SeenPacket | None:
        """The next packet, which only the tap gets; None when the connection is gone. Raises HttpError."""
        flow = self._flow
        for body in self._bodies:
            body.allow()
        try:
            seen = None if flow is None else flow.next_packet()
        except (av.FFmpegError, OSError) as error:
            if isinstance(error, HttpError):
                raise
            return None
        return None if seen is None else SeenPacket(*seen)

    def _open(self, begin: Callable[[DecodedStream], None]) -> DecodedStream:
        self._closed.clear()
        try:
            flow = self._flow = self._connect()
            begin(flow)
        except (DecodeError, HttpError, av.FFmpegError, OSError) as error:
            self.close()
            why = str(error) if isinstance(error, DecodeError | HttpError) else "broke off"
            raise SourceError(
                f"source {self._source.shown!r} cannot be opened: it {why}; check that the camera is on and reachable, "
                "and that address, user and password are right"
            ) from None
        return flow

    def _connect(self) -> DecodedStream:
        if self._source.kind == "rtsp":
            return self._opened(self._rtsp())
        if self._source.kind == "pipe":
            return self._opened(self._piped())
        body = self._fetch(self._source.reveal())
        if body.kind.startswith("multipart/"):
            return self._pictures(MultipartReader(body))
        if body.kind.startswith("image/"):
            period_s = 1.0 / self._camera.snapshot_fps
            return self._pictures(
                SnapshotPoller(body, lambda: self._fetch(self._source.reveal()), period_s, self._closed.wait)
            )
        if "mpegurl" in body.kind or urlsplit(self._source.reveal()).path.lower().endswith((".m3u8", ".m3u")):
            body.close()
            return self._opened(self._hls())
        return self._opened(self._decoder(body, **PROBE))

    def _pictures(self, source: JpegSource) -> JpegStream:
        stream = JpegStream(source, self._tap)
        stream.admission = self.admission
        return stream

    @staticmethod
    def _opened(decoder: Decoder) -> Decoder:
        decoder.open()
        return decoder

    def _rtsp(self) -> Decoder:
        transport = self._camera.rtsp_transport or self._config.rtsp_transport
        way = {"rtsp_flags": "prefer_tcp"} if transport == "auto" else {"rtsp_transport": transport}
        scheme = self._source.shown.partition(":")[0]
        return self._decoder(self._source.reveal(), protocol_whitelist=_RTSP.get(scheme, _RTSP["rtsp"]), **way, **PROBE)

    def _piped(self) -> Decoder:
        path = self._source.reveal().removeprefix("pipe:")
        self._pipe = open(path if path else os.dup(0), "rb", 0)  # noqa: SIM115  (`close` closes it)
        return self._decoder(self._pipe, **PROBE)

    def _hls(self) -> Decoder:
        address = self._source.reveal()
        return self._decoder(
            address,
            io_open=lambda url, flags, options: self._fetch(url),
            form="hls",
            protocol_whitelist="http,https,tcp,tls,crypto",
            live_start_index="-1",
            http_persistent="0",
            **PROBE,
        )

    def _decoder(self, address: Any, io_open: Any = None, form: str | None = None, **options: str) -> Decoder:
        decoder = Decoder(
            address,
            form=form,
            options=options,
            timeout=(max(0.1, self._config.open_timeout_s), max(0.1, self._config.read_timeout_s)),
            threads=self._config.decoder_threads,
            hwaccel=self._config.hwaccel,
            live=True,
            io_open=io_open,
        )
        decoder.admission = self.admission
        decoder.tap = self._tap
        return decoder

    def _fetch(self, address: str) -> Body:
        own = (urlsplit(self._source.reveal()).hostname or "").lower()
        hosts = {own, *self._camera.allow_hosts}
        body = fetch(address, hosts, max(0.1, self._config.open_timeout_s), max(0.1, self._config.read_timeout_s))
        self._bodies = [*self._bodies[-7:], body]
        return body

    def _skip_backlog(self, flow: DecodedStream) -> None:
        """Discard the frames that FFmpeg kept while it probed the stream (a second of RTSP): they are old and arrive
        together.
        """
        began_s = now_s = time.monotonic()
        for _ in range(round(BACKLOG_S * flow.fps)):
            self._ahead = flow.next()
            before_s, now_s = now_s, time.monotonic()
            fresh = now_s - before_s > 0.2 / flow.fps or now_s - began_s > BACKLOG_S
            if self._ahead is None or fresh or self._source.kind == "pipe":
                break

    def grab(self) -> GrabResult:
        """Take the next frame, however old; "lost" when the connection is gone, "bad" if there was no picture."""
        flow = self._flow
        if flow is None:
            return GrabResult("lost")
        for body in self._bodies:
            body.allow()
        self._now = None  # lets the decoder reuse the memory
        try:
            found, self._ahead = self._ahead or flow.next(), None
        except (HttpError, av.FFmpegError, OSError) as error:
            self.detail = str(error) if isinstance(error, HttpError) else ""
            return GrabResult("lost")
        self._now = found
        if found is None and (passed_s := getattr(flow, "passed_s", None)) is not None:
            return GrabResult("skipped", passed_s if isinstance(flow, Decoder) else None)
        if found is None:
            over: GrabStatus = "end" if self._source.kind == "pipe" else "lost"
            return GrabResult(over if flow.ended else "bad")
        cause: DegradedCause | None = "corrupt" if found.missed or found.corrupt else None
        key = None if flow.codec in ALL_KEYS else found.key
        media_s = found.media_s if found.stamped else None
        return GrabResult("frame", media_s, cause, found.missed, key, found.stamp_s, found.wall_utc)

    def retrieve(self) -> Picture | None:
        """Return the grabbed frame, upright."""
        return None if self._now is None else DecodedPicture(self._now.frame)

    def attach(self, tap: PacketTap) -> None:
        """Let `tap` see the packets; before `open`."""
        self._tap = tap

    def stream(self) -> tuple[str, int]:
        """Return (codec, bytes of video read so far; 0 if they are not counted)."""
        flow = self._flow
        return ("", 0) if flow is None else (flow.codec, int(getattr(flow, "bytes", 0)))

    def close(self) -> None:
        """Close the connection."""
        self._closed.set()
        flow, self._flow = self._flow, None
        self._ahead = self._now = None
        if flow is not None:
            flow.close()
        for body in self._bodies:
            body.close()
        self._bodies = []
        if self._pipe is not None:
            self._pipe.close()
            self._pipe = None
