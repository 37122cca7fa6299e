"""What must be known of a stream before its first packet; it outlives the container and may cross processes."""

from __future__ import annotations

import io
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import av


@dataclass(frozen=True, slots=True)
class StreamForm:
    """What a muxer or a decoder must know of a stream before its first packet. It may travel between processes.

    codec: FFmpeg's name of the format, such as "h264".  width, height: in pixels, as coded.
    time_base: of the packets' stamps, in seconds.  header: the stream's parameters (NUT header), see `open_form`.
    made: these are JPEGs that we made of pictures.
    """

    codec: str
    width: int
    height: int
    time_base: Fraction
    header: bytes
    made: bool = False


def form_of(stream: Any) -> StreamForm | None:
    """The form of an opened stream of PyAV; None where it cannot be told."""
    try:
        codec = stream.codec_context.codec.canonical_name
        return StreamForm(codec, stream.width, stream.height, stream.time_base, _header(stream))
    except (av.FFmpegError, ValueError, TypeError, AttributeError):
        return None


def audio_form_of(stream: Any) -> StreamForm | None:
    """The form of an opened audio stream of PyAV, with a size of 0; None where it cannot be told."""
    try:
        codec = stream.codec_context.codec.canonical_name
        return StreamForm(codec, 0, 0, stream.time_base, _header(stream))
    except (av.FFmpegError, ValueError, TypeError, AttributeError):
        return None


def open_form(form: StreamForm) -> Any:
    """An input container of PyAV whose one stream has this form, as a template or to decode packets with.

    The caller closes it. Raises av.FFmpegError.
    """
    return av.open(io.BytesIO(form.header), format="nut", options={"probesize": "32"})


def _header(stream: Any) -> bytes:
    """The stream's parameters as a NUT file of one empty packet: NUT keeps the codec's private data as they are."""
    data = io.BytesIO()
    with av.open(data, "w", format="nut") as container:
        copy: Any = container.add_stream_from_template(stream, opaque=True)
        empty: Any = av.Packet(bytes(4))
        empty.pts = empty.dts = 0
        empty.time_base, empty.stream, empty.is_keyframe = stream.time_base, copy, True
        container.mux_one(empty)
    return data.getvalue()


def jpeg_form(width: int, height: int, made: bool) -> StreamForm:
    base = Fraction(1, 90_000)
    data = io.BytesIO()
    with av.open(data, "w", format="nut") as container:
        stream: Any = container.add_mux_stream("mjpeg", width=width, height=height, time_base=base)
        empty: Any = av.Packet(bytes(4))
        empty.pts = empty.dts = 0
        empty.time_base, empty.stream, empty.is_keyframe = base, stream, True
        container.mux_one(empty)
    return StreamForm("mjpeg", width, height, base, data.getvalue(), made)
