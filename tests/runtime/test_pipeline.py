"""The whole way through with fake sources and a fake engine: order, ends, shutdown, faults."""

from __future__ import annotations

import threading
import time
from dataclasses import replace
from typing import Any

import pytest
from pipeline_rig import ALARM, DEADLINE_S, NO_WAIT, MemorySink, Running, make

from stream_detector.config import BatchConfig, CaptureConfig, Config, SmoothingConfig
from stream_detector.errors import EngineError, SourceError, StageError
from stream_detector.runtime.decider import CameraPlan
from stream_detector.runtime.pipeline import Pipeline
from stream_detector.testing import ConstantEngine, FakeSource
from stream_detector.types import UInt8Array


def test_files_end_by_themselves_with_a_score_for_every_window() -> None:
    sources = {f"cam{i}": FakeSource(["frame"] * (200 + 16 * i)) for i in range(5)}
    pipeline, sink = make(sources)
    result = pipeline.run()
    assert result.exit_code == 0 and result.error is None and sink.closed
    for i in range(5):
        indices = [d.score.ref.index for d in sink.scores if d.score.ref.camera == f"cam{i}"]
        assert indices == list(range((200 + 16 * i) // 16)), "every window once, in order"
    starts = {e["camera"]: e for e in sink.events if e["type"] == "start"}
    ends = {e["camera"]: e for e in sink.events if e["type"] == "end"}
    assert set(starts) == set(ends) == set(sources)
    assert all(e["start_s"] == 64 / 25 for e in starts.values())
    assert all(e["reason"] == "normal" for e in ends.values())
    assert result.alarms == 5 and result.windows == len(sink.scores)


def test_a_file_that_ends_in_alarm_ends_its_alarm() -> None:
    pipeline, sink = make({"cam": FakeSource(["frame"] * 96)})
    pipeline.run()
    assert [e["type"] for e in sink.events] == ["start", "end"]
    assert sink.events[-1]["reason"] == "normal" and sink.events[-1]["end_s"] == 95 / 25


def test_two_runs_give_the_same_events() -> None:
    runs = []
    for _ in range(2):
        pipeline, sink = make({name: FakeSource(["frame"] * 250) for name in ("a", "b")})
        pipeline.run()
        volatile = ("epoch", "seq", "timing", "start_utc", "emitted_utc")
        events = [{k: v for k, v in e.items() if k not in volatile} for e in sink.events]
        runs.append(sorted(events, key=lambda e: (e["camera"], e["start_s"], e["type"])))
    assert runs[0] == runs[1] and len(runs[0]) == 4


def test_many_files_are_opened_a_few_at_a_time() -> None:
    sources = {f"cam{i}": FakeSource(["frame"] * 64) for i in range(12)}
    most = 0

    class Watching(ConstantEngine):
        def infer(self, frames: UInt8Array) -> Any:
            nonlocal most
            most = max(most, sum(s.opens - s.closes for s in sources.values()))
            return super().infer(frames)

    pipeline, _ = make(sources, engine=Watching(0.1), open_limit=3)
    result = pipeline.run()
    assert result.exit_code == 0 and result.windows == 12 * 4 and 1 <= most <= 3
    assert all(source.opens == 1 and source.closes == 1 for source in sources.values())


def test_one_bad_file_fails_alone() -> None:
    bad = FakeSource([], refuse=1)
    pipeline, sink = make({"bad": bad, "good": FakeSource(["frame"] * 64)})
    result = pipeline.run()
    assert result.exit_code == 2 and list(result.failed) == ["bad"] and "refuse" in result.failed["bad"]
    assert sum(d.score.ref.camera == "good" for d in sink.scores) == 4
    assert ("bad", "failed") in sink.states


def live_source(frames: int) -> FakeSource:
    return FakeSource(["frame"] * frames, live=True)


def test_a_stop_in_the_middle_of_an_alarm_ends_it_in_time() -> None:
    source = FakeSource(["frame"] * 16 + ["stall"], live=True)
    config = Config(batch=NO_WAIT)
    pipeline, sink = make({"cam": source}, engine=ConstantEngine(0.9), live=True, config=config)
    no_spacing(pipeline)
    running = Running(pipeline)
    assert sink.started.wait(DEADLINE_S)
    pipeline.stop()
    result = running.end()
    source.release()
    assert running.took_s < 3.0
    assert result.exit_code == 0 and result.stopped and sink.closed
    assert [(e["type"], e["reason"]) for e in sink.events] == [("start", None), ("end", "shutdown")]


def no_spacing(pipeline: Pipeline) -> None:
    """Fake live frames come faster than any camera's; take them all."""
    pipeline.frame_fps = 1e9


def test_losing_a_live_source_ends_its_alarm() -> None:
    source = FakeSource(["frame"] * 16 + ["stall", "lost"], live=True)
    capture = CaptureConfig(backoff_min_s=30, backoff_max_s=30)
    pipeline, sink = make(
        {"cam": source}, engine=ConstantEngine(0.9), live=True, config=Config(capture=capture, batch=NO_WAIT)
    )
    no_spacing(pipeline)
    running = Running(pipeline)
    assert sink.started.wait(DEADLINE_S)
    source.release()  # and now the line goes dead
    assert sink.ended.wait(DEADLINE_S)
    assert [(e["type"], e["reason"]) for e in sink.events] == [("start", None), ("end", "source_lost")]
    pipeline.stop()
    assert running.end().exit_code == 0
    assert ("cam", "offline") in sink.states


class Broken(ConstantEngine):
    """Fails at its second batch in a way nobody foresaw."""

    def infer(self, frames: UInt8Array) -> Any:
        if self.batches:
            raise RuntimeError("kaboom")
        return super().infer(frames)


@pytest.mark.parametrize(
    ("engine", "sink", "kind", "words"),
    [
        (ConstantEngine(0.9, fail_after=1), MemorySink(), EngineError, "told to fail"),
        (Broken(0.9), MemorySink(), StageError, "stage 'worker' failed: RuntimeError: kaboom"),
        (ConstantEngine(0.9), MemorySink("start"), StageError, "stage 'decide' failed: ValueError: the sink is broken"),
        (ConstantEngine(0.1), MemorySink("score"), StageError, "the sink is broken"),
    ],
)
def test_a_stage_that_raises_ends_the_run_with_its_message(
    engine: ConstantEngine, sink: MemorySink, kind: type[Exception], words: str
) -> None:
    sources = {f"cam{i}": FakeSource(["frame"] * 5000) for i in range(3)}  # every capture thread blocks on its buffer
    pipeline, _ = make(sources, engine=engine, sink=sink, config=Config(pace="max", batch=BatchConfig(max_size=1)))
    running = Running(pipeline)
    result = running.end()
    assert running.took_s < 2.0
    assert isinstance(result.error, kind) and words in str(result.error) and result.exit_code == 1
    assert sink.closed
    assert not [t for t in threading.enumerate() if t.name.startswith(("worker", "decide"))]


@pytest.mark.parametrize(("asked", "largest"), [(None, 2), (5, 5), (99, 6)])
def test_batches_are_as_large_as_the_engine_likes_unless_told_otherwise(asked: int | None, largest: int) -> None:
    engine = ConstantEngine(0.1, max_batch=6)
    engine.good_batch, engine.good_wait_s = 2, 5.0
    config = Config(pace="max", batch=BatchConfig(max_size=asked, buffer_windows=8))
    pipeline, _ = make({f"cam{i}": FakeSource(["frame"] * 16 * 8) for i in range(3)}, engine=engine, config=config)
    assert Running(pipeline).end().exit_code == 0
    assert max(engine.batches) == largest and sum(engine.batches) == 24


def test_a_reader_that_raises_ends_the_run() -> None:
    pipeline, _ = make({"cam": FakeSource(["frame"] * 20 + ["raise"]), "other": FakeSource(["frame"] * 5000)})
    result = Running(pipeline).end()
    assert result.exit_code == 1 and "told to raise" in str(result.error)


def test_an_unreachable_live_source_ends_the_run_when_asked_to() -> None:
    source = FakeSource([], live=True, refuse=99)
    config = Config(capture=CaptureConfig(exit_on_error=True))
    pipeline, _ = make({"cam": source}, live=True, config=config)
    result = Running(pipeline).end()
    assert result.exit_code == 2 and isinstance(result.error, SourceError)


def test_an_absent_live_source_does_not_delay_the_others() -> None:
    absent, present = FakeSource([], live=True, refuse=10_000), live_source(64)
    capture = CaptureConfig(backoff_min_s=30, backoff_max_s=30)
    pipeline, sink = make({"absent": absent, "present": present}, live=True, config=Config(capture=capture))
    no_spacing(pipeline)
    running = Running(pipeline)
    assert present.stalled.wait(DEADLINE_S), "the present camera was read to its last frame"
    pipeline.stop()
    running.end()
    present.release()
    assert ("absent", "offline") in sink.states and ("present", "online") in sink.states


def test_no_thread_outlives_a_run() -> None:
    before = set(threading.enumerate())
    pipeline, _ = make({f"cam{i}": FakeSource(["frame"] * 100) for i in range(4)})
    pipeline.run()
    deadline_s = time.monotonic() + DEADLINE_S
    while (left := set(threading.enumerate()) - before) and time.monotonic() < deadline_s:
        next(iter(left)).join(0.1)
    assert not left


def test_plans_are_values() -> None:
    plan = CameraPlan("a", "a", False, 16, SmoothingConfig(), ALARM, 0.5, True)
    assert replace(plan, live=True) != plan


def test_a_stop_opens_nothing_more() -> None:
    """300 files, three at a time: what was not open when the stop came is never opened."""
    sources = {f"cam{i}": FakeSource(["frame"] * 64) for i in range(300)}
    asked = threading.Event()
    opened_at_stop = 0

    class Stopping(ConstantEngine):
        def infer(self, frames: UInt8Array) -> Any:
            nonlocal opened_at_stop
            if not asked.is_set():
                asked.set()
                pipeline.stop()
                opened_at_stop = sum(source.opens for source in sources.values())
            return super().infer(frames)

    pipeline, sink = make(sources, engine=Stopping(0.1), open_limit=3)
    result = Running(pipeline).end()
    assert result.stopped and sink.closed
    opened = sum(source.opens for source in sources.values())
    assert opened <= opened_at_stop + 3, "at most the threads that had begun go on"  # they may be just about to open
    assert opened < 300


def test_a_stop_before_the_run_opens_nothing() -> None:
    sources = {f"cam{i}": FakeSource(["frame"] * 64) for i in range(4)}
    pipeline, sink = make(sources)
    pipeline.stop()
    result = Running(pipeline).end()
    assert result.stopped and result.windows == 0 and sink.closed
    assert all(source.opens == 0 for source in sources.values())
