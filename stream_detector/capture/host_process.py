"""A capture host in its own process: the child's side. `host_supervisor` is the main process's side.

    main ── HostSetup, then ("assign", CameraTask, slots) | ("release", camera) | ("stop",) ──▶ host
           | ("evidence", command) | ("finish", seconds)
    main ◀── ("window", slot, WindowRef, previews) | ("status", …) | ("preview", …) | ("ended", …)
             ("kept", report) | ("finished",) |
             ("failed", text) | ("log", level, logger, text) ── host
             ("report", private bytes, {camera: CameraReport}), four times a second: the heartbeat ── host

The process imports no network, ignores SIGINT, SIGTERM and SIGHUP (the main process decides when to stop), and ends
when the main process ends, also after a kill: the pipe is closed then, and on Linux the kernel kills the child.
"""

from __future__ import annotations

import ctypes
import dataclasses
import gc
import importlib
import logging
import os
import signal
import sys
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from multiprocessing.connection import Connection
from typing import Any

from stream_detector.capture.host import CameraReport, CaptureHost
from stream_detector.capture.picture import make_views
from stream_detector.capture.shared_slots import SharedSlots, SlotLayout
from stream_detector.capture.taps import Taps
from stream_detector.config import Config
from stream_detector.models.recipe import Recipe
from stream_detector.system.malloc import configure_malloc, trim_malloc
from stream_detector.types import CameraStatus, Preview, Window

REPORT_S = 0.25
STOP_S = 0.3  # threads that a reader blocks are left after this time
TRIM_REPORTS = 120
_PR_SET_PDEATHSIG = 1


@dataclass(frozen=True, slots=True)
class HostSetup:
    """The first message to a host. config: of the run, without its cameras.  modules: register further kinds of source.

    taps: "module:function" that makes a `taps.Taps` of (config, report), for evidence and recordings; "": none.
    """

    config: Config
    recipe: Recipe
    layout: SlotLayout
    modules: tuple[str, ...] = ()
    taps: str = ""


class _ToMain(logging.Handler):
    """Implements `host.HostOutput` over the pipe; also sends this process's log lines."""

    def __init__(self, connection: Connection, slots: SharedSlots) -> None:
        super().__init__(logging.WARNING)
        self._connection, self._slots = connection, slots
        self._sending = threading.Lock()
        self._reporting = threading.Lock()  # counts are sent in the order in which they were taken
        self._room = threading.Condition()
        self._lanes: dict[str, tuple[Sequence[int], bool]] = {}  # camera → its slots, whether it is live
        self._lost: dict[str, int] = {}  # windows for which there was no slot
        self._unmarked: dict[str, set[str]] = {}  # causes for the next window
        self.host: CaptureHost | None = None

    def send(self, *message: Any) -> None:
        with self._sending:
            self._connection.send(message)

    def assign(self, camera: str, slots: Sequence[int], live: bool) -> None:
        with self._room:
            self._lanes[camera] = (slots, live)

    def forget(self, camera: str) -> None:
        """A camera is gone, and all that was counted of it."""
        with self._room:
            self._lanes.pop(camera, None)
            self._lost.pop(camera, None)
            self._unmarked.pop(camera, None)

    def window(self, window: Window) -> None:
        camera = window.ref.camera
        with self._room:
            slots, live = self._lanes[camera]
            slot = self._slots.take(slots)
            while slot is None and not live:
                self._room.wait(1.0)
                slot = self._slots.take(slots)
            if slot is None:
                self._lost[camera] = self._lost.get(camera, 0) + 1
                self._unmarked.setdefault(camera, set()).update({"dropped", *window.ref.degraded})
                return
        for place, view in zip(self._slots.views(slot), (window.frames, *window.views), strict=True):
            place[...] = view
        ref = window.ref
        if causes := self._unmarked.pop(camera, None):
            ref = dataclasses.replace(ref, degraded=tuple(sorted(causes.union(ref.degraded))))
        self.send("window", slot, ref, window.previews)

    def status(self, status: CameraStatus) -> None:
        self.send("status", status)

    def preview(self, camera: str, preview: Preview) -> None:
        self.send("preview", camera, preview)

    def ended(self, camera: str, reason: str) -> None:
        self.report()
        self.send("ended", camera, reason)

    def failed(self, error: Exception) -> None:
        self.send("failed", f"{type(error).__name__}: {error}")

    def emit(self, record: logging.LogRecord) -> None:
        self.send("log", record.levelno, record.name, record.getMessage())

    def report(self) -> None:
        """Send the counts so far; a window without a free slot counts as dropped."""
        assert self.host is not None
        with self._reporting:
            reports = {
                name: _with_lost(report, self._lost.get(name, 0)) if self._lost else report
                for name, report in self.host.report().items()
            }
            self.send("report", private_bytes(), reports)

    def woken(self) -> None:
        """Slots have become free."""
        with self._room:
            self._room.notify_all()


def main() -> None:
    """Run the process. Arguments: descriptors of the pipe, of the windows' memory, and of the pipe that signals free
    slots.
    """
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    parent = os.getppid()
    _die_with(parent)
    configure_malloc()
    pipe, memory, wake = (int(text) for text in sys.argv[1:4])
    connection = Connection(pipe)
    over = threading.Event()
    try:
        setup: HostSetup = connection.recv()
        for module in setup.modules:
            importlib.import_module(module)
        slots = SharedSlots(memory, setup.layout)
        output = _ToMain(connection, slots)
        _log_to(output)
        taps = make_taps(setup.taps, setup.config, partial(output.send, "kept"))
        resize = partial(make_views, recipe=setup.recipe)
        host = CaptureHost(setup.config, resize, setup.recipe.fps, output, share=lambda: slots.share, taps=taps)
        output.host = host
        gc.freeze()  # imported objects are permanent: the garbage collector skips them
        threading.Thread(target=_report, args=(output, parent, over), name="report", daemon=True).start()
        threading.Thread(target=_wait_for_room, args=(output, wake), name="room", daemon=True).start()
        _serve(connection, output, host, taps)
    except (EOFError, OSError):
        pass  # the main process has ended
    os._exit(0)  # threads that a reader blocks must not delay the end


def make_taps(name: str, config: Config, report: Callable[[Any], object]) -> Taps | None:
    """Build the taps of `HostSetup.taps`; None for an empty name. report: called with events about files."""
    if not name:
        return None
    module, _, function = name.partition(":")
    made: Taps = getattr(importlib.import_module(module), function)(config, report)
    return made


def _serve(connection: Connection, output: _ToMain, host: CaptureHost, taps: Taps | None) -> None:
    """Execute the main process's messages until it sends "stop"."""
    while True:
        kind, *rest = connection.recv()
        if kind == "assign":
            task, lane = rest
            output.assign(task.name, lane, task.live)
            host.assign(task)
        elif kind == "end":
            if not host.end(rest[0]):
                output.ended(rest[0], "stopped")
        elif kind == "release":
            host.release(rest[0])
            output.forget(rest[0])
            if taps is not None:
                taps.drop(rest[0])
        elif kind == "evidence":
            if taps is not None:
                taps.command(rest[0])
        elif kind == "finish":
            if taps is not None:
                taps.close(rest[0])
            output.send("finished")
        else:
            host.stop()
            host.join(STOP_S)
            output.report()
            return


def _report(output: _ToMain, parent: int, over: threading.Event) -> None:
    """Send the heartbeat. It needs the interpreter lock, so a host whose threads hold the lock permanently sends
    none.
    """
    reports = 0
    while not over.wait(REPORT_S):
        try:
            output.report()
        except OSError:
            os._exit(0)
        if os.getppid() != parent:
            os._exit(0)
        reports += 1
        if reports % TRIM_REPORTS == 0:
            trim_malloc()


def _wait_for_room(output: _ToMain, wake: int) -> None:
    while os.read(wake, 4096):
        output.woken()
    os._exit(0)


def _log_to(handler: logging.Handler) -> None:
    package = logging.getLogger("stream_detector")
    package.handlers = [handler]
    package.propagate = False


def _die_with(parent: int) -> None:
    """Ask the kernel to kill this process when the thread that started it ends; other systems rely on the closed
    pipe.
    """
    if sys.platform.startswith("linux"):
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        if os.getppid() != parent:
            os._exit(0)


def private_bytes() -> int:
    """Return the memory that only this process uses; 0 if the system does not report it."""
    try:
        with open("/proc/self/statm", encoding="ascii") as file:
            _, resident, shared = file.read().split()[:3]
    except (OSError, ValueError):
        return 0
    return (int(resident) - int(shared)) * os.sysconf("SC_PAGE_SIZE")


def _with_lost(report: CameraReport, lost: int) -> CameraReport:
    if not lost:
        return report
    dropped = {**report.counters.dropped, "overload": lost}
    return dataclasses.replace(report, counters=dataclasses.replace(report.counters, dropped=dropped))


if __name__ == "__main__":
    main()
