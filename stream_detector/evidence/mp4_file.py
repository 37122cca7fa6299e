"""One fragmented MP4 file of video, written packet by packet; a crash at any moment leaves complete fragments.

Audio packets are written too if the camera's setting `audio` asks for them.

A file is written under a temporary name (`part_files`) in its folder and renamed when it is complete. All failures
raise OSError with a sentence.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av

from stream_detector.capture.packets import AudioPacket, EncodedPacket, PacketRun, decode_times
from stream_detector.capture.stream_form import StreamForm, open_form
from stream_detector.evidence.part_files import finish_part, forget_part, new_part

# A fragment at every key frame and at least every two seconds; the index (moov) comes first and is never touched again.
_OPTIONS = {"movflags": "frag_keyframe+empty_moov+default_base_moof", "frag_duration": "2000000", "flush_packets": "1"}
# With audio, the index comes with the first fragment: AAC of a transport stream describes itself only in its packets.
# Video waits at most half a second for audio that does not come.
_WITH_AUDIO = {"movflags": "frag_keyframe+delay_moov+default_base_moof", "max_interleave_delta": "500000"}
TIME_BASE = Fraction(1, 90_000)


_TAKEN = {"h264", "hevc", "av1", "vp9", "mpeg4", "mpeg2video", "mpeg1video", "mjpeg"}
AUDIO_TAKEN = {"aac", "mp3", "opus", "ac3", "eac3", "flac", "alac"}


def takes(form: StreamForm) -> bool:
    """Return whether a camera's stream is written into an MP4 file unchanged. JPEGs that this program made are no
    stream.
    """
    return not form.made and form.codec in _TAKEN


class PartialVideo:
    """A video file under its temporary name, until `close` renames it. path: its final name."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.bytes = 0
        self._part: Path | None = None
        self._container: Any = None
        self._stream: Any = None
        self._first_s = 0.0  # media time of the first picture
        self._zero_s = 0.0  # media time that is 0 in the file
        self._audio_form: StreamForm | None = None
        self._audio: Any = None
        self._audio_filter: Any = None
        self._audio_run: PacketRun | None = None
        self._audio_shift = 0  # of the current run's stamps, in the time base of the audio
        self._audio_pts = -1

    def expect_audio(self, form: StreamForm | None) -> None:
        """Set the form of the audio for `write_audio`, before the first picture; a form that MP4 does not support
        counts as none.
        """
        if self._container is None:
            self._audio_form = form if form is not None and form.codec in AUDIO_TAKEN else None

    def write_audio(self, packets: Sequence[AudioPacket]) -> None:
        """Append audio packets, whose media times are known. Raises OSError.

        Packets of another form, and packets from before the first picture, are left out.
        """
        for packet in packets:
            media_s, form = packet.media_s, self._audio_form
            if self._audio is None or form is None or media_s is None or packet.run.audio != form:
                continue
            if packet.run is not self._audio_run:
                self._audio_run = packet.run
                self._audio_shift = round((media_s - self._zero_s) / form.time_base) - packet.pts
            pts = packet.pts + self._audio_shift
            if pts <= self._audio_pts:
                continue
            made: Any = av.Packet(packet.data)
            made.pts = made.dts = self._audio_pts = pts
            made.time_base, made.duration, made.is_keyframe = form.time_base, packet.duration, True
            try:
                for ready in [made] if self._audio_filter is None else self._audio_filter.filter(made):
                    ready.stream = self._audio
                    self._container.mux_one(ready)
            except (av.FFmpegError, ValueError) as error:
                raise OSError(f"the sound of the clip could not be written ({reason_of(error)})") from None
            self.bytes += len(packet.data)

    def _muxer_options(self, options: dict[str, str]) -> dict[str, str]:
        return options if self._audio_form is None else {**options, **_WITH_AUDIO}

    def _add_audio_stream(self) -> None:
        """Add the expected audio stream behind the video's. Raises av.FFmpegError, ValueError."""
        if self._audio_form is None:
            return
        with open_form(self._audio_form) as template:
            stream = template.streams.audio[0]
            self._audio = self._container.add_stream_from_template(stream, opaque=True)
            self._audio.time_base = self._audio_form.time_base
            if self._audio_form.codec == "aac" and not stream.codec_context.extradata:
                self._audio_filter = av.bitstream.BitStreamFilterContext("aac_adtstoasc", stream)

    def close(self) -> bool:
        """Finish and rename; False if nothing was ever written. Raises OSError if the file did not become complete."""
        if self._container is None or self._part is None:
            return False
        part = self._part
        try:
            self._flush()
            self._end()
            finish_part(part, self.path)
        except OSError:
            self.discard()
            raise
        self._part = None
        return True

    def discard(self) -> None:
        """Stop writing and delete the file. Never raises."""
        with contextlib.suppress(OSError):
            self._end()
        if self._part is not None:
            forget_part(self._part)
            self._part = None

    def _flush(self) -> None:
        """Write what an encoder still holds. Raises OSError."""

    def _end(self) -> None:
        container, self._container, self._stream = self._container, None, None
        self._audio = self._audio_filter = None
        if container is None:
            return
        try:
            container.close()
        except (av.FFmpegError, ValueError) as error:
            raise OSError(f"the clip could not be written to its end ({reason_of(error)})") from None


class Mp4File(PartialVideo):
    """A file of one video stream. path: its final name; its folder is created."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.packets = 0
        self._form: StreamForm | None = None
        self._run: PacketRun | None = None
        self._shift = 0  # of the current run's stamps, in the form's time base
        self._last_dts = -1
        self._last_s = 0.0

    @property
    def duration_s(self) -> float:
        """Media time from the first packet to the last, in seconds."""
        return self._last_s - self._first_s

    @property
    def form(self) -> StreamForm | None:
        """Of the packets written; None before the first."""
        return self._form

    def write(self, packets: Sequence[EncodedPacket]) -> None:
        """Append packets, in order of decoding; the first one is a key frame. Their media times are known.

        All have the same form. Raises OSError.
        """
        for run, members in _by_run(packets):
            if self._container is None:
                self._open(run.form)
            if run is not self._run:
                self._begin_run(run, members)
            for packet, dts in zip(members, _decoding(members), strict=True):
                self._write(packet, dts)

    def _open(self, form: StreamForm) -> None:
        self._part = new_part(self.path)
        self._form = form
        try:
            options = self._muxer_options(_OPTIONS)
            self._container = av.open(_address(self._part), "w", format="mp4", options=dict(options))
            with open_form(form) as template:
                self._stream = self._container.add_stream_from_template(template.streams.video[0], opaque=True)
            self._stream.time_base = form.time_base
            self._add_audio_stream()
        except (av.FFmpegError, ValueError) as error:
            self.discard()
            raise OSError(f"video in {form.codec} cannot be written ({reason_of(error)})") from None

    def _begin_run(self, run: PacketRun, members: Sequence[EncodedPacket]) -> None:
        """Map the run's stamps to the file's time: by media time, but never before the packets that were written."""
        first = members[0]
        assert self._form is not None
        base = self._form.time_base
        stamp = first.dts if first.dts is not None else first.pts or 0
        media_s = first.media_s if first.media_s is not None else self._last_s
        if self._run is None:
            self._first_s = self._last_s = media_s
            self._shift = -stamp
            shown = stamp if first.pts is None else first.pts
            self._zero_s = media_s - float((shown - stamp) * base)
        else:
            wanted = round((media_s - self._first_s) / base)
            self._shift = max(wanted, self._last_dts + 1) - stamp
        self._run = run

    def _write(self, packet: EncodedPacket, dts: int) -> None:
        assert self._form is not None
        dts = max(dts + self._shift, self._last_dts + 1)
        pts = dts if packet.pts is None else max(packet.pts + self._shift, dts)
        made: Any = av.Packet(packet.data)
        made.pts, made.dts, made.time_base = pts, dts, self._form.time_base
        made.duration, made.is_keyframe, made.stream = packet.duration, packet.key, self._stream
        try:
            self._container.mux_one(made)
        except (av.FFmpegError, ValueError) as error:
            raise OSError(f"the clip could not be written ({reason_of(error)})") from None
        self._last_dts = dts
        self._last_s = max(self._last_s, packet.media_s or 0.0)
        self.bytes += len(packet.data)
        self.packets += 1


def _by_run(packets: Sequence[EncodedPacket]) -> list[tuple[PacketRun, list[EncodedPacket]]]:
    groups: list[tuple[PacketRun, list[EncodedPacket]]] = []
    for packet in packets:
        if not groups or groups[-1][0] is not packet.run:
            groups.append((packet.run, []))
        groups[-1][1].append(packet)
    return groups


def _decoding(packets: Sequence[EncodedPacket]) -> list[int]:
    """Return decoding times; those that the container does not give are computed from the presentation times."""
    given = [packet.dts for packet in packets]
    if None not in given:
        return [dts for dts in given if dts is not None]
    stamps: list[int] = []
    for packet in packets:
        known = packet.pts if packet.pts is not None else packet.dts
        stamps.append(known if known is not None else (stamps[-1] + 1 if stamps else 0))
    return decode_times(stamps)


def _address(path: Path) -> str:
    return f"file:{path.absolute()}"


def reason_of(error: BaseException) -> str:
    """Return the cause of an error of FFmpeg, without the file's address where there is a shorter text."""
    return getattr(error, "strerror", None) or str(error)
