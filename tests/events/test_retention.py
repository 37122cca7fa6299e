"""No single reading of a clock deletes anything that is young by order of arrival, nor stops what is old from going."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stream_detector.config import build_config
from stream_detector.events.ledger import Ledger
from stream_detector.evidence.file_order import EvidenceIndex
from stream_detector.evidence.writer import EvidenceWriter
from stream_detector.system.retention import CONFIRM_S, Life, WallClock, beginnings
from stream_detector.testing import FakeClock

GATE = "v1/alarm/gate/"
DAY_S = 86400.0
WRONG: dict[str, Callable[[FakeClock], float]] = {
    "a month ahead": lambda clock: clock.utc() + 31 * DAY_S,
    "1970": lambda clock: 0.0,
    "2100": lambda clock: 4_102_444_800.0,
}


class SetClock(FakeClock):
    """A FakeClock whose wall clock can be set."""

    def set(self, utc_s: float) -> None:
        self._offset_s += utc_s - self.utc()


def later(clock: FakeClock, life_s: float, off_s: float = 0.0) -> SetClock:
    """The clock of the next life: the monotonic one begins anew."""
    return SetClock(10.0, clock.utc() + life_s + off_s)


def make(path: Path, clock: FakeClock, days: float = 1.0) -> Ledger:
    return Ledger(path, clock=clock, keep_days=days, on_problem=lambda text: None)


def run(ledger: Ledger, clock: FakeClock, seconds: float, step_s: float = 60.0) -> None:
    """Let time go by, as the decision thread does."""
    for _ in range(round(seconds / step_s)):
        clock.advance(step_s)
        ledger.maintain()


def kept(ledger: Ledger) -> list[str]:
    return [json.loads(text)["name"] for text in ledger.since(GATE, "first", 0, 10_000)[0]]


@pytest.mark.parametrize("wrong", WRONG)
def test_a_clock_that_is_wrong_for_a_moment_deletes_nothing_and_stops_nothing(tmp_path: Path, wrong: str) -> None:
    clock = SetClock()
    ledger = make(tmp_path / "l.sqlite3", clock)
    ledger.append(GATE, {"name": "before"})
    run(ledger, clock, 3600)
    right = clock.utc()
    clock.set(WRONG[wrong](clock))
    ledger.append(GATE, {"name": "meanwhile"})
    run(ledger, clock, 300)
    clock.set(right + 300)
    assert kept(ledger) == ["before", "meanwhile"]
    ledger.append(GATE, {"name": "after"})
    run(ledger, clock, DAY_S - 4200)
    assert kept(ledger) == ["before", "meanwhile", "after"]
    run(ledger, clock, 1000)
    assert kept(ledger) == ["meanwhile", "after"]
    run(ledger, clock, 3600)
    assert kept(ledger) == []
    ledger.close()


@pytest.mark.parametrize("wrong", WRONG)
@pytest.mark.parametrize("which", range(6))
def test_a_life_whose_clock_is_wrong_deletes_nothing_and_stops_nothing(tmp_path: Path, wrong: str, which: int) -> None:
    """One short run a day for six days; in one of them the clock is wrong all the time."""
    clock, names = SetClock(), []
    for life in range(6):
        here = SetClock(10.0, clock.utc() + life * DAY_S)
        if life == which:
            here.set(WRONG[wrong](here))
        ledger = make(tmp_path / "l.sqlite3", here, days=2.5)
        names.append(f"life {life}")
        ledger.append(GATE, {"name": names[-1]})
        run(ledger, here, 600)
        left = kept(ledger)
        assert left == names[-len(left) :] and len(left) >= min(life + 1, 3), "something young was deleted"
        ledger.close()
    here = SetClock(10.0, clock.utc() + 12 * DAY_S)
    for _ in range(2):  # after a week off, its length is known when the next run bears it out
        ledger = make(tmp_path / "l.sqlite3", here, days=2.5)
        run(ledger, here, 600)
        left = kept(ledger)
        ledger.close()
        here = later(here, 0.0, DAY_S)
    assert left == ["life 5"][: len(left)]


def test_the_time_that_a_machine_was_off_counts_once_the_clock_has_kept_still(tmp_path: Path) -> None:
    clock = SetClock()
    ledger = make(tmp_path / "l.sqlite3", clock)
    ledger.append(GATE, {"name": "old"})
    run(ledger, clock, CONFIRM_S + 300)
    ledger.close()
    clock = later(clock, 0.0, 10 * DAY_S)
    ledger = make(tmp_path / "l.sqlite3", clock)
    ledger.append(GATE, {"name": "new"})
    run(ledger, clock, CONFIRM_S - 300)
    assert kept(ledger) == ["old", "new"]
    run(ledger, clock, 600)
    assert kept(ledger) == ["new"]
    ledger.close()


@pytest.mark.parametrize("wrong", WRONG)
@pytest.mark.parametrize("unset", range(1, 4))
def test_one_wrong_clock_among_lives_whose_clock_was_never_set_deletes_nothing(
    tmp_path: Path, wrong: str, unset: int
) -> None:
    names = []
    for life in range(2 + unset + 3):
        clock = SetClock(10.0, 1000.0 if 2 <= life != 2 + unset else SetClock().utc() + 310 * life)
        if life == 2 + unset:
            clock.set(WRONG[wrong](clock))
        ledger = make(tmp_path / "l.sqlite3", clock)
        names.append(f"life {life}")
        ledger.append(GATE, {"name": names[-1]})
        run(ledger, clock, 300)
        assert kept(ledger) == names
        ledger.close()


@pytest.mark.parametrize("slewed_s", [-9.0, -0.1, 0.1, 9.0])
def test_one_wrong_clock_after_one_that_was_set_by_a_little_deletes_nothing(tmp_path: Path, slewed_s: float) -> None:
    names = []
    for life, offset_s in enumerate((0.0, slewed_s, 31 * DAY_S, 0.0, 0.0)):
        clock = SetClock(10.0, SetClock().utc() + 300 * life + offset_s)
        ledger = make(tmp_path / "l.sqlite3", clock)
        names.append(f"life {life}")
        ledger.append(GATE, {"name": names[-1]})
        run(ledger, clock, 300)
        assert kept(ledger) == names
        ledger.close()


@pytest.mark.parametrize("wrong", WRONG)
def test_whatever_the_clocks_of_lives_showed_what_a_later_one_outlived_goes(tmp_path: Path, wrong: str) -> None:
    """The clock is wrong in all of the first lives; the running time of the last is enough to make them old."""
    for _ in range(3):
        clock = SetClock()
        clock.set(WRONG[wrong](clock))
        ledger = make(tmp_path / "l.sqlite3", clock)
        ledger.append(GATE, {"name": "old"})
        run(ledger, clock, 300)
        ledger.close()
    clock = SetClock()
    ledger = make(tmp_path / "l.sqlite3", clock)
    run(ledger, clock, DAY_S - 3600)
    assert kept(ledger) == ["old"] * 3
    run(ledger, clock, 3700)
    assert kept(ledger) == []
    ledger.close()


def test_a_row_dated_ahead_does_not_stop_expiry(tmp_path: Path) -> None:
    clock = SetClock()
    right = clock.utc()
    clock.set(WRONG["2100"](clock))
    ledger = make(tmp_path / "l.sqlite3", clock)
    ledger.append(GATE, {"name": "dated ahead"})
    clock.set(right)
    ledger.append(GATE, {"name": "dated right"})
    run(ledger, clock, DAY_S + 300)
    assert kept(ledger) == []
    ledger.close()


@settings(deadline=None)
@given(
    st.lists(st.tuples(st.floats(60, 30 * DAY_S), st.floats(0, 30 * DAY_S)), min_size=2, max_size=8),
    st.integers(0, 7),
    st.floats(-80 * 365 * DAY_S, 80 * 365 * DAY_S),
)
def test_one_wrong_reading_makes_nothing_older_than_it_is(
    lengths: list[tuple[float, float]], which: int, error_s: float
) -> None:
    """lengths: of each life, and of the time before it. One life's reading is wrong by `error_s`, and none is sure."""
    at, lives, truth = 1.7e9, [], []
    for number, (lasted_s, off_s) in enumerate(lengths):
        at += off_s
        lives.append(Life(number, at + (error_s if number == which else 0.0), lasted_s))
        truth.append(at)
        at += lasted_s
    found = beginnings(lives)
    now = len(lives) - 1
    for number in range(now):
        assert found[now] - found[number] <= truth[now] - truth[number] + 1.0


def test_the_wall_clock_is_the_one_that_held_longest() -> None:
    clock = SetClock()
    begun, wall = clock.utc(), WallClock(clock.monotonic(), 0.0)
    for _ in range(70):
        clock.advance(60)
        wall.observe(clock.monotonic(), clock.utc())
    assert wall.began_utc == pytest.approx(begun) and wall.confirmed
    clock.set(clock.utc() + 31 * DAY_S)
    for _ in range(10):
        clock.advance(60)
        wall.observe(clock.monotonic(), clock.utc())
    assert wall.began_utc == pytest.approx(begun)


# -- evidence -----------------------------------------------------------------------------------------------------


def touched(folder: Path, number: int, utc_s: float) -> str:
    path = folder / "gate" / f"{number:032x}.webm"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"x" * 1000)
    os.utime(path, (max(0.0, utc_s), max(0.0, utc_s)))
    return f"gate/{path.name}"


def writer(folder: Path, clock: FakeClock, **settings: Any) -> EvidenceWriter:
    config = build_config({"evidence": {"directory": folder, **settings}, "recording": {"directory": folder / "none"}})
    return EvidenceWriter(config, clock=clock, on_error=lambda text: None)


def tidied(folder: Path, clock: FakeClock, **settings: Any) -> list[int]:
    """Which files are left after a short run of the writer."""
    made = writer(folder, clock, **settings)
    assert made.close(20)
    return sorted(int(path.stem, 16) for path in folder.glob("*/*.webm"))


@pytest.mark.parametrize("wrong", WRONG)
def test_evidence_outlives_a_clock_that_is_wrong(tmp_path: Path, wrong: str) -> None:
    clock = SetClock()
    for number in range(3):
        touched(tmp_path, number, clock.utc())
    assert tidied(tmp_path, clock, keep_days=1) == [0, 1, 2]
    bad = later(clock, 60.0)
    bad.set(WRONG[wrong](bad))
    touched(tmp_path, 3, bad.utc())
    assert tidied(tmp_path, bad, keep_days=1) == [0, 1, 2, 3]
    assert tidied(tmp_path, later(clock, 600.0), keep_days=1) == [0, 1, 2, 3]


def test_evidence_goes_when_it_is_old_and_its_date_does_not_matter(tmp_path: Path) -> None:
    clock = SetClock()
    order = EvidenceIndex(tmp_path, clock)
    first = [touched(tmp_path, 0, 4e9), touched(tmp_path, 1, 1.0)]
    assert [seen.age_s for seen in order.oldest_first(first)] == [0.0, 0.0]
    clock.advance(2 * DAY_S)
    second = touched(tmp_path, 2, clock.utc())
    found = order.oldest_first([second, *first])
    assert [(seen.name, seen.age_s) for seen in found] == [(first[0], 2 * DAY_S), (first[1], 2 * DAY_S), (second, 0.0)]
    order.close()


def test_beyond_its_bytes_the_evidence_that_came_first_goes(tmp_path: Path) -> None:
    clock = SetClock()
    touched(tmp_path, 0, clock.utc())
    assert tidied(tmp_path, clock, max_bytes=2500) == [0]
    touched(tmp_path, 1, 1.0)  # a file dated 1970 is not the oldest for it
    assert tidied(tmp_path, later(clock, 60.0), max_bytes=2500) == [0, 1]
    touched(tmp_path, 2, 5.0)
    assert tidied(tmp_path, later(clock, 120.0), max_bytes=2500) == [1, 2]


@pytest.mark.parametrize("content", [b"no database at all, but long enough to be one" * 30, b""])
def test_an_index_that_cannot_be_read_keeps_everything(tmp_path: Path, content: bytes) -> None:
    clock = SetClock()
    touched(tmp_path, 0, 1.0)
    (tmp_path / ".order.sqlite3").write_bytes(content)
    assert tidied(tmp_path, clock, keep_days=1) == [0]
    assert tidied(tmp_path, later(clock, 60.0), keep_days=1) == [0]
