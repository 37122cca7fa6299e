"""Windows of many cameras → Batches: a bounded buffer per camera, filled by capture threads, emptied by one worker.

Policy, by kind of source: a file waits until there is room (nothing is ever dropped); a live camera drops its oldest
window, counts it, and the window that follows carries its causes and `dropped`. A batch is closed when it is full, or
when its oldest window has waited `max_wait_s`, or when waiting cannot bring more (every camera has ended or waits for
room). Batches are fair: cameras take turns, one window each per round.
"""

from __future__ import annotations

import dataclasses
import threading
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np

from stream_detector.types import Batch, Clock, Window


@dataclass(frozen=True, slots=True)
class Taken:
    """What the worker gets: a batch (None when only ends are reported) and the cameras drained to their end."""

    batch: Batch | None
    ended: tuple[str, ...]


class _Lane:
    """One camera's windows in waiting."""

    def __init__(self, live: bool, lock: threading.Lock) -> None:
        self.live = live
        self.room = threading.Condition(lock)  # its own, so that a file wakes when it has room, not when others do
        self.windows: deque[Window] = deque()
        self.lost: set[str] = set()  # "dropped", and the causes that the dropped windows carried
        self.ended = False
        self.waiting = False


class WindowBuffer:
    """The meeting point of the capture threads and the worker.

    capacity: windows a camera may have in waiting.  on_drop(camera, cause): called for every dropped window.
    """

    def __init__(self, capacity: int, clock: Clock, on_drop: Callable[[str, str], None] | None = None) -> None:
        self._capacity = capacity
        self._clock = clock
        self._on_drop = on_drop
        self._lanes: dict[str, _Lane] = {}
        self._turn: deque[str] = deque()
        self._lock = threading.Lock()
        self._more = threading.Condition(self._lock)  # what the worker waits for
        self._aborted = False
        self._closed = False

    def add(self, camera: str, live: bool) -> None:
        """Announce a camera before its first window."""
        with self._lock:
            self._lanes[camera] = _Lane(live, self._lock)
            self._turn.append(camera)

    def put(self, window: Window) -> bool:
        """Hand over a window. False when the run is over and the window was not taken."""
        camera = window.ref.camera
        with self._lock:
            lane = self._lanes[camera]
            if not lane.live and len(lane.windows) >= self._capacity and not self._over(lane):
                lane.waiting = True
                self._more.notify()  # perhaps the last that a batch was waiting for
                lane.room.wait_for(lambda: len(lane.windows) < self._capacity or self._over(lane))
                lane.waiting = False
            if self._over(lane):
                return False
            if len(lane.windows) >= self._capacity:
                lane.lost |= {"dropped", *lane.windows.popleft().ref.degraded}
                if self._on_drop:
                    self._on_drop(camera, "overload")
            lane.windows.append(window)
            self._more.notify()
            return True

    def end(self, camera: str) -> None:
        """The camera gives no further windows; the worker is told once it has taken the last one."""
        with self._lock:
            lane = self._lanes[camera]
            lane.ended = True
            lane.room.notify()
            self._more.notify()

    def close(self) -> None:
        """No camera will be added and none gives further windows: drain, then `take` returns None."""
        with self._lock:
            self._closed = True
            self._wake_all()

    def abort(self) -> None:
        """Drop everything and release every waiting thread at once."""
        with self._lock:
            self._aborted = True
            self._wake_all()

    def take(self, max_size: int, max_wait_s: float) -> Taken | None:
        """Wait for a batch of at most `max_size` windows. None: nothing will ever come again."""
        with self._lock:
            while True:
                if self._aborted:
                    return None
                waiting = sum(len(lane.windows) for lane in self._lanes.values())
                if waiting == 0:
                    ended = self._ended()
                    if ended:
                        return Taken(None, ended)
                    if self._closed:
                        return None
                    self._more.wait()
                    continue
                if waiting >= max_size or self._no_more_soon():
                    break
                oldest_s = min(lane.windows[0].ref.completed_s for lane in self._lanes.values() if lane.windows)
                left_s = oldest_s + max_wait_s - self._clock.monotonic()
                if left_s <= 0:
                    break
                self._more.wait(left_s)
            windows = tuple(self._pick(max_size))
            ended = self._ended()
        frames = np.stack([window.frames for window in windows])
        return Taken(Batch(windows, frames, self._clock.monotonic()), ended)

    def _wake_all(self) -> None:
        self._more.notify()
        for lane in self._lanes.values():
            lane.room.notify()

    def _over(self, lane: _Lane) -> bool:
        return self._aborted or self._closed or lane.ended

    def _no_more_soon(self) -> bool:
        """True when no running camera could add a window before the worker takes some."""
        return self._closed or all(lane.waiting or lane.ended for lane in self._lanes.values())

    def _ended(self) -> tuple[str, ...]:
        done = [name for name, lane in self._lanes.items() if lane.ended and not lane.windows]
        for name in done:
            del self._lanes[name]
            self._turn.remove(name)
        return tuple(done)

    def _pick(self, max_size: int) -> Iterable[Window]:
        taken = 0
        while taken < max_size and any(lane.windows for lane in self._lanes.values()):
            name = self._turn[0]
            self._turn.rotate(-1)
            lane = self._lanes[name]
            if not lane.windows:
                continue
            window = lane.windows.popleft()
            lane.room.notify()
            if lane.lost:
                causes = tuple(sorted(lane.lost.union(window.ref.degraded)))
                lane.lost.clear()
                window = dataclasses.replace(window, ref=dataclasses.replace(window.ref, degraded=causes))
            taken += 1
            yield window
