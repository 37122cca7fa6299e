from __future__ import annotations

import math
from typing import Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stream_detector.alarms.smoothing import Ema, Identity, Median, make_smoother
from stream_detector.config import SmoothingConfig


def test_ema_reaches_one_minus_one_over_e_after_its_time_constant() -> None:
    ema = Ema(1.0)
    values = [ema.update(i * 0.1, (i + 1) * 0.1, 1.0) for i in range(1000)]
    assert values[-1] == pytest.approx(1.0)
    two = Ema(2.0)
    two.update(0.0, 0.1, 0.0)
    for i in range(1, 21):
        value = two.update(i * 0.1, 0.1 + i * 0.1, 1.0)
    assert value == pytest.approx(1 - math.exp(-1.0))


def test_delay_does_not_depend_on_the_stride() -> None:
    coarse, fine = Ema(1.0), Ema(1.0)
    coarse.update(-0.64, 0.0, 0.0)
    fine.update(-0.64, 0.0, 0.0)
    for i in range(1, 9):
        fine_value = fine.update(0.08 * i - 0.64, 0.08 * i, 1.0)
    assert fine_value == pytest.approx(coarse.update(0.0, 0.64, 1.0))


def test_one_window_alone_never_counts_in_full() -> None:
    assert Ema(1.0).update(0.0, 0.64, 1.0) < 0.64
    after_gap = Ema(1.0)
    after_gap.update(0.0, 0.64, 0.0)
    assert after_gap.update(100.0, 100.64, 1.0) < 0.64


def test_a_long_window_of_a_slow_camera_counts_for_its_length() -> None:
    assert Ema(1.0).update(0.0, 3.2, 1.0) == pytest.approx(1 - math.exp(-3.2))


def test_median_ignores_a_single_spike() -> None:
    median = Median(3)
    assert [median.update(i, i + 1, raw) for i, raw in enumerate([0.0, 1.0, 0.0, 1.0, 1.0])] == [0, 0, 0, 1, 1]


@given(st.lists(st.floats(0, 1), min_size=1, max_size=50), st.sampled_from(["ema", "median", "none"]))
def test_smoothing_is_causal_and_stays_in_range(raws: list[float], kind: str) -> None:
    whole = make_smoother(SmoothingConfig(kind=kind))
    values = [whole.update(i * 0.64, (i + 1) * 0.64, raw) for i, raw in enumerate(raws)]
    assert all(0.0 <= value <= 1.0 for value in values)
    again = make_smoother(SmoothingConfig(kind=kind))
    half = [again.update(i * 0.64, (i + 1) * 0.64, raw) for i, raw in enumerate(raws[: len(raws) // 2])]
    assert half == values[: len(half)]


def test_none_changes_nothing() -> None:
    assert Identity().update(0, 1, 0.3) == 0.3


@pytest.mark.parametrize("kind", ["ema", "median", "none"])
def test_a_filter_that_was_reset_is_like_a_new_one(kind: Literal["ema", "median", "none"]) -> None:
    used, fresh = (make_smoother(SmoothingConfig(kind=kind)) for _ in range(2))
    for i in range(5):
        used.update(i, i + 0.6, 0.9)
    used.reset()
    assert used.state() == fresh.state()
    for i in range(5, 9):
        assert used.update(i, i + 0.6, 0.4) == fresh.update(i, i + 0.6, 0.4)
