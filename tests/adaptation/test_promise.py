"""The promised rate: what is claimed holds at any time, on the stated assumption, over a thousand simulated cameras."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stream_detector.adaptation.promise import (
    ALPHA,
    Day,
    confidence_sequence,
    evidence,
    rate_state,
    scored_days,
)
from stream_detector.errors import UsageError

CAMERAS, DAYS = 1000, 90


def poisson(rate: float, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).poisson(rate, (CAMERAS, DAYS))


def by_day_and_night(rate: float, seed: int) -> np.ndarray:
    """All alarms of a day come in its four dark hours; the mean of the day is as promised."""
    dice = np.random.default_rng(seed)
    hours = np.where(np.arange(24) < 4, rate * 24 / 4, 0.0) / 24
    return dice.poisson(hours, (CAMERAS, DAYS, 24)).sum(axis=2)


def in_bursts(rate: float, seed: int) -> np.ndarray:
    """Alarms come in bursts of 1 to some twenty (geometric, mean 5); the mean of the day is as promised."""
    dice = np.random.default_rng(seed)
    bursts = dice.poisson(rate / 5, (CAMERAS, DAYS))
    return np.where(bursts > 0, bursts + dice.negative_binomial(np.maximum(bursts, 1), 0.2), 0)


@pytest.mark.parametrize("how", [poisson, by_day_and_night, in_bursts])
@pytest.mark.parametrize("wanted", [0.3, 1.0, 5.0])
def test_a_kept_promise_is_told_broken_in_at_most_one_camera_of_twenty(how: object, wanted: float) -> None:
    counts = how(wanted, 1)  # type: ignore[operator]
    assert counts.mean() == pytest.approx(wanted, rel=0.08)  # the worst case: exactly as promised
    ever = (evidence(counts, wanted) >= 1 / ALPHA).any(axis=1)
    assert ever.mean() <= ALPHA


@pytest.mark.parametrize("how", [poisson, by_day_and_night])
def test_a_broken_promise_is_told_soon(how: object) -> None:
    counts = how(3.0, 2)  # type: ignore[operator]
    values = evidence(counts, 1.0) >= 1 / ALPHA
    assert values.any(axis=1).mean() > 0.99
    first = values.argmax(axis=1)
    assert np.median(first) <= 7  # days at three times the promise


def test_the_bounds_hold_at_all_times_together_for_poisson_counts() -> None:
    rate, missed = 2.0, 0
    counts = poisson(rate, 3)[:300]
    for camera in counts.cumsum(axis=1):
        bounds = [confidence_sequence(int(total), day) for day, total in enumerate(camera, 1) if day % 3 == 0]
        missed += any(not low <= rate <= high for low, high in bounds)
    assert missed / len(counts) <= ALPHA


def test_bursts_void_the_poisson_bounds_but_not_the_claim() -> None:
    counts = in_bursts(2.0, 4)[:200]
    outside = [
        not low <= 2.0 <= high
        for camera in counts.cumsum(axis=1)
        for low, high in [confidence_sequence(int(camera[-1]), DAYS)]
    ]
    assert np.mean(outside) > ALPHA  # why the assumption is stated
    assert (evidence(counts, 2.0) >= 1 / ALPHA).any(axis=1).mean() <= ALPHA


@settings(deadline=None)
@given(st.lists(st.integers(0, 30), min_size=1, max_size=30), st.floats(0.1, 10.0))
def test_unjudged_alarms_bound_from_both_sides(counts: list[int], wanted: float) -> None:
    judged = [Day(count // 2, count - count // 2) for count in counts]
    false, true = [Day(count) for count in counts], [Day(count // 2) for count in counts]
    now, later_false, later_true = (rate_state(days, wanted) for days in (judged, false, true))
    assert now.lower <= min(later_false.lower, later_true.lower) + 1e-9
    assert now.upper >= max(later_false.upper, later_true.upper) - 1e-9
    assert later_false.broken or not now.broken  # what is claimed now stays true whatever they turn out to be
    assert 0.0 <= now.lower <= now.upper


def test_days_are_of_scored_time_and_only_whole_ones_count() -> None:
    hours = [(1000 + k, 3600.0) for k in range(30)] + [(1100 + k, 1800.0) for k in range(36)]
    alarms = [(1000 * 3600 + 60.0, "false"), (1003 * 3600.0, ""), (1005 * 3600.0, "true"), (1129 * 3600.0, "false")]
    days, scored = scored_days(hours, alarms)
    assert scored == pytest.approx(48.0) and days[0] == Day(1, 1) and len(days) == 2
    assert days[1] == Day(1, 0)
    assert scored_days([], []) == ([], 0.0)


def test_a_promise_of_nothing_is_refused() -> None:
    for wanted in (0.0, -1.0, float("nan"), float("inf")):
        with pytest.raises(UsageError, match="cannot be promised"):
            evidence([1], wanted)
    state = rate_state([], None)
    assert state.upper == float("inf") and state.to_dict()["upper_per_day"] is None and not state.broken
