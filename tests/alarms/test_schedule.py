"""Schedules and modes: which rule holds when, by the wall clock of a time zone; what operators set comes on top."""

from __future__ import annotations

import re
import tomllib
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from stream_detector.alarms.schedule import CameraSchedule, Controls, Effective, Schedule, camera_schedule
from stream_detector.alarms.severity import severity
from stream_detector.config import DETECTOR, build_config
from stream_detector.config.schedule import ScheduleConfig, ScheduleRule, SeverityConfig
from stream_detector.errors import ConfigError, ProtocolError
from stream_detector.system.wall_clock import WeeklySpan, parse_days, zone

BERLIN = "Europe/Berlin"


def rule(**values: Any) -> ScheduleRule:
    return ScheduleRule.model_validate(values)


def utc(*when: int, where: str = BERLIN, fold: int = 0) -> float:
    return datetime(*when, tzinfo=ZoneInfo(where), fold=fold).timestamp()  # type: ignore[misc]


def controls(*rules: ScheduleRule, **config: Any) -> Controls:
    given = ScheduleConfig.model_validate({"time_zone": BERLIN, **config})
    return Controls(given, {"gate": camera_schedule(rules, True, given), "yard": CameraSchedule()})


# -- the week -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "days"),
    [("mon-fri", {0, 1, 2, 3, 4}), ("sat,sun", {5, 6}), ("fri-mon", {4, 5, 6, 0}), ("daily", set(range(7)))],
)
def test_days_of_the_week(text: str, days: set[int]) -> None:
    assert parse_days(text) == days


@pytest.mark.parametrize("text", ["", "monday", "mon-", "mon;tue", "0-4"])
def test_days_that_are_none(text: str) -> None:
    with pytest.raises(ValueError, match="days must be written"):
        parse_days(text)


def test_a_span_over_midnight_belongs_to_the_day_on_which_it_begins() -> None:
    span = WeeklySpan.parse("fri", "22:00", "06:00", zone(BERLIN))
    assert span.until(utc(2026, 7, 3, 21, 59)) is None  # a Friday
    assert span.until(utc(2026, 7, 3, 22, 0)) == utc(2026, 7, 4, 6, 0)
    assert span.until(utc(2026, 7, 4, 5, 59)) == utc(2026, 7, 4, 6, 0)
    assert span.until(utc(2026, 7, 4, 22, 0)) is None and span.until(utc(2026, 7, 3, 5, 0)) is None


@pytest.mark.parametrize(
    ("day", "hours"),
    [((2026, 3, 29), 23), ((2026, 7, 1), 24), ((2026, 10, 25), 25)],  # summer time begins, neither, it ends
)
def test_a_whole_day_is_as_long_as_the_day_is(day: tuple[int, int, int], hours: int) -> None:
    span = WeeklySpan.parse("daily", "", "", zone(BERLIN))
    begin = utc(*day, 0, 0)
    assert (span.until(begin) or 0) - begin == hours * 3600


@pytest.mark.parametrize(
    ("moment", "holds"),
    [
        (utc(2026, 3, 29, 1, 59), False),
        (utc(2026, 3, 29, 3, 0), True),  # the hour from 2 to 3 does not exist: what begins in it begins at 3
        (utc(2026, 3, 29, 3, 59), True),
        (utc(2026, 10, 25, 2, 45, fold=0), True),  # the hour from 2 to 3 comes twice: from 2:30 on, both of it
        (utc(2026, 10, 25, 2, 15, fold=1), True),
        (utc(2026, 10, 25, 3, 45), True),
        (utc(2026, 10, 25, 4, 0), False),
    ],
)
def test_a_span_that_begins_in_the_hour_of_a_change(moment: float, holds: bool) -> None:
    span = WeeklySpan.parse("daily", "02:30", "04:00", zone(BERLIN))
    if datetime.fromtimestamp(moment, ZoneInfo(BERLIN)).month == 3:
        holds = holds and moment >= utc(2026, 3, 29, 2, 30)
    assert (span.until(moment) is not None) == holds


@given(
    st.datetimes(datetime(2025, 1, 1), datetime(2027, 12, 31)),
    st.sampled_from([BERLIN, "America/New_York", "Australia/Lord_Howe", "Asia/Kolkata", "Pacific/Apia", "UTC"]),
    st.sets(st.integers(0, 6), min_size=1),
    st.integers(0, 1439),
    st.integers(1, 1439),
)
def test_two_spans_that_share_a_day_cover_it_once(
    moment: datetime, name: str, days: set[int], begin: int, length: int
) -> None:
    """Of the spans from a to b and from b to a one holds at every moment, and only one unless the time changes."""
    where = ZoneInfo(name)
    end = (begin + length) % 1440
    a, b = (f"{minute // 60:02d}:{minute % 60:02d}" for minute in (begin, end))
    seconds = moment.replace(tzinfo=ZoneInfo("UTC")).timestamp()
    first, second = (WeeklySpan.parse("daily", *pair, where).until(seconds) for pair in ((a, b), (b, a)))
    offsets = {datetime.fromtimestamp(seconds + h * 3600, where).utcoffset() for h in range(-26, 27)}
    assert first is not None or second is not None or len(offsets) > 1
    if len(offsets) == 1:
        assert (first is None) != (second is None)
        until = first or second
        assert until is not None and seconds < until <= seconds + 86_400
    names = ",".join(("mon", "tue", "wed", "thu", "fri", "sat", "sun")[day] for day in sorted(days))
    some = WeeklySpan.parse(names, a, b, where).until(seconds)
    assert some is None or some == WeeklySpan.parse("daily", a, b, where).until(seconds)


# -- rules ----------------------------------------------------------------------------------------------------------


def test_of_the_rules_that_hold_the_last_one_that_says_something_counts() -> None:
    schedule = Schedule(
        [
            rule(threshold=0.6, notify="medium"),
            rule(days="mon-fri", **{"from": "08:00", "to": "18:00"}, threshold=0.8),
            rule(modes=["home"], mute=True),
        ],
        BERLIN,
    )
    monday, sunday = utc(2026, 7, 6, 12, 0), utc(2026, 7, 5, 12, 0)
    assert schedule.at(monday, "away") == Effective(0.8, False, "medium", "away")
    assert schedule.at(monday, "home") == Effective(0.8, True, "medium", "home")
    assert schedule.at(sunday, "away") == Effective(0.6, False, "medium", "away")


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"days": "mon-fri"}, "says nothing"),
        ({"mute": True, "from": "08:00"}, "two different times"),
        ({"mute": True, "from": "8", "to": "9"}, '"07:30"'),
        ({"mute": True, "days": "someday"}, "days must be written"),
        ({"threshold": 1.5}, "between 0 and 1"),
        ({"mute": True, "modes": ["At Home"]}, "name of a mode"),
        ({"notify": "loud"}, "one of"),
        ({"mute": True, "form": "08:00"}, "unknown key 'form'"),
    ],
)
def test_a_wrong_rule_is_one_sentence_naming_its_camera(values: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError) as caught:
        build_config({"cameras": {"gate": {"source": "demo", "schedule": [values]}}})
    assert "camera gate" in str(caught.value) and words in str(caught.value)


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"time_zone": "Mars/Olympus"}, "no time zone"),
        ({"mode": "holiday"}, "none of modes"),
        ({"starts_at": "2026-01-31T12:00:00"}, "needs a time zone"),
        ({"starts_at": "yesterday"}, "starts_at must be written"),
    ],
)
def test_a_wrong_schedule_section_is_one_sentence(values: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        build_config({"schedule": values})


# -- controls ---------------------------------------------------------------------------------------------------------


def change(held: Controls, camera: str = "", now: float = 0.0, **changes: Any) -> dict[str, Any]:
    control, more = held.prepare(camera, changes, now)
    held.take(camera, control)
    return more


def test_a_mode_takes_effect_at_the_next_window_and_names_its_place() -> None:
    held = controls(rule(modes=["home"], mute=True))
    now = utc(2026, 7, 6, 12, 0)
    assert held.at("gate", 7, 1.0, now) == Effective(None, True, "low", "home")
    assert held.at("yard", 3, 1.0, now).muted is False
    assert change(held, mode="away") == {"after": {"gate": 7, "yard": 3}}
    assert held.at("gate", 8, 2.0, now) == Effective(None, False, "low", "away")


def test_what_an_operator_sets_comes_on_top_of_the_schedule_and_of_all() -> None:
    held = controls(rule(threshold=0.8))
    now = utc(2026, 7, 6, 12, 0)
    change(held, threshold=0.7)
    assert held.at("gate", 1, 1.0, now).threshold == 0.7 and held.at("yard", 1, 1.0, now).threshold == 0.7
    change(held, "gate", threshold=0.9)
    assert held.at("gate", 2, 1.0, now).threshold == 0.9
    change(held, "gate", threshold=None)
    change(held, threshold=None)
    assert held.at("gate", 3, 1.0, now).threshold == 0.8 and held.at("yard", 3, 1.0, now).threshold is None


def test_a_mute_ends_by_itself() -> None:
    held = controls()
    now = utc(2026, 7, 6, 12, 0)
    change(held, "gate", now, mute_s=600)
    assert [held.at("gate", n, 1.0, now + s).muted for n, s in ((1, 0), (2, 599), (3, 600))] == [True, True, False]
    change(held, now=now, mute_s=600)
    assert held.at("yard", 1, 1.0, now).muted
    change(held, now=now, mute_s=0)
    assert not held.at("yard", 2, 1.0, now).muted


def test_what_is_not_known_is_refused_and_changes_nothing() -> None:
    held = controls()
    for camera, changes in (("", {"mode": "holiday"}), ("gate", {"mode": "away"}), ("Gate!", {"mute_s": 1})):
        with pytest.raises(ProtocolError):
            change(held, camera, **changes)
    assert held.mode == "home" and held.at("gate", 1, 1.0, 0.0) == Effective()


def test_the_next_run_goes_on_with_what_was_set() -> None:
    held = controls(rule(modes=["away"], threshold=0.5))
    now = utc(2026, 7, 6, 12, 0)
    held.restore({"camera": DETECTOR, "mode": "away", "muted_until_s": None, "threshold": None})
    held.restore({"camera": "yard", "mode": None, "muted_until_s": now + 5, "threshold": 0.4})
    assert held.at("gate", 1, 1.0, now) == Effective(0.5, False, "low", "away")
    assert held.at("yard", 1, 1.0, now) == Effective(0.4, True, "low", "away")
    held.restore({"camera": DETECTOR, "mode": "gone", "muted_until_s": "x", "threshold": 7})
    assert held.mode == "home"


def test_a_file_has_a_time_only_where_it_is_given_one() -> None:
    rules = (rule(days="mon-fri", **{"from": "08:00", "to": "18:00"}, mute=True),)
    config = ScheduleConfig(time_zone=BERLIN)
    untimed = Controls(config, {"gate": camera_schedule(rules, False, config)})
    now = utc(2026, 7, 6, 12, 0)
    assert untimed.at("gate", 1, 10.0, now) == Effective()
    given = ScheduleConfig(time_zone=BERLIN, starts_at="2026-07-06T07:59:50+02:00")
    timed = Controls(given, {"gate": camera_schedule(rules, False, given)})
    night = utc(2026, 7, 6, 3, 0)  # when it is played says nothing
    assert [timed.at("gate", n, s, night).muted for n, s in ((1, 5.0), (2, 10.0), (3, 10 * 3600 + 10.0))] == [
        False,
        True,
        False,
    ]


@given(st.lists(st.integers(0, 7 * 24 * 60 - 1), min_size=1, max_size=40))
def test_the_memory_of_the_last_minute_changes_no_answer(minutes: list[int]) -> None:
    rules = (
        rule(days="mon-fri", **{"from": "08:00", "to": "18:00"}, threshold=0.8),
        rule(days="fri-mon", **{"from": "22:30", "to": "06:15"}, notify="high"),
    )
    held = controls(*rules)
    schedule = Schedule(rules, BERLIN)
    for minute in minutes:
        moment = (datetime(2026, 10, 19, tzinfo=ZoneInfo("UTC")) + timedelta(minutes=minute)).timestamp()
        assert held.at("gate", 1, 1.0, moment) == schedule.at(moment, "home")


# -- severity ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("peak", "threshold", "duration_s", "level"),
    [
        (0.61, 0.6, 2.0, "low"),
        (0.75, 0.6, 2.0, "medium"),
        (0.9, 0.6, 2.0, "high"),
        (0.61, 0.6, 20.0, "medium"),
        (0.9, 0.6, 60.0, "high"),
        (1.0, 1.0, 1.0, "high"),
    ],
)
def test_severity_follows_the_peak_and_the_length(peak: float, threshold: float, duration_s: float, level: str) -> None:
    assert severity(peak, threshold, duration_s) == level


@pytest.mark.parametrize(
    ("kind", "least", "config", "level"),
    [
        ("crash", "low", {"kinds": {"crash": 1}}, "medium"),
        ("fight", "low", {"kinds": {"crash": 1}}, "low"),
        ("other", "high", {"kinds": {"other": -2}}, "high"),
        ("", "medium", {}, "medium"),
        ("", "low", {"medium_from": 0.0, "high_from": 0.5}, "medium"),
        ("", "low", {"long_s": 5.0}, "medium"),
    ],
)
def test_settings_kind_and_schedule_move_the_severity(kind: str, least: str, config: dict, level: str) -> None:
    assert severity(0.61, 0.6, 5.0, kind, least, SeverityConfig(**config)) == level


def test_a_rule_of_a_schedule_asks_for_a_least_severity() -> None:
    rules = (rule(**{"from": "22:00", "to": "06:00", "severity": "high"}),)
    assert Schedule(rules, BERLIN).at(utc(2026, 7, 6, 23, 0), "home").severity == "high"
    assert Schedule(rules, BERLIN).at(utc(2026, 7, 6, 12, 0), "home").severity == "low"
    with pytest.raises(ValidationError, match="medium_from must not lie above high_from"):
        SeverityConfig(medium_from=0.9)


def test_the_printed_configuration_is_usable() -> None:
    text = (Path(__file__).parents[2] / "docs" / "configuration.md").read_text(encoding="utf-8")
    (block,) = (
        body for body in re.findall(r"^```toml\n(.*?)^```$", text, re.DOTALL | re.MULTILINE) if "[schedule]" in body
    )
    config = build_config(tomllib.loads(block))
    held = Controls(config.schedule, {"gate": camera_schedule(config.cameras[0].schedule, True, config.schedule)})
    assert held.at("gate", 0, 1.0, utc(2026, 7, 6, 12, 0)) == Effective(0.8, True, "low", "home")
    assert held.at("gate", 0, 1.0, utc(2026, 7, 6, 23, 0)) == Effective(None, True, "high", "home")
