"""Videos made by PyAV for the tests of evidence, in any codec and container; each picture tells its second."""

from __future__ import annotations

import io
from collections.abc import Iterable
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np

from stream_detector.capture.packets import Connection, PacketRing
from stream_detector.types import UInt8Array

QUIET = {"libx265": {"preset": "ultrafast", "x265-params": "log-level=none"}, "libx264": {"preset": "veryfast"}}


def picture(number: int, size: tuple[int, int] = (160, 96), fps: float = 25.0) -> UInt8Array:
    """BGR; its left half is a grey that tells the second, its right half a bar that moves."""
    image = np.full((size[1], size[0], 3), 30 + 6 * int(number / fps) % 200, np.uint8)
    at = size[0] // 2 + number * 3 % (size[0] // 2 - 8)
    image[:, at : at + 8] = 230
    return image


def second_of(image: UInt8Array) -> int:
    """The second that a picture tells."""
    rows, columns = image.shape[:2]
    return round((float(image[rows // 4 : rows // 2, 4 : columns // 3].mean()) - 30) / 6)


def make_video(
    path: Path | io.BytesIO,
    seconds: float = 10.0,
    codec: str = "libx264",
    form: str | None = None,
    *,
    fps: int = 25,
    group: int = 25,
    size: tuple[int, int] = (160, 96),
    options: dict[str, str] | None = None,
    first: int = 0,
    sound: str = "",
    tone_s: float = 5.0,
) -> None:
    """Write a video whose pictures tell their second. sound: codec of the audio: a tone for a second from tone_s on."""
    target: Any = str(path) if isinstance(path, Path) else path
    with av.open(target, "w", format=form) as container:
        stream: Any = container.add_stream(codec, rate=fps, options=options or dict(QUIET.get(codec, {})))
        stream.width, stream.height = size
        stream.pix_fmt = "yuvj420p" if codec == "mjpeg" else "yuv420p"
        stream.codec_context.gop_size = group
        heard: Any = container.add_stream(sound, rate=8000 if "pcm" in sound else 48_000) if sound else None
        if heard is not None and "pcm" in sound:
            heard.layout = "mono"
        for number in range(round(seconds * fps)):
            if heard is not None and number % fps == 0:
                container.mux(heard.encode(second_of_sound(number // fps, tone_s, heard)))
            frame = av.VideoFrame.from_ndarray(picture(first + number, size, fps), "bgr24")
            frame.pts, frame.time_base = number, Fraction(1, fps)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
        if heard is not None:
            container.mux(heard.encode(None))


def second_of_sound(second: int, tone_s: float, stream: Any) -> av.AudioFrame:
    """One second of audio for an encoder: silence, but for one second of a tone."""
    rate = stream.rate
    at_s = second + np.arange(rate) / rate
    wave = np.where((at_s >= tone_s) & (at_s < tone_s + 1), 0.5 * np.sin(2 * np.pi * 440 * at_s), 0.0)
    frame = av.AudioFrame.from_ndarray(wave.astype(np.float32)[None], format="fltp", layout="mono")
    frame.sample_rate, frame.pts, frame.time_base = rate, second * rate, Fraction(1, rate)
    (made,) = av.AudioResampler(stream.format.name, stream.layout.name, rate).resample(frame)
    return made


def tone_of(path: Path) -> tuple[float, float] | None:
    """(begin, end) in seconds of the tone in a file's audio; None without audio."""
    loud: list[tuple[float, float]] = []
    with av.open(str(path)) as container:
        if not container.streams.audio:
            return None
        for frame in container.decode(audio=0):
            samples = np.abs(frame.to_ndarray().astype(np.float64))
            if frame.time is not None and samples.max() > (0.2 if samples.max() <= 2 else 6000):
                loud.append((frame.time, frame.time + frame.samples / frame.sample_rate))
    return (loud[0][0], loud[-1][1]) if loud else (-1.0, -1.0)


def fill(ring: PacketRing, path: Path, *, shift_s: float = 0.0, connection: Connection | None = None) -> Connection:
    """All packets of a file into a ring, each placed at its stamp plus shift_s; also the audio, if it is wanted."""
    connection = connection or Connection(ring)
    ring.use(connection)
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        audio = container.streams.best("audio") if connection.wants_audio else None
        connection.begin(stream, audio)
        for packet in container.demux(*[each for each in (stream, audio) if each is not None]):
            if packet.size and packet.stream is audio:
                connection.add_audio(packet)
            elif packet.size:
                connection.add(packet)
                if packet.pts is not None:
                    stamp_s = float(packet.pts * packet.time_base)
                    connection.place(stamp_s, stamp_s + shift_s)
    return connection


def read_back(path: Path) -> tuple[list[float], list[int]]:
    """(presentation times, seconds that the pictures tell) of a file."""
    times, seconds = [], []
    with av.open(str(path)) as container:
        for frame in container.decode(video=0):
            times.append(float(frame.pts * frame.time_base))
            seconds.append(second_of(frame.to_ndarray(format="bgr24")))
    return times, seconds


def units(data: bytes) -> list[bytes]:
    """The NAL units of Annex B data."""
    parts = data.replace(b"\0\0\0\1", b"\0\0\1").split(b"\0\0\1")
    return [part.rstrip(b"\0") for part in parts if part]


def coded_units(path: Path, codec: str) -> list[bytes]:
    """All NAL units of a file's video but parameter sets, delimiters and SEI of the encoder's settings."""
    found = []
    with av.open(str(path)) as container:
        stream: Any = container.streams.video[0]
        name = {"h264": "h264_mp4toannexb", "hevc": "hevc_mp4toannexb"}[codec]
        packets: Iterable[Any] = container.demux(stream)
        extra = bytes(stream.codec_context.extradata or b"")
        convert = extra[:1] == b"\1"
        context = av.bitstream.BitStreamFilterContext(name, stream) if convert else None
        for packet in packets:
            if not packet.size:
                continue
            for done in context.filter(packet) if context else [packet]:
                found += [unit for unit in units(bytes(done)) if not _is_parameter(unit, codec)]
    return found


def _is_parameter(unit: bytes, codec: str) -> bool:
    kind = unit[0] & 0x1F if codec == "h264" else unit[0] >> 1 & 0x3F
    return kind in ({7, 8, 9} if codec == "h264" else {32, 33, 34, 35})
