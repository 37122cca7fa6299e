"""Encoded packets on their way past the decoder: a ring per camera, bounded in bytes, on the camera's media time.

    Decoder ──packet──▶ Connection.add ─▶ PacketRing ─▶ clips, recordings (`evidence`)
    Capture ──frame───▶ Connection.place   (the stamp of a frame and the media time that it got)

A ring keeps whole groups of pictures: it begins with a key frame. Readers of the ring hold a cursor, the serial number
of the last packet that they took; they never hold the ring back. What they did not take in time is gone.
"""

from __future__ import annotations

import math
import struct
import threading
from collections import deque
from dataclasses import dataclass
from itertools import islice
from typing import Any

from stream_detector.capture.stream_form import StreamForm, audio_form_of, form_of, jpeg_form

JUMP_S = 10.0  # a step of the stamps by more than this, or backwards by more than BACK_S, begins a new run
BACK_S = 1.0
_SLACK_S = 1.0  # a frame belongs to a run whose stamps reach from so much before to so much after its own
_RUNS = 8
_STEP_S = 0.04  # from packet to packet, where neither stamps nor durations say
_PRFT = "prft"  # FFmpeg's producer reference time: what an RTCP sender report says of this packet


@dataclass(slots=True, eq=False)
class PacketRun:
    """Packets whose stamps follow on from each other. offset_s: media time less stamp, in seconds; None: not known yet.

    low_s, high_s: the stamps seen, in seconds.  audio: the form of the audio packets beside them.
    """

    form: StreamForm
    audio: StreamForm | None = None
    offset_s: float | None = None
    low_s: float = math.inf
    high_s: float = -math.inf


@dataclass(frozen=True, slots=True, eq=False)
class EncodedPacket:
    """One video packet. serial: counts up by one over all packets of the ring.

    pts, dts: in the form's time base, or None where the container gives none.  at_s: the ring's own time in seconds,
    which rises without jumps.
    """

    serial: int
    data: bytes
    pts: int | None
    dts: int | None
    duration: int
    key: bool
    run: PacketRun
    at_s: float

    @property
    def stamp_s(self) -> float | None:
        """Presentation time in seconds by the container's clock."""
        stamp = self.dts if self.pts is None else self.pts
        return None if stamp is None else float(stamp * self.run.form.time_base)

    @property
    def media_s(self) -> float | None:
        """Media time of the camera in seconds; None before a frame of its run was decoded."""
        stamp_s, offset_s = self.stamp_s, self.run.offset_s
        return None if stamp_s is None or offset_s is None else stamp_s + offset_s

    @property
    def due_s(self) -> float | None:
        """Media time at which it is decoded, at or before `media_s`; None like that."""
        offset_s = self.run.offset_s
        stamp = self.pts if self.dts is None else self.dts
        return None if stamp is None or offset_s is None else float(stamp * self.run.form.time_base) + offset_s


@dataclass(frozen=True, slots=True, eq=False)
class AudioPacket:
    """One audio packet. serial: counts up by one over all audio packets of the ring.

    pts, duration: in the time base of `run.audio`.  at_s: the ring's own time when it came, in seconds.
    """

    serial: int
    data: bytes
    pts: int
    duration: int
    run: PacketRun
    at_s: float

    @property
    def media_s(self) -> float | None:
        """Media time of the camera in seconds; None before a frame of its run was decoded."""
        offset_s, form = self.run.offset_s, self.run.audio
        return None if offset_s is None or form is None else float(self.pts * form.time_base) + offset_s


class PacketRing:
    """The newest packets of one video stream, and of the audio stream beside it. For any thread.

    max_bytes: of packets.  keep_s: seconds of them that are wanted; whole groups of pictures beyond it are let go.
    """

    def __init__(self, max_bytes: int, keep_s: float) -> None:
        self.added = threading.Event()  # set with every key frame; whoever waits for packets clears it
        self._max_bytes, self._keep_s = max_bytes, keep_s
        self._lock = threading.Lock()
        self._packets: deque[EncodedPacket] = deque()
        self._keys: deque[tuple[int, float]] = deque()  # (serial, at_s) of the key frames that are held
        self._audio: deque[AudioPacket] = deque()
        self._audio_serial = 0
        self._bytes = 0
        self._serial = 0
        self._at_s = 0.0
        self._runs: deque[PacketRun] = deque(maxlen=_RUNS)
        self._connection: Connection | None = None
        self.wall: tuple[float, float] | None = None  # (stamp, UTC) in seconds, of the newest sender report's packet

    @property
    def newest_at_s(self) -> float:
        """The ring's own time, in seconds."""
        return self._at_s

    def use(self, connection: Connection) -> None:
        """Take packets of this connection from now on, and of no other."""
        with self._lock:
            self._connection = connection

    def set_limit(self, max_bytes: int) -> None:
        """Hold at most so many bytes from now on."""
        with self._lock:
            self._max_bytes = max_bytes
            self._trim()

    @property
    def held_bytes(self) -> int:
        """Held at the moment."""
        return self._bytes

    @property
    def form(self) -> StreamForm | None:
        """Of the newest packets."""
        with self._lock:
            return self._runs[-1].form if self._runs else None

    @property
    def newest_serial(self) -> int:
        """Of the last packet that came; 0 before the first."""
        return self._serial

    def begin(self, connection: Connection, form: StreamForm, audio: StreamForm | None = None) -> None:
        """A stream begins. audio: of the stream beside it."""
        with self._lock:
            if connection is self._connection:
                self._runs.append(PacketRun(form, audio))
                self.wall = None

    def add(
        self, connection: Connection, data: bytes, pts: int | None, dts: int | None, duration: int, key: bool
    ) -> None:
        """Take a packet; the oldest go where room is short."""
        with self._lock:
            if connection is not self._connection or not self._runs:
                return
            run = self._runs[-1]
            stamp = dts if dts is not None else pts
            if stamp is not None:
                run = self._follow(run, float(stamp * run.form.time_base))
            if not self._packets and not key:
                return  # nobody can decode it
            self._serial += 1
            self._packets.append(EncodedPacket(self._serial, data, pts, dts, duration, key, run, self._at_s))
            self._bytes += len(data)
            if key:
                self._keys.append((self._serial, self._at_s))
            self._trim()
        if key:
            self.added.set()

    def add_audio(self, connection: Connection, data: bytes, pts: int, duration: int) -> None:
        """Take an audio packet. One whose stamp is far from those of the video is dropped: it fits nowhere."""
        with self._lock:
            run = self._runs[-1] if self._runs else None
            if connection is not self._connection or run is None or run.audio is None or not self._packets:
                return
            if not run.low_s - JUMP_S <= float(pts * run.audio.time_base) <= run.high_s + JUMP_S:
                return
            self._audio_serial += 1
            self._audio.append(AudioPacket(self._audio_serial, data, pts, duration, run, self._at_s))
            self._bytes += len(data)
            self._trim()

    def audio_after(self, serial: int) -> list[AudioPacket]:
        """The audio packets that came after this one, oldest first."""
        with self._lock:
            return [packet for packet in self._audio if packet.serial > serial]

    def place(self, connection: Connection, stamp_s: float, media_s: float) -> None:
        """A frame with this stamp has this media time."""
        if connection is not self._connection:
            return
        with self._lock:
            for run in reversed(self._runs):
                if run.low_s - _SLACK_S <= stamp_s <= run.high_s + _SLACK_S:
                    run.offset_s = media_s - stamp_s
                    return

    def wall_offset(self) -> float | None:
        """Media time less UTC in seconds, by the newest sender report; None without one."""
        with self._lock:
            if self.wall is None or not self._runs or self._runs[-1].offset_s is None:
                return None
            stamp_s, utc = self.wall
            return stamp_s + self._runs[-1].offset_s - utc

    def place_newest(self, connection: Connection, media_s: float) -> None:
        """The newest packet has about this media time; for streams whose frames have no stamps."""
        with self._lock:
            if connection is self._connection and self._runs and self._runs[-1].high_s > -math.inf:
                run = self._runs[-1]
                if run.offset_s is None or abs(media_s - run.high_s - run.offset_s) > _SLACK_S:
                    run.offset_s = media_s - run.high_s

    def after(self, serial: int, limit: int = 1 << 30) -> list[EncodedPacket]:
        """At most `limit` packets that came after this one, oldest first."""
        with self._lock:
            if not self._packets or self._packets[-1].serial <= serial:
                return []
            skipped = max(0, serial + 1 - self._packets[0].serial)
            return list(islice(self._packets, skipped, skipped + limit))

    def key_before(self, media_s: float) -> int | None:
        """Serial of the last key frame at or before a media time, or of the oldest there is; None where none is held.

        Packets whose media time is not known yet count as late ones.
        """
        with self._lock:
            found = None
            first = self._packets[0].serial if self._packets else 0
            for serial, _ in self._keys:
                at_s = self._packets[serial - first].media_s
                if found is not None and (at_s is None or at_s > media_s):
                    break
                found = serial
            return found

    def key_near(self, media_s: float) -> EncodedPacket | None:
        """The key frame whose media time is nearest; None where none is held whose media time is known."""
        with self._lock:
            first = self._packets[0].serial if self._packets else 0
            keys = [self._packets[serial - first] for serial, _ in self._keys]
        timed = [(abs(at_s - media_s), key) for key in keys if (at_s := key.media_s) is not None]
        return min(timed, key=lambda pair: pair[0])[1] if timed else None

    def clear(self) -> None:
        """Let everything go."""
        with self._lock:
            self._packets.clear()
            self._keys.clear()
            self._audio.clear()
            self._runs.clear()
            self._bytes = 0
            self._connection = None

    def _follow(self, run: PacketRun, stamp_s: float) -> PacketRun:
        """The run that a stamp belongs to; the ring's own time goes on with it."""
        step_s = stamp_s - run.high_s if run.high_s > -math.inf else 0.0
        if not -BACK_S <= step_s <= JUMP_S:
            run = PacketRun(run.form, run.audio)
            self._runs.append(run)
            step_s = 0.0
        run.low_s, run.high_s = min(run.low_s, stamp_s), max(run.high_s, stamp_s)
        self._at_s += max(0.0, step_s)
        return run

    def _trim(self) -> None:
        while len(self._keys) > 1 and (self._bytes > self._max_bytes or self._at_s - self._keys[1][1] >= self._keep_s):
            self._keys.popleft()
            self._drop_before(self._keys[0][0])
        if self._bytes > self._max_bytes:  # one group of pictures alone is too much: its rest is of no use
            self._keys.clear()
            self._drop_before(self._serial + 1)

    def _drop_before(self, serial: int) -> None:
        while self._packets and self._packets[0].serial < serial:
            self._bytes -= len(self._packets.popleft().data)
        while self._audio and (not self._packets or self._audio[0].at_s < self._packets[0].at_s):
            self._bytes -= len(self._audio.popleft().data)


class Connection:
    """One opened source that fills a ring, from the thread that reads it. Implements PacketTap."""

    def __init__(self, ring: PacketRing, wants_audio: bool = False) -> None:
        self.form: StreamForm | None = None
        self.wants_audio = wants_audio
        self._ring = ring
        self._next = 0  # stamp of a packet that has none

    def begin(self, stream: Any, audio: Any = None) -> None:
        """See PacketTap. A stream that no muxer takes is as one without packets."""
        form = form_of(stream)
        if form is not None:
            self.form = form
            self._ring.begin(self, form, None if audio is None else audio_form_of(audio))

    def add(self, packet: Any) -> None:
        """See PacketTap."""
        if self.form is None:
            return
        wall_utc = sender_time(packet)
        if wall_utc is not None and packet.pts is not None:
            self._ring.wall = (float(packet.pts * self.form.time_base), wall_utc)
        key = bool(packet.is_keyframe)
        dts = packet.dts
        if packet.pts is None and dts is None:  # raw streams, and the first packets of some cameras
            dts = self._next
        self._next = (packet.pts if dts is None else dts) + (packet.duration or round(_STEP_S / self.form.time_base))
        self._ring.add(self, bytes(packet), packet.pts, dts, packet.duration or 0, key)

    def add_audio(self, packet: Any) -> None:
        """See PacketTap. A packet without a stamp is dropped."""
        if packet.pts is not None:
            self._ring.add_audio(self, bytes(packet), packet.pts, packet.duration or 0)

    def add_jpeg(self, data: bytes, width: int, height: int, arrived_s: float) -> None:
        """See PacketTap."""
        self._add_jpeg(data, width, height, arrived_s, made=False)

    def add_made(self, data: bytes, width: int, height: int, media_s: float) -> None:
        """A JPEG that was made of a picture without a packet."""
        self._add_jpeg(data, width, height, media_s, made=True)
        self._ring.place(self, media_s, media_s)

    def place(self, stamp_s: float | None, media_s: float) -> None:
        """A frame with this stamp, in seconds, has this media time."""
        if stamp_s is None:
            self._ring.place_newest(self, media_s)
        else:
            self._ring.place(self, stamp_s, media_s)

    def _add_jpeg(self, data: bytes, width: int, height: int, stamp_s: float, made: bool) -> None:
        form = self.form
        if form is None or (form.width, form.height) != (width, height):
            self.form = form = jpeg_form(width, height, made)
            self._ring.begin(self, form)
        stamp = round(stamp_s / form.time_base)
        self._ring.add(self, data, stamp, stamp, 0, True)


def sender_time(packet: Any) -> float | None:
    """UTC in seconds at which the camera says that it took this picture (RTCP sender reports); None without one."""
    if not packet.has_sidedata(_PRFT):
        return None
    data = bytes(packet.get_sidedata(_PRFT))
    wall_us = int(struct.unpack_from("<q", data)[0]) if len(data) >= 8 else 0
    return wall_us / 1e6 if wall_us > 0 else None


def decode_times(stamps: list[int]) -> list[int]:
    """Decoding times for presentation times in decoding order, where a container gives none: rising, and never later.

    They are the presentation times in order, moved ahead by as much as reordering needs.
    """
    ordered = sorted(stamps)
    late = max((due - shown for due, shown in zip(ordered, stamps, strict=True)), default=0)
    times: list[int] = []
    for due in ordered:
        times.append(max(due - late, times[-1] + 1) if times else due - late)
    return times
