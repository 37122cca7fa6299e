"""The cameras of a run: which wait, run, have ended, come and go.

A camera that goes is asked to end; behind its last window the decision thread takes leave of it (`left`), and what
comes under the same name begins only then. So a name never has two sources at once, and no window is decided by the
settings of another camera. A live camera that comes back goes on with its window numbers and media time, which keeps
the ids of its alarms apart.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from stream_detector.capture.host import CameraReport, CameraTask
from stream_detector.config import CameraConfig
from stream_detector.errors import StageError
from stream_detector.runtime.decider import CameraPlan
from stream_detector.runtime.stages import is_recorded
from stream_detector.runtime.window_buffer import WindowBuffer
from stream_detector.telemetry.collector import Telemetry
from stream_detector.types import CameraCounters, WindowRef

REMEMBERED = 1000  # live cameras whose last window is known, so that they can go on behind it

Member = tuple[CameraConfig, CameraPlan]


class Host(Protocol):
    """What of `capture.host_pool.HostPool` is used here."""

    def windows_outside(self, camera: CameraConfig) -> int: ...

    def make_place(self, camera: CameraConfig) -> None: ...

    def assign(self, task: CameraTask) -> None: ...

    def forget(self, name: str) -> None: ...


@dataclass(frozen=True, slots=True)
class Change:
    """What is to be done about a change of cameras, in this order.

    now: begin (`put`).  at_once: nothing will come of them (`left`).  running: to be asked to end.
    """

    now: list[Member]
    at_once: list[str]
    running: list[str]


@dataclass(slots=True, eq=False)
class WatchedCamera:
    """What a run holds of one camera.

    over: it gives no more windows.  drained: all of them were decided.  leaving: it was taken off the list.
    """

    config: CameraConfig
    plan: CameraPlan
    late: bool = False  # it came during the run
    failure: str = ""
    stopped: bool = False
    timed: bool = False
    over: bool = False
    drained: bool = False
    leaving: bool = False
    counted: CameraCounters = field(default_factory=CameraCounters)


class Roster:
    """Starts cameras and takes leave of them. open_limit: files open at once; 0: all.

    `change`, `left` and `decided` are for the decision thread; `ended` is called by capture threads; the properties may
    be read by any thread.
    """

    def __init__(self, cameras: Sequence[Member], telemetry: Telemetry, open_limit: int = 0) -> None:
        self._telemetry, self._open_limit = telemetry, open_limit
        self._lock = threading.Lock()
        self._all = {config.name: WatchedCamera(config, plan) for config, plan in cameras}
        self._waiting = deque(self._all.values())
        self._coming: dict[str, Member] = {}
        self._last: dict[str, WindowRef] = {}  # newest decided window of each live camera
        self._open_files = 0
        self._closed = False
        self._previews = False
        self._host: Host | None = None
        self._buffer: WindowBuffer | None = None
        self._order = {name: place for place, name in enumerate(self._all)}
        self.version = 0  # counts the changes

    # -- for any thread ---------------------------------------------------------------------------------------------

    @property
    def members(self) -> tuple[Member, ...]:
        """The cameras that are watched now, in order; not those that wait for another one to end."""
        order = self._order
        held = sorted(list(self._all.items()), key=lambda item: order.get(item[0], len(order)))
        return tuple((camera.config, camera.plan) for _, camera in held)

    @property
    def plans(self) -> tuple[CameraPlan, ...]:
        """Their plans."""
        return tuple(plan for _, plan in self.members)

    @property
    def live(self) -> int:
        """How many of them are live."""
        return sum(plan.live for plan in self.plans)

    @property
    def failed(self) -> dict[str, str]:
        """Sentence by camera, for sources that could not be played."""
        return {name: camera.failure for name, camera in list(self._all.items()) if camera.failure}

    def offered(self) -> float:
        """Windows that all pictures of live cameras so far would give."""
        cameras = [camera for camera in list(self._all.values()) if camera.plan.live]
        return sum(camera.counted.frames / camera.plan.stride_frames for camera in cameras)

    # -- start and end ----------------------------------------------------------------------------------------------

    def attach(self, host: Host, buffer: WindowBuffer, *, previews: bool) -> None:
        """Where cameras run and their windows go. previews: whether pictures for people are wanted."""
        self._host, self._buffer, self._previews = host, buffer, previews

    def start_more(self) -> None:
        """Start every live camera, and files up to the limit."""
        with self._lock:
            if self._closed:
                return  # a stop opens nothing more
            for camera in [c for c in self._waiting if c.plan.live]:
                self._start(camera)
            while self._waiting and (not self._open_limit or self._open_files < self._open_limit):
                self._open_files += 1
                self._start(self._waiting[0])

    def _start(self, camera: WatchedCamera) -> None:
        assert self._host is not None and self._buffer is not None
        self._waiting.remove(camera)
        config, plan = camera.config, camera.plan
        if camera.late:
            self._host.make_place(config)
        last = self._last.get(plan.name) if plan.live and camera.late else None
        keep = plan.evidence or is_recorded(config)
        task = CameraTask(config, plan.stride_frames, self._previews, keep=keep, last=last)
        self._buffer.add(plan.name, plan.live, self._host.windows_outside(config))
        self._host.assign(task)

    def close(self) -> None:
        """Start nothing any more."""
        with self._lock:
            self._closed = True

    def ended(self, name: str, reason: str) -> tuple[str, bool]:
        """A camera gives no more windows: (why its source failed, or ""; whether no camera will give any)."""
        with self._lock:
            camera = self._all[name]
            camera.over, camera.stopped = True, reason == "stopped"
            if reason.startswith(("failed: ", "truncated: ")):
                camera.failure = reason.removeprefix("failed: ")
            self._open_files -= 0 if camera.plan.live else 1
            return camera.failure, self._over()

    def _over(self) -> bool:
        return not self._coming and all(camera.over for camera in self._all.values())

    def count(self, reports: Mapping[str, CameraReport]) -> None:
        """Bring what the capture threads counted to the telemetry."""
        for name, report in reports.items():
            camera, counted = self._all.get(name), report.counters
            if camera is None:
                continue
            if new := counted.frames - camera.counted.frames:
                self._telemetry.frame(name, new)
            for cause, number in counted.dropped.items():
                new = number - camera.counted.dropped.get(cause, 0)
                if new:
                    self._telemetry.dropped(name, cause, new)
            for _ in range(counted.reconnects - camera.counted.reconnects):
                self._telemetry.reconnected(name)
            camera.counted = counted
            if report.duration_s is not None and not camera.timed:
                camera.timed = True
                self._telemetry.duration(name, report.duration_s)

    # -- changes, by the decision thread ----------------------------------------------------------------------------

    def get(self, name: str) -> WatchedCamera:
        """Return one camera."""
        return self._all[name]

    def decided(self, ref: WindowRef) -> None:
        """A window was decided."""
        self._last[ref.camera] = ref

    def change(self, gone: Collection[str], come: Sequence[Member]) -> Change:
        """Take cameras off the list, and put others on it; a name in both is opened anew.

        Raises StageError when the run is ending.
        """
        with self._lock:
            if self._closed or self._over():
                raise StageError("the run is ending; start it again with the new configuration")
            for name in gone:
                self._all[name].leaving = True
            now = [member for member in come if member[0].name not in self._all]
            self._coming.update({member[0].name: member for member in come if member[0].name in self._all})
            at_once = [name for name in gone if self._all[name].drained or self._all[name] in self._waiting]
            running = [name for name in gone if not self._all[name].over and name not in at_once]
        return Change(now, at_once, running)

    def comes_again(self, name: str) -> bool:
        """Whether another camera waits for the name of one that leaves."""
        return name in self._coming

    def drained(self, name: str) -> WatchedCamera:
        """The last window of a camera was decided."""
        camera = self._all[name]
        camera.drained = True
        return camera

    def left(self, name: str) -> Member | None:
        """Nothing of a camera will come any more: forget it. Returns what comes under its name, for `put`."""
        assert self._host is not None
        self._host.forget(name)
        with self._lock:
            camera = self._all.pop(name)
            if camera in self._waiting:
                self._waiting.remove(camera)
            self.version += 1
            while len(self._last) > REMEMBERED:
                del self._last[next(iter(self._last))]
            return self._coming.pop(name, None)

    def put(self, member: Member) -> None:
        """One more camera; `start_more` starts it."""
        config, plan = member
        with self._lock:
            camera = self._all[config.name] = WatchedCamera(config, plan, late=True)
            self._waiting.append(camera)
            self.version += 1

    def set_order(self, names: Sequence[str]) -> None:
        """In which order they are shown."""
        self._order = {name: place for place, name in enumerate(names)}
        self.version += 1

    def set_plan(self, plan: CameraPlan, config: CameraConfig) -> None:
        """Other settings of a camera that only decisions need; its capture goes on."""
        camera = self._all[plan.name]
        camera.plan, camera.config = plan, config
        self.version += 1
