"""The fast form of the alarm rule, and smoothing in one go, against the stream's own objects."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stream_detector.alarms.replay import hysteresis_starts, smooth_scores
from stream_detector.alarms.smoothing import Ema, make_smoother
from stream_detector.alarms.state_machine import make_alarm_rule
from stream_detector.config import AlarmConfig, SmoothingConfig
from stream_detector.types import Score, Timing, WindowRef

NO_TIME = Timing(0.0, 0.0, 0.0, 0.0)


def by_the_rule(
    raw: list[float], smoothed: list[float], starts_s: list[float], ends_s: list[float], at: float, alarm: AlarmConfig
) -> list[int]:
    rule = make_alarm_rule("gate", "f00d", str, at, alarm)
    found = []
    for n, (score, smooth, start_s, end_s) in enumerate(zip(raw, smoothed, starts_s, ends_s, strict=True)):
        ref = WindowRef("gate", "gate.mp4", n, 16 * n, 16 * n + 15, start_s, end_s, 0.0, 0.0, 0.0)
        _, event = rule.step(Score(ref, score, 0.0, NO_TIME), smooth)
        if event is not None and event.type == "start":
            found.append(n)
    return found


@settings(max_examples=400, deadline=None)
@given(
    st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1), st.sampled_from([0.25, 0.64, 1.0, 7.5])), max_size=150),
    st.floats(0.01, 1.0),
    st.floats(0.0, 1.0),
    st.sampled_from([0.0, 0.5, 2.0, 30.0]),
    st.sampled_from([0.0, 1.0, 10.0]),
    st.sampled_from([0.0, 0.7, 3.0, 20.0]),
)
def test_alarms_from_crossing_to_crossing_are_those_of_the_rule(
    windows: list[tuple[float, float, float]],
    threshold: float,
    off: float,
    least_s: float,
    cooldown_s: float,
    hold_s: float,
) -> None:
    raw, smoothed, steps = (list(values) for values in zip(*windows, strict=True)) if windows else ([], [], [])
    ends = np.cumsum(steps) if steps else np.zeros(0)
    starts = ends - 0.25
    alarm = AlarmConfig(off_ratio=off, min_length_s=least_s, cooldown_s=cooldown_s, hold_s=hold_s)
    arrays = (np.array(raw, float), np.array(smoothed, float), starts, ends)
    wanted = by_the_rule(raw, smoothed, starts.tolist(), ends.tolist(), threshold, alarm)
    assert hysteresis_starts(*arrays, threshold, alarm) == wanted


@pytest.mark.parametrize("seed", range(20))
def test_long_onsets_are_no_exception(seed: int) -> None:
    """An alarm remembers so many windows of its onset and no more; its length counts from there."""
    dice = np.random.default_rng(seed)
    count = 600
    raw = (dice.random(count) < 0.97) * 0.9
    smoothed = np.where(dice.random(count) < 0.05, 0.9, 0.1)
    ends = np.arange(1, count + 1) * 0.64
    alarm = AlarmConfig(min_length_s=45.0, cooldown_s=3.0)
    wanted = by_the_rule(raw.tolist(), smoothed.tolist(), (ends - 0.6).tolist(), ends.tolist(), 0.5, alarm)
    assert len(wanted) > 2
    assert hysteresis_starts(raw, smoothed, ends - 0.6, ends, 0.5, alarm) == wanted


@pytest.mark.parametrize(
    "config",
    [SmoothingConfig(time_constant_s=0.7), SmoothingConfig(kind="median", span=3), SmoothingConfig(kind="none")],
)
def test_smoothing_is_the_streams_and_forgets_at_cuts(config: SmoothingConfig) -> None:
    raw = np.random.default_rng(1).random(30)
    starts = np.arange(30) * 0.64
    found = smooth_scores(raw, starts, starts + 0.6, config, cuts={10, 11})
    wanted = []
    for part in (range(10), range(10, 11), range(11, 30)):
        smoother = make_smoother(config)
        wanted += [smoother.update(starts[n], starts[n] + 0.6, raw[n]) for n in part]
    assert found.tolist() == wanted


def test_smoothing_of_nothing_is_nothing() -> None:
    assert smooth_scores([], [], [], SmoothingConfig()).tolist() == []
    assert Ema(1.0).state() == [0.0, None]
