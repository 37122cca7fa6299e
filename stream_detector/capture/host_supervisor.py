"""The main process's side of a capture host: starts, feeds and watches the process, and replaces it when it dies.

One thread per host starts the process and reads its messages; the kernel ends the process with that thread. A host that
dies, sends no heartbeat for `host_silence_s`, or uses more memory than `host_memory_mb` is replaced: its cameras
continue after the newest window that arrived, a live camera with the mark `gap`, so no window is lost or scored twice.
Windows that arrived stay valid, because their memory belongs to the main process.
"""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import os
import queue
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections import deque
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import IO, Any

from stream_detector.capture.host import CameraReport, CameraTask, HostOutput
from stream_detector.capture.host_process import HostSetup
from stream_detector.capture.host_suspects import Suspects
from stream_detector.capture.shared_slots import SharedSlots
from stream_detector.errors import StageError
from stream_detector.types import CameraCounters, CameraState, CameraStatus, Preview, Window, WindowRef

log = logging.getLogger(__name__)

STARTS = 3  # so many starts in a row without a heartbeat end the run
START_S = 30.0  # longest time from the start of a host to its first heartbeat
SHORT_LIFE_S = 10.0  # a host that dies after a shorter time may have been killed by one of its cameras
KILLED = f"was killed by signal {signal.SIGKILL:d}"
PATIENCE = 4  # after so many short lives in a row, the pauses between starts grow
LONGEST_DELAY_S = 10.0
_CODE = "from stream_detector.capture.host_process import main; main()"


@dataclasses.dataclass(slots=True, eq=False)
class _Camera:
    task: CameraTask
    slots: range
    last: WindowRef | None = None
    done: bool = False
    ending: bool = False  # it was asked to end
    quiet: bool = False  # its next "connecting" was reported already
    before: CameraCounters = dataclasses.field(default_factory=CameraCounters)  # of earlier processes
    report: CameraReport | None = None


class _Place:
    """The slot of one window; releasing it twice does nothing."""

    def __init__(self, free: Callable[[int], None], slot: int) -> None:
        self._free, self._slot = free, slot

    def __call__(self) -> None:
        slot, self._slot = self._slot, -1
        if slot >= 0:
            self._free(slot)


class HostSupervisor:
    """One host's process and its cameras. setup: the first message.  output: called by this host's thread.

    silence_s, memory_bytes: limits beyond which it is replaced.  on_room(): a camera that ended has released its slots.
    on_kept(report): a report on evidence; None when the process ended, with the files that it was writing.
    """

    def __init__(
        self,
        number: int,
        setup: HostSetup,
        output: HostOutput,
        slots_each: int,
        *,
        silence_s: float,
        memory_bytes: int,
        on_room: Callable[[], None] = lambda: None,
        on_kept: Callable[[Any], object] = lambda _report: None,
    ) -> None:
        self.number = number
        self.restarts = 0
        self._setup, self._output, self._on_room, self._on_kept = setup, output, on_room, on_kept
        self._finished = threading.Event()
        self._silence_s, self._memory_bytes = silence_s, memory_bytes
        self._slots = SharedSlots.create(setup.layout)
        count = setup.layout.slots
        self._lanes = deque(range(first, first + slots_each) for first in range(0, count - slots_each + 1, slots_each))
        self._out: dict[int, str] = {}  # slots whose windows are in the main process, and their cameras
        self._cameras: dict[str, _Camera] = {}
        self._lock = threading.Lock()  # guards the fields above and the next two
        self._outbox: queue.SimpleQueue[Any] | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._wake = -1
        self._over = False
        self._short_lives = 0
        self._suspects = Suspects()
        self._private_bytes = 0  # of the process, by its last report
        self._thread = threading.Thread(target=self._run, name=f"capture-host-{number}", daemon=True)

    def start(self) -> None:
        """Start the process; returns immediately."""
        self._thread.start()

    @property
    def room(self) -> int:
        """Return how many more cameras fit at present."""
        return len(self._lanes)

    @property
    def pid(self) -> int | None:
        """The process id, None while there is no process."""
        process = self._process
        return process.pid if process is not None and process.poll() is None else None

    def assign(self, task: CameraTask) -> None:
        """Run a camera; there must be `room`."""
        with self._lock:
            camera = _Camera(task, self._lanes.popleft(), task.last)
            self._cameras[task.name] = camera
            self._send("assign", task, camera.slots)

    def end(self, name: str) -> None:
        """Ask one camera to end; it tells its end behind its last window."""
        with self._lock:
            self._cameras[name].ending = True
            self._send("end", name)

    def forget(self, name: str) -> None:
        """A camera has ended, and all its windows were scored: nothing of it is kept."""
        with self._lock:
            if self._cameras.pop(name, None) is not None:
                self._send("release", name)

    def set_share(self, share: float) -> None:
        """See `SharedSlots.share`."""
        self._slots.share = share

    def report(self) -> dict[str, CameraReport]:
        """Return the counts over all processes so far."""
        with self._lock:
            found = {}
            for name, camera in self._cameras.items():
                report = camera.report or CameraReport(CameraCounters())
                found[name] = dataclasses.replace(report, counters=_sum(camera.before, report.counters))
            return found

    def stop(self) -> None:
        """Ask every camera to end; the process follows. Does not wait."""
        with self._lock:
            self._over = True
            self._send("stop")

    def command(self, command: Any) -> None:
        """Pass a command to the process's recorder; it is lost while there is no process."""
        with self._lock:
            self._send("evidence", command)

    def has(self, camera: str) -> bool:
        """Return whether a camera runs here."""
        return camera in self._cameras

    def begin_finish(self, timeout_s: float) -> None:
        """Ask the process to finish its open files within a time. Does not wait."""
        with self._lock:
            if self._process is None:
                self._finished.set()
            self._send("finish", timeout_s)

    def wait_finished(self, timeout_s: float) -> bool:
        """Wait until `begin_finish` is done, or the process has ended."""
        return self._finished.wait(timeout_s)

    def join(self, timeout_s: float) -> bool:
        """Wait for the process to end; after the time it is killed."""
        if self._thread.ident is None:
            return True
        self._thread.join(timeout_s)
        if self._thread.is_alive():
            self._kill()
            self._thread.join(1.0)
        return not self._thread.is_alive()

    # -- its thread -----------------------------------------------------------------------------------------------

    def _run(self) -> None:
        failed_starts = 0
        try:
            while not self._over:
                begun_s = time.monotonic()
                with tempfile.TemporaryFile() as errors:
                    connection = self._spawn(errors)
                    alive, why = self._watch(connection)
                    self._reap(connection)
                    if self._over:
                        break
                    failed_starts = 0 if alive else failed_starts + 1
                    if failed_starts >= STARTS:
                        self._output.failed(
                            StageError(f"capture host {self.number} cannot start: {_last_line(errors)}")
                        )
                        break
                self._died(why, time.monotonic() - begun_s)
        except Exception as error:
            self._output.failed(error)
        finally:
            self._kill()
            self._slots.close()

    def _spawn(self, errors: IO[bytes]) -> Connection:
        """Start a new process and assign all cameras to it."""
        ours, theirs = socket.socketpair()
        wake_read, wake_write = os.pipe()
        os.set_blocking(wake_write, False)
        memory = self._slots.descriptor
        passed = (theirs.fileno(), memory, wake_read)
        try:
            process = subprocess.Popen(
                [sys.executable, "-P", "-c", _CODE, *map(str, passed)],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=errors,
                pass_fds=passed,
                start_new_session=True,  # Ctrl-C in a terminal is for the main process only
                env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
            )
        finally:
            theirs.close()
            os.close(wake_read)
        connection = Connection(ours.detach())
        outbox: queue.SimpleQueue[Any] = queue.SimpleQueue()
        threading.Thread(target=_send_all, args=(connection, outbox), name="to-host", daemon=True).start()
        with self._lock:
            self._process, self._outbox, self._wake = process, outbox, wake_write
            for slot in range(self._setup.layout.slots):
                if slot not in self._out:
                    self._slots.set_free(slot)  # the earlier process may have died while it wrote there
            outbox.put(self._setup)
            left = {name: camera for name, camera in self._cameras.items() if not camera.done}
            names = [name for name, camera in left.items() if not camera.ending]
            for name in self._suspects.begin(names, self._short_lives, time.monotonic()):
                self._send("assign", self._going_on(self._cameras[name]), self._cameras[name].slots)
            if self._over:
                self._send("stop")
        for name, camera in left.items():
            if camera.ending:  # it would have told so itself
                self._camera_ended(name, "stopped")
        return connection

    @staticmethod
    def _going_on(camera: _Camera) -> CameraTask:
        if camera.last is None or camera.last is camera.task.last:
            return camera.task
        return dataclasses.replace(camera.task, last=camera.last, cause="gap")

    def _watch(self, connection: Connection) -> tuple[bool, str]:
        """Read until the process ends or must be ended; return (whether it ever sent a heartbeat, why it ended)."""
        process = self._process
        assert process is not None
        alive = False
        try:
            while True:
                limit_s = self._silence_s if alive else START_S
                if not connection.poll(limit_s):
                    return alive, f"sent no heartbeat for {limit_s:g} s"
                kind, *rest = connection.recv()
                alive = True
                if kind == "report":
                    self._private_bytes = rest[0]
                if kind == "report" and rest[0] > self._memory_bytes:
                    return alive, f"took {rest[0] / 1e6:.0f} MB of memory, more than host_memory_mb allows"
                self._take(kind, rest)
                if (suspect := self._suspects.due(time.monotonic())) is not None:
                    self._try(suspect)
        except (EOFError, OSError):
            code = self._ended(process)
            return alive, f"was killed by signal {-code}" if code is not None and code < 0 else "ended by itself"

    def _try(self, name: str) -> None:
        """Run a camera that may be the one that kills its host."""
        with self._lock:
            camera = self._cameras.get(name)
            if camera is not None and not camera.done and not camera.ending:
                self._send("assign", self._going_on(camera), camera.slots)

    @staticmethod
    def _ended(process: subprocess.Popen[bytes]) -> int | None:
        with contextlib.suppress(subprocess.TimeoutExpired):
            return process.wait(1.0)
        return None

    def _take(self, kind: str, rest: list[Any]) -> None:
        """Handle one message of the process."""
        if kind == "window":
            self._window(*rest)
        elif kind == "report":
            self._counted(rest[1])
        elif kind == "status":
            self._status(rest[0])
        elif kind == "preview":
            self._output.preview(*rest)
        elif kind == "ended":
            self._camera_ended(*rest)
        elif kind == "log":
            level, name, text = rest
            logging.getLogger(name).log(level, "%s", text)
        elif kind == "kept":
            self._on_kept(rest[0])
        elif kind == "finished":
            self._finished.set()
        elif kind == "failed":
            self._output.failed(StageError(f"a camera of capture host {self.number} failed: {rest[0]}"))

    def _window(self, slot: int, ref: WindowRef, previews: tuple[Preview, ...]) -> None:
        with self._lock:
            self._out[slot] = ref.camera
            self._cameras[ref.camera].last = ref
        frames, *views = self._slots.views(slot)
        self._output.window(Window(ref, frames, previews, tuple(views), _Place(self._free, slot)))

    def _free(self, slot: int) -> None:
        """The window in a slot was scored or dropped. From any thread; never blocks."""
        with self._lock:
            name = self._out.pop(slot)
            self._slots.set_free(slot)
            if self._wake >= 0:
                with contextlib.suppress(OSError):  # a full pipe also signals
                    os.write(self._wake, b"\0")
            given_back = self._give_back(name)
        if given_back:
            self._on_room()

    def _give_back(self, name: str) -> bool:
        """Return whether an ended camera has released its slots: the last of its windows was scored."""
        camera = self._cameras[name]
        if not camera.done or not camera.slots or name in self._out.values():
            return False
        self._lanes.append(camera.slots)
        camera.slots = range(0)
        return True

    def _counted(self, reports: dict[str, CameraReport]) -> None:
        with self._lock:
            for name, report in reports.items():
                if name in self._cameras:
                    self._cameras[name].report = report

    def _status(self, status: CameraStatus) -> None:
        camera = self._cameras[status.camera]
        quiet, camera.quiet = camera.quiet, False
        if status.state == "online":
            self._suspects.online(status.camera, time.monotonic())
        if not (quiet and status.state == "connecting"):
            self._output.status(status)

    def _camera_ended(self, name: str, reason: str) -> None:
        with self._lock:
            camera = self._cameras.get(name)
            if camera is None or camera.done:
                return  # told twice: by the process that died, and for it
            camera.done = True
            given_back = self._give_back(name)
        self._output.ended(name, reason)
        if given_back:
            self._on_room()

    # -- death ----------------------------------------------------------------------------------------------------

    def _died(self, why: str, lived_s: float) -> None:
        self.restarts += 1
        with self._lock:
            cameras = [camera for camera in self._cameras.values() if not camera.done]
            for camera in cameras:
                camera.before = _sum(camera.before, camera.report.counters) if camera.report else camera.before
                camera.report, camera.quiet = None, True
        # A kill from outside says nothing about its cameras, unless the system was short of memory.
        outside = why == KILLED and self._private_bytes < self._memory_bytes / 2
        short = lived_s < SHORT_LIFE_S and not outside
        self._short_lives = self._short_lives + 1 if short else 0
        culprit = None if outside else self._suspects.died(time.monotonic())
        many = self._short_lives - PATIENCE
        delay_s = min(LONGEST_DELAY_S, 0.5 * 2.0**many) if many >= 0 and culprit is None else 0.0
        names = ", ".join(camera.task.name for camera in cameras[:8]) + (", …" if len(cameras) > 8 else "")
        log.warning("capture host %d %s; it is started again (cameras %s)", self.number, why, names)
        for camera in cameras:
            state: CameraState = "offline" if delay_s else "connecting"
            detail = f"its capture process {why}; it is started again"
            if held_s := self._suspects.held_s(camera.task.name, time.monotonic()):
                state = "offline"
                detail = (
                    f"its capture process {why} soon after this camera was opened; it is tried again in {held_s:.0f} s"
                )
            source = camera.task.camera.source.shown
            self._output.status(CameraStatus(camera.task.name, source, state, detail, None, time.monotonic()))
        until_s = time.monotonic() + delay_s
        while not self._over and time.monotonic() < until_s:
            time.sleep(0.05)

    def _kill(self) -> None:
        process = self._process
        if process is not None and process.poll() is None:
            process.kill()

    def _reap(self, connection: Connection) -> None:
        """Clean up after a process that has ended or must end."""
        self._kill()
        with self._lock:
            process, self._process = self._process, None
            outbox, self._outbox = self._outbox, None
            wake, self._wake = self._wake, -1
        if process is not None:
            process.wait()
            self._finished.set()
            self._on_kept(None)
        if outbox is not None:
            outbox.put(None)
        connection.close()
        if wake >= 0:
            os.close(wake)

    def _send(self, *message: Any) -> None:
        """Send with the lock held; never blocks. `_spawn` sends again what a dead process did not read."""
        if self._outbox is not None:
            self._outbox.put(message)


def _send_all(connection: Connection, outbox: queue.SimpleQueue[Any]) -> None:
    """Runs in its own thread, so that a host that does not read blocks no other thread."""
    with contextlib.suppress(OSError, ValueError):
        while (message := outbox.get()) is not None:
            connection.send(message)


def _sum(before: CameraCounters, now: CameraCounters) -> CameraCounters:
    causes = {*before.dropped, *now.dropped}
    dropped = {cause: before.dropped.get(cause, 0) + now.dropped.get(cause, 0) for cause in causes}
    return CameraCounters(
        before.frames + now.frames, before.windows + now.windows, before.reconnects + now.reconnects, dropped
    )


def _last_line(errors: IO[bytes]) -> str:
    """Return the last line of the process's standard error, before its connection was ready."""
    errors.seek(0, os.SEEK_END)
    errors.seek(max(0, errors.tell() - 2000))
    lines = errors.read().decode("utf-8", "replace").strip().splitlines()
    return lines[-1][:200] if lines else "it ended without a word"
