from __future__ import annotations

import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from stream_detector.runtime.window_buffer import TakenBatch, WindowBuffer
from stream_detector.types import SystemClock, Window, WindowRef

DEADLINE_S = 10.0


class Hands:
    """A clock whose hands the test moves."""

    now = 0.0

    def monotonic(self) -> float:
        return self.now

    def utc(self) -> float:
        return self.now


def window(camera: str, index: int, completed_s: float = 0.0) -> Window:
    ref = WindowRef(camera, camera, index, index * 16, index * 16 + 15, 0.0, 0.6, 0.0, 0.0, completed_s)
    return Window(ref, np.full((16, 2, 2, 3), index, np.uint8))


def names(taken: TakenBatch | None) -> list[tuple[str, int]]:
    assert taken is not None and taken.batch is not None
    return [(w.ref.camera, w.ref.index) for w in taken.batch.windows]


def buffer(capacity: int = 4, **live: bool) -> WindowBuffer:
    made = WindowBuffer(capacity, Hands())
    for camera, is_live in live.items():
        made.add(camera, is_live)
    return made


def test_cameras_take_turns() -> None:
    shared = buffer(a=True, b=True, c=True)
    for index in range(4):
        shared.put(window("a", index))
    shared.put(window("b", 0))
    shared.put(window("c", 0))
    assert names(shared.take(4, 0.0)) == [("a", 0), ("b", 0), ("c", 0), ("a", 1)]
    assert names(shared.take(4, 0.0)) == [("a", 2), ("a", 3)]


def test_a_batch_row_is_its_windows_pixels() -> None:
    shared = buffer(a=True, b=True)
    shared.put(window("a", 7))
    shared.put(window("b", 9))
    taken = shared.take(8, 0.0)
    assert taken is not None and taken.batch is not None
    assert taken.batch.frames.shape == (2, 16, 2, 2, 3)
    assert taken.batch.frames[:, 0, 0, 0, 0].tolist() == [7, 9]


def test_live_drops_its_oldest_counts_it_and_marks_what_follows() -> None:
    dropped: list[tuple[str, str]] = []
    shared = WindowBuffer(2, Hands(), lambda camera, cause: dropped.append((camera, cause)))
    shared.add("a", True)
    for index in range(5):
        assert shared.put(window("a", index))
    taken = shared.take(8, 0.0)
    assert names(taken) == [("a", 3), ("a", 4)]
    assert dropped == [("a", "overload")] * 3
    assert taken is not None and taken.batch is not None
    assert [w.ref.degraded for w in taken.batch.windows] == [("dropped",), ()]


def test_a_file_waits_and_loses_nothing() -> None:
    shared = WindowBuffer(2, SystemClock())
    shared.add("a", False)

    def produce() -> None:
        for index in range(20):
            assert shared.put(window("a", index))
        shared.end("a")
        shared.close()

    producer = threading.Thread(target=produce)
    producer.start()
    seen: list[int] = []
    while (taken := shared.take(3, 60.0)) is not None:  # a long wait: a full buffer must close the batch by itself
        if taken.batch:
            seen += [w.ref.index for w in taken.batch.windows]
    producer.join(DEADLINE_S)
    assert seen == list(range(20)) and not producer.is_alive()


def test_a_waiting_file_is_woken_for_its_own_room_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    waits: Counter[str] = Counter()
    real = threading.Condition.wait

    def wait(condition: threading.Condition, timeout: float | None = None) -> bool:
        waits[threading.current_thread().name] += 1
        return real(condition, timeout)

    monkeypatch.setattr(threading.Condition, "wait", wait)
    shared, files, windows = WindowBuffer(1, SystemClock()), ("a", "b", "c", "d"), 50
    for camera in files:
        shared.add(camera, False)

    def produce(camera: str) -> None:
        for index in range(windows):
            shared.put(window(camera, index))
        shared.end(camera)

    producers = [threading.Thread(target=produce, args=(camera,), name=camera) for camera in files]
    for producer in producers:
        producer.start()
    seen = 0
    while seen < windows * len(files):
        taken = shared.take(1, 60.0)
        seen += len(names(taken)) if taken and taken.batch else 0
    for producer in producers:
        producer.join(DEADLINE_S)
    assert not any(producer.is_alive() for producer in producers)
    assert all(waits[camera] <= windows for camera in files), waits  # at most one wait for each window


def test_a_batch_waits_for_company_until_its_oldest_window_is_due() -> None:
    hands = Hands()
    shared = WindowBuffer(4, hands)
    shared.add("a", True)
    shared.add("b", True)
    shared.put(window("a", 0, completed_s=1.0))
    hands.now = 1.5
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(shared.take, 2, 60.0)
        shared.put(window("b", 0, completed_s=1.5))
        assert names(waiting.result(DEADLINE_S)) == [("a", 0), ("b", 0)]
    shared.put(window("a", 1, completed_s=1.0))
    hands.now = 61.0
    assert names(shared.take(2, 60.0)) == [("a", 1)]


def test_the_worker_is_woken_for_the_first_window_and_for_a_full_batch_not_for_each(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    waits: Counter[str] = Counter()
    asleep, real = threading.Event(), threading.Condition.wait

    def wait(condition: threading.Condition, timeout: float | None = None) -> bool:
        waits[threading.current_thread().name] += 1
        if threading.current_thread().name.startswith("worker"):
            asleep.set()
        return real(condition, timeout)

    monkeypatch.setattr(threading.Condition, "wait", wait)
    cameras = [f"c{number}" for number in range(40)]
    shared = WindowBuffer(4, Hands())
    for camera in cameras:
        shared.add(camera, True)
    with ThreadPoolExecutor(1, thread_name_prefix="worker") as pool:
        taken = pool.submit(shared.take, len(cameras), 60.0)
        for camera in cameras:
            assert asleep.wait(DEADLINE_S)  # had it been woken by the window before, it would have slept again
            shared.put(window(camera, 0))
        assert [name for name, _ in names(taken.result(DEADLINE_S))] == cameras
    assert sum(count for name, count in waits.items() if name.startswith("worker")) <= 2


def test_the_end_of_a_camera_comes_after_its_last_window() -> None:
    shared = buffer(a=False, b=False)
    shared.put(window("a", 0))
    shared.end("a")
    shared.end("b")
    taken = shared.take(8, 0.0)
    assert names(taken) == [("a", 0)] and taken is not None and sorted(taken.ended) == ["a", "b"]
    shared.close()
    assert shared.take(8, 0.0) is None


@pytest.mark.parametrize("how", ["abort", "close", "end"])
def test_no_thread_stays_blocked_on_a_full_buffer(how: str) -> None:
    shared = WindowBuffer(1, SystemClock())
    shared.add("a", False)
    shared.put(window("a", 0))
    with ThreadPoolExecutor(1) as pool:
        blocked = pool.submit(shared.put, window("a", 1))
        getattr(shared, how)(*(["a"] if how == "end" else []))
        assert blocked.result(DEADLINE_S) is False


def test_closing_drains_and_aborting_does_not() -> None:
    shared = buffer(a=True)
    shared.put(window("a", 0))
    shared.close()
    assert names(shared.take(8, 60.0)) == [("a", 0)]
    assert shared.take(8, 60.0) is None
    other = buffer(a=True)
    other.put(window("a", 0))
    other.abort()
    assert other.take(8, 60.0) is None


def test_a_file_of_another_process_never_blocks_here_and_waits_there() -> None:
    shared = WindowBuffer(2, Hands())
    shared.add("a", False, outside=4)
    for index in range(3):
        assert shared.put(window("a", index))
    assert not shared._no_more_soon()  # its fourth window may still come
    assert shared.put(window("a", 3))
    assert names(shared.take(8, 1e9)) == [("a", 0), ("a", 1), ("a", 2), ("a", 3)]  # now waiting brings nothing more


def test_a_window_that_is_dropped_or_refused_gives_its_place_back() -> None:
    released: list[int] = []

    def placed(index: int) -> Window:
        made = window("a", index)
        return Window(made.ref, made.frames, release=lambda: released.append(index))

    shared = WindowBuffer(2, Hands())
    shared.add("a", True, outside=4)
    for index in range(4):
        assert shared.put(placed(index))
    assert released == [0, 1]
    shared.close()
    assert not shared.put(placed(4))
    assert released == [0, 1, 4]
