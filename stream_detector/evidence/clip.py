"""The video of one alarm: the packets of a ring that belong to it, and the file.

It starts at the last key frame before `pre_s` of the alarm's start and ends `post_s` after its end. A late decision
changes nothing: while the alarm lasts, packets are written up to `post_s` behind the newest window that was decided,
and no further.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import takewhile
from pathlib import Path

from stream_detector.capture.packets import AudioPacket, EncodedPacket, PacketRing
from stream_detector.evidence.mp4_file import Mp4File
from stream_detector.evidence.transcode import H264File, Orientation, PacketDecoder, Painter

_BITE = 50  # packets that are encoded again in one step


class PacketCursor:
    """A position in a ring. begin_s: packets are wanted from this media time's key frame on."""

    def __init__(self, ring: PacketRing, begin_s: float) -> None:
        self.lost = 0
        self._ring, self._begin_s = ring, begin_s
        self._serial: int | None = None
        self._broken = False  # packets were lost: nothing can follow before the next key frame
        self._audio_serial = 0

    @property
    def begun(self) -> bool:
        """Whether the first packet was found."""
        return self._serial is not None

    def next_media_s(self) -> float | None:
        """Return the media time of the next key frame; None while there is none."""
        if self._serial is None:
            first = self._ring.key_before(self._begin_s)
            if first is None:
                return None
            self._serial = first - 1
        for packet in self._ring.after(self._serial):
            if packet.key:
                return packet.media_s
        return None

    def next_key_s(self, media_s: float) -> float | None:
        """Decoding time of the first key frame ahead that lies at or after a media time; None while there is none."""
        for packet in self._ring.after(self._serial or 0):
            at_s = packet.media_s
            if packet.key and at_s is not None and at_s >= media_s:
                return packet.due_s
        return None

    def lag_s(self) -> float:
        """Return how far the next packet lies behind the newest of its ring, in seconds."""
        ahead = self._ring.after(self._serial or 0, 1)
        return self.behind_s(ahead[0]) if ahead else 0.0

    def behind_s(self, packet: EncodedPacket) -> float:
        """Return how far a packet lies behind the newest of its ring, in seconds."""
        return self._ring.newest_at_s - packet.at_s

    def take(self, until_s: float, final: bool, limit: int = 1 << 30) -> tuple[list[EncodedPacket], bool]:
        """Return (the next packets up to a media time, whether that time was reached). final: no more packets are
        expected.
        """
        if self._serial is None:
            first = self._ring.key_before(self._begin_s)
            if first is None:
                return [], False
            self._serial = first - 1
        fresh = self._ring.after(self._serial, limit)
        if fresh and fresh[0].serial > self._serial + 1:
            self.lost += fresh[0].serial - self._serial - 1
            self._broken = True
        taken: list[EncodedPacket] = []
        reached = False
        for packet in fresh:
            due_s = packet.due_s
            if due_s is None or due_s > until_s:
                reached = due_s is not None
                break
            taken.append(packet)
        if not (final or reached) and any(packet.dts is None for packet in taken):
            taken = _whole_groups(taken)
        if taken:
            self._serial = taken[-1].serial
        return self._mended(taken), reached

    def take_audio(self, until_s: float) -> list[AudioPacket]:
        """Return the next audio packets up to a media time."""
        taken: list[AudioPacket] = []
        for packet in self._ring.audio_after(self._audio_serial):
            at_s = packet.media_s
            if at_s is None or at_s > until_s:
                break
            taken.append(packet)
        if taken:
            self._audio_serial = taken[-1].serial
        return taken

    def _mended(self, packets: list[EncodedPacket]) -> list[EncodedPacket]:
        if not self._broken:
            return packets
        for number, packet in enumerate(packets):
            if packet.key:
                self._broken = False
                return packets[number:]
        return []


def _whole_groups(packets: list[EncodedPacket]) -> list[EncodedPacket]:
    """Return the packets before the last key frame: missing decoding times are computed per group of pictures."""
    for number in range(len(packets) - 1, -1, -1):
        if packets[number].key:
            return packets[:number]
    return []


class RemuxedVideo:
    """Writes packets unchanged into a file. path: of the file."""

    def __init__(self, path: Path, cursor: PacketCursor) -> None:
        self.cursor = cursor
        self.file = Mp4File(path)
        self.changed = False  # the form of the stream changed: the file ends there

    @property
    def duration_s(self) -> float:
        """Written length in seconds of media time."""
        return self.file.duration_s

    def advance(self, until_s: float, final: bool, pause: Callable[[], object] = lambda: None) -> bool:
        """Write the available packets; True when the video is complete. Raises OSError."""
        packets, reached = self.cursor.take(until_s, final)
        form = self.file.form or (packets[0].run.form if packets else None)
        fitting = list(takewhile(lambda packet: packet.run.form == form, packets))
        if fitting:
            self.file.expect_audio(fitting[0].run.audio)
            self.file.write(fitting)
        if self.file.form is not None:
            self.file.write_audio(self.cursor.take_audio(_audio_end(fitting, until_s, reached or final)))
        self.changed = len(fitting) < len(packets)
        return reached or final or self.changed


def _audio_end(packets: list[EncodedPacket], until_s: float, over: bool) -> float:
    """Return the media time up to which audio belongs to these packets. over: nothing more is written after them."""
    if over:
        return until_s
    due_s = packets[-1].due_s if packets else None
    return float("-inf") if due_s is None else due_s


class TranscodedVideo:
    """Decodes packets, applies the mask, encodes them again, and writes them into a file.

    thin_s: at this distance behind the newest packet, every second picture is encoded, at twice the distance every
    fourth.
    """

    def __init__(
        self, path: Path, cursor: PacketCursor, painter: Painter | None, turned: Orientation, thin_s: float
    ) -> None:
        self.cursor = cursor
        self.file = H264File(path, painter, turned)
        self.changed = False
        self._decoder = PacketDecoder()
        self._count = 0
        self._thin_s = thin_s

    @property
    def duration_s(self) -> float:
        """Written length in seconds of media time."""
        return self.file.duration_s

    def advance(self, until_s: float, final: bool, pause: Callable[[], object] = lambda: None) -> bool:
        """Encode some of the available packets; True when the video is complete. Raises OSError.

        pause: called between pictures.
        """
        packets, reached = self.cursor.take(until_s, final, _BITE)
        every = self._every(packets)
        last = final and len(packets) < _BITE
        if packets:
            self.file.expect_audio(packets[0].run.audio)
        frames = self._decoder.frames(packets)
        for frame, media_s in frames:
            self._count += 1
            if self._count % every == 0:
                self.file.add(frame, media_s)
            pause()
        if reached or last:
            for frame, media_s in self._decoder.flush():
                if media_s <= until_s:
                    self.file.add(frame, media_s)
        self.file.write_audio(self.cursor.take_audio(_audio_end(packets, until_s, reached or last)))
        return reached or last

    def _every(self, packets: list[EncodedPacket]) -> int:
        """Return the interval of the pictures that are encoded, so that a large delay shrinks again."""
        behind_s = self.cursor.behind_s(packets[0]) if packets else 0.0
        return 1 if behind_s < self._thin_s else 2 if behind_s < 2 * self._thin_s else 4
