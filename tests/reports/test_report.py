"""The report: its figures, its page, and what hostile input does to it."""

from __future__ import annotations

import argparse
import base64
import csv
import hashlib
import json
import re
from html.parser import HTMLParser
from importlib import resources
from pathlib import Path
from typing import Any

import pytest

from stream_detector.cli import report as command
from stream_detector.errors import DataError, StreamDetectorError, UsageError
from stream_detector.reports.html_page import (
    MAX_POINTS,
    downsampled,
    find_evidence,
    link_to,
    page,
    share_text,
    split_at_gaps,
)
from stream_detector.reports.read_back import gather_alarms
from stream_detector.reports.scores_file import ScoreRow
from stream_detector.reports.summary import gaps_of, make_report
from stream_detector.system.outputs import SCORE_COLUMNS as COLUMNS
from stream_detector.types import ALARM_SCHEMA

JPEG = b"\xff\xd8\xff\xe0" + b"\0" * 40
VOID = {"meta", "img", "br"}


def row(window: int, camera: str = "gate", *, source: str = "", smoothed: float = 0.2, degraded: str = "") -> ScoreRow:
    return ScoreRow(
        source or f"{camera}.mp4",
        camera,
        window,
        16 * window,
        16 * window + 15,
        0.64 * window,
        0.64 * window + 0.6,
        smoothed / 2,
        smoothed,
        tuple(degraded.split("+")) if degraded else (),
    )


def alarm_events(camera: str = "gate", **extra: Any) -> list[dict[str, Any]]:
    start = {
        "schema": ALARM_SCHEMA,
        "id": f"id-{camera}",
        "camera": camera,
        "type": "start",
        "reason": None,
        "epoch": "e",
        "seq": 1,
        "start_s": 3.0,
        "end_s": None,
        "start_utc": "2026-01-01T10:00:00.000Z",
        "peak_score": 0.8,
        "threshold": 0.5,
        "degraded": [],
        "bundle": "abc123",
        "evidence": None,
        "timing": {"capture_to_window": 1.0, "captured→window": 1.0, "queue": 2.0, "forward": 20.0},
        **extra,
    }
    end = {**start, "type": "end", "end_s": 9.0, "reason": "normal", "seq": 2, "timing": {"forward": 40.0}}
    return [start, end]


def write(folder: Path, rows: list[ScoreRow], events: list[dict[str, Any]]) -> tuple[Path, Path]:
    scores, jsonl = folder / "s.csv", folder / "e.jsonl"
    with scores.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(COLUMNS)
        for r in rows:
            cells = [r.source, r.camera, r.window, r.start_frame, r.end_frame, r.start_s, r.end_s, r.raw, r.smoothed]
            writer.writerow([*cells, "+".join(r.degraded)])
    jsonl.write_text("".join(json.dumps(event) + "\n" for event in events), encoding="utf-8")
    return scores, jsonl


def run(*words: str) -> int:
    parser = argparse.ArgumentParser()
    command.add_parser(parser.add_subparsers())
    return command.main(parser.parse_args(["report", *words]))


class Outline(HTMLParser):
    """Tags, attributes and texts of a page; fails on tags that do not close."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.feed(text)
        self.close()
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_coverage_counts_what_is_missing_and_where() -> None:
    rows = [row(number) for number in range(20) if number not in (5, 6, 7)]
    rows += [row(number, "yard", degraded="gap+reconnect" if number == 2 else "") for number in range(10)]
    report = make_report(rows, [])
    gate, yard = report.cameras
    assert (gate.scored, gate.expected) == (17, 20)
    assert gate.gaps == ((rows[4].end_s, rows[5].start_s),)
    assert gate.watched_s == pytest.approx(20 * 0.64 - 0.04 - (8 * 0.64 - (4 * 0.64 + 0.6)))
    assert (yard.coverage, yard.gaps, yard.degraded) == (1.0, (), {"gap": 1, "reconnect": 1})
    assert (report.scored, report.expected, report.degraded_windows) == (27, 30, 1)
    assert report.coverage == pytest.approx(0.9)


def test_windows_lost_before_the_first_scored_one_count_as_missing() -> None:
    assert make_report([row(3), row(4)], []).cameras[0].expected == 5


def test_the_spacing_of_a_wide_stride_is_no_hole() -> None:
    rows = [ScoreRow("a", "a", n, 0, 0, 5.0 * n, 5.0 * n + 0.6, 0.1, 0.1) for n in range(10)]
    assert gaps_of(rows) == []


def test_sources_of_one_camera_are_counted_apart() -> None:
    rows = [row(number, source="a.mp4") for number in range(3)] + [row(number, source="b.mp4") for number in range(4)]
    (camera,) = make_report(rows, []).cameras
    assert (camera.scored, camera.expected, camera.sources) == (7, 7, ("a.mp4", "b.mp4"))


def test_latency_is_that_of_the_events() -> None:
    report = make_report([], gather_alarms(alarm_events()))
    assert report.latency["forward"] == {"count": 2, "p50": 20.0, "p95": 40.0, "max": 40.0}
    assert report.latency["queue"]["count"] == 1
    assert report.latency["sum"]["max"] == 40.0
    assert list(report.latency)[-1] == "sum"


def test_nothing_to_report_is_one_sentence() -> None:
    with pytest.raises(DataError, match="nothing to report"):
        make_report([], [])


def test_the_page_holds_everything_and_asks_for_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "evidence").mkdir()
    (tmp_path / "evidence" / "s.jpg").write_bytes(JPEG)
    (tmp_path / "evidence" / "c d.webm").write_bytes(b"x")
    evidence = {"clip": "moved/evidence/c d.webm", "snapshot": "moved/evidence/s.jpg"}
    rows = [row(n, smoothed=0.8 if 5 <= n < 15 else 0.1, degraded="gap" if n == 30 else "") for n in range(60)]
    scores, events = write(tmp_path, rows, alarm_events(evidence=evidence))
    out = tmp_path / "pages" / "r.html"
    assert run("--scores", str(scores), "--events", str(events), "--out", str(out)) == 0
    assert capsys.readouterr().out.strip() == str(out)
    text = out.read_text(encoding="utf-8")
    outline = Outline(text)
    for piece in ("gate", "3 s – 9 s", "peak 0.80", "abc123", "60 of 60", "degraded: gap", "forward", "100 %"):
        assert piece in text
    assert base64.b64encode(JPEG).decode() in text
    links = [attrs["href"] for tag, attrs in outline.tags if tag == "a"]
    assert links == ["./../evidence/c%20d.webm"]
    assert not {tag for tag, _ in outline.tags} & {"link", "iframe", "object", "embed", "base", "form"}
    for tag, attrs in outline.tags:
        if "src" in attrs:
            assert tag == "img"
            assert str(attrs["src"]).startswith("data:image/jpeg;base64,")
    assert not re.search(r"https?://|@import|url\(", text)
    assert "Rendered footage" not in text


def test_the_policy_in_the_page_allows_its_own_script_only(tmp_path: Path) -> None:
    text = page(make_report([row(0)], []), title="t", base=tmp_path, out=tmp_path / "r.html")
    script = text[text.rindex("<script>") + len("<script>") : text.rindex("</script>")]
    pin = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    policy = next(a["content"] for tag, a in Outline(text).tags if a.get("http-equiv") == "Content-Security-Policy")
    assert policy == f"default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'sha256-{pin}'"
    assets = resources.files("stream_detector").joinpath("reports", "assets")
    assert script == assets.joinpath("report.js").read_text(encoding="utf-8")


HOSTILE = "</script><script>alert(1)</script><img src=x onerror=alert(1)>\"'&\u2028\x1b"


def test_hostile_names_stay_text(tmp_path: Path) -> None:
    rows = [row(n, HOSTILE, source=HOSTILE, degraded=HOSTILE.replace("+", "") if n == 2 else "") for n in range(4)]
    events = alarm_events(HOSTILE, bundle=HOSTILE, start_utc=HOSTILE, degraded=[HOSTILE], reason=HOSTILE)
    events[1]["reason"] = HOSTILE
    events[1]["evidence"] = {"clip": HOSTILE, "snapshot": HOSTILE}
    events[1]["timing"] = {HOSTILE: 1.0}
    plain = make_report([row(n) for n in range(4)], gather_alarms(alarm_events()))
    nasty = make_report(rows, gather_alarms(events))
    places = {"title": HOSTILE, "base": tmp_path, "out": tmp_path / "r.html"}
    text = page(nasty, **places)  # type: ignore[arg-type]
    assert "<script>alert" not in text
    assert "<img src=x" not in text
    assert "\x1b" not in text
    scripts = [tag for tag, _ in Outline(text).tags if tag == "script"]
    usual = [tag for tag, _ in Outline(page(plain, **places)).tags if tag == "script"]  # type: ignore[arg-type]
    assert scripts == usual
    assert not [attrs for _, attrs in Outline(text).tags if any(name.startswith("on") for name in attrs)]
    data = text[text.index('<script type="application/json">') + 32 :]
    assert json.loads(data[: data.index("</script>")])["camera"] == HOSTILE


def test_only_pictures_are_embedded(tmp_path: Path) -> None:
    secret = tmp_path / "secret.jpg"
    secret.write_bytes(b"root:x:0:0")
    events = alarm_events(evidence={"clip": None, "snapshot": str(secret)})
    report = make_report([row(0)], gather_alarms(events))
    text = page(report, title="t", base=tmp_path, out=tmp_path / "r.html")
    assert "secret.jpg is not a picture" in text
    assert base64.b64encode(b"root:x:0:0").decode() not in text


def test_links_never_carry_a_scheme(tmp_path: Path) -> None:
    folder = tmp_path / "javascript:alert(1)"
    folder.mkdir()
    clip = folder / "a#b?c.webm"
    clip.write_bytes(b"")
    assert link_to(clip, tmp_path / "r.html") == "./javascript%3Aalert%281%29/a%23b%3Fc.webm"


def test_evidence_is_found_where_the_folder_moved_to(tmp_path: Path) -> None:
    (tmp_path / "evidence").mkdir()
    (tmp_path / "evidence" / "a.jpg").write_bytes(JPEG)
    assert find_evidence("/gone/runs/7/evidence/a.jpg", tmp_path) == tmp_path / "evidence" / "a.jpg"
    assert find_evidence("a" * 5000, tmp_path) is None
    assert find_evidence(None, tmp_path) is None


def test_no_alarm_is_said_with_its_coverage(tmp_path: Path) -> None:
    report = make_report([row(0), row(3)], [])
    text = page(report, title="t", base=tmp_path, out=tmp_path / "r.html")
    assert "No alarm; 50.0 % of the expected windows were scored." in text
    assert share_text(0.99999) == "99.9 %"


def test_rendered_footage_is_called_so(tmp_path: Path) -> None:
    report = make_report([row(0, source="demo:seed=3")], [])
    assert "Rendered footage" in page(report, title="t", base=tmp_path, out=tmp_path / "r.html")
    assert report.to_dict()["rendered_footage"] is True


def test_long_runs_are_thinned_and_keep_their_peaks(tmp_path: Path) -> None:
    rows = [row(n, smoothed=0.9 if n == 33_333 else 0.1 + 0.0001 * (n % 7)) for n in range(50_000)]
    points = downsampled(rows)
    assert len(points) <= MAX_POINTS * 4 / 3 + 4
    assert max(point.smoothed for point in points) == 0.9
    text = page(make_report(rows, []), title="t", base=tmp_path, out=tmp_path / "r.html")
    assert len(text) < 400_000
    assert downsampled(rows[:MAX_POINTS]) == rows[:MAX_POINTS]


def test_lines_break_at_holes() -> None:
    rows = [row(n) for n in range(10) if n not in (4, 5)]
    parts = split_at_gaps(rows, tuple(gaps_of(rows)))
    assert [[r.window for r in part] for part in parts] == [[0, 1, 2, 3], [6, 7, 8, 9]]


def test_json_needs_no_page(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    scores, events = write(tmp_path, [row(n) for n in range(4)], alarm_events())
    assert run("--scores", str(scores), "--events", str(events), "--json") == 0
    told = json.loads(capsys.readouterr().out)
    assert told["schema"] == "stream-detector.report/1"
    assert told["cameras"][0]["alarms"] == 1
    assert told["alarms"][0]["end_s"] == 9.0
    assert told["coverage"] == 1.0


def test_wrong_calls_are_one_sentence(tmp_path: Path) -> None:
    scores, _ = write(tmp_path, [row(0)], [])
    (tmp_path / "file").write_text("")
    for words in (
        [],
        ["--scores", str(scores)],
        ["--scores", str(tmp_path / "no.csv"), "--json"],
        ["--scores", str(scores), "--threshold", "7", "--json"],
        ["--scores", str(scores), "--out", str(tmp_path / "file" / "r.html")],
    ):
        with pytest.raises(StreamDetectorError) as caught:
            run(*words)
        assert isinstance(caught.value, UsageError)
        assert caught.value.exit_code == 2
        assert "\n" not in str(caught.value)
