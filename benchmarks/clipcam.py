"""A kind of source for benchmarks: an H.264 file played by the clock as a camera that cannot be held up.

    clipcam:FILE?begin=MONOTONIC_S&phase=S&notes=FOLDER

Picture n is due at begin + phase + n/25 s, whoever reads it, so cameras do not run in step and a late reader finds a
backlog, as behind a socket. The file is played over and over. When a camera is opened it writes the time at which its
first picture is due to FOLDER/NAME.due: a score's delay counts from there. Capture hosts import this module, too.
"""

from __future__ import annotations

import math
import time
from pathlib import Path
from urllib.parse import parse_qsl

from stream_detector.capture.admission import Admission
from stream_detector.capture.decoder import DecodedFrame, Decoder
from stream_detector.capture.grabs import GrabResult
from stream_detector.capture.network_readers import SeenPacket
from stream_detector.capture.picture import DecodedPicture
from stream_detector.capture.readers import READERS
from stream_detector.capture.taps import PacketTap
from stream_detector.config import CameraConfig, CaptureConfig

FPS = 25.0
KIND = "clipcam"


def address(video: Path, begin_s: float, phase_s: float, notes: Path) -> str:
    """The source of one camera."""
    return f"{KIND}:{video}?begin={begin_s}&phase={phase_s}&notes={notes}"


class ClipCamera:
    """Implements `readers.Reader`."""

    live = True
    detail = ""
    fps = FPS

    def __init__(self, camera: CameraConfig, config: CaptureConfig) -> None:
        path, _, query = camera.source.rest.partition("?")
        asked = dict(parse_qsl(query))
        self.admission: Admission | None = None
        self._path, self._threads = path, config.decoder_threads
        self._begin_s = float(asked["begin"]) + float(asked["phase"])
        self._note = Path(asked["notes"]) / f"{camera.name}.due"
        self._decoder: Decoder | None = None
        self._tap: PacketTap | None = None
        self._due_s = 0.0
        self._index = -1
        self._now: DecodedFrame | None = None

    def open(self) -> None:
        """Begin with the next picture that is due."""
        late = max(0, math.ceil((time.monotonic() - self._begin_s) * FPS))
        self._due_s = self._begin_s + late / FPS
        self._decoder = self._opened()
        self._note.write_text(repr(self._due_s))

    def _opened(self) -> Decoder:
        decoder = Decoder(self._path, threads=self._threads)
        decoder.admission = self.admission
        decoder.tap = self._tap
        decoder.open()
        return decoder

    def attach(self, tap: PacketTap) -> None:
        """Let `tap` see the packets."""
        self._tap = tap

    def open_packets(self) -> None:
        """As `open`, for `next_packet`."""
        self.open()

    def next_packet(self) -> SeenPacket | None:
        """The next packet when it is due; nothing is decoded."""
        assert self._decoder is not None
        self._index += 1
        wait_s = self._due_s + self._index / FPS - time.monotonic()
        if wait_s > 0:
            time.sleep(wait_s)
        seen = self._decoder.next_packet()
        if seen is None:
            self._decoder.close()
            self._decoder = self._opened()
            seen = self._decoder.next_packet()
        return None if seen is None else SeenPacket(*seen)

    def grab(self) -> GrabResult:
        """Wait until the next picture is due; it is not skipped, however late the caller is."""
        assert self._decoder is not None
        self._index += 1
        media_s = self._index / FPS
        wait_s = self._due_s + media_s - time.monotonic()
        if wait_s > 0:
            time.sleep(wait_s)
        found = self._decoder.next()
        if found is None and self._decoder.ended:
            self._decoder.close()
            self._decoder = self._opened()
            found = self._decoder.next()
        if found is None:
            return GrabResult("bad" if self._decoder.passed_s is None else "skipped", media_s)
        self._now = found
        return GrabResult("frame", media_s, key=found.key, stamp_s=found.stamp_s)

    def retrieve(self) -> DecodedPicture | None:
        """The grabbed picture."""
        return None if self._now is None else DecodedPicture(self._now.frame)

    def close(self) -> None:
        """Let go of the file."""
        if self._decoder is not None:
            self._decoder.close()
        self._now = None


if KIND not in READERS.names():
    READERS.register(KIND)(ClipCamera)
