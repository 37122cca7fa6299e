"""Counting frames, and thinning out sources that are faster than the recipe."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from stream_detector.capture.counters import CaptureCounters, FrameSampler
from stream_detector.testing import FakeClock


def test_the_tally_measures_the_rate_and_forgets_it_when_it_is_old() -> None:
    clock = FakeClock()
    counted = CaptureCounters(clock)
    assert counted.last_s() is None and counted.rate(3.0) == 0.0
    for number in range(80):
        assert counted.frame() == number
        clock.advance(0.1)
    assert counted.rate(3.0) == pytest.approx(10.0)
    clock.advance(3.0)
    assert counted.rate(3.0) == 0.0
    counted.drop("corrupt")
    counted.reconnect()
    counters = counted.counters()
    assert (counters.frames, counters.reconnects, counters.dropped) == (80, 1, {"corrupt": 1})


def taken(times: Sequence[float], fps: float, rate_fps: float | None = None) -> list[float]:
    sampler, result = FrameSampler(fps), []
    for media_s in times:
        if sampler.wanted(media_s, rate_fps):
            sampler.taken(media_s)
            result.append(media_s)
    return result


@pytest.mark.parametrize(
    ("source_fps", "share"), [(15, 1.0), (25, 1.0), (30, 1.0), (37, 1.0), (50, 0.5), (60, 0.5), (100, 1 / 3)]
)
def test_spacing_thins_out_fast_sources_evenly(source_fps: int, share: float) -> None:
    for rate in (None, float(source_fps)):
        assert len(taken([i / source_fps for i in range(300)], 25.0, rate)) == pytest.approx(300 * share, abs=2)


def test_late_live_frames_are_not_taken_for_surplus() -> None:
    rng = np.random.default_rng(0)
    times = np.maximum.accumulate(np.arange(500) * 0.04 + rng.exponential(0.02, 500)).tolist()
    assert len(taken(times, 25.0, 25.0)) >= 490
    assert len(taken(times, 25.0)) < 460


def test_a_burst_after_a_stall_is_thinned_out() -> None:
    times = [i * 0.04 for i in range(50)] + [10.0 + i * 0.001 for i in range(200)]
    assert len(taken(times, 25.0, 25.0)) <= 50 + 12
