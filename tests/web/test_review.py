"""The review of alarms: what is next under a filter, and optional fields of events."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

pytest.importorskip("starlette", reason="the extra 'web' is not installed")

from stream_detector.errors import DataError
from stream_detector.events.protocol import ALARM_SCHEMA, VERDICT_SCHEMA
from stream_detector.web.filters import Filter, make_filter
from stream_detector.web.history import MOST_WORDS, History

from .conftest import running, until

EPOCH = "1" * 16


def alarm_body(number: int, **extra: Any) -> dict[str, Any]:
    body = {"schema": ALARM_SCHEMA, "id": f"{number:032x}", "camera": "gate", "type": "start", "epoch": EPOCH}
    body |= {"seq": number, "start_s": 1.0 + number, "start_utc": f"2026-01-01T00:00:{number % 60:02d}.000Z"}
    body |= {"threshold": 0.5, "peak_score": 0.9, "emitted_utc": "2026-01-01T00:00:01.000Z", "reason": None}
    return body | {"end_s": None} | extra


def verdict_body(number: int, word: str) -> dict[str, Any]:
    body = {"schema": VERDICT_SCHEMA, "id": f"{number:032x}", "camera": "gate", "epoch": EPOCH, "seq": number}
    return body | {
        "verdict": word,
        "note": "",
        "by": "Ann",
        "author": "local",
        "emitted_utc": "2026-01-01T00:01:00.000Z",
    }


MADE = st.lists(
    st.tuples(
        st.sampled_from(["gate", "yard"]),
        st.sampled_from(["", "true", "false"]),
        st.sampled_from(["", "fight", "crash"]),
        st.sampled_from(["low", "high"]),
    ),
    min_size=1,
    max_size=12,
)
WANTED = st.builds(
    Filter,
    camera=st.sampled_from(["", "gate", "yard"]),
    verdict=st.sampled_from(["", "none", "any", "true", "false"]),
    kind=st.sampled_from(["", "fight"]),
    severity=st.sampled_from(["", "high"]),
)


@given(MADE, WANTED)
def test_a_review_goes_through_exactly_what_the_list_shows(
    made: list[tuple[str, str, str, str]], wanted: Filter
) -> None:
    history = History(None)
    for number, (camera, word, kind, severity) in enumerate(made, 1):
        history.apply(alarm_body(number, camera=camera, severity=severity, **({"kind": kind} if kind else {})))
        if word:
            history.apply(verdict_body(number, word))
    listed, more = history.page(wanted, None, 200)
    assert not more
    every, _ = history.page(Filter(), None, 200)
    for alarm in every:  # also from one that the filter does not select
        found = history.around(alarm, wanted)
        newer = [other for other in listed if other.number > alarm.number]
        older = [other for other in listed if other.number < alarm.number]
        assert (found.newer, found.newer_count) == (newer[-1] if newer else None, len(newer))
        assert (found.older, found.older_count) == (older[0] if older else None, len(older))
    for alarm in listed:
        assert wanted.verdict in ("", "none" if alarm.verdict is None else "any", (alarm.verdict or {}).get("verdict"))


def test_kinds_and_severities_are_told_only_where_events_carry_them_and_are_bounded() -> None:
    history = History(None)
    history.apply(alarm_body(1))
    assert history.words() == {"kinds": [], "severities": []}
    (plain,) = history.page(Filter(), None, 9)[0]
    assert "kind" not in plain.summary() and "severity" not in plain.summary()
    for number, kind in enumerate([7, "x y", "<b>", "", None, "a" * 40], 2):  # nothing that can be shown as a word
        history.apply(alarm_body(number, kind=kind))
    assert history.words()["kinds"] == []
    history.apply(alarm_body(10, kind="fight", severity="low"))
    history.apply(alarm_body(10, type="end", reason="normal", severity="high"))  # the kind stands, the severity rose
    newest = history.page(Filter(), None, 1)[0][0].summary()
    assert (newest["kind"], newest["severity"]) == ("fight", "high")
    for number in range(100):
        history.apply(alarm_body(20 + number, kind=f"kind-{number}"))
    assert len(history.words()["kinds"]) == MOST_WORDS


@pytest.mark.parametrize("wrong", [{"verdict": "maybe"}, {"kind": "a b"}, {"severity": "x" * 33}, {"state": "x"}])
def test_a_filter_that_cannot_be_is_refused(wrong: dict[str, str]) -> None:
    with pytest.raises(DataError):
        make_filter(wrong)


def test_the_review_goes_on_over_alarms_of_earlier_runs(tmp_path: Path) -> None:
    steps = (*("frame",) * 600, "stall")  # an alarm about frame 64, 320 and 576 of each camera
    with running(tmp_path, steps=steps) as first:
        ended = lambda camera: first.ask(f"/api/alarms?camera={camera}&state=ended").json()["alarms"]  # noqa: E731
        until(lambda: len(ended("gate")) >= 2 and len(ended("yard")) >= 2, "two alarms of each camera")
    with running(tmp_path, steps=("stall",)) as page:  # another life: it saw none of them
        listed = page.ask("/api/alarms?camera=gate").json()["alarms"]
        assert len(listed) >= 2
        newest, second = listed[0], listed[1]
        found = page.ask(f"/api/alarms/{newest['key']}/around?camera=gate").json()
        assert (found["newer"], found["older"]) == (None, second["key"])
        assert found["newer_count"] == 0 and found["older_count"] == len(listed) - 1
        assert page.ask(f"/api/alarms/{second['key']}/verdict", {"verdict": "benign"}).status == 200
        left = page.ask(f"/api/alarms/{newest['key']}/around?camera=gate&verdict=none").json()
        assert left["older_count"] == len(listed) - 2 and left["older"] != second["key"]
        judged = page.ask("/api/alarms?verdict=benign").json()
        assert [alarm["key"] for alarm in judged["alarms"]] == [second["key"]]
        assert judged["severities"] and judged["kinds"] == []
        assert page.ask(f"/api/alarms/{'0' * 32}/around").status == 404
        assert page.ask(f"/api/alarms/{newest['key']}/around?verdict=maybe").status == 400
