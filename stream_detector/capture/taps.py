"""Protocols of what packets and whole pictures go to, beside decoder and windower; `evidence` implements them."""

from __future__ import annotations

from typing import Any, Protocol

from stream_detector.config import CameraConfig
from stream_detector.types import UInt8Array


class PacketTap(Protocol):
    """What a decoder tells of its packets; `Connection` implements it. No call blocks or raises.

    wants_audio: whether the audio packets of the source are wanted too.
    """

    wants_audio: bool

    def begin(self, stream: Any, audio: Any = None) -> None:
        """A container was opened. stream, audio: of PyAV; None: no audio, or not wanted."""
        ...

    def add(self, packet: Any) -> None:
        """A packet of PyAV, as demuxed."""
        ...

    def add_audio(self, packet: Any) -> None:
        """An audio packet of PyAV, as demuxed."""
        ...

    def add_jpeg(self, data: bytes, width: int, height: int, arrived_s: float) -> None:
        """A JPEG without a stamp, as a camera sent it. arrived_s: stands for its stamp."""
        ...


class FullPicture(Protocol):
    """One decoded picture, not yet converted; see `picture.Picture`."""

    width: int
    height: int

    def bgr(self, long_side: int | None = None) -> UInt8Array:
        """The whole picture: uint8 (h, w, 3) BGR, a copy."""
        ...


class TapConnection(PacketTap, Protocol):
    """What a capture thread tells of one opened source, beside its decoder."""

    def place(self, stamp_s: float | None, media_s: float) -> None:
        """A frame with this stamp, in seconds, has this media time."""
        ...

    def picture(self, media_s: float, picture: FullPicture) -> None:
        """A decoded picture was handed on, whole."""
        ...


class Taps(Protocol):
    """Where all cameras of a host keep their packets (`evidence.recorder.ClipRecorder`)."""

    def tap(self, camera: CameraConfig, main: bool = False) -> CameraTap:
        """Of one camera. main: of its main stream, which `record_source` names."""
        ...

    def main_offset(self, camera: str) -> float | None:
        """UTC → media time of the scored stream, in seconds, by its sender reports; None without any."""
        ...

    def problem(self, camera: str, sentence: str) -> None:
        """A main stream was lost."""
        ...

    def command(self, command: Any) -> None:
        """Do what the decision side wants (`evidence.messages`). Never blocks."""
        ...

    def drop(self, camera: str) -> None:
        """A camera is gone: its clips end with what there is, and a camera of its name is another one."""
        ...

    def close(self, timeout_s: float) -> bool:
        """Finish what is being written; whether that was done in time. Safe to call twice."""
        ...


class CameraTap(Protocol):
    """Where the packets and pictures of one camera also go (`evidence.camera_tap`)."""

    shift_s: float  # added to the media time of the capture thread

    def connection(self) -> TapConnection:
        """For a reader that is about to open the source; what a former one still brings is refused from now on."""
        ...
