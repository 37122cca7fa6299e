"""A cut in a file on its way through the whole pipeline: its windows, its smoothing, and the same again in `tune`."""

from __future__ import annotations

import pytest
from pipeline_rig import ALARM, make

from stream_detector.alarms.smoothing import Ema
from stream_detector.config import Config, SmoothingConfig, WindowConfig
from stream_detector.reports.scores_file import ScoreRow
from stream_detector.runtime.decider import CameraPlan, Decider
from stream_detector.telemetry.collector import Telemetry
from stream_detector.testing import ConstantEngine, FakeSource
from stream_detector.types import SystemClock
from stream_detector.web.tune import tune

SMOOTH = SmoothingConfig(kind="ema", time_constant_s=2.0)
STEPS = ("frame",) * 56 + ("other",) * 40


@pytest.mark.parametrize(("look", "starts"), [(True, [0, 16, 32, 56, 72]), (False, [0, 16, 32, 48, 64, 80])])
def test_windows_and_smoothing_begin_anew(look: bool, starts: list[int]) -> None:
    config = Config(pace="max", window=WindowConfig(detect_cuts=look))
    pipeline, sink = make({"gate": FakeSource(STEPS)}, engine=ConstantEngine(score=0.8), config=config)
    plans = (CameraPlan("gate", "gate", False, 16, SMOOTH, ALARM, 0.5, evidence=False),)
    telemetry = Telemetry(["gate"], SystemClock())
    pipeline.decider = Decider(plans, "f00d", sink=sink, telemetry=telemetry, clock=SystemClock())
    assert pipeline.run().error is None
    refs, smoothed = [d.score.ref for d in sink.scores], [d.smoothed for d in sink.scores]
    assert [ref.start_frame for ref in refs] == starts
    assert [ref.start_frame for ref in refs if "cut" in ref.degraded] == ([56] if look else [])
    wanted, ema = [], Ema(2.0)
    for ref in refs:
        ema = Ema(2.0) if look and ref.start_frame == 56 else ema
        wanted.append(ema.update(ref.start_s, ref.end_s, 0.8))
    assert smoothed == pytest.approx(wanted)
    rows = [
        ScoreRow("gate", "gate", r.index, r.start_frame, r.end_frame, r.start_s, r.end_s, 0.8, s, r.degraded)
        for r, s in zip(refs, smoothed, strict=True)
    ]
    assert [point[2] for point in tune(rows, SMOOTH, 0.5, ALARM).points] == pytest.approx(smoothed)
