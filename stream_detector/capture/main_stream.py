"""The main stream of a camera, read as packets beside the sub-stream that is scored. Nothing of it is decoded here.

Its packets are laid on the sub-stream's media time: by the RTCP sender reports of both where both have them, else by
the time of arrival, its stamps keeping the packets of a burst apart. Either stream may fail alone; this one is opened
again with growing pauses, as often as it takes.
"""

from __future__ import annotations

import random
import threading
from collections.abc import Callable
from typing import Any, Protocol

from stream_detector.capture.http_io import HttpError
from stream_detector.capture.media_clock import LiveClock
from stream_detector.capture.network_readers import SeenPacket
from stream_detector.capture.pacing import Backoff
from stream_detector.capture.readers import make_reader
from stream_detector.capture.taps import CameraTap, TapConnection
from stream_detector.config import CameraConfig, CaptureConfig
from stream_detector.errors import SourceError
from stream_detector.types import Clock

_DISAGREE_S = 5.0  # sender reports that lay a packet further from its arrival than this are not believed


class PacketReader(Protocol):
    """What a main stream is read with; `network_readers.NetworkReader` implements it."""

    def attach(self, tap: TapConnection) -> None: ...

    def open_packets(self) -> None: ...

    def next_packet(self) -> SeenPacket | None: ...

    def close(self) -> None: ...


class MainStream:
    """One thread that reads the `record_source` of a camera until `stop` is set.

    tap: of the main stream.  offset: UTC → media time of the sub-stream, in seconds; None while that is not known.
    open_reader: makes a PacketReader.
    on_problem: called with a sentence when the stream is lost, once for each outage.
    """

    def __init__(
        self,
        camera: CameraConfig,
        config: CaptureConfig,
        *,
        tap: CameraTap,
        clock: Clock,
        stop: threading.Event,
        offset: Callable[[], float | None],
        on_problem: Callable[[str], object],
        open_reader: Callable[[CameraConfig, CaptureConfig], Any] = make_reader,
    ) -> None:
        assert camera.record_source is not None
        self._camera = camera.model_copy(update={"source": camera.record_source, "record_source": None})
        self._config, self._tap, self._clock, self._stop = config, tap, clock, stop
        self._offset, self._on_problem, self._open_reader = offset, on_problem, open_reader
        self._zero_s = clock.monotonic()
        self._lost = False
        self._thread = threading.Thread(target=self._run, name=f"main-{camera.name}", daemon=True)

    def start(self) -> None:
        """Begin; returns at once. Media time 0 is now, as for the capture thread that is started beside it."""
        self._zero_s = self._clock.monotonic()
        self._thread.start()

    def join(self, timeout_s: float) -> bool:
        """Wait for the thread after `stop`; False when it is stuck in its reader (it is a daemon: leave it)."""
        self._thread.join(timeout_s)
        return not self._thread.is_alive()

    def _run(self) -> None:
        backoff = Backoff(self._config, random.random)
        while not self._stop.is_set():
            opened_s = self._clock.monotonic()
            count = 0
            why = "broke off"
            reader: PacketReader = self._open_reader(self._camera, self._config)
            connection = self._tap.connection()
            try:
                reader.attach(connection)
                reader.open_packets()
                count = self._drain(reader, connection)
            except SourceError as error:
                why = str(error)
            except Exception as error:  # a reader of another author; nothing of its words, which may hold an address
                why = f"failed with {type(error).__name__}"
            finally:
                reader.close()
            if self._stop.is_set():
                return
            if not self._lost or count:
                self._lost = True
                self._on_problem(
                    f"camera {self._camera.name}: its main stream (record_source) {why}; the stream that is scored is "
                    "kept instead until it is back"
                )
            if self._stop.wait(backoff.next_s(self._clock.monotonic() - opened_s if count else 0.0)):
                return

    def _drain(self, reader: PacketReader, connection: TapConnection) -> int:
        clock = LiveClock()
        count = 0
        while not self._stop.is_set():
            try:
                seen = reader.next_packet()
            except HttpError as error:
                raise SourceError(str(error)) from None
            if seen is None:
                break
            count += 1
            self._lost = False
            arrived_s = self._clock.monotonic() - self._zero_s
            media_s = arrived_s
            if seen.stamp_s is not None:
                media_s = clock.time(seen.stamp_s, arrived_s)
            offset_s = self._offset()
            if seen.wall_utc is not None and offset_s is not None:
                told_s = seen.wall_utc + offset_s
                media_s = told_s if abs(told_s - media_s) < _DISAGREE_S else media_s
            connection.place(seen.stamp_s, media_s)
        return count
