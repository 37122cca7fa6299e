"""A capture host: some cameras, one thread each, from source to windows.

    assign(task) ─▶ Capture ─frames─▶ CameraStage ─▶ HostOutput.window
                    one thread per camera            HostOutput.status, .preview, .ended

The same class runs inside the main process (few cameras, files, tests), in its own process (`host_process`; see
`host_pool`), and in an actor of a Ray cluster (`cluster.camera_host`); only the `HostOutput` differs. Nothing is passed
on per frame except the few previews that a viewer asked for.
"""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

from stream_detector.capture.camera import Capture
from stream_detector.capture.framing import Views
from stream_detector.capture.main_stream import MainStream
from stream_detector.capture.picture import Picture
from stream_detector.capture.readers import Reader, make_reader
from stream_detector.capture.resume import ResumedCamera
from stream_detector.capture.taps import CameraTap, Taps
from stream_detector.capture.watchdog import Watchdog
from stream_detector.config import CameraConfig, CaptureConfig, Config
from stream_detector.types import (
    CameraCounters,
    CameraStatus,
    Clock,
    DegradedCause,
    Frame,
    Preview,
    SystemClock,
    Window,
    WindowRef,
)

END_S = 5.0  # a camera that was asked to end has so long for its last window


@dataclass(frozen=True, slots=True)
class CameraTask:
    """One camera for a host to run.

    stride_frames: between the starts of two windows.  previews: whether pictures for people are wanted. last: the
    newest window that another host produced, after which this host continues; None: from the start. cause: marks the
    first window of a live camera that continues.  keep: its packets are stored for evidence or recordings.
    """

    camera: CameraConfig
    stride_frames: int
    previews: bool = False
    last: WindowRef | None = None
    cause: DegradedCause = "reconnect"
    keep: bool = False

    @property
    def name(self) -> str:
        return self.camera.name

    @property
    def live(self) -> bool:
        return self.camera.source.live


class HostOutput(Protocol):
    """The receiver of a host's results. Capture threads and the host's watchdog call it; for one camera in order."""

    def window(self, window: Window) -> None:
        """A window is complete. For a file the call may block until there is room; for a live camera it never
        blocks.
        """
        ...

    def status(self, status: CameraStatus) -> None:
        """A camera changed its state."""
        ...

    def preview(self, camera: str, preview: Preview) -> None:
        """A picture for people."""
        ...

    def ended(self, camera: str, reason: str) -> None:
        """The camera gives no further windows. reason: as in `Capture.on_end`."""
        ...

    def failed(self, error: Exception) -> None:
        """An unexpected error occurred in a capture thread."""
        ...


@dataclass(frozen=True, slots=True)
class CameraReport:
    """The counts of one camera so far. duration_s: of a file, as its container states it."""

    counters: CameraCounters
    duration_s: float | None = None


@dataclass(slots=True, eq=False)
class _Held:
    task: CameraTask
    resumed: ResumedCamera
    capture: Capture
    stop: threading.Event = field(default_factory=threading.Event)
    main: MainStream | None = None
    released: bool = False
    told_end: bool = False


class CaptureHost:
    """Runs cameras until each has ended, was released, or `stop` is called.

    resize: a picture → its views (see `picture.make_views`).  frame_fps: frames per second of the recipe. share:
    returns the share of live cameras' packets that may be decoded; called at key frames. taps: additional receivers of
    the packets and pictures of cameras with `keep`.
    """

    def __init__(
        self,
        config: Config,
        resize: Callable[[Picture], Views],
        frame_fps: float,
        output: HostOutput,
        *,
        clock: Clock | None = None,
        open_reader: Callable[[CameraConfig, CaptureConfig], Reader] = make_reader,
        share: Callable[[], float] = lambda: 1.0,
        taps: Taps | None = None,
    ) -> None:
        self._config, self._resize, self._frame_fps, self._output = config, resize, frame_fps, output
        self._share = share
        self._clock = clock or SystemClock()
        self._open_reader, self._taps = open_reader, taps
        self._lock = threading.Lock()
        self._cameras: dict[str, _Held] = {}
        self._over = threading.Event()
        Watchdog(self._captures, config.capture.stall_after_s, self._over).start()

    def assign(self, task: CameraTask) -> None:
        """Run a camera; a camera of the same name is released first. Returns after its thread was started."""
        self.release(task.name)
        stop = threading.Event()
        resumed = ResumedCamera(task.camera, task.stride_frames, task.last, self._config, self._clock, stop, task.cause)
        open_reader = self._open_reader
        if task.last is not None:
            open_reader = lambda camera, config: resumed.reader(self._open_reader(camera, config))  # noqa: E731
        tap, main = self._tapped(task, resumed.shift_s, stop)
        held: _Held
        capture = Capture(
            task.camera,
            self._config.capture,
            resize=self._resize,
            frame_fps=self._frame_fps,
            pace=self._config.pace,
            on_frame=lambda frame: self._frame(held, frame),
            on_status=lambda status: self._status(held, status),
            on_end=lambda _name, reason: self._ended(held, reason),
            on_error=lambda error: self._failed(held, error),
            clock=self._clock,
            stop=stop,
            previews=task.previews,
            max_gap_s=self._config.window.max_gap_s,
            open_reader=open_reader,
            share=self._share,
            tap=tap,
            wait=resumed.wait if task.last is not None else None,
        )
        held = _Held(task, resumed, capture, stop, main)
        with self._lock:
            if self._over.is_set():
                return
            self._cameras[task.name] = held
        capture.start()
        if main is not None:
            main.start()

    def release(self, name: str) -> None:
        """Stop a camera immediately; nothing more is reported of it, not even its end. Unknown names are ignored."""
        with self._lock:
            held = self._cameras.pop(name, None)
        if held is not None:
            held.released = True
            held.stop.set()
            held.capture.close()

    def end(self, name: str) -> bool:
        """Ask one camera to end: it tells its end with reason "stopped", behind its last window. Does not wait.

        A camera that is stuck in its reader is given up after END_S. Returns whether the camera is here.
        """
        with self._lock:
            held = self._cameras.get(name)
        if held is None:
            return False
        held.stop.set()
        late = threading.Timer(END_S, self._give_up, (held,))
        late.daemon = True
        late.start()
        return True

    def _give_up(self, held: _Held) -> None:
        if self._may_tell_end(held):
            held.released = True
            held.capture.close()
            self._output.ended(held.task.name, "stopped")

    def _may_tell_end(self, held: _Held) -> bool:
        """Whether nobody has told the end of a camera yet; the asker then does."""
        with self._lock:
            first, held.told_end = not held.told_end, True
        return first

    def report(self) -> dict[str, CameraReport]:
        """Return the counts by camera."""
        with self._lock:
            cameras = list(self._cameras.items())
        return {name: CameraReport(held.capture.counters(), held.capture.duration_s) for name, held in cameras}

    def stop(self) -> None:
        """Ask every camera to end; each reports its end with reason "stopped". Does not wait. Safe to repeat."""
        with self._lock:
            self._over.set()
            cameras = list(self._cameras.values())
        for held in cameras:
            held.stop.set()

    def join(self, timeout_s: float) -> bool:
        """Wait for the threads after `stop`; False if a reader blocks one (a daemon thread, which may be left)."""
        until_s = self._clock.monotonic() + timeout_s
        with self._lock:
            cameras = list(self._cameras.values())
        threads = [thread for held in cameras for thread in (held.capture, held.main) if thread is not None]
        joined = [thread.join(max(0.0, until_s - self._clock.monotonic())) for thread in threads]
        return all(joined)

    def _tapped(
        self, task: CameraTask, shift_s: float, stop: threading.Event
    ) -> tuple[CameraTap | None, MainStream | None]:
        """Return the receiver of the camera's packets, and the reader of its main stream."""
        taps = self._taps
        if taps is None or not task.keep:
            return None, None
        tap = taps.tap(task.camera)
        tap.shift_s = shift_s
        if task.camera.record_source is None:
            return tap, None
        beside = taps.tap(task.camera, main=True)
        beside.shift_s = shift_s
        main = MainStream(
            task.camera,
            self._config.capture,
            tap=beside,
            clock=self._clock,
            stop=stop,
            offset=lambda: taps.main_offset(task.name),
            on_problem=lambda sentence: taps.problem(task.name, sentence),
        )
        return tap, main

    # -- capture threads ------------------------------------------------------------------------------------------

    def _frame(self, held: _Held, frame: Frame) -> None:
        if frame.preview is not None and not held.released:
            self._output.preview(held.task.name, frame.preview)
            frame = dataclasses.replace(frame, preview=None)  # the same picture is not sent again with the window
        window = held.resumed.push(frame)
        if window is not None and not held.released:
            self._output.window(window)

    def _status(self, held: _Held, status: CameraStatus) -> None:
        if not held.released:
            self._output.status(held.resumed.status(status))

    def _ended(self, held: _Held, reason: str) -> None:
        if held.released:
            return
        last = held.resumed.finish()
        if last is not None and not held.stop.is_set():
            self._output.window(last)
        if not held.released and self._may_tell_end(held):
            self._output.ended(held.task.name, reason)

    def _failed(self, held: _Held, error: Exception) -> None:
        if not held.released:
            self._output.failed(error)

    def _captures(self) -> list[Capture]:
        with self._lock:
            return [held.capture for held in self._cameras.values()]
