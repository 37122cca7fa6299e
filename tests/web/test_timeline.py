"""The timeline: scores by the minute on disk, what was recorded, and the routes that give both in few bins."""

from __future__ import annotations

import os
import sqlite3
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

pytest.importorskip("starlette", reason="the extra 'web' is not installed")
pytest.importorskip("uvicorn", reason="the extra 'web' is not installed")

from stream_detector.web import score_history
from stream_detector.web.score_history import KEEP_MINUTES, MinuteScores, ScoreHistory
from stream_detector.web.timeline_routes import MOST_BINS, recorded

from .conftest import Page, running, until

WINDOWS = st.lists(
    st.tuples(st.sampled_from(["gate", "yard"]), st.floats(0, 36_000), st.floats(0, 1), st.booleans()), max_size=40
)


@given(WINDOWS, st.integers(1, 120), st.integers(1, 12), st.integers(0, 3))
def test_bins_are_what_was_scored_however_it_was_written(
    windows: list[tuple[str, float, float, bool]], each: int, count: int, drains: int
) -> None:
    minutes, history = MinuteScores(), ScoreHistory(None)
    for number, (camera, utc, smoothed, alarmed) in enumerate(windows):
        minutes.add(camera, utc, smoothed, alarmed)
        if drains and number % drains == 0:  # a minute may be written in several parts
            history.add(minutes.drain(), 0)
    history.add(minutes.drain(), 0)
    assert minutes.drain() == []
    for place, found in enumerate(history.bins("gate", 10, each, count)):
        first = 10 + place * each
        own = [w for w in windows if w[0] == "gate" and first <= w[1] // 60 < first + each]
        if not own:
            assert found is None
            continue
        assert found is not None
        assert (found.windows, found.peak, found.alarmed) == (len(own), max(w[2] for w in own), any(w[3] for w in own))
        assert found.mean == pytest.approx(sum(w[2] for w in own) / len(own))
    history.close()


def test_scores_outlive_the_process_and_are_dropped_after_two_weeks(tmp_path: Path) -> None:
    path = tmp_path / "runs" / "ledger.timeline.sqlite3"
    history = ScoreHistory(path)
    history.add([("gate", 100, 2, 1.0, 0.7, 1)], 100)
    history.close()
    history.close()
    again = ScoreHistory(path)
    (found,) = again.bins("gate", 100, 1, 1)
    assert found is not None and (found.windows, found.mean, found.peak, found.alarmed) == (2, 0.5, 0.7, True)
    again.add([("gate", 101 + KEEP_MINUTES, 1, 0.1, 0.1, 0)], 101 + KEEP_MINUTES)
    assert again.bins("gate", 100, 1, 1) == [None]
    again.close()


def test_a_file_that_is_no_database_costs_only_the_past(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "ledger.timeline.sqlite3"
    path.write_bytes(b"not a database, but somebody's notes\n" * 100)
    history = ScoreHistory(path)
    history.add([("gate", 5, 1, 0.5, 0.5, 0)], 5)
    assert history.bins("gate", 5, 1, 1)[0] is not None and "memory only" in caplog.text
    history.close()
    assert path.read_bytes().startswith(b"not a database")


def test_what_nobody_drains_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(score_history, "MOST_OPEN", 5)
    minutes = MinuteScores()
    for minute in range(50):
        minutes.add("gate", 60.0 * minute, 0.5, False)
    assert [row[1] for row in minutes.drain()] == [45, 46, 47, 48, 49]


def segment(folder: Path, name: str, over_s: float, data: bytes = b"video") -> None:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / name
    path.write_bytes(data)
    os.utime(path, (over_s, over_s))


def test_recorded_files_are_joined_into_spans(tmp_path: Path) -> None:
    day = 1_769_904_000.0  # 2026-02-01T00:00:00Z
    segment(tmp_path, "20260201T000000Z.mp4", day + 300)
    segment(tmp_path, "20260201T000501Z.mp4", day + 600)
    segment(tmp_path, "20260201T010000Z-2.mp4", day + 3900)
    segment(tmp_path, "20260101T000000Z.mp4", day - 86_400)  # another day
    for foreign in ("notes.mp4", "20261399T000000Z.mp4", ".20260201T000000Z.part.mp4"):
        if foreign != "20261399T000000Z.mp4":
            segment(tmp_path, foreign, day)
    found = recorded(tmp_path, day, day + 86_400)
    assert [(s["from_s"] - day, s["to_s"] - day, len(s["files"])) for s in found] == [(0, 600, 2), (3600, 3900, 1)]
    assert recorded(tmp_path / "none", day, day + 1) == []


def test_the_timeline_of_a_run_has_scores_alarms_and_gaps(tmp_path: Path) -> None:
    folder = tmp_path / "recordings"
    with running(tmp_path, recording={"directory": folder}) as page:
        alarm = page.alarm()
        whole = lambda name: len(page.ask(f"/api/replay/{name}").json()["rows"]) >= 15  # noqa: E731
        until(lambda: whole("gate") and whole("yard"), "both films are scored")
        day_ago = time.time() - 86_400
        segment(folder / "gate", time.strftime("%Y%m%dT%H%M%SZ", time.gmtime(day_ago)), day_ago + 60)
        name = time.strftime("%Y%m%dT%H%M%SZ.mp4", time.gmtime(time.time() - 60))
        segment(folder / "gate", name, time.time(), b"0123456789")
        found = page.ask("/api/timeline/gate?bins=48").json()
        assert len(found["bins"]) == 48 and found["bin_s"] >= 1800
        scored = [b for b in found["bins"] if b]
        assert len(scored) in (1, 2) and found["bins"][0] is None  # the day before it was not there
        assert sum(b[0] for b in scored) >= 15 and max(b[2] for b in scored) == 1.0 and any(b[3] for b in scored)
        assert [mark["key"] for mark in found["alarms"]] == [alarm["key"]] and found["threshold"] == 0.5
        assert [file[0] for span in found["recorded"] for file in span["files"]] == [name]
        part = page.ask(f"/api/recordings/gate/{name}", headers={"range": "bytes=2-4"})
        assert (part.status, part.body, part.headers["content-type"]) == (206, b"234", "video/mp4")
        check_refusals(page)
        database = tmp_path / "ledger.timeline.sqlite3"
        assert database.is_file()
    with sqlite3.connect(database) as db:
        assert db.execute("SELECT SUM(windows) FROM minutes WHERE camera = 'yard'").fetchone()[0] >= 15
    db.close()


def check_refusals(page: Page) -> None:
    for wrong in ("bins=0", f"bins={MOST_BINS + 1}", "since=yesterday", "since=2026-01-02&until=2026-01-01"):
        assert page.ask(f"/api/timeline/gate?{wrong}").status == 400, wrong
    assert page.ask("/api/timeline/gate?since=2020-01-01&until=2026-01-01").status == 400
    assert page.ask("/api/timeline/nobody").status == 400
    for name in ("notes.mp4", "..%2f..%2fledger.sqlite3", "20200101T000000Z.mp4"):
        assert page.ask(f"/api/recordings/gate/{name}").status == 404, name
    assert page.ask("/api/recordings/nobody/20200101T000000Z.mp4").status == 400
