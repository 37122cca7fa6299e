"""Ray, if it is installed; and a pool of Ray actors that works through a list, each entry once.

Ray Data is not used, because a recording that kills its decoder (and so its process) must be named and skipped. Ray
Data repeats a block whose worker died for ever and does not report which row it was; this pool knows the entry of each
worker. Otherwise an archive is a list of files and a model that stays loaded, which suits actors. The extra is `ray`.
"""

from __future__ import annotations

import contextlib
import os
import traceback
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from stream_detector.errors import MissingExtraError, RunError, UsageError

TRIES = 2  # an entry that has killed its worker this many times is skipped
START_TRIES = 3  # seconds for the start of an own cluster
START_DEATHS = 3  # workers that die in a row before they have finished anything


def import_ray(what: str) -> Any:
    """Import the package. what: who needs it, for the message. Raises MissingExtraError."""
    # Disables Ray's telemetry; and a worker without a GPU keeps CUDA_VISIBLE_DEVICES.
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    # Ray gives its workers a low priority (nice 15), as for batch work; a camera cannot wait.
    os.environ.setdefault("RAY_worker_niceness", "0")
    try:
        import ray
    except ModuleNotFoundError:
        raise MissingExtraError(what, "ray", "ray") from None
    return ray


@contextlib.contextmanager
def connected(what: str, address: str | None, cpus: int | None = None) -> Iterator[Any]:
    """Connect to Ray: to the cluster at `address` ("auto": that of this machine), or to one started for this run.

    An existing connection is used, and kept at the end.  cpus: of the started cluster. Raises MissingExtraError,
    UsageError if there is no cluster to join, RunError if none can be started.
    """
    ray = import_ray(what)
    if ray.is_initialized():
        yield ray
        return
    try:
        if address is None:
            _start(ray, cpus)
        else:
            ray.init(address=address, logging_level="error")
    except (ConnectionError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise UsageError(
            f"no Ray cluster was found at {address!r} ({reason}); start one with 'ray start --head', "
            "or leave --address out"
        ) from None
    try:
        yield ray
    finally:
        ray.shutdown()


def _start(ray: Any, cpus: int | None) -> None:
    """Start an own cluster. A busy machine may need more than the half minute that Ray allows its parts."""
    for left in reversed(range(START_TRIES)):
        try:
            ray.init(address="local", num_cpus=cpus, include_dashboard=False, logging_level="error")
            return
        except (ConnectionError, ValueError):
            raise
        except Exception as error:  # Ray raises plain Exception
            reason = " ".join(str(error).split())[:200]
            _end_half_started(error)
        ray.shutdown()
        if not left:
            raise RunError(f"Ray could not be started on this machine ({reason}); try again when it is less busy")


def _end_half_started(error: Exception) -> None:
    """End the processes of a node whose start failed; only its traceback still refers to them."""
    for frame, _ in traceback.walk_tb(error.__traceback__):
        node = frame.f_locals.get("self")
        if node is not None and hasattr(node, "kill_all_processes"):
            node.kill_all_processes(check_alive=False, allow_graceful=False)
            return


@dataclass(frozen=True, slots=True)
class Outcome:
    """The outcome of one entry. number: its place in the list.  error: one sentence, or "" and then `value`."""

    number: int
    value: Any
    error: str


@dataclass(slots=True, eq=False)
class _Worker:
    handle: Any
    number: int | None = None
    served: int = 0


def map_over_actors(
    ray: Any, worker: Any, arguments: tuple[Any, ...], entries: Sequence[Any], workers: int, **options: Any
) -> Iterator[Outcome]:
    """Yield the outcomes in order of completion, one for every entry.

    worker: a class with `work(entry)`; a UsageError that it raises is an outcome, other errors end everything.
    arguments: of its constructor.  options: of its actors, `num_cpus` for instance; Ray spreads them over the nodes.
    Raises RunError if workers cannot start, or fail themselves.
    """
    actor = ray.remote(worker).options(**{"scheduling_strategy": "SPREAD", "max_restarts": 0, "num_cpus": 1, **options})
    waiting = deque(range(len(entries)))
    deaths = [0] * len(entries)
    early = 0
    running: dict[Any, _Worker] = {}

    def give(held: _Worker) -> None:
        if waiting:
            held.number = waiting.popleft()
            running[held.handle.work.remote(entries[held.number])] = held

    try:
        for _ in range(min(workers, len(entries))):
            give(_Worker(actor.remote(*arguments)))
        while running:
            (ref,), _ = ray.wait(list(running), num_returns=1)
            held = running.pop(ref)
            number = held.number
            assert number is not None
            try:
                outcome = Outcome(number, ray.get(ref), "")
            except ray.exceptions.RayTaskError as error:
                if not isinstance(error.cause, UsageError):
                    raise RunError(f"a worker failed: {_last_line(error)}") from error
                outcome = Outcome(number, None, str(error.cause))
            except ray.exceptions.RayError as error:
                early = 0 if held.served else early + 1
                if early >= START_DEATHS and early > deaths[number] + 1:
                    raise RunError(f"workers cannot start: {_last_line(error)}") from error
                deaths[number] += 1
                if deaths[number] < TRIES:
                    waiting.appendleft(number)  # repeat it first: if it kills again, that is known soon
                give(_Worker(actor.remote(*arguments)))
                if deaths[number] >= TRIES:
                    yield Outcome(number, None, f"it killed its worker {TRIES} times and was skipped")
                continue
            held.served += 1
            early = 0
            give(held)
            yield outcome
    finally:
        for held in running.values():
            with contextlib.suppress(Exception):
                ray.kill(held.handle)


def _last_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__
