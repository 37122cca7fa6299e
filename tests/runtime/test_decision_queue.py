"""What askers do with their futures never reaches the decision thread."""

from __future__ import annotations

import asyncio
import threading
from concurrent.futures import CancelledError, Future
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stream_detector.errors import StageError
from stream_detector.runtime.decision_queue import MAX_WAITING, DecisionQueue

ACTIONS = ("cancel", "wait", "settle", "raise", "settle-running", "cancel-running")


def test_a_task_is_done_by_the_thread_that_runs_it() -> None:
    decision_queue = DecisionQueue()
    done = decision_queue.submit(threading.get_ident)
    assert not done.done()
    decision_queue.run_pending()
    assert done.result(0) == threading.get_ident()


def test_a_cancelled_task_is_skipped() -> None:
    decision_queue, made = DecisionQueue(), []
    first, second = decision_queue.submit(lambda: made.append(1)), decision_queue.submit(lambda: made.append(2))
    assert first.cancel()
    decision_queue.run_pending()
    assert made == [2] and second.done()
    with pytest.raises(CancelledError):
        first.result(0)


def test_an_acknowledgement_that_times_out_leaves_the_thread_alive() -> None:
    """As the page does it: `wait_for` cancels the wrapped future, before or while the work is done."""
    decision_queue, begun, go_on = DecisionQueue(), threading.Event(), threading.Event()

    def slow() -> str:
        begun.set()
        assert go_on.wait(30.0)
        return "too late"

    failures: list[BaseException] = []

    def decide() -> None:
        try:
            for _ in range(2):
                decision_queue.run_pending()
        except BaseException as error:
            failures.append(error)

    async def ask(done: Future[Any], timeout_s: float) -> None:
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(asyncio.wrap_future(done), timeout_s)

    never_begun = decision_queue.submit(lambda: "never")
    asyncio.run(ask(never_begun, 0.0))
    running = decision_queue.submit(slow)
    thread = threading.Thread(target=decide)
    thread.start()
    assert begun.wait(30.0)
    asyncio.run(ask(running, 0.01))
    go_on.set()
    thread.join(30.0)
    assert not thread.is_alive() and not failures
    assert never_begun.cancelled() and running.done()


@settings(deadline=None)
@given(st.lists(st.sampled_from(ACTIONS), min_size=1, max_size=MAX_WAITING))
def test_every_other_task_is_done_after_cancellations(actions: list[str]) -> None:
    decision_queue, made = DecisionQueue(), []
    futures: list[Future[Any]] = []

    def work(number: int, action: str) -> int:
        made.append(number)
        if action == "raise":
            raise ValueError("no")
        if action == "settle-running":
            futures[number].set_result("by the asker")
        if action == "cancel-running":
            assert not futures[number].cancel()
        return number

    for number, action in enumerate(actions):
        futures.append(decision_queue.submit(lambda number=number, action=action: work(number, action)))  # type: ignore[misc]
    for future, action in zip(futures, actions, strict=True):
        if action == "cancel":
            future.cancel()
        elif action == "settle":
            future.set_result("by the asker")
    decision_queue.run_pending()
    left_out = {"cancel", "settle"}
    assert made == [n for n, action in enumerate(actions) if action not in left_out]
    for number, (future, action) in enumerate(zip(futures, actions, strict=True)):
        if action == "wait":
            assert future.result(0) == number
        elif action == "raise":
            assert isinstance(future.exception(0), ValueError)


def test_a_task_that_submits_another_does_not_hold_the_thread() -> None:
    decision_queue = DecisionQueue()
    count = 0

    def again() -> None:
        nonlocal count
        count += 1
        decision_queue.submit(again)

    decision_queue.submit(again)
    for _ in range(3):
        decision_queue.run_pending()
    assert count == 3


def test_the_queue_is_bounded_and_closing_does_what_waits() -> None:
    decision_queue = DecisionQueue()
    futures = [decision_queue.submit(lambda: 1) for _ in range(MAX_WAITING)]
    with pytest.raises(StageError, match="try again"):
        decision_queue.submit(lambda: 1)
    futures[0].cancel()
    decision_queue.close()
    assert [f.cancelled() for f in futures] == [True] + [False] * (MAX_WAITING - 1)
    assert decision_queue.submit(lambda: 2).result(0) == 2
