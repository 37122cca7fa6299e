"""The share of live cameras that is decoded in an overload: goodput of a simulated machine, and what is said."""

from __future__ import annotations

import logging
from collections import deque

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stream_detector.runtime.overload import Load, LoadController
from stream_detector.testing import FakeClock

STEP_S = 0.1
CAPACITY = 4  # windows a camera in the buffer


class Machine:
    """So many cores' worth of work: decoding comes first, the rest scores; windows that find no room are dropped.

    decode_s, score_s: of one window.  delay_s: from a new share to the windows that follow it.
    """

    def __init__(self, cameras: int, decode_s: float, score_s: float, delay_s: float = 3.0) -> None:
        self.clock = FakeClock()
        self.load = LoadController(cameras, self.clock)
        self.cameras, self.decode_s, self.score_s = cameras, decode_s, score_s
        self.best = 1.0 / (decode_s + score_s)  # windows a second
        self.offered_per_s = cameras * 25 / 16
        self._shares = deque([1.0] * round(delay_s / STEP_S))
        self.offered = self.waiting = self.scored = self.dropped = self.busy_s = 0.0

    def run(self, seconds: float) -> float:
        """Windows scored a second in this time."""
        before = self.scored
        for _ in range(round(seconds / STEP_S)):
            self._shares.append(self.load.share)
            decoded = self._shares.popleft() * self.offered_per_s * STEP_S
            left_s = max(0.1 * STEP_S, STEP_S - decoded * self.decode_s)
            self.offered += self.offered_per_s * STEP_S
            self.waiting += decoded
            done = min(self.waiting, left_s / self.score_s)
            self.waiting -= done
            self.scored += done
            self.busy_s += STEP_S * min(1.0, done * self.score_s / left_s)
            lost = max(0.0, self.waiting - CAPACITY * self.cameras * max(self.load.share, 0.05))
            self.waiting -= lost
            self.dropped += lost
            self.clock.advance(STEP_S)
            self.load.observe(Load(self.offered, int(self.scored), int(self.dropped), self.busy_s, int(self.waiting)))
        return (self.scored - before) / seconds


@given(
    st.floats(1.2, 8.0),
    st.sampled_from([(0.008, 0.02), (0.0005, 0.02), (0.04, 0.02), (0.0, 0.001)]),
    st.floats(1.0, 4.0),
)
@settings(max_examples=40, deadline=None)
def test_goodput_stays_near_the_best_at_any_load(times: float, costs: tuple[float, float], delay_s: float) -> None:
    best = 1.0 / sum(costs)
    machine = Machine(max(2, round(times * best * 16 / 25)), *costs, delay_s)
    machine.run(60.0)
    assert machine.run(60.0) >= 0.94 * min(machine.best, machine.offered_per_s)


@pytest.mark.parametrize("times", [0.3, 0.8, 0.95])
def test_a_machine_that_keeps_up_decodes_everything(times: float) -> None:
    machine = Machine(round(times * 35 * 16 / 25), 0.008, 0.02)
    machine.run(120.0)
    assert machine.load.share == 1.0
    assert not machine.dropped


def test_the_operator_is_told_of_how_many_cameras_and_when_it_is_over(caplog: pytest.LogCaptureFixture) -> None:
    machine = Machine(40, 0.008, 0.02)
    with caplog.at_level(logging.WARNING):
        machine.run(40.0)
        told = [record.getMessage() for record in caplog.records]
        assert "of 40 cameras' worth" in told[-1]
        worth = int(told[-1].split(" scores ")[1].split()[0])
        assert worth == pytest.approx(machine.best / 25 * 16, abs=4)
        assert len(told) <= 3  # not every time that it changes a little
        machine.decode_s, machine.score_s = 0.001, 0.002
        machine.run(60.0)
    assert machine.load.share == 1.0
    assert "overload is over: all 40 live cameras" in caplog.records[-1].getMessage()


def test_a_stall_of_two_seconds_is_no_overload() -> None:
    machine = Machine(20, 0.008, 0.02)
    machine.run(30.0)
    score_s, machine.score_s = machine.score_s, 1.0
    machine.run(2.0)
    machine.score_s = score_s
    machine.run(30.0)
    assert machine.load.share == 1.0


def test_without_live_cameras_nothing_is_passed_over() -> None:
    clock = FakeClock()
    load = LoadController(0, clock)
    for number in range(10):
        clock.advance(5.0)
        assert load.observe(Load(0.0, number, 100 * number, 5.0, 100)) == 1.0
