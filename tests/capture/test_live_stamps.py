"""Live stamps: the packets' own spacing laid over their arrival, and clocks that drift, burst, jump or say nothing."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stream_detector.capture.media_clock import EARLY_S, FOLLOW, LiveClock

STEP_S = 0.04


def spacing(times: list[float]) -> list[float]:
    return [late - early for early, late in pairwise(times)]


@pytest.mark.parametrize("segment_s", [1.0, 4.0, 10.0])
def test_bursts_of_segments_keep_their_spacing(segment_s: float) -> None:
    """HLS: the pictures of a segment arrive within a moment; their media times are 40 ms apart all the same."""
    clock = LiveClock()
    times, leads = [], []
    for number in range(round(60 / STEP_S)):
        stamp_s = number * STEP_S
        arrived_s = segment_s * (1 + stamp_s // segment_s) + 0.002 * (number % round(segment_s / STEP_S))
        times.append(clock.time(stamp_s + 1234.5, arrived_s))
        leads.append(clock.lead_s)
    steps = spacing(times)
    assert min(steps) > 0.5 * STEP_S and max(steps) < 1.5 * STEP_S
    assert np.median(steps) == pytest.approx(STEP_S, abs=0.003)
    assert times[-1] - times[0] == pytest.approx(60.0, abs=segment_s)
    assert max(leads) <= segment_s + 0.1


@pytest.mark.parametrize("jitter_s", [0.02, 0.1, 0.4])
def test_packets_that_come_unevenly_get_even_times(jitter_s: float) -> None:
    random = np.random.default_rng(3)
    clock = LiveClock()
    times = [clock.time(n * STEP_S, n * STEP_S + float(random.uniform(0, jitter_s))) for n in range(2000)]
    assert np.abs(np.array(spacing(times)) - STEP_S).max() < 0.001 + FOLLOW * jitter_s


@pytest.mark.parametrize("rate", [0.999, 1.001])
def test_a_camera_s_clock_that_runs_fast_or_slow_is_followed(rate: float) -> None:
    """A second in a thousand; an hour on, the difference is what following it leaves behind, and no more."""
    clock = LiveClock()
    for number in range(90_000):
        arrived_s = number * STEP_S
        media_s = clock.time(arrived_s * rate, arrived_s)
    assert abs(media_s - arrived_s) < 0.2


def test_stamps_that_jump_go_on_with_the_arrival() -> None:
    clock = LiveClock()
    before = [clock.time(n * STEP_S, n * STEP_S) for n in range(100)]
    after = [clock.time(90_000.0 + n * STEP_S, 4.0 + n * STEP_S) for n in range(100)]
    assert spacing([*before, *after]) == pytest.approx([STEP_S] * 199, abs=1e-3)


@given(
    st.lists(
        st.tuples(st.floats(-1e5, 1e5), st.floats(0.0, 1.0)),
        min_size=1,
        max_size=60,
    )
)
def test_media_time_rises_and_stays_near_the_arrival(pairs: list[tuple[float, float]]) -> None:
    clock = LiveClock()
    arrived_s, times = 0.0, []
    for stamp_s, step_s in pairs:
        arrived_s += step_s
        times.append(clock.time(stamp_s, arrived_s))
        assert times[-1] - arrived_s <= EARLY_S + 0.1
        assert clock.lead_s >= 0.0
    assert all(step > 0 for step in spacing(times))
