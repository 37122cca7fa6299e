"""The pool of workers over a fake Ray: every entry once, killers set aside, nothing waits for ever."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

from stream_detector.errors import DataError, RunError
from stream_detector.system.actor_pool import TRIES, Outcome, map_over_actors


class FakeRay:
    """Just enough of Ray: calls are made when they are waited for, newest first, so outcomes come out of order."""

    def __init__(self) -> None:
        class RayError(Exception):
            pass

        class RayTaskError(RayError):
            cause: Exception

        self.exceptions = SimpleNamespace(RayError=RayError, RayTaskError=RayTaskError)
        self.started = 0
        self.killed = 0
        self._calls: dict[int, Callable[[], Any]] = {}
        self._numbers = itertools.count()

    def remote(self, worker: Any) -> Any:
        return SimpleNamespace(options=lambda **_: SimpleNamespace(remote=lambda *a: self._start(worker, a)))

    def _start(self, worker: Any, arguments: Any) -> Any:
        self.started += 1
        made: Any = None

        def call(entry: Any) -> int:
            def work() -> Any:
                nonlocal made
                made = made or worker(*arguments)
                return made.work(entry)

            number = next(self._numbers)
            self._calls[number] = work
            return number

        return SimpleNamespace(work=SimpleNamespace(remote=call))

    def wait(self, refs: list[int], num_returns: int) -> tuple[list[int], list[int]]:
        newest = max(refs)
        return [newest], [ref for ref in refs if ref != newest]

    def get(self, ref: int) -> Any:
        try:
            return self._calls.pop(ref)()
        except SystemExit:
            raise self.exceptions.RayError("the worker died") from None
        except Exception as error:
            failure = self.exceptions.RayTaskError(str(error))
            failure.cause = error
            raise failure from None

    def kill(self, handle: Any) -> None:
        self.killed += 1


class Doubler:
    def work(self, entry: int) -> int:
        if entry == 3:
            raise DataError("three cannot be read")
        if entry == 5:
            raise SystemExit  # the process dies
        if entry == 7:
            raise ValueError("a fault of ours")
        return entry * 2


def outcomes(entries: list[int], workers: int = 2, worker: Any = Doubler) -> tuple[dict[int, Outcome], FakeRay]:
    ray = FakeRay()
    found: dict[int, Outcome] = {}
    for outcome in map_over_actors(ray, worker, (), entries, workers):
        assert outcome.number not in found
        found[outcome.number] = outcome
    return found, ray


def test_every_entry_has_one_outcome_and_the_bad_ones_say_why() -> None:
    found, _ = outcomes([1, 2, 3, 4])
    assert [found[n].value for n in range(4)] == [2, 4, None, 8]
    assert [found[n].error for n in range(4)] == ["", "", "three cannot be read", ""]


def test_what_kills_its_worker_is_tried_again_and_then_set_aside() -> None:
    found, ray = outcomes([1, 5, 2, 4], workers=1)
    assert sorted(found) == [0, 1, 2, 3]
    assert "killed its worker" in found[1].error
    assert ray.started == 1 + TRIES


def test_a_fault_of_ours_ends_everything() -> None:
    with pytest.raises(RunError, match="fault of ours"):
        outcomes([1, 7, 2])


def test_workers_that_cannot_start_do_not_set_every_file_aside() -> None:
    class Stillborn:
        def __init__(self) -> None:
            raise SystemExit

    with pytest.raises(RunError, match="cannot start"):
        outcomes([1, 2, 4, 6, 8, 10], worker=Stillborn)


def test_no_more_workers_than_entries() -> None:
    _, ray = outcomes([1], workers=8)
    assert ray.started == 1
