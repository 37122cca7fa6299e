"""Work that other threads want done by the decision thread, which alone owns the journal and the sockets."""

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
    """`post` from any thread; the decision thread calls `run` often, and `close` when it ends.

    An asker may cancel its future at any time: work that has not begun is then left out, and the result of work that
    has is dropped. Neither reaches the decision thread.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._waiting: deque[tuple[Callable[[], Any], Future[Any]]] = deque()
        self._closed = False

    def submit(self, work: Callable[[], Any]) -> Future[Any]:
        """Have `work` done between two windows; what it returns or raises is the future's. Never blocks.

        Raises StageError when MAX_WAITING are waiting. After `close`, `work` is done at once by the caller's thread.
        """
        errand: tuple[Callable[[], Any], Future[Any]] = (work, Future())
        with self._lock:
            if self._closed:
                _do(*errand)
            elif len(self._waiting) >= MAX_WAITING:
                raise StageError(f"{MAX_WAITING} decision_queue wait for the decision thread already; try again later")
            else:
                self._waiting.append(errand)
        return errand[1]

    def run_pending(self) -> None:
        """Do what waits now, and not what is posted meanwhile. What an errand raises goes to its asker alone."""
        for _ in range(len(self._waiting)):
            _do(*self._waiting.popleft())

    def close(self) -> None:
        """Do what waits; from now on every caller does its own."""
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
        log.warning("an errand was left out, since its asker had settled it already")
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
        log.warning("the result of an errand was dropped, since its asker had settled it already")
