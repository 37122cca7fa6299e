"""Notify: what people are told, when, and how often. Apprise itself is real; its JSON channel posts to a receiver."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from bridge_rig import Lab, Receiver, alarm, camera_notice
from hypothesis import given
from hypothesis import strategies as st

from stream_detector.bridges.notice import Notice
from stream_detector.system.wall_clock import WeeklySpan, zone

pytest.importorskip("apprise", reason="apprise is not installed: pip install 'stream-detector[notify]'")

from stream_detector.bridges.notify import Notify, NotifySettings

BERLIN = zone("Europe/Berlin")


class Told(Notify):
    """Keeps the messages in place of sending them."""

    def __init__(self, settings: Any, context: Any) -> None:
        super().__init__(settings, context)
        self.said: list[tuple[str, str, str, str | None]] = []
        self.answers: list[bool] = []

    def _send(self, title: str, text: str, kind: Any, picture: Path | None) -> bool:
        self.said.append((title, text, kind.value, picture and picture.name))
        return self.answers.pop(0) if self.answers else True


def lab_of(tmp_path: Path, **values: Any) -> Lab:
    given = {"url": "json://localhost:9", "snapshot_wait_s": 0, "cooldown_s": 0, "time_zone": "UTC", **values}
    return Lab(tmp_path, Told, NotifySettings.model_validate(given))


def titles(lab: Lab) -> list[str]:
    return [said[0] for said in lab.target.said]


def now_alarm(lab: Lab, seq: int, camera: str = "gate", what: str = "start", **more: Any) -> Notice:
    return alarm(seq, camera, what, lab.clock.utc(), **more)


def test_a_message_names_the_kind_without_taking_it_for_truth(tmp_path: Path) -> None:
    lab = lab_of(tmp_path)
    lab.add(now_alarm(lab, 1, kind="crash", kind_probability=0.91))
    lab.run()
    assert "severity high, looks most like a crash. " in lab.target.said[0][1]


def test_an_alarm_and_its_end_are_two_messages(tmp_path: Path) -> None:
    lab = lab_of(tmp_path)
    lab.add(now_alarm(lab, 1), now_alarm(lab, 2, what="update"), now_alarm(lab, 3, what="end", id=f"{1:032x}"))
    lab.run()
    assert titles(lab) == ["gate: alarm", "gate: alarm over"]
    assert "score 0.90, threshold 0.60, severity high. " in lab.target.said[0][1]
    assert [said[2] for said in lab.target.said] == ["failure", "success"]
    lab.outbox.close()


def test_the_end_of_an_alarm_that_nobody_was_told_of_is_not_told(tmp_path: Path) -> None:
    lab = lab_of(tmp_path, severities=["high"])
    low = {"peak_score": 0.61, "id": "b" * 32}
    lab.add(now_alarm(lab, 1, **low), now_alarm(lab, 2, what="end", **low))
    lab.run()
    assert titles(lab) == [] and lab.outbox.waiting() == 0
    lab.outbox.close()


def test_alarms_within_the_cooldown_are_counted_in_the_next_message(tmp_path: Path) -> None:
    lab = lab_of(tmp_path, cooldown_s=60)
    for seq in (1, 2, 3):
        lab.add(now_alarm(lab, seq), now_alarm(lab, 1, "yard") if seq == 1 else now_alarm(lab, seq, "yard", "update"))
        lab.run(10.0)
    lab.restart()
    lab.clock.advance(60)
    lab.add(now_alarm(lab, 4))
    lab.run()
    assert titles(lab) == ["gate: alarm"] and lab.target.said[0][1].endswith(
        "2 more since the last message. Alarm 00000000."
    )
    lab.outbox.close()


def test_quiet_hours_keep_what_is_not_severe_for_one_message_at_their_end(tmp_path: Path) -> None:
    lab = lab_of(tmp_path, quiet="22:00-07:00", time_zone="Europe/Berlin", max_age_s=0)
    begin = datetime(2026, 7, 1, 23, 0, tzinfo=BERLIN).timestamp()
    lab.clock.advance(begin - lab.clock.utc())
    low = {"peak_score": 0.61}
    lab.add(now_alarm(lab, 1, **low), now_alarm(lab, 2, "yard", **low), now_alarm(lab, 3))
    lab.run()
    assert titles(lab) == ["gate: alarm"]  # the severe one
    lab.clock.advance(7 * 3600)
    lab.run()
    assert len(titles(lab)) == 1
    lab.restart()
    lab.clock.advance(3600)
    lab.run()
    ((title, text, _, _),) = lab.target.said
    assert title == "Summary: 2 alarms" and "gate 1, yard 1" in text and "quiet hours" in text
    lab.outbox.close()


def test_a_camera_that_comes_back_soon_is_not_told_of(tmp_path: Path) -> None:
    lab = lab_of(tmp_path, offline_s=30)
    utc = lab.clock.utc()
    lab.add(camera_notice(1, "offline", utc=utc), now_alarm(lab, 1))
    lab.run(10.0)
    assert titles(lab) == ["gate: alarm"]  # which did not wait for the camera's state
    lab.add(camera_notice(2, "online", utc=utc + 10))
    lab.run(60.0)
    assert titles(lab) == ["gate: alarm"]
    lab.add(camera_notice(3, "offline", utc=utc + 100, detail="no route to host"))
    lab.run(31.0)
    lab.add(camera_notice(4, "online", utc=utc + 140))
    lab.run()
    assert titles(lab)[1:] == ["gate is offline", "gate is online again"]
    assert "no route to host" in lab.target.said[1][1]
    lab.outbox.close()


def test_a_silent_detector_and_a_covered_camera_are_reported(tmp_path: Path) -> None:
    lab = lab_of(tmp_path)
    utc = lab.clock.utc()
    body = {"state": "silent", "before": "running", "emitted_utc": ""}
    lab.add(
        Notice("bridge/detector/", "e" * 16, 1, "detector", "", "silent", utc, body),
        camera_notice(1, "covered", utc=utc, detail="picture_quality: covered"),
        Notice("bridge/detector/", "e" * 16, 2, "detector", "", "running", utc, {**body, "before": "silent"}),
        Notice("bridge/detector/", "e" * 16, 3, "detector", "", "running", utc, {**body, "before": None}),
    )
    lab.run()
    assert sorted(titles(lab)) == [
        "Detector is running again",
        "Detector sends no heartbeat",
        "gate shows no usable picture",
    ]
    lab.outbox.close()


def test_a_picture_goes_along_and_is_left_out_where_the_channel_refuses_it(tmp_path: Path) -> None:
    lab = lab_of(tmp_path)
    picture = lab.evidence / "gate" / "a.jpg"
    picture.parent.mkdir(parents=True)
    picture.write_bytes(b"x")
    lab.target.answers = [True, False, True]
    for seq in (1, 2):
        lab.add(now_alarm(lab, seq, evidence={"clip": None, "snapshot": str(picture)}))
    lab.run()
    assert [said[3] for said in lab.target.said] == ["a.jpg", "a.jpg", None] and lab.outbox.waiting() == 0
    lab.outbox.close()


def test_a_channel_that_takes_nothing_is_waited_for_and_then_told_in_one_message(tmp_path: Path) -> None:
    lab = lab_of(tmp_path, max_age_s=900, backoff_max_s=30)
    lab.target.answers = [False] * 500
    lab.add(*(now_alarm(lab, seq) for seq in (1, 2, 3)))
    lab.run(1000.0)
    lab.target.answers = []
    lab.run(60.0)
    assert lab.target.said[-1][0] == "Summary: 3 alarms" and "could not be delivered" in lab.target.said[-1][1]
    assert not lab.letters() and lab.outbox.waiting() == 0
    lab.outbox.close()


def verdict(lab: Lab, seq: int, alarm_seq: int, word: str, camera: str = "gate") -> Notice:
    body = {"id": f"{alarm_seq:032x}", "verdict": word, "by": "vlm", "note": "", "emitted_utc": ""}
    return Notice(f"v1/verdict/{camera}/", "0" * 16, seq, "verdict", camera, word, lab.clock.utc(), body)


def test_a_verdict_in_time_takes_a_message_back_and_a_late_one_or_none_does_not(tmp_path: Path) -> None:
    lab = lab_of(tmp_path, hold_s=20)
    lab.add(*(now_alarm(lab, seq) for seq in (1, 2, 3, 4)))
    lab.run(10.0)
    assert titles(lab) == []
    lab.add(verdict(lab, 1, 1, "false"), verdict(lab, 2, 2, "true"), verdict(lab, 3, 4, "benign"))
    lab.add(*(now_alarm(lab, 10 + seq, what="end", id=f"{seq:032x}") for seq in (1, 2)))
    lab.restart()
    lab.run(11.0)
    assert titles(lab) == ["gate: alarm", "gate: alarm", "gate: alarm over"]  # of 2 and 3; 1 and 4 were taken back
    lab.add(verdict(lab, 4, 3, "false"))
    lab.run(60.0)
    assert len(titles(lab)) == 3 and lab.outbox.waiting() == 0 and not lab.letters()
    lab.outbox.close()


def test_an_alarm_that_waits_for_a_verdict_holds_no_other_up(tmp_path: Path) -> None:
    lab = lab_of(tmp_path, hold_s=20, offline_s=0)
    lab.add(now_alarm(lab, 1), camera_notice(1, "covered", utc=lab.clock.utc()))
    lab.run(1.0)
    assert titles(lab) == ["gate shows no usable picture"]
    lab.run(20.0)
    assert titles(lab)[1:] == ["gate: alarm"]
    lab.outbox.close()


@pytest.fixture
def receiver(tmp_path: Path) -> Iterator[Receiver]:
    made = Receiver(tmp_path, tls=False)
    yield made
    made.close()


def test_apprise_itself_posts_the_message_with_the_picture(tmp_path: Path, receiver: Receiver) -> None:
    url = f"json://user:hunter2@127.0.0.1:{receiver.port}/"
    given = {"url": url, "cooldown_s": 0, "time_zone": "UTC", "backoff_min_s": 1.0}
    lab = Lab(tmp_path, Notify, NotifySettings.model_validate(given))
    picture = lab.evidence / "gate" / "a.jpg"
    picture.parent.mkdir(parents=True)
    picture.write_bytes(b"\xff\xd8 picture")
    receiver.answers.append(500)
    lab.add(now_alarm(lab, 1, evidence={"clip": None, "snapshot": str(picture)}))
    lab.run(5.0)
    told = receiver.bodies()[-1]
    assert told["title"] == "gate: alarm" and told["type"] == "failure"
    assert len(receiver.posts) >= 2 and not lab.letters()
    assert "hunter2" not in repr(lab.target.__dict__["_given"])
    lab.outbox.close()


def test_a_channel_that_is_away_shows_no_secret(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    given = {"url": "json://user:hunter2@127.0.0.1:9/", "cooldown_s": 0}
    lab = Lab(tmp_path, Notify, NotifySettings.model_validate(given))
    lab.add(now_alarm(lab, 1))
    lab.run()
    out, err = capfd.readouterr()
    assert "hunter2" not in out + err + caplog.text and lab.outbox.waiting() == 1
    lab.outbox.close()


# -- the wall clock -----------------------------------------------------------------------------------------------


def utc_of(where: Any, *when: int) -> float:
    return datetime(*when, tzinfo=where).timestamp()  # type: ignore[misc]


@pytest.mark.parametrize(
    ("when", "end"),
    [
        ((2026, 7, 1, 21, 59), None),
        ((2026, 7, 1, 22, 0), (2026, 7, 2, 7, 0)),
        ((2026, 7, 2, 6, 59), (2026, 7, 2, 7, 0)),
        ((2026, 7, 2, 7, 0), None),
        ((2026, 3, 28, 23, 0), (2026, 3, 29, 7, 0)),  # an hour shorter: summer time begins in that night
        ((2026, 10, 24, 23, 0), (2026, 10, 25, 7, 0)),  # an hour longer
    ],
)
def test_quiet_hours_over_midnight_and_changes_of_time(when: tuple[int, ...], end: tuple[int, ...] | None) -> None:
    quiet = WeeklySpan.daily("22:00-07:00", BERLIN)
    assert quiet.until(utc_of(BERLIN, *when)) == (None if end is None else utc_of(BERLIN, *end))


def test_a_night_of_a_change_is_an_hour_shorter_or_longer() -> None:
    quiet = WeeklySpan.daily("22:00-07:00", BERLIN)
    for day, hours in (((2026, 3, 28), 8), ((2026, 7, 1), 9), ((2026, 10, 24), 10)):
        begin = utc_of(BERLIN, *day, 22, 0)
        assert (quiet.until(begin) or 0) - begin == hours * 3600


@given(
    st.datetimes(datetime(2025, 1, 1), datetime(2027, 12, 31)),
    st.sampled_from(["Europe/Berlin", "America/New_York", "Australia/Lord_Howe", "Asia/Kolkata", "UTC"]),
    st.integers(0, 1439),
    st.integers(1, 1439),
)
def test_quiet_hours_hold_exactly_between_their_wall_clock_times(
    moment: datetime, name: str, begin: int, length: int
) -> None:
    where = ZoneInfo(name)
    end = (begin + length) % 1440
    text = f"{begin // 60:02d}:{begin % 60:02d}-{end // 60:02d}:{end % 60:02d}"
    utc = moment.replace(tzinfo=ZoneInfo("UTC")).timestamp()
    until = WeeklySpan.daily(text, where).until(utc)
    if until is not None:
        assert utc < until <= utc + 26 * 3600
        assert WeeklySpan.daily(text, where).until(until) in (None, until)
    local = moment.replace(tzinfo=ZoneInfo("UTC")).astimezone(where)
    minute = local.hour * 60 + local.minute
    inside = begin <= minute < end if begin < end else (minute >= begin or minute < end)
    near = any(
        (ZoneInfo(name).utcoffset(datetime.fromtimestamp(utc + d, where).replace(tzinfo=None))) != local.utcoffset()
        for d in range(-26 * 3600, 26 * 3600, 3600)
    )
    if not near:  # in the night of a change the two meanings of a time may differ
        assert (until is not None) == inside
