"""Windows of many cameras → batches: a bounded buffer per camera, filled by capture threads, emptied by one worker.

A file waits until there is room (nothing is ever dropped). A live camera drops its oldest window and counts it; the
window that follows carries its causes and `dropped`. A batch is complete when it is full, when its oldest window has
waited `max_wait_s`, or when waiting cannot add windows (every camera has ended or waits for room). Batches are fair:
cameras take turns, one window each per round.
"""

from __future__ import annotations

import dataclasses
import threading
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from stream_detector.types import Batch, Clock, Window


@dataclass(frozen=True, slots=True)
class TakenBatch:
    """The input of the worker: a batch (None if only ends are reported) and the cameras drained to their end."""

    batch: Batch | None
    ended: tuple[str, ...]


class _CameraQueue:
    """The waiting windows of one camera."""

    def __init__(self, live: bool, lock: threading.Lock, outside: int) -> None:
        self.live = live
        self.outside = outside
        self.room = threading.Condition(lock)  # its own, so that a file wakes when it has room, not when others do
        self.windows: deque[Window] = deque()
        self.lost: set[str] = set()  # "dropped", and the causes that the dropped windows carried
        self.ended = False
        self._waits = False

    @property
    def waiting(self) -> bool:
        """Whether no further window can come before one is taken."""
        return self._waits or 0 < self.outside <= len(self.windows)

    def wait_for_room(self, there: Callable[[], bool]) -> None:
        self._waits = True
        self.room.wait_for(there)
        self._waits = False


class WindowBuffer:
    """Connects the capture threads and the worker.

    capacity: windows that may wait per camera.  on_drop: called with (camera, cause) for every dropped window.

    max_age_s: a live camera's window that has waited for longer is dropped as well: where pictures are passed over in
    an overload, there may be no next window to push it out.
    """

    def __init__(
        self,
        capacity: int,
        clock: Clock,
        on_drop: Callable[[str, str], None] | None = None,
        max_age_s: float = float("inf"),
    ) -> None:
        self._capacity = capacity
        self._max_age_s = max_age_s
        self._clock = clock
        self._on_drop = on_drop
        self._queues: dict[str, _CameraQueue] = {}
        self._turn: deque[str] = deque()
        self._lock = threading.Lock()
        self._more = threading.Condition(self._lock)  # the worker waits for this condition
        self._waiting = 0  # windows of all cameras
        self.dropped = 0  # windows of live cameras, so far
        self._wanted = 1  # this many windows must wait before a further one wakes the worker
        self._aborted = False
        self._closed = False

    def add(self, camera: str, live: bool, outside: int = 0) -> None:
        """Announce a camera before its first window.

        outside: for a camera of another process, which itself waits when so many of its windows are here: `put` never
        blocks for it. 0: `put` blocks for a file.
        """
        with self._lock:
            self._queues[camera] = _CameraQueue(live, self._lock, outside)
            self._turn.append(camera)

    @property
    def waiting(self) -> int:
        """Windows of all cameras that wait."""
        return self._waiting

    def put(self, window: Window) -> bool:
        """Add a window; return False if the run is over and the window was not taken."""
        camera = window.ref.camera
        with self._lock:
            queue = self._queues[camera]
            if not (queue.live or queue.outside) and len(queue.windows) >= self._capacity and not self._over(queue):
                self._more.notify()  # perhaps the last that a batch was waiting for
                queue.wait_for_room(lambda: len(queue.windows) < self._capacity or self._over(queue))
            if self._over(queue):
                _let_go(window)
                return False
            if queue.live and len(queue.windows) >= self._capacity:
                self._drop_oldest(queue)
            queue.windows.append(window)
            self._waiting += 1
            if (
                self._waiting >= self._wanted or queue.waiting
            ):  # else the worker waits for more, or for the deadline of the oldest
                self._more.notify()
            return True

    def _drop_oldest(self, queue: _CameraQueue) -> None:
        oldest = queue.windows.popleft()
        queue.lost |= {"dropped", *oldest.ref.degraded}
        self._waiting -= 1
        self.dropped += 1
        _let_go(oldest)
        if self._on_drop:
            self._on_drop(oldest.ref.camera, "overload")

    def _drop_old(self) -> None:
        """Drop what has waited too long."""
        limit_s = self._clock.monotonic() - self._max_age_s
        for queue in self._queues.values():
            while queue.live and queue.windows and queue.windows[0].ref.completed_s < limit_s:
                self._drop_oldest(queue)

    def end(self, camera: str) -> None:
        """Note that the camera gives no more windows; the worker learns it after it has taken the last one."""
        with self._lock:
            queue = self._queues[camera]
            queue.ended = True
            queue.room.notify()
            self._more.notify()

    def close(self) -> None:
        """Note that no camera will be added and none gives more windows; after the last window `take` returns None."""
        with self._lock:
            self._closed = True
            self._wake_all()

    def abort(self) -> None:
        """Drop everything and release every waiting thread immediately."""
        with self._lock:
            self._aborted = True
            self._wake_all()

    def take(self, max_size: int, max_wait_s: float) -> TakenBatch | None:
        """Wait for a batch of at most `max_size` windows. None: no window will come again."""
        with self._lock:
            while True:
                if self._aborted:
                    return None
                if self._waiting > max_size:
                    self._drop_old()
                if self._waiting == 0:
                    ended = self._ended()
                    if ended:
                        return TakenBatch(None, ended)
                    if self._closed:
                        return None
                    self._wanted = 1
                    self._more.wait()
                    continue
                if self._waiting >= max_size or self._no_more_soon():
                    break
                oldest_s = min(queue.windows[0].ref.completed_s for queue in self._queues.values() if queue.windows)
                left_s = oldest_s + max_wait_s - self._clock.monotonic()
                if left_s <= 0:
                    break
                self._wanted = max_size
                self._more.wait(left_s)
            windows = tuple(self._pick(max_size))
            ended = self._ended()
        return TakenBatch(Batch(windows, self._clock.monotonic()), ended)

    def _wake_all(self) -> None:
        self._more.notify()
        for queue in self._queues.values():
            queue.room.notify()

    def _over(self, queue: _CameraQueue) -> bool:
        return self._aborted or self._closed or queue.ended

    def _no_more_soon(self) -> bool:
        """Return True if no running camera can add a window before the worker takes some."""
        return self._closed or all(queue.waiting or queue.ended for queue in self._queues.values())

    def _ended(self) -> tuple[str, ...]:
        done = [name for name, queue in self._queues.items() if queue.ended and not queue.windows]
        for name in done:
            del self._queues[name]
            self._turn.remove(name)
        return tuple(done)

    def _pick(self, max_size: int) -> Iterable[Window]:
        left = min(max_size, self._waiting)
        self._waiting -= left
        while left:
            name = self._turn[0]
            self._turn.rotate(-1)
            queue = self._queues[name]
            if not queue.windows:
                continue
            window = queue.windows.popleft()
            queue.room.notify()
            if queue.lost:
                causes = tuple(sorted(queue.lost.union(window.ref.degraded)))
                queue.lost.clear()
                window = dataclasses.replace(window, ref=dataclasses.replace(window.ref, degraded=causes))
            left -= 1
            yield window


def _let_go(window: Window) -> None:
    if window.release is not None:
        window.release()
