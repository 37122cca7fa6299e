"""When a curve has turned: never while it rises or is flat, always once it has come down for long."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trainer.mil.checkpoint import Curve
from trainer.mil.stopping import has_turned, trailing_means

LEAST = 10


def stops_at(figures: np.ndarray, least: int = LEAST) -> int | None:
    """The look after which training would end."""
    return next((n for n in range(1, len(figures) + 1) if has_turned(list(figures[:n]), least)), None)


@settings(deadline=None, max_examples=50)
@given(st.lists(st.floats(0, 0.05), min_size=1, max_size=80))
def test_a_curve_that_never_falls_has_not_turned(rises: list[float]) -> None:
    assert stops_at(np.cumsum(rises)) is None


@settings(deadline=None, max_examples=50)
@given(st.lists(st.floats(0, 0.05), min_size=1, max_size=80))
def test_nor_has_one_that_only_falls(falls: list[float]) -> None:
    assert stops_at(-np.cumsum(falls)) is None


@pytest.mark.parametrize("seed", range(5))
def test_a_head_that_moves_late_is_not_stopped_before_it_moves(seed: int) -> None:
    looks = np.arange(1200)
    late = 0.55 + 0.25 / (1 + np.exp(-(looks - 200) / 20)) - 0.0004 * np.maximum(0, looks - 250)
    noise = 0.01 * np.random.default_rng(seed).standard_normal(1200)
    at = stops_at(late + noise)
    assert at is not None and at > 250
    old = next(n for n in range(20, 400) if n - int(np.argmax((late + noise)[:n])) >= 20)
    assert old < 150  # what twenty looks without a better figure would have done


def test_best_looks_are_those_of_a_mean_and_not_of_one_lucky_look() -> None:
    figures = [0.5, 0.52, 0.9, 0.51, 0.53, 0.55, 0.7, 0.72, 0.74, 0.75, 0.74, 0.73]
    curve = Curve("rows", 0)
    for number, figure in enumerate(figures):
        curve.add(25 * (number + 1), 1.0, figure)
    assert curve.best_step == 300
    assert trailing_means([1.0, 2.0, 3.0, 4.0], 2) == [1.0, 1.5, 2.5, 3.5]
    assert Curve("rows", 0).best_step == 0
