"""One capture thread with everything around it scripted, for the tests of files and of live sources."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import pytest

from stream_detector.capture.camera import Capture
from stream_detector.capture.picture import Picture
from stream_detector.config import CameraConfig, CaptureConfig
from stream_detector.testing import FakeClock, FakeSource
from stream_detector.types import CameraStatus, Frame, UInt8Array

FILE, LIVE = "clip.mp4", "rtsp://admin:hunter2@host/live"
DEADLINE_S = 10.0


class Rig:
    """One capture with everything around it faked and recorded."""

    def __init__(
        self,
        source: FakeSource | Sequence[FakeSource],
        *,
        live: bool = False,
        pace: str = "max",
        frame_fps: float = 25.0,
        config: CaptureConfig | None = None,
        camera: CameraConfig | None = None,
        previews: bool = True,
        on_frame: Callable[[Frame], None] | None = None,
        clock: FakeClock | None = None,
    ) -> None:
        self.clock = clock or FakeClock()
        self.stop = threading.Event()
        self.frames: list[Frame] = []
        self.statuses: list[CameraStatus] = []
        self.ended: list[tuple[str, str]] = []
        self.errors: list[Exception] = []
        self.waits: list[float] = []
        self.config = config or CaptureConfig()
        self._sources = [source] if isinstance(source, FakeSource) else list(source)
        self._opened = 0
        self._changed = threading.Condition()
        self._also = on_frame
        fake_wait = self.clock.waiter(self.stop)

        def wait(seconds: float) -> bool:
            self.waits.append(seconds)
            return fake_wait(seconds)

        self.capture = Capture(
            camera or CameraConfig(name="cam", source=LIVE if live else FILE),
            self.config,
            resize=self.resize,
            frame_fps=frame_fps,
            pace="realtime" if pace == "realtime" else "max",
            on_frame=self.on_frame,
            on_status=self.on_status,
            on_end=self.on_end,
            on_error=self.on_error,
            clock=self.clock,
            stop=self.stop,
            previews=previews,
            open_reader=self.open_reader,
            wait=wait,
            jitter=lambda: 1.0,
        )

    def open_reader(self, camera: CameraConfig, config: CaptureConfig) -> FakeSource:
        """The sources in turn, the last one for ever."""
        source = self._sources[min(self._opened, len(self._sources) - 1)]
        self._opened += 1
        return source

    def resize(self, picture: Picture) -> tuple[UInt8Array, ...]:
        return (np.ascontiguousarray(picture.bgr()[:32, :32, ::-1]),)

    def on_frame(self, frame: Frame) -> None:
        if self._also:
            self._also(frame)
        self._note(lambda: self.frames.append(frame))

    def on_status(self, status: CameraStatus) -> None:
        self._note(lambda: self.statuses.append(status))

    def on_end(self, camera: str, reason: str) -> None:
        self._note(lambda: self.ended.append((camera, reason)))

    def on_error(self, error: Exception) -> None:
        self._note(lambda: self.errors.append(error))

    def _note(self, what: Callable[[], None]) -> None:
        with self._changed:
            what()
            self._changed.notify_all()

    def until(self, condition: Callable[[], bool]) -> None:
        with self._changed:
            assert self._changed.wait_for(condition, DEADLINE_S), "it did not happen in time"

    def run(self) -> Rig:
        """Start, and wait for the end."""
        self.capture.start()
        self.until(lambda: bool(self.ended or self.errors))
        assert self.capture.join(DEADLINE_S)
        return self

    def states(self) -> list[str]:
        return [status.state for status in self.statuses]

    def finish(self) -> None:
        self.stop.set()
        for source in self._sources:
            source.release()
        assert self.capture.join(DEADLINE_S)


@pytest.fixture
def rigs() -> Iterator[Callable[..., Rig]]:
    """Makes rigs, and sees to it that no thread outlives the test."""
    made: list[Rig] = []

    def make(*args: object, **options: object) -> Rig:
        made.append(Rig(*args, **options))  # type: ignore[arg-type]
        return made[-1]

    yield make
    for rig in made:
        rig.finish()
    deadline_s = time.monotonic() + DEADLINE_S
    for thread in threading.enumerate():
        if thread.name.startswith("capture-"):
            thread.join(max(0.0, deadline_s - time.monotonic()))
            assert not thread.is_alive(), f"{thread.name} was left behind"


Make = Callable[..., Rig]
