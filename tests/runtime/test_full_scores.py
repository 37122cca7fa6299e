"""A table of scores that cannot be written any more: live cameras are watched without it, recordings are not."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
from pipeline_rig import ALARM, MemorySink

from stream_detector.config import SmoothingConfig
from stream_detector.errors import RunError
from stream_detector.reports.scores_file import ScoresFile, read_scores
from stream_detector.runtime.decider import CameraPlan, Decider
from stream_detector.telemetry.collector import Telemetry
from stream_detector.types import Score, SystemClock, Timing, WindowRef


def window(index: int) -> Score:
    start_s = index * 0.64
    ref = WindowRef("gate", "rtsp://h", index, index * 16, index * 16 + 15, start_s, start_s + 0.6, 0.0, 0.0, 0.0)
    return Score(ref, 0.1, 0.0, Timing(0.0, 0.0, 0.0, 0.0))


@pytest.mark.parametrize("live", [True, False])
def test_a_full_disk_costs_live_cameras_the_table_only(
    live: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    plan = CameraPlan("gate", "rtsp://h", live, 16, SmoothingConfig(kind="none"), ALARM, 0.5, evidence=False)
    table, sink, clock = ScoresFile(tmp_path / "scores.csv"), MemorySink(), SystemClock()
    decider = Decider((plan,), "f" * 16, sink=sink, telemetry=Telemetry((plan.name,), clock), clock=clock, scores=table)
    decider.score(window(0))

    def full(_self: ScoresFile, _decision: object) -> None:
        raise RunError("scores file 'scores.csv' cannot be written (No space left on device); free the disk")

    monkeypatch.setattr(ScoresFile, "write", full)
    if live:
        for index in range(1, 4):
            decider.score(window(index))
        told = [record.message for record in caplog.records if record.levelno == logging.ERROR]
        assert len(sink.scores) == 4 and len(told) == 1 and "watched without it" in told[0]
        decider.finish("stopped")
    else:
        with pytest.raises(RunError, match="No space left"):
            decider.score(window(1))
    table.close()
    assert len(read_scores(tmp_path / "scores.csv")) == 1
