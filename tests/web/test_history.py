"""The index of alarms: what belongs to which alarm, across lives, reruns and acknowledgements."""

from __future__ import annotations

import asyncio
import csv
import io
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

pytest.importorskip("starlette", reason="the extra 'web' is not installed")

from stream_detector.events.protocol import ACK_SCHEMA, ALARM_SCHEMA
from stream_detector.web import export
from stream_detector.web.filters import Filter
from stream_detector.web.history import History

from .conftest import running, until

ID = "a" * 32
LIFE = ("1" * 16, "2" * 16, "3" * 16)


def alarm(kind: str, epoch: str, **extra: Any) -> dict[str, Any]:
    body = {"schema": ALARM_SCHEMA, "id": ID, "camera": "gate", "type": kind, "epoch": epoch, "seq": 1}
    body |= {"start_s": 1.0, "start_utc": "2026-01-01T00:00:00.000Z", "threshold": 0.5, "peak_score": 0.9}
    body |= {"emitted_utc": "2026-01-01T00:00:01.000Z", "reason": None, "end_s": None}
    return body | extra


def ack(epoch: str, alarm_epoch: str | None = None, note: str = "seen") -> dict[str, Any]:
    body = {"schema": ACK_SCHEMA, "id": ID, "camera": "gate", "epoch": epoch, "seq": 1, "note": note, "by": "Ann"}
    body |= {"emitted_utc": "2026-01-01T00:00:02.000Z"}
    return body if alarm_epoch is None else body | {"alarm_epoch": alarm_epoch}


def told(*bodies: dict[str, Any]) -> History:
    history = History(None)
    for body in bodies:
        history.apply(body)
    return history


def test_a_rerun_of_a_file_makes_an_alarm_that_nobody_has_seen() -> None:
    history = told(
        alarm("start", LIFE[0]), alarm("end", LIFE[0], reason="normal"), ack(LIFE[0], LIFE[0]), alarm("start", LIFE[1])
    )
    newest, first = history.page(Filter(), None, 9)[0]
    assert (newest.epoch, newest.ack, newest.ended) == (LIFE[1], None, False)
    assert first.ack is not None and first.ended and first.key != newest.key
    assert history.get(ID) is newest and history.get(f"{ID}-{LIFE[0]}") is first and history.unseen() == 1
    history.apply(ack(LIFE[1], LIFE[0], "the first again"))
    assert newest.ack is None and first.ack["note"] == "the first again"
    history.apply(ack(LIFE[1], LIFE[1], "now this one"))
    assert newest.ack is not None and history.unseen() == 0


def test_an_older_journal_s_acknowledgement_is_of_the_newest_alarm_then() -> None:
    history = told(alarm("start", LIFE[0]), ack(LIFE[0]), alarm("start", LIFE[1]))
    newest, first = history.page(Filter(), None, 9)[0]
    assert newest.ack is None and first.ack is not None


def test_a_later_life_ends_and_acknowledges_an_alarm_of_an_earlier_one() -> None:
    history = told(alarm("start", LIFE[0]), alarm("end", LIFE[1], reason="restart"), ack(LIFE[1], LIFE[0]))
    (only,) = history.page(Filter(), None, 9)[0]
    assert only.epoch == LIFE[0] and only.reason == "restart" and only.ack is not None


def test_an_alarm_whose_start_was_pruned_takes_its_acknowledgement() -> None:
    history = told(alarm("end", LIFE[1], reason="restart"), ack(LIFE[1], LIFE[0]))
    (only,) = history.page(Filter(), None, 9)[0]
    assert only.ack is not None
    history = told(alarm("start", LIFE[2]), ack(LIFE[1], LIFE[0]))  # of one that is forgotten, and this is another
    assert history.page(Filter(), None, 9)[0][0].ack is None


@given(
    st.lists(st.tuples(st.sampled_from(["start", "update", "end", "ack", "old ack"]), st.integers(0, 2)), max_size=30)
)
def test_an_acknowledgement_never_reaches_another_life_s_alarm(steps: list[tuple[str, int]]) -> None:
    history = History(None)
    seen: set[str] = set()
    for kind, life in steps:
        if kind == "ack":
            history.apply(ack(LIFE[2], LIFE[life], LIFE[life]))
        elif kind == "old ack":
            continue
        else:
            history.apply(alarm(kind, LIFE[life]))
    for found in history.page(Filter(), None, 99)[0]:
        assert found.key not in seen
        seen.add(found.key)
        if found.ack is not None and found.begun:
            assert found.ack["note"] == found.epoch


def test_a_file_played_twice_is_two_alarms_on_the_page(tmp_path: Path) -> None:
    with running(tmp_path, ("gate",)) as first:
        before = first.alarm()
        noted = first.ask(f"/api/alarms/{before['key']}/ack", {"note": "a false one"})
        assert noted.status == 200 and noted.json()["key"] == before["key"]
    with running(tmp_path, ("gate",)) as second:
        ask = "/api/alarms?state=ended"
        newest = until(lambda: (a := second.ask(ask).json()["alarms"]) and len(a) == 2 and a, "both ended")[0]
        assert newest["id"] == before["id"]
        assert newest["key"] != before["key"] and newest["ack"] is None
        assert len(second.ask("/api/alarms").json()["alarms"]) == 2 and second.ask("/api/run").json()["unseen"] == 1
        old = second.ask(f"/api/alarms/{before['key']}").json()
        assert old["ack"]["note"] == "a false one" and old["events"][0]["type"] == "start" and old["windows"]
        ready = lambda: second.ask(f"/api/alarms/{newest['key']}").json()["snapshot"]  # noqa: E731
        until(ready, "a snapshot of the second time")
        pictures = [second.ask(f"/api/alarms/{a['key']}/snapshot.jpg") for a in (before, newest)]
        assert [p.status for p in pictures] == [200, 200]
        assert {p.stem for p in (tmp_path / "evidence" / "gate").glob("*.jpg")} == {before["key"], newest["key"]}
        assert second.ask(f"/api/alarms/{newest['id']}").json()["key"] == newest["key"]  # an id alone: the newest
        assert second.ask(f"/api/alarms/{newest['key']}/ack", {"note": "this one too"}).status == 200
        assert second.ask(f"/api/alarms/{before['key']}").json()["ack"]["note"] == "a false one"
    history = History(tmp_path / "ledger.sqlite3")
    history.load()
    assert [a.ack and a.ack["note"] for a in history.page(Filter(), None, 9)[0]] == ["this one too", "a false one"]


def test_exports_hold_everything_in_parts() -> None:
    history = History(None)
    for number in range(450):
        history.apply(alarm("start", LIFE[0], id=f"{number:032x}", camera="gate" if number % 3 else "yard"))

    async def whole(parts: Any) -> tuple[str, int]:
        found = [part async for part in parts]
        return "".join(found), len(found)

    text, parts = asyncio.run(whole(export.export_json(history, Filter())))
    assert [a["id"] for a in json.loads(text)["alarms"]] == [f"{n:032x}" for n in reversed(range(450))] and parts == 4
    table, _ = asyncio.run(whole(export.export_csv(history, Filter(camera="yard"))))
    assert len(list(csv.DictReader(io.StringIO(table)))) == 150
    assert json.loads(asyncio.run(whole(export.export_json(history, Filter(camera="none"))))[0]) == {"alarms": []}
