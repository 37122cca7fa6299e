from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from stream_detector.alarms.state_machine import HysteresisRule
from stream_detector.types import AlarmEvent, Score, Timing, WindowRef

STEP_S = 0.64


def machine(**changes: float) -> HysteresisRule:
    values = dict(threshold=0.5, off_ratio=0.6, min_length_s=2.0, cooldown_s=5.0, update_interval_s=2.0) | changes
    return HysteresisRule("cam", "f00d", lambda first: f"id-{first}", **values)  # type: ignore[arg-type]


def score(index: int, raw: float, degraded: tuple[str, ...] = ()) -> Score:
    start_s = index * STEP_S
    ref = WindowRef(
        "cam", "f", index, index * 16, index * 16 + 15, start_s, start_s + 0.6, 0.0, 1000 + start_s + 0.6, 0.0, degraded
    )
    return Score(ref, raw, 0.0, Timing(0, 0, 0, 0))


def play(alarms: HysteresisRule, smoothed: list[float], raws: list[float] | None = None) -> list[AlarmEvent]:
    found = []
    for index, value in enumerate(smoothed):
        decision, event = alarms.step(score(index, raws[index] if raws else value), value)
        assert decision.alarmed == (alarms.open_id is not None)
        if event:
            found.append(event)
    return found


def test_one_rise_is_one_alarm_with_start_updates_and_end() -> None:
    events = play(machine(), [0.1] * 3 + [0.9] * 12 + [0.1] * 3)
    assert [e.type for e in events] == ["start", "update", "update", "end"]
    assert {e.id for e in events} == {"id-3"}
    start, *_, end = events
    assert start.start_s == 3 * STEP_S and start.end_s is None and start.reason is None
    assert end.reason == "normal" and end.end_s == 14 * STEP_S + 0.6
    assert end.peak_score == 0.9 and end.score == 0.1
    named = [w.start_frame for e in events for w in e.windows]
    assert named == [i * 16 for i in range(3, 16)], "each window is named once, in order"


def test_between_off_and_on_an_alarm_goes_on_but_none_starts() -> None:
    assert play(machine(), [0.4] * 20) == []
    assert [e.type for e in play(machine(update_interval_s=99), [0.6] + [0.4] * 20)] == ["start"]


def test_an_alarm_lasts_its_minimum_length() -> None:
    events = play(machine(min_length_s=3.0), [0.9] + [0.0] * 10)
    assert events[-1].type == "end"
    assert events[-1].end_s == 3.0


def test_cooldown_holds_the_next_alarm_back() -> None:
    rise = [0.9] * 4 + [0.0] * 2
    assert [e.type for e in play(machine(update_interval_s=99), rise * 2)] == ["start", "end"]
    assert [e.type for e in play(machine(update_interval_s=99, cooldown_s=0), rise * 2)] == ["start", "end"] * 2


def test_calm_shorter_than_the_hold_does_not_end_an_alarm_and_delays_no_end_time() -> None:
    bouts = [0.9] * 4 + [0.0] * 4 + [0.9] * 4 + [0.0] * 12
    held = play(machine(update_interval_s=99, hold_s=3.0), bouts)
    assert [e.type for e in held] == ["start", "end"]
    assert held[-1].end_s == 11 * STEP_S + 0.6  # the end of the last window above, not when it was told
    apart = play(machine(update_interval_s=99, hold_s=2.0, cooldown_s=0.0), bouts)
    assert [(e.type, e.end_s) for e in apart if e.type == "end"] == [
        ("end", 3 * STEP_S + 0.6),
        ("end", 11 * STEP_S + 0.6),
    ]


def test_the_onset_is_where_the_raw_score_rose() -> None:
    events = play(machine(), smoothed=[0.0, 0.2, 0.4, 0.6], raws=[0.0, 0.8, 0.8, 0.9])
    assert events[0].id == "id-1" and events[0].start_s == STEP_S
    assert [w.start_frame for w in events[0].windows] == [16, 32, 48]
    assert abs(events[0].start_utc - (1000 + STEP_S)) < 1e-9


def test_finish_ends_what_is_open_and_only_that() -> None:
    alarms = machine()
    assert alarms.finish("shutdown") is None
    play(alarms, [0.9] * 3)
    end = alarms.finish("source_lost")
    assert end is not None and end.reason == "source_lost" and end.end_s == 2 * STEP_S + 0.6 and end.score == 0.9
    assert alarms.finish("shutdown") is None


def test_causes_of_degradation_are_collected() -> None:
    alarms = machine()
    alarms.step(score(0, 0.9, ("gap",)), 0.9)
    alarms.step(score(1, 0.9, ("corrupt",)), 0.9)
    end = alarms.finish("normal")
    assert end is not None and end.degraded == ("corrupt", "gap")


@given(st.lists(st.floats(0, 1), max_size=80))
def test_whatever_the_scores_starts_and_ends_alternate(values: list[float]) -> None:
    alarms = machine(cooldown_s=1.0, min_length_s=1.0)
    events = play(alarms, values)
    last = alarms.finish("shutdown")
    kinds = [e.type for e in [*events, *([last] if last else [])] if e.type != "update"]
    assert kinds == ["start", "end"] * (len(kinds) // 2)
    ends = [e for e in [*events, *([last] if last else [])] if e.type == "end"]
    assert all(e.end_s is not None and e.end_s > e.start_s for e in ends)
    ids = [e.id for e in events if e.type == "start"]
    assert len(ids) == len(set(ids))
