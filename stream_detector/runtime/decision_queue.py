"""A queue of work for the decision thread, the only thread that uses the journal and the sockets."""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, InvalidStateError
from typing import Any

from stream_detector.errors import StageError

log = logging.getLogger(__name__)

MAX_WAITING = 64


class DecisionQueue:
    """A thread-safe queue of tasks.

    Any thread calls `submit`; the decision thread calls `run_pending` often, and `close` when it ends. A caller may
    cancel its future at any time: a task that has not begun is then skipped, and the result of a task that has begun is
    dropped. Neither disturbs the decision thread.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._waiting: deque[tuple[Callable[[], Any], Future[Any]]] = deque()
        self._closed = False

    def submit(self, work: Callable[[], Any]) -> Future[Any]:
        """Run `work` between two windows; the future gets its result or its exception. Never blocks.

        Raises StageError if MAX_WAITING are pending. After `close`, the thread of the caller runs `work`.
        """
        task: tuple[Callable[[], Any], Future[Any]] = (work, Future())
        with self._lock:
            if self._closed:
                _do(*task)
            elif len(self._waiting) >= MAX_WAITING:
                raise StageError(f"{MAX_WAITING} tasks already wait for the decision thread; try again later")
            else:
                self._waiting.append(task)
        return task[1]

    def run_pending(self) -> None:
        """Run the tasks that are pending now, not those submitted in the meantime. Exceptions go only to the
        futures.
        """
        for _ in range(len(self._waiting)):
            _do(*self._waiting.popleft())

    def close(self) -> None:
        """Run all pending tasks; later tasks run in the thread of their caller."""
        with self._lock:
            self._closed = True
            self.run_pending()


def _do(work: Callable[[], Any], done: Future[Any]) -> None:
    try:
        if done.done() and not done.cancelled():
            raise InvalidStateError
        if not done.set_running_or_notify_cancel():
            return  # nobody waits for it any more; from here on `cancel` is refused
    except (InvalidStateError, RuntimeError):
        log.warning("a task was skipped because its caller had already set its result")
        return
    try:
        result = work()
    except Exception as error:
        _settle(done.set_exception, error)
    else:
        _settle(done.set_result, result)


def _settle(settle: Callable[[Any], None], value: Any) -> None:
    try:
        settle(value)
    except InvalidStateError:
        log.warning("the result of a task was dropped because its caller had already set it")
