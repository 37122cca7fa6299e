"""The page's routes over real HTTP, against a detector with fake sources."""

from __future__ import annotations

import csv
import io
import json
import sqlite3
import threading
import tomllib
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from stream_detector.config import SmoothingConfig
from stream_detector.config.edit import set_camera
from stream_detector.errors import ConfigError
from stream_detector.web.filters import Filter
from stream_detector.web.history import History

from .conftest import Page, running, until


def test_the_page_and_its_files_come_with_a_strict_policy(page: Page) -> None:
    total = 0
    seen = ["/", "/static/css/base.css", "/static/css/views.css", "/static/icon.svg"]
    seen += [f"/static/js/{n}.js" for n in ("app", "dom", "time", "stream", "chart", "live", "alarms", "alarm")]
    seen += [
        f"/static/js/{n}.js"
        for n in (
            "replay",
            "tune",
            "files",
            "filter",
            "keys",
            "reload",
            "review",
            "site",
            "axis",
            "timechart",
            "timeline",
            "edit",
            "rules",
            "sketch",
        )
    ]
    for path in seen:
        found = page.ask(path)
        assert found.status == 200, path
        total += len(found.body)
        policy = found.headers["content-security-policy"]
        assert "default-src 'none'" in policy and "script-src 'self'" in policy and "unsafe" not in policy
        assert found.headers["x-content-type-options"] == "nosniff"
        assert page.ask(path, headers={"if-none-match": found.headers["etag"]}).status == 304
    assert total < 150_000
    html = page.ask("/").body.decode()
    assert "<script>" not in html and "style=" not in html and "http" not in html.replace("<!doctype html>", "")
    for deep in ("/alarms", "/alarms/" + "0" * 32, "/camera/gate", "/replay", "/tune"):
        assert page.ask(deep).body.decode() == html


def test_small_rooms() -> None:
    static = Path(__file__).parents[2] / "stream_detector" / "web" / "static"
    for path in [*static.rglob("*.js"), *static.rglob("*.css"), *static.rglob("*.html")]:
        text = path.read_text()
        assert text.count("\n") < 400, path
        assert "innerHTML" not in text and "://" not in text.replace("http://www.w3.org/2000/svg", ""), path


def test_an_alarm_is_listed_with_its_evidence(page: Page) -> None:
    alarm = page.alarm()
    assert alarm["start_s"] == pytest.approx(64 / 25) and alarm["peak_score"] == 1.0
    detail = until(
        lambda: (d := page.ask(f"/api/alarms/{alarm['id']}").json())["clip"] and d["snapshot"] and d,
        "clip and snapshot",
    )
    first = detail["windows"][0]
    assert (first["start_s"], first["end_s"]) == (pytest.approx(64 / 25), pytest.approx(79 / 25, abs=0.05))
    assert detail["windows"][0]["start_frame"] == 64 and detail["timing"]["forward"] >= 0
    assert "capture_to_window" in detail["timing"] and "captured→window" not in detail["timing"]  # each stage once
    assert detail["events"][0]["type"] == "start" and detail["events"][-1]["type"] == "end"
    snapshot = page.ask(f"/api/alarms/{alarm['id']}/snapshot.jpg")
    assert snapshot.headers["content-type"] == "image/jpeg"
    assert cv2.imdecode(np.frombuffer(snapshot.body, np.uint8), cv2.IMREAD_COLOR) is not None
    clip = page.ask(f"/api/alarms/{alarm['id']}/clip.mp4")
    assert clip.body[4:8] == b"ftyp" and clip.headers["content-type"] == "video/mp4" and detail["playable"]
    original = page.ask(f"/api/alarms/{alarm['id']}/clip.mp4?original=1")
    assert original.body == clip.body and "attachment" in original.headers["content-disposition"]
    part = page.ask(f"/api/alarms/{alarm['id']}/clip.mp4", headers={"range": "bytes=4-9"})
    assert part.status == 206 and part.body == clip.body[4:10]


def test_filters_and_exports(page: Page) -> None:
    alarm = page.alarm()
    page.alarm("yard")
    ids = lambda query: [a["id"] for a in page.ask(f"/api/alarms?{query}").json()["alarms"]]  # noqa: E731
    assert len(ids("")) == 2 and ids("camera=gate") == [alarm["id"]] and ids("camera=other") == []
    assert ids("since=2100-01-01T00:00:00Z") == [] and len(ids("until=2100-01-01T00:00:00Z")) == 2
    assert ids("state=open") == []
    assert len(ids("limit=1")) == 1 and page.ask("/api/alarms?limit=1").json()["more"]
    newest = page.ask("/api/alarms?limit=1").json()["alarms"][0]
    assert ids(f"limit=1&before={newest['number']}") != [newest["id"]]
    for wrong in ("state=bad", "since=yesterday", "limit=0", "limit=x", "before=-1", "limit=9999"):
        assert page.ask(f"/api/alarms?{wrong}").status == 400, wrong
    assert len(page.ask("/api/alarms.json").json()["alarms"]) == 2
    exported = list(csv.DictReader(io.StringIO(page.ask("/api/alarms.csv?camera=gate").body.decode())))
    assert [row["id"] for row in exported] == [alarm["id"]] and float(exported[0]["peak_score"]) == 1.0


def test_an_acknowledgement_is_journalled_told_and_exported_safely(page: Page) -> None:
    alarm = page.alarm("yard")
    note = '=HYPERLINK("x") <script>alert(1)</script>'
    stream = page.stream("cameras=")
    assert next(stream)[0] == "state"
    told = page.ask(f"/api/alarms/{alarm['id']}/ack", {"note": note, "by": "Ann"})
    assert told.status == 200 and told.json()["ack"]["note"] == note
    assert next(data for kind, data in stream if kind == "alarm")["ack"]["by"] == "Ann"
    stream.close()
    with sqlite3.connect(page.folder / "ledger.sqlite3") as db:
        rows = db.execute("SELECT body FROM events WHERE topic = 'v1/ack/yard/'").fetchall()
    assert json.loads(rows[-1][0])["schema"] == "stream-detector.ack/1" and json.loads(rows[-1][0])["note"] == note
    history = History(page.folder / "ledger.sqlite3")  # what the next start will know
    history.load()
    again = history.get(alarm["id"])
    assert again is not None and again.ack is not None and again.ack["note"] == note
    assert [a.id for a in history.page(Filter(state="seen"), None, 9)[0]] == [alarm["id"]]
    row = next(csv.DictReader(io.StringIO(page.ask("/api/alarms.csv?camera=yard").body.decode())))
    assert row["ack_note"].startswith("'=")
    for wrong in ({"note": 7}, {"note": "x" * 501}, {"note": "a\x00b"}, {"by": "x" * 65}, {"note": "\ud800"}):
        assert page.ask(f"/api/alarms/{alarm['id']}/ack", wrong).status == 400, wrong
    assert page.ask(f"/api/alarms/{'0' * 32}/ack", {"note": ""}).status == 404


def test_live_data_has_states_scores_and_pictures(page: Page) -> None:
    page.alarm()
    stream = page.stream("cameras=gate,yard,nobody&rate=5")
    states: dict[str, Any] = {}
    pictures: dict[str, str] = {}
    for kind, data in stream:
        if kind == "state":
            states |= {entry["state"]["name"]: entry for entry in data["cameras"]}
        elif kind == "picture":
            pictures[data["camera"]] = data["jpeg"]
        if len(states) == 2 and len(pictures) == 2:
            break
    stream.close()
    assert states["gate"]["state"]["threshold"] == 0.5 and states["gate"]["state"]["coverage"] == 1.0
    rows = states["gate"]["rows"]
    assert len(rows) >= 15 and any(row[3] for row in rows) and rows[4][1] == 1.0
    until(lambda: page.server.viewers == 0, "the viewer left")
    assert page.ask("/api/picture/gate.jpg").headers["content-type"] == "image/jpeg"


def test_replay_and_tuning_use_the_recorded_scores(page: Page) -> None:
    page.alarm()
    replay = page.ask("/api/replay/gate").json()
    assert len(replay["rows"]) >= 15 and replay["alarms"][0]["camera"] == "gate" and replay["threshold"] == 0.5
    same = page.ask("/api/tune/gate", {"threshold": 0.5, "smoothing": {"kind": "none"}}).json()
    alarm = page.alarm()
    assert same["alarms"][0][0] == pytest.approx(alarm["start_s"]) and same["alarms"][0][2] == pytest.approx(
        alarm["end_s"]
    )
    none = page.ask("/api/tune/gate", {"threshold": 0.9, "smoothing": {"kind": "median", "span": 31}}).json()
    assert none["alarms"] == [] and none["windows"] == same["windows"]
    for wrong in ({}, {"threshold": 2, "smoothing": {"kind": "ema"}}, {"threshold": 0.5, "smoothing": {"kind": "x"}}):
        assert page.ask("/api/tune/gate", wrong).status == 400
    assert page.ask("/api/replay/gate/frame.jpg?t=1").status == 404  # the fake file is not on disk
    assert page.ask("/api/replay/gate/frame.jpg?t=nan").status == 400
    assert page.ask("/api/replay/nobody").status == 400


def test_tuning_writes_the_configuration_and_keeps_its_comments(page: Page) -> None:
    for camera in ("gate", "yard"):
        body = {"threshold": 0.35, "smoothing": {"kind": "median", "span": 5}}
        assert page.ask(f"/api/tune/{camera}/write", body).status == 200
    text = (page.folder / "cameras.toml").read_text()
    written = tomllib.loads(text)["cameras"]
    assert "# the gate" in text
    for camera in ("gate", "yard"):
        wanted = {"source": f"{camera}.mp4", "threshold": 0.35, "smoothing": {"kind": "median", "span": 5}}
        assert written[camera] == wanted
    with running(page.folder / "b") as other:
        refused = other.ask("/api/tune/gate/write", {"threshold": 0.35, "smoothing": {"kind": "none"}})
        assert refused.status == 400 and "--config" in refused.json()["error"]


@pytest.mark.parametrize(
    "text",
    [
        "[cameras.a]\nsource = 'x'\n",
        "[cameras.a]\nthreshold = 0.1 # why\nsource = 'x'\n[cameras.a.smoothing]\nkind = 'none'\n[alarm]\n",
        "[cameras]\na = 'x'",
        "[[cameras]]\nname = 'b'\nsource = 'y'\n[[cameras]]\nname = 'a'\nsource = 'x'\nmask = [\n [0, 0],\n [1, 0],\n"
        " [1, 1],\n]\n",
        "[ cameras . 'a' ]\nsource = 'x'\nsmoothing = {kind = 'none'}",
        "cameras = {a = {source = 'x'}}\n",
        "cameras.a.source = 'x'\r\n",
    ],
)
def test_a_camera_of_any_layout_is_changed(text: str) -> None:
    new = set_camera(text, "a", {"threshold": 0.25, "smoothing": {"kind": "ema", "time_constant_s": 2.0}})
    cameras = tomllib.loads(new)["cameras"]
    entry = cameras["a"] if isinstance(cameras, dict) else next(c for c in cameras if c["name"] == "a")
    assert entry["source"] == "x" and entry["threshold"] == 0.25
    assert entry["smoothing"] == {"kind": "ema", "time_constant_s": 2.0}
    assert ("# why" in new) == ("# why" in text)


@pytest.mark.parametrize("text", ["[cameras.b]\nsource = 'x'\n", "cameras = 3\n", "[cameras.a\n", "pace = 'max'"])
def test_a_text_without_the_camera_is_refused(text: str) -> None:
    with pytest.raises(ConfigError):
        set_camera(text, "a", {"threshold": 0.25})


def test_health_and_metrics_share_the_server(page: Page) -> None:
    page.alarm()
    assert page.ask("/healthz").json()["cameras"]["gate"]["alarms"] == 1
    text = page.ask("/metrics").body.decode()
    assert 'stream_detector_alarms_total{camera="gate"} 1.0' in text


def test_alarms_of_earlier_runs_are_told_after_a_restart(tmp_path: Path) -> None:
    with running(tmp_path) as first:
        alarm = first.alarm()
        assert first.ask(f"/api/alarms/{alarm['id']}/ack", {"note": "seen"}).status == 200
    with running(tmp_path, steps=("stall",)) as second:
        again = second.ask(f"/api/alarms/{alarm['id']}").json()
        assert again["ack"]["note"] == "seen" and again["start_s"] == alarm["start_s"]
        assert again["windows"] and again["clip"]


def test_a_journal_in_memory_is_enough(tmp_path: Path) -> None:
    with running(tmp_path, publish={"bind": "none", "ledger": None}, evidence={"enabled": False}) as page:
        alarm = page.alarm()
        assert page.ask(f"/api/alarms/{alarm['id']}/ack", {"note": "ok"}).status == 200
        detail = page.ask(f"/api/alarms/{alarm['id']}").json()
        assert detail["ack"]["note"] == "ok" and detail["windows"] and not detail["clip"]


def test_a_stream_ends_when_the_server_closes(tmp_path: Path) -> None:
    with running(tmp_path) as page:
        stream = page.stream("cameras=gate")
        assert next(stream)[0] == "state"
        threading.Thread(target=page.server.close).start()
        assert [kind for kind, _ in stream][-1] == "bye"


def test_smoothing_is_written_as_the_kind_needs_it(tmp_path: Path) -> None:
    from stream_detector.web.tune import write_camera

    path = tmp_path / "c.toml"
    path.write_text("[cameras.a]\nsource = 'x'\n")
    write_camera(path, "a", 0.5, SmoothingConfig(kind="ema", time_constant_s=2))
    assert tomllib.loads(path.read_text())["cameras"]["a"]["smoothing"] == {"kind": "ema", "time_constant_s": 2.0}
    assert [entry.name for entry in tmp_path.iterdir()] == ["c.toml"]
    path.write_text("\ufeff[cameras.a]\nsource = 'x'\n", encoding="utf-8")  # as editors of Windows write it
    write_camera(path, "a", 0.5, SmoothingConfig(kind="none"))
    assert path.read_text(encoding="utf-8").startswith("\ufeff[cameras.a]\n") and "threshold = 0.5" in path.read_text()
