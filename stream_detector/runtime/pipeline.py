"""The map. This module alone wires the stages; its threads and queues are these:

    CaptureHost ──Window──▶ WindowBuffer ──Batch──▶ Engine ──Score──▶ Decider ──▶ Ledger ──▶ Publisher
    a thread a camera       └────── worker thread ───────┘   └── decision thread, owns every socket ──┘
                            bounded per camera:              bounded inbox: a slow decision
                            files wait, live drops oldest    holds the worker back

    beside it: the evidence writer, the dashboard, /metrics.

Nothing flows back. A stage that raises sets the run's first error, releases every waiting thread and ends the run: no
thread is ever joined while it can be blocked on a queue. A stop (SIGINT, SIGTERM) closes the buffer, lets the worker
drain it, ends open alarms and closes the sockets within their linger.
"""

from __future__ import annotations

import contextlib
import logging
import queue
import sys
import threading
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from typing import Any

from stream_detector.capture.host_pool import HostPool
from stream_detector.capture.picture import Picture
from stream_detector.capture.readers import Reader, make_reader
from stream_detector.config import CameraConfig, CaptureConfig, Config
from stream_detector.engines.feeding import infer_windows
from stream_detector.errors import SourceError, StageError, StreamDetectorError
from stream_detector.models.recipe import Recipe
from stream_detector.runtime.decider import CameraPlan, Decider
from stream_detector.runtime.decision_queue import DecisionQueue
from stream_detector.runtime.overload import Load, LoadController
from stream_detector.runtime.roster import Member, Roster
from stream_detector.runtime.stages import scored
from stream_detector.runtime.window_buffer import WindowBuffer
from stream_detector.system.malloc import trim_malloc
from stream_detector.telemetry.collector import Telemetry
from stream_detector.types import (
    Batch,
    CameraStatus,
    Clock,
    Engine,
    EngineOutput,
    EventSink,
    Preview,
    Score,
    SystemClock,
    UInt8Array,
    Window,
)

log = logging.getLogger(__name__)

INBOX_ITEMS = 256
POLL_S = 0.02  # how long the decision thread may be late for its sockets
TRIM_S = 30.0  # free memory goes back to the system so often
DRAIN_S = 1.0  # a stop scores what is buffered for at most so long
SWITCH_S = 0.0005  # a thread that waits for the interpreter's lock gets it so soon; Python's own 5 ms add up to a delay
LEAVE_S = 0.3  # capture threads get so long to hang up; what is stuck in a reader is left behind
CLOSE_S = 0.5  # after a stop, clips get so long to be written as far as they are
FINISH_S = 20.0  # at the end of the footage they are finished
GIVE_UP_S = 2.2  # a stop never takes longer, whatever hangs


@dataclass(frozen=True, slots=True)
class RunResult:
    """The result of a run.

    windows: windows that were decided.  alarms: alarms that started.  stopped: the run was told to stop, and did not
    reach the end of its sources.  failed: sentence by camera, for sources that could not be played.  error: what ended
    the run (StageError, EngineError, LedgerError or OutputError), or None.
    """

    windows: int
    alarms: int
    stopped: bool
    failed: dict[str, str]
    error: BaseException | None = None

    @property
    def exit_code(self) -> int:
        """0 done, 1 ran and failed, 2 bad input."""
        if self.error is not None:
            return self.error.exit_code if isinstance(self.error, StreamDetectorError) else 1
        return 2 if self.failed else 0


@dataclass(frozen=True, slots=True)
class _Scored:
    """A batch and what the engine said; the decision thread makes scores of it, so that the worker can go on."""

    batch: Batch
    output: EngineOutput
    scored_s: float

    @property
    def scores(self) -> tuple[Score, ...]:
        return scored(self.batch.windows, self.output, self.batch.taken_s, self.scored_s)


@dataclass(frozen=True, slots=True)
class _Ended:
    cameras: tuple[str, ...]


class _Finish:
    """The worker has nothing more to say."""


@dataclass(slots=True, eq=False)
class Pipeline:
    """One run, from sources to events. Make it with `build.build_run`, then call `run()`; any thread may call
    `stop()`.
    """

    config: Config
    cameras: tuple[tuple[CameraConfig, CameraPlan], ...]
    engine: Engine
    resize: Callable[[Picture], tuple[UInt8Array, ...]]
    frame_fps: float
    decider: Decider
    sink: EventSink
    telemetry: Telemetry
    recipe: Recipe | None = None  # what `resize` does, for capture hosts that are processes; None: there are none
    open_limit: int = 0  # files open at once; 0: all
    open_reader: Callable[[CameraConfig, CaptureConfig], Reader] = make_reader
    taps_name: str = ""  # what keeps packets for evidence and recordings, see `capture.host_process.HostSetup`
    on_kept: Callable[[Any], object] = lambda _report: None  # what became of evidence; None: a host's process is gone
    on_preview: Callable[[str, Preview], None] | None = None  # told every preview, by its capture thread
    on_camera: Callable[[str, bool], None] = lambda _name, _came: None  # by the decision thread: came, or is gone
    decision_queue: DecisionQueue = field(default_factory=DecisionQueue)  # for the decision thread, from any other
    clock: Clock = field(default_factory=SystemClock)
    settled: bool = field(default=True, init=False)  # no thread of the run still uses the engine, journal or sockets
    _stop: threading.Event = field(default_factory=threading.Event, init=False)
    _stopped_by_user: bool = field(default=False, init=False)
    _decided: threading.Event = field(default_factory=threading.Event, init=False)
    _aborted: threading.Event = field(default_factory=threading.Event, init=False)
    _lock: threading.Lock = field(default_factory=threading.Lock, init=False)
    _error: BaseException | None = field(default=None, init=False)
    _inbox: queue.Queue[_Scored | _Ended | CameraStatus | _Finish] = field(init=False)
    _buffer: WindowBuffer = field(init=False)
    _host: HostPool = field(init=False)
    roster: Roster = field(init=False)
    _stop_at_s: float = field(default=0.0, init=False)
    _windows: int = field(default=0, init=False)
    _busy_s: float = field(default=0.0, init=False)  # of the engine
    _alarms_before: int = field(default=0, init=False)  # of cameras that are gone

    def __post_init__(self) -> None:
        self.roster = Roster(self.cameras, self.telemetry, self.open_limit)

    def run(self) -> RunResult:
        """Run until every source has ended, `stop` is called, or a stage fails. Blocks; call it once."""
        usual_s = sys.getswitchinterval()
        if any(plan.live for _, plan in self.cameras) or self.config.pace == "realtime":
            sys.setswitchinterval(min(SWITCH_S, usual_s))  # costs a fifth of the rate where files keep all threads busy
        try:
            return self._run()
        finally:
            sys.setswitchinterval(usual_s)

    def _run(self) -> RunResult:
        self._inbox = queue.Queue(INBOX_ITEMS)
        slots = self.config.batch.buffer_windows
        longest = max((plan.stride_frames for _, plan in self.cameras if plan.live), default=1)
        max_age_s = max(1.0, slots * longest / self.frame_fps)
        self._buffer = WindowBuffer(slots, self.clock, self.telemetry.dropped, max_age_s)
        if self._stop.is_set():  # a stop that came before
            self._buffer.close()
        self._host = HostPool(
            self.config,
            self.resize,
            self.frame_fps,
            self,
            recipe=self.recipe,
            clock=self.clock,
            open_reader=self.open_reader,
            at_once=self.open_limit and self.open_limit + sum(plan.live for _, plan in self.cameras),
            taps_name=self.taps_name,
            on_kept=self.on_kept,
        )
        log.info("%s", self._host.plan.sentence)
        load = LoadController(self.roster.live, self.clock)
        self.roster.attach(self._host, self._buffer, previews=self.on_preview is not None)
        threads = [
            threading.Thread(target=self._guard, args=(self._work,), name="worker", daemon=True),
            threading.Thread(target=self._guard, args=(self._decide,), name="decide", daemon=True),
        ]
        self.settled = False
        for thread in threads:
            thread.start()
        self._start_more()
        trimmed_s = self.clock.monotonic()
        while not self._decided.wait(0.1):
            self._count()
            load.set_cameras(self.roster.live)
            self._host.set_share(load.observe(self._load()))
            if self.clock.monotonic() - trimmed_s >= TRIM_S:
                trimmed_s = self.clock.monotonic()
                trim_malloc()
            if self._stop.is_set() and self.clock.monotonic() - self._stop_at_s > GIVE_UP_S:
                break  # something hangs; its thread is a daemon and ends with the process
        self._stop.set()
        self._buffer.abort()
        self._count()
        seconds = CLOSE_S if self.stopped else FINISH_S
        if not self._host.finish_files(seconds):
            log.warning("evidence was still being written %g s after the end; the last clips are incomplete", seconds)
        leave_at_s = self.clock.monotonic() + LEAVE_S
        self._host.stop()
        self._host.join(LEAVE_S)
        for thread in threads:
            thread.join(max(0.0, leave_at_s - self.clock.monotonic()))
        self.settled = not any(thread.is_alive() for thread in threads)
        if self.settled:
            with contextlib.suppress(StreamDetectorError):
                self.engine.close()
        alarms = self._alarms_before + sum(camera.alarms for camera in self.telemetry.snapshot().cameras)
        return RunResult(self._windows, alarms, self._stopped_by_user, self.roster.failed, self._error)

    def command(self, command: Any) -> None:
        """Hand a command about evidence (`evidence.messages`) to where the camera's packets are. Never blocks."""
        self._host.command(command)

    @property
    def host_restarts(self) -> int:
        """How often a capture host's process was replaced."""
        return self._host.restarts

    @property
    def share(self) -> float:
        """The share of the live cameras' pictures that is decoded, 0 to 1: below 1 in an overload."""
        return self._host.share

    @property
    def stopped(self) -> bool:
        """Whether `stop` was called or a stage failed; False if the sources ended."""
        return self._stopped_by_user or self._error is not None

    def stop(self) -> None:
        """End the run in order: open alarms end with reason `shutdown`. Any thread and any signal handler may call
        it.
        """
        self._stopped_by_user = True
        self._begin_stop()

    def fail(self, error: BaseException) -> None:
        """End the run because a stage raised; the first error is reported."""
        with self._lock:
            if self._error is None:
                self._error = error
        self._begin_stop()
        self._buffer.abort()

    def _begin_stop(self) -> None:
        if not self._stop.is_set():
            self._stop_at_s = self.clock.monotonic()
            self._stop.set()
        # A signal handler may interrupt a thread that holds one of the locks: take them in another thread.
        threading.Thread(target=self._stop_capture, name="stop-capture", daemon=True).start()

    def _stop_capture(self) -> None:
        self.roster.close()
        buffer: WindowBuffer | None = getattr(self, "_buffer", None)
        host: HostPool | None = getattr(self, "_host", None)
        if buffer is not None:
            buffer.close()
        if host is not None:
            host.stop()

    # capture threads ------------------------------------------------------------------------------------------------

    def _start_more(self) -> None:
        if not self._stop.is_set():
            self.roster.start_more()

    def _count(self) -> None:
        """Bring what the capture threads counted to the telemetry."""
        self.roster.count(self._host.report())

    def _load(self) -> Load:
        return Load(self.roster.offered(), self._windows, self._buffer.dropped, self._busy_s, self._buffer.waiting)

    def window(self, window: Window) -> None:
        """See `capture.host.HostOutput`."""
        if self._buffer.put(window):
            self.telemetry.window(window.ref.camera)

    def preview(self, camera: str, preview: Preview) -> None:
        """See `capture.host.HostOutput`."""
        if self.on_preview:
            self.on_preview(camera, preview)

    def failed(self, error: Exception) -> None:
        """See `capture.host.HostOutput`."""
        self.fail(error)

    def ended(self, name: str, reason: str) -> None:
        """See `capture.host.HostOutput`. A truncated file was played as far as it goes, and is bad input, too."""
        failure, over = self.roster.ended(name, reason)
        if failure and self.roster.get(name).plan.live and self.config.capture.exit_on_error:
            self.fail(SourceError(failure))
        self._buffer.end(name)
        self._start_more()
        if over:
            self._buffer.close()

    # worker thread --------------------------------------------------------------------------------------------------

    def _work(self) -> None:
        asked, engine = self.config.batch, self.engine
        while True:
            # Read for every batch: an engine that was replaced wants other batches.
            max_size = min(asked.max_size or engine.good_batch, engine.max_batch)
            max_wait_s = engine.good_wait_s if asked.max_wait_ms is None else asked.max_wait_ms / 1e3
            taken = self._buffer.take(max_size, max_wait_s)
            if taken is None:
                break
            if taken.batch is not None:
                self.telemetry.batch(len(taken.batch.windows))
                begun_s = self.clock.monotonic()
                output = infer_windows(engine, taken.batch.pixels)
                self._busy_s += self.clock.monotonic() - begun_s
                for window in taken.batch.windows:
                    if window.release is not None:
                        window.release()
                self._put(_Scored(taken.batch, output, self.clock.monotonic()))
            if taken.ended:
                self._put(_Ended(taken.ended))
            if self._stop.is_set() and self.clock.monotonic() - self._stop_at_s > DRAIN_S:
                break
        self._put(_Finish())

    # decision thread ------------------------------------------------------------------------------------------------

    def status(self, status: CameraStatus) -> None:
        """See `capture.host.HostOutput`."""
        self._put(status)

    def _put(self, item: _Scored | _Ended | CameraStatus | _Finish) -> None:
        while not self._decided.is_set():
            with contextlib.suppress(queue.Full):
                self._inbox.put(item, timeout=0.1)
                return

    def _decide(self) -> None:
        try:
            while self._error is None:
                try:
                    item = self._inbox.get(timeout=POLL_S)
                except queue.Empty:
                    item = None
                if isinstance(item, _Finish):
                    break
                if isinstance(item, _Scored):
                    for score in item.scores:
                        self.decider.score(score)
                        self.roster.decided(score.ref)
                        self._windows += 1
                elif isinstance(item, _Ended):
                    for name in item.cameras:
                        self._camera_over(name)
                elif item is not None and self.decider.knows(item.camera):
                    self.decider.status(item)
                self.decider.tick()
                self.decision_queue.run_pending()
                self.sink.service()
        finally:
            try:
                self.decider.finish("shutdown")
                self.sink.close()
                self.decision_queue.close()
            finally:
                self._decided.set()

    def _camera_over(self, name: str) -> None:
        camera = self.roster.drained(name)
        if camera.leaving:
            self._leave(name)
        elif not camera.stopped:  # else it ends with the run, by `finish`
            self.decider.ended(name, failed=bool(camera.failure))

    def change_cameras(self, gone: Collection[str], come: Sequence[Member]) -> None:
        """Watch other cameras from now on; a name in both is opened anew. For the decision thread.

        Raises StageError when the run is ending.
        """
        change = self.roster.change(gone, come)
        for member in change.now:  # first, so that the run does not end when the others have left
            self._enter(member)
        for name in change.at_once:
            self._leave(name)
        for name in change.running:
            if not self._host.end(name):
                self.ended(name, "stopped")

    def _leave(self, name: str) -> None:
        again = self.roster.comes_again(name)
        self.decider.remove(name, "its settings changed, it is opened again" if again else "it is no longer watched")
        self._alarms_before += sum(c.alarms for c in self.telemetry.snapshot().cameras if c.name == name)
        next_one = self.roster.left(name)
        self.telemetry.remove_camera(name)
        self.on_camera(name, False)
        if next_one is not None:
            self._enter(next_one)

    def _enter(self, member: Member) -> None:
        _, plan = member
        self.telemetry.add_camera(plan.name)
        self.on_camera(plan.name, True)
        self.decider.add(plan)
        self.roster.put(member)
        self._start_more()

    def _guard(self, stage: Callable[[], None]) -> None:
        try:
            stage()
        except StreamDetectorError as error:
            self.fail(error)
        except Exception as error:
            wrapped = StageError(f"stage {threading.current_thread().name!r} failed: {type(error).__name__}: {error}")
            wrapped.__cause__ = error
            self.fail(wrapped)
