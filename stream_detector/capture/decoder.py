"""Opens a container and decodes its video stream with PyAV: packets in, frames with time stamps and damage flags out.

The values that a container declares (number of frames, rate, duration) decide nothing here. PyAV keeps FFmpeg's own log
lines quiet by default. FFmpeg's errors never leave this module unchanged, because they contain the whole address.
"""

from __future__ import annotations

import contextlib
import ctypes
import logging
import math
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import av
import av.error
import av.stream
import numpy as np
from av.codec.hwaccel import HWAccel, hwdevices_available

from stream_detector.capture.admission import Admission
from stream_detector.capture.http_io import HttpError
from stream_detector.capture.media_clock import MediaClock
from stream_detector.capture.packets import sender_time
from stream_detector.capture.taps import PacketTap

DEFAULT_FPS = 25.0
MAX_FPS = 240.0
MIN_FPS = 0.001
FAILURES_AT_ONCE = 64  # `next` returns after this many packets without a picture
AUDIO_AT_ONCE = 1000  # audio packets in a row after which a source counts as one that sends no video any more
WALL_S = 30.0  # from a picture whose UTC was told to another; beyond it, the other's is not known
READ_ERRORS = 8  # this many container errors in a row end the source
MAX_PIXELS = 8192 * 8192  # pixels of one picture; a larger picture is refused before memory is allocated for it
MAX_ALLOCATION = 512 << 20  # bytes of one allocation by FFmpeg: a header of 2 GB is refused, not read
log = logging.getLogger(__name__)


class DecodeError(Exception):
    """A source cannot be opened or holds nothing to decode. The text completes "source NAME …", for instance "is …". It
    contains no address.
    """


class UnknownCodecError(DecodeError):
    """There is a video stream, but no decoder for it; FFmpeg does not report the names of unknown codecs."""


@dataclass(frozen=True, slots=True)
class DecodedFrame:
    """One decoded frame.

    media_s: media time, in seconds.  cut: whether the time stamps jumped before this frame.  missed: packets lost
    directly before it.  corrupt: whether the decoder reports concealed damage.  key: whether it is a key frame.
    stamped: whether media_s is a real time stamp.  stamp_s: the time stamp as the container gives it.  wall_utc: UTC of
    the picture according to the camera's RTCP sender reports.
    """

    frame: av.VideoFrame
    media_s: float
    cut: bool
    missed: int
    corrupt: bool
    key: bool
    stamped: bool = True
    stamp_s: float | None = None
    wall_utc: float | None = None


class Decoder:
    """One opened source.

    address: what FFmpeg opens (a secret that is never shown), or an open file.  timeout: seconds for opening and for
    each read; None: no limit.  options: options of FFmpeg.  threads: threads of the decoder.  hwaccel: name of a device
    such as "cuda", or ""; if the device fails, decoding uses software.  `open` raises DecodeError. `next` raises
    av.FFmpegError for a network source that breaks; files end instead.
    """

    def __init__(
        self,
        address: Any,
        *,
        form: str | None = None,
        options: Mapping[str, str] | None = None,
        timeout: tuple[float, float] | None = None,
        threads: int = 1,
        hwaccel: str = "",
        live: bool = False,
        io_open: Callable[[str, int, dict[str, str]], Any] | None = None,
    ) -> None:
        self.fps = DEFAULT_FPS  # an estimate until frames have arrived
        self.duration_s: float | None = None  # declared by the container; only for display
        self.codec = ""
        self.packets = 0
        self.bytes = 0  # bytes of the video packets
        self.pictures = 0
        self.keys = 0
        self.damaged = 0  # packets that caused an error, and pictures flagged as damaged
        self.broken_end = False  # whether the last packet was truncated
        self.tap: PacketTap | None = None  # sees the packets on their way to the decoder; set it before `open`
        self._address, self._form, self._options = address, form, dict(options or {})
        self._timeout, self._threads, self._hwaccel, self._live = timeout, threads, hwaccel, live
        self._io_open = io_open
        self._container: av.container.InputContainer | None = None
        self._stream: Any = None
        self._streams: tuple[Any, ...] = ()  # those that are demuxed: the video, and the audio if the tap wants it
        self._demuxed: Iterator[Any] = iter(())
        self._ready: deque[tuple[av.VideoFrame, int]] = deque()
        self._missed = 0
        self._ended = False
        self._clock = MediaClock()
        self.admission: Admission | None = None  # says which packets are decoded; None: all
        self.passed_s: float | None = None  # media time of the packet that the last `next` passed over
        self._passes = False
        self._duration: int | None = -1  # of the last frame, in its time base; frames of one length have one step
        self._step_s: float | None = None
        self._wall: tuple[float, float] | None = None  # (stamp, UTC) of the newest picture whose UTC was told

    def open(self) -> None:
        """Open the container and its decoder. FFmpeg decodes only what it needs to identify the streams."""
        accel = HWAccel(self._hwaccel, allow_software_fallback=True) if has_device(self._hwaccel) else None
        begun_s = time.monotonic()
        try:
            self._open(accel)
        except (DecodeError, HttpError):
            self.close()
            raise
        except (av.FFmpegError, OSError, ValueError, RuntimeError) as error:
            self.close()
            waited = self._timeout is not None and time.monotonic() - begun_s > 0.9 * self._timeout[0]
            why = "did not answer in time" if waited else _why(error)
            if self._live and isinstance(error, av.error.InvalidDataError) and not waited:
                why = "sends no video that can be decoded"
            raise DecodeError(why) from None

    def _open(self, accel: HWAccel | None) -> None:
        container = av.open(
            self._address,
            format=self._form,
            options={"max_pixels": str(MAX_PIXELS), **self._options},
            metadata_errors="replace",
            timeout=self._timeout,
            hwaccel=accel,
            io_open=self._io_open,
        )
        self._container = container
        stream = self._stream = self._choose(container)
        context = stream.codec_context
        context.thread_count = self._threads
        if self._threads > 1:
            context.thread_type = "AUTO"
        context.options = {"max_pixels": str(MAX_PIXELS)}
        self.codec = context.name
        rate = stream.average_rate or stream.guessed_rate
        self.fps = sane_fps(float(rate) if rate else 0.0)
        self.duration_s = container.duration / av.time_base if container.duration else None
        start_s = None if container.start_time is None else container.start_time / av.time_base
        self._clock = MediaClock(start_s, may_jump=bool(container.format.flags & _TS_DISCONT))
        audio = (
            container.streams.best("audio", related=stream) if self.tap is not None and self.tap.wants_audio else None
        )
        self._streams = (stream,) if audio is None else (stream, audio)
        self._demuxed = container.demux(*self._streams)
        if self.tap is not None:
            self.tap.begin(stream, audio)

    @staticmethod
    def _choose(container: av.container.InputContainer) -> Any:
        """Return the stream to decode. Raises DecodeError, worded for users, if there is none."""
        kinds = [stream.type for stream in container.streams]
        films = [s for s in container.streams.video if not s.disposition & av.stream.Disposition.attached_pic]
        if not films:
            if container.streams.video:
                raise DecodeError("holds a cover picture but no video")
            if "audio" in kinds:
                raise DecodeError("holds sound but no video")
            raise DecodeError("holds no video stream")
        able = [s for s in films if s.codec_context is not None]
        if not able:
            raise UnknownCodecError("holds video encoded in a way that this build cannot decode")
        best = container.streams.best("video")
        return best if best in able else max(able, key=lambda s: (s.width or 0) * (s.height or 0))

    def next(self) -> DecodedFrame | None:
        """Return the next frame, or None if there is none at the moment; then `ended` says whether the source has
        ended.
        """
        failures = 0
        while not self._ready:
            packet = self._packet()
            if packet is None:
                return None
            if self._passed_over(packet):
                return None
            before = len(self._ready)
            self._decode(packet)
            failures += len(self._ready) == before
            if failures >= FAILURES_AT_ONCE and not self._ready:
                return None
        frame, missed = self._ready.popleft()
        return self._convert(frame, missed)

    def next_packet(self) -> tuple[float | None, float | None] | None:
        """Return (stamp, UTC or None) of the next packet, in seconds, without decoding it; None at the end."""
        packet = self._packet()
        if packet is None or not packet.size:
            return None
        stamp_s = None if packet.pts is None else float(packet.pts * packet.time_base)
        return stamp_s, self._utc(stamp_s)

    @property
    def ended(self) -> bool:
        """Whether the source has ended."""
        return self._ended and not self._ready

    def _packet(self) -> Any:
        """Return the next packet of the stream, the empty packet that flushes the decoder, or None at the end."""
        for _ in range(READ_ERRORS):
            if self._ended or self._container is None:
                return None
            try:
                packet = self._video_packet()
            except StopIteration:
                self._ended = True
                return None
            except (av.FFmpegError, OSError):
                if self._live:
                    raise
                self._lost()  # a damaged part of a file: continue behind it
                self._demuxed = self._container.demux(*self._streams)
                continue
            if packet is not None and packet.size:
                self.packets += 1
                self.bytes += packet.size
                self.broken_end = packet.is_corrupt
                self._seen(packet)
            return packet
        self._ended = True
        return None

    def _video_packet(self) -> Any:
        """Return the next packet of the video stream, or None after AUDIO_AT_ONCE others, which the tap gets."""
        for _ in range(AUDIO_AT_ONCE):
            packet = next(self._demuxed)
            if packet.stream_index == self._stream.index:
                return packet
            if packet.size and self.tap is not None:
                self.tap.add_audio(packet)
        return None

    def _passed_over(self, packet: Any) -> bool:
        """Whether the packet is not decoded because there is no time to score it; `passed_s` is then its time."""
        self.passed_s = None
        if self.admission is None or not packet.size:
            return False
        passes = not self.admission.wanted(bool(packet.is_keyframe))
        if self._passes and not passes:
            self._stream.codec_context.flush_buffers()  # what it still holds belongs to before
        self._passes = passes
        if passes:
            stamp_s = None if packet.pts is None else float(packet.pts * packet.time_base)
            self.passed_s, _ = self._clock.time(stamp_s, 1.0 / self.fps)
        return passes

    def _seen(self, packet: Any) -> None:
        if self.tap is not None:
            self.tap.add(packet)
        if self._live and packet.pts is not None and (wall_utc := sender_time(packet)) is not None:
            self._wall = (float(packet.pts * packet.time_base), wall_utc)

    def _decode(self, packet: Any) -> None:
        try:
            frames = packet.decode()
        except av.error.EOFError:
            return
        except (av.FFmpegError, OSError, ValueError):
            self._lost()
            return
        for frame in frames:
            if not self.pictures and is_all_zero(frame):
                self._lost()  # the decoder reported success but gave no picture
                continue
            self.pictures += 1
            self.keys += bool(frame.key_frame)
            self.damaged += bool(frame.is_corrupt)
            self._ready.append((frame, self._missed))
            self._missed = 0

    def _lost(self) -> None:
        self._missed += 1
        self.damaged += 1

    def _convert(self, frame: av.VideoFrame, missed: int) -> DecodedFrame:
        stamp_s: float | None = frame.time
        if frame.duration != self._duration:
            self._duration, base = frame.duration, frame.time_base
            length_s = float(frame.duration * base) if frame.duration and base is not None else 0.0
            self._step_s = length_s if 1 / MAX_FPS <= length_s <= 10.0 else None
        step_s = self._step_s or 1.0 / self.fps
        media_s, cut = self._clock.time(stamp_s, step_s)
        corrupt, key = bool(frame.is_corrupt), bool(frame.key_frame)
        return DecodedFrame(frame, media_s, cut, missed, corrupt, key, stamp_s=stamp_s, wall_utc=self._utc(stamp_s))

    def _utc(self, stamp_s: float | None) -> float | None:
        if self._wall is None or stamp_s is None or abs(stamp_s - self._wall[0]) > WALL_S:
            return None
        return self._wall[1] + stamp_s - self._wall[0]

    def seek(self, media_s: float) -> bool:
        """Seek to the key frame at or before a media time; return False if the source cannot seek.

        Media time still counts from the start of the container. A source without time stamps, or with jumps, cannot
        seek.
        """
        container = self._container
        if container is None or container.start_time is None or bool(container.format.flags & _NO_STAMPS):
            return False
        try:
            container.seek(container.start_time + int(media_s * av.time_base), backward=True)
        except (av.FFmpegError, OSError):
            return False
        self._ready.clear()
        self._ended = False
        self._clock = MediaClock(container.start_time / av.time_base)
        self._demuxed = container.demux(*self._streams)
        return True

    def last_byte(self) -> int:
        """Return the end of the last picture in the container's index, as a byte position; 0 without an index."""
        entries: Any = getattr(self._stream, "index_entries", None)
        if entries is None or not len(entries):
            return 0
        newest = [entries[k] for k in range(max(0, len(entries) - 8), len(entries))]
        return max(int(entry.pos + entry.size) for entry in newest)

    def close(self) -> None:
        """Release the source. Safe to call twice."""
        container, self._container, self._stream = self._container, None, None
        self._demuxed = iter(())
        self._ready.clear()
        self._ended = True
        if container is not None:
            container.close()


@lru_cache(8)
def has_device(name: str) -> bool:
    """Whether a device for hardware decoding can be used here. If not, the log reports it once, in one sentence."""
    if not name:
        return False
    for codec in ("h264", "hevc"):
        with contextlib.suppress(av.FFmpegError, OSError, ValueError, RuntimeError, NotImplementedError):
            HWAccel(name, allow_software_fallback=True).create(av.Codec(codec, "r"))
            return True
    devices = ", ".join(hwdevices_available()) or "none"
    log.warning("hardware decoding by %s does not work here (this build knows %s); decoding in software", name, devices)
    return False


def is_all_zero(frame: av.VideoFrame) -> bool:
    """Return whether all planes are zero. No black picture is; some decoders return this for what they cannot
    decode."""
    if frame.format.is_rgb or len(frame.planes) < 3:
        return False
    return not any(np.frombuffer(memoryview(plane), np.uint8)[::13].any() for plane in frame.planes)


def sane_fps(fps: float) -> float:
    """Return `fps` if it is plausible, otherwise DEFAULT_FPS."""
    return fps if math.isfinite(fps) and MIN_FPS <= fps <= MAX_FPS else DEFAULT_FPS


def _why(error: BaseException) -> str:
    """Return half a sentence on why a source cannot be opened. It quotes nothing from the library, whose text holds the
    address.
    """
    if isinstance(error, av.error.DecoderNotFoundError):
        return "uses an encoding that this build cannot decode"
    if isinstance(error, av.error.InvalidDataError | av.error.DemuxerNotFoundError):
        return "is not a video that can be decoded, or was cut off before its index was written"
    if isinstance(error, av.error.PermissionError | PermissionError):
        return "may not be read"
    if isinstance(error, av.error.ExitError | TimeoutError):
        return "did not answer in time"
    if isinstance(error, av.error.HTTPUnauthorizedError | av.error.HTTPForbiddenError):
        return "refuses user or password"
    if isinstance(error, av.error.HTTPNotFoundError):
        return "has no stream of that name"
    if isinstance(error, av.error.ConnectionRefusedError):
        return "refused the connection"
    if isinstance(error, av.error.MemoryError | MemoryError):
        return "sends more than can be taken at once"
    return "gives no video that can be read"


def _limit_allocations() -> None:
    """Limit the size of FFmpeg's single allocations; PyAV has no call for it. Without the library file there is no
    limit.
    """
    folder = Path(av.__file__).parent
    for path in [*(folder.parent / "av.libs").glob("libavutil*.so*"), *(folder / ".dylibs").glob("libavutil*.dylib")]:
        with contextlib.suppress(OSError, AttributeError):
            ctypes.CDLL(str(path)).av_max_alloc(ctypes.c_size_t(MAX_ALLOCATION))


_limit_allocations()
_NO_STAMPS = 0x0080  # FFmpeg's AVFMT_NOTIMESTAMPS
_TS_DISCONT = 0x0200  # FFmpeg's AVFMT_TS_DISCONT: the clock of this format may restart in the middle
