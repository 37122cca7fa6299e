"""A thread that hangs: the run ends all the same, and closes nothing that the thread still uses."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pytest
from pipeline_rig import MemorySink, Running, make

from stream_detector.config import build_config
from stream_detector.runtime import build, pipeline
from stream_detector.testing import ConstantEngine, FakeSource
from stream_detector.types import Decision


class Closing(ConstantEngine):
    """Remembers whether it was closed."""

    closed = False

    def close(self) -> None:
        self.closed = True


@pytest.mark.parametrize("hangs", ["decision", "worker"])
def test_a_thread_that_hangs_is_left_behind_with_what_it_uses(hangs: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pipeline, "GIVE_UP_S", 0.2)
    inside, go_on = threading.Event(), threading.Event()

    def hang() -> None:
        inside.set()
        assert go_on.wait(30.0)

    class Sink(MemorySink):
        def score(self, decision: Decision) -> None:
            if hangs == "decision":
                hang()
            super().score(decision)

    class Engine(Closing):
        def infer(self, frames: Any) -> Any:
            if hangs == "worker":
                hang()
            return super().infer(frames)

    engine = Engine()
    run, sink = make({"cam": FakeSource(["frame"] * 200)}, engine=engine, sink=Sink())
    running = Running(run)
    try:
        assert inside.wait(30.0)
        run.stop()
        assert running.end().stopped
        assert not run.settled and not engine.closed and not sink.closed
    finally:
        go_on.set()


def test_a_run_that_ends_closes_its_engine() -> None:
    engine = Closing()
    run, sink = make({"cam": FakeSource(["frame"] * 32)}, engine=engine)
    run.run()
    assert run.settled and engine.closed and sink.closed


def test_nothing_is_closed_under_a_thread_that_hangs(tmp_path: Path) -> None:
    (tmp_path / "a.mp4").write_bytes(b"")
    values = {
        "cameras": [{"name": "a", "source": str(tmp_path / "a.mp4")}],
        "publish": {"bind": "tcp://127.0.0.1:*", "ledger": tmp_path / "l.sqlite3"},
        "evidence": {"enabled": False},
    }
    with build.build_run(build_config(values), engine=ConstantEngine()) as run:
        run.pipeline.settled = False
    left: Any = build._left_open.pop()
    assert not run.publisher._closed and (tmp_path / "l.sqlite3.lock").exists()
    left.close()
    assert run.publisher._closed and not (tmp_path / "l.sqlite3.lock").exists()
