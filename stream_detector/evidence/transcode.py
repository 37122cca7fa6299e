"""Packets → H.264, encoded anew: for privacy masks, for pictures without packets, and for codecs no browser plays.

libx264 in one thread that gives way to all others, within a budget of CPU time; what it cannot do in time it does with
fewer pictures a second.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any, Protocol

import av
import numpy as np

from stream_detector.capture.packets import EncodedPacket, PacketRun
from stream_detector.capture.stream_form import open_form
from stream_detector.evidence.mp4_file import PartialVideo, reason_of
from stream_detector.evidence.part_files import new_part
from stream_detector.types import UInt8Array

_TIME_BASE = Fraction(1, 90_000)
_GROUP_S = 2.0  # between key frames
_ENCODER = "libx264"
_X264 = {"preset": "veryfast", "crf": "24", "bf": "0", "threads": "1", "rc-lookahead": "0", "sync-lookahead": "0"}
_PLAYED = {"h264": {"yuv420p", "yuvj420p"}, "vp9": {"yuv420p"}, "av1": {"yuv420p"}, "vp8": {"yuv420p"}}


Orientation = tuple[int, bool]  # quarter turns against the clock, and whether mirrored left to right before them
UPRIGHT: Orientation = (0, False)


class Painter(Protocol):
    """Blanks out parts of a picture; `capture.bgr.MaskPainter`."""

    def cover(self, height: int, width: int) -> Any:
        """bool (height, width): what is covered."""
        ...


class H264File(PartialVideo):
    """A fragmented MP4 file of pictures, encoded here. path: where it will lie.

    painter: of the privacy mask, in shares of the upright picture.  turned: what makes the pictures upright.
    fast_start: an ordinary MP4 file with its index in front, instead of a fragmented one.
    """

    def __init__(
        self,
        path: Path,
        painter: Painter | None = None,
        turned: Orientation = UPRIGHT,
        fast_start: bool = False,
    ) -> None:
        super().__init__(path)
        self._painter, self._turned = painter, turned
        flags = "faststart" if fast_start else "frag_keyframe+empty_moov+default_base_moof"
        self._options = {"movflags": flags, "flush_packets": "1"}
        self._last = -1
        self._key_s = float("-inf")
        self._size = (0, 0)
        self.last_s = 0.0

    @property
    def duration_s(self) -> float:
        """Media time from the first picture to the last, in seconds."""
        return self.last_s - self._first_s

    def add(self, frame: av.VideoFrame, media_s: float) -> None:
        """Encode a picture at a media time in seconds, later than that of the one before. Raises OSError."""
        frame = upright(frame, self._turned)
        if self._container is None:
            self._open(frame, media_s)
        pts = round((media_s - self._first_s) / _TIME_BASE)
        if pts <= self._last:
            return
        image = frame.reformat(*self._size, format="yuv420p", threads=1)
        if self._painter is not None:
            planes = np.asarray(image.to_ndarray(), np.uint8)
            image = av.VideoFrame.from_ndarray(paint_yuv(planes, self._painter), format="yuv420p")
        image.pts, image.time_base = pts, _TIME_BASE
        image.pict_type = av.video.frame.PictureType.NONE
        if media_s - self._key_s >= _GROUP_S:
            image.pict_type = av.video.frame.PictureType.I
            self._key_s = media_s
        self._last, self.last_s = pts, media_s
        self._encode(image)

    def _open(self, frame: av.VideoFrame, media_s: float) -> None:
        self._size = (max(2, frame.width // 2 * 2), max(2, frame.height // 2 * 2))  # colour is stored at half size
        self._first_s = self._zero_s = self.last_s = media_s
        self._part = new_part(self.path)
        try:
            options = self._muxer_options(self._options)
            self._container = av.open(f"file:{self._part.absolute()}", "w", format="mp4", options=options)
            stream: Any = self._container.add_stream(_ENCODER, rate=25, options=dict(_X264))
            self._add_audio_stream()
        except (av.FFmpegError, ValueError) as error:
            self.discard()
            raise OSError(f"this PyAV cannot write H.264 ({error}); install av from PyPI") from None
        stream.width, stream.height = self._size
        stream.pix_fmt = "yuv420p"
        stream.codec_context.time_base = stream.time_base = _TIME_BASE
        self._stream = stream

    def _encode(self, frame: av.VideoFrame | None) -> None:
        try:
            for packet in self._stream.encode(frame):
                self.bytes += packet.size
                self._container.mux_one(packet)
        except (av.FFmpegError, ValueError) as error:
            raise OSError(f"the clip could not be encoded ({reason_of(error)})") from None

    def _flush(self) -> None:
        self._encode(None)


class PacketDecoder:
    """Packets of a ring → frames with their media times."""

    def __init__(self) -> None:
        self._run: PacketRun | None = None
        self._container: Any = None
        self._context: Any = None

    def frames(self, packets: Sequence[EncodedPacket]) -> Iterator[tuple[av.VideoFrame, float]]:
        """(frame, media time) of each packet that can be decoded; after a change of run it begins at a key frame."""
        for packet in packets:
            if packet.run is not self._run:
                yield from self.flush()
                if not packet.key or not self._open(packet.run):
                    continue
            made: Any = av.Packet(packet.data)
            made.pts, made.dts, made.time_base = packet.pts, packet.dts, packet.run.form.time_base
            with contextlib.suppress(av.FFmpegError, ValueError, OSError):
                yield from self._timed(self._context.decode(made))

    def flush(self) -> Iterator[tuple[av.VideoFrame, float]]:
        """What the decoder still holds; then it is closed."""
        if self._context is not None:
            with contextlib.suppress(av.FFmpegError, ValueError, OSError):
                yield from self._timed(self._context.decode(None))
        self.close()

    def close(self) -> None:
        """Let go of the decoder. Safe to call twice."""
        container, self._container, self._context, self._run = self._container, None, None, None
        if container is not None:
            container.close()

    def _open(self, run: PacketRun) -> bool:
        try:
            self._container = open_form(run.form)
        except (av.FFmpegError, ValueError, OSError):
            return False
        self._context = self._container.streams.video[0].codec_context
        self._context.thread_count = 1
        self._run = run
        return True

    def _timed(self, frames: Sequence[av.VideoFrame]) -> Iterator[tuple[av.VideoFrame, float]]:
        run = self._run
        for frame in frames:
            if run is not None and run.offset_s is not None and frame.pts is not None:
                yield frame, float(frame.pts * run.form.time_base) + run.offset_s


class CpuBudget:
    """Holds the calling thread to a share of one core. cores: CPU seconds a second.  pause(seconds): sleeps."""

    def __init__(self, cores: float, pause: Callable[[float], object] = time.sleep) -> None:
        self._cores, self._pause = max(0.01, cores), pause
        self._cpu_s = time.thread_time()
        self._wall_s = time.monotonic()

    def spend(self) -> None:
        """Call it between pieces of work: it waits until what was used is within the budget."""
        used_s = time.thread_time() - self._cpu_s
        passed_s = time.monotonic() - self._wall_s
        behind_s = used_s / self._cores - passed_s
        if behind_s > 0.01:
            self._pause(min(behind_s, 1.0))
        elif behind_s < -2.0:  # idle time is not saved up
            self._cpu_s, self._wall_s = time.thread_time(), time.monotonic()


def upright(frame: av.VideoFrame, turned: Orientation) -> av.VideoFrame:
    """The frame, turned as its file says."""
    if turned == UPRIGHT:
        return frame
    image = np.asarray(frame.to_ndarray(format="bgr24"), np.uint8)
    if turned[1]:
        image = image[:, ::-1]
    image = np.asarray(np.ascontiguousarray(np.rot90(image, turned[0])), np.uint8)
    return av.VideoFrame.from_ndarray(image, format="bgr24")


def paint_yuv(planes: UInt8Array, painter: Painter) -> UInt8Array:
    """A yuv420p picture, uint8 (h × 3/2, w) as PyAV gives it, painted mid-grey in place under the mask."""
    rows, width = planes.shape
    height = rows * 2 // 3
    flat = planes.reshape(-1)
    size, quarter = width * height, width * height // 4
    flat[:size].reshape(height, width)[painter.cover(height, width)] = 127
    small = painter.cover(height // 2, width // 2)
    for begin in (size, size + quarter):
        flat[begin : begin + quarter].reshape(height // 2, width // 2)[small] = 128
    return planes


def is_playable(path: Path) -> bool:
    """Whether browsers play the video of a file. Raises OSError for a file that cannot be opened."""
    try:
        with av.open(str(path)) as container:
            stream: Any = container.streams.video[0]
            context = stream.codec_context
            return context.pix_fmt in _PLAYED.get(context.codec.canonical_name, set())
    except (av.FFmpegError, IndexError, ValueError) as error:
        raise OSError(f"{path.name} cannot be read as video ({error})") from None


def browser_copy(path: Path, copy: Path, cores: float = 1.0) -> None:
    """Write an H.264 copy of a clip, whole or not at all. Blocks for as long as encoding takes. Raises OSError."""
    budget = CpuBudget(cores)
    out = H264File(copy, fast_start=True)
    try:
        with av.open(str(path)) as container:
            stream: Any = container.streams.video[0]
            stream.codec_context.thread_count = 1
            for frame in container.decode(stream):
                if frame.pts is not None and frame.time_base is not None:
                    out.add(frame, float(frame.pts * frame.time_base))
                    budget.spend()
        if not out.close():
            raise OSError("no picture of it can be decoded")
    except (av.FFmpegError, ValueError, IndexError) as error:
        out.discard()
        raise OSError(f"{path.name} cannot be decoded ({error})") from None
    except OSError:
        out.discard()
        raise
