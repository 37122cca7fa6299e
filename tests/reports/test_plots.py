"""Reading runs back, and drawing them."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from stream_detector.errors import DataError
from stream_detector.reports.plots import _lines, clock_label, plot_scores, step_s
from stream_detector.reports.read_back import ALARM_SCHEMA, gather_alarms, read_events, spans_of
from stream_detector.reports.scores_file import ScoreRow, read_scores
from stream_detector.system.outputs import SCORE_COLUMNS as COLUMNS


def rows_of(camera: str = "gate", number: int = 60, **extra: Any) -> list[ScoreRow]:
    return [
        ScoreRow(
            source=f"{camera}.mp4",
            camera=camera,
            window=index,
            start_frame=16 * index,
            end_frame=16 * index + 15,
            start_s=0.64 * index,
            end_s=0.64 * index + 0.6,
            raw=0.9 if 20 <= index < 30 else 0.1,
            smoothed=0.8 if 21 <= index < 31 else 0.15,
            degraded=("reconnect", "gap") if index in extra.get("degraded", ()) else (),
        )
        for index in range(number)
    ]


def event(type_: str, camera: str = "gate", **extra: Any) -> dict[str, Any]:
    return {
        "schema": ALARM_SCHEMA,
        "id": f"id-{camera}",
        "camera": camera,
        "type": type_,
        "reason": "normal" if type_ == "end" else None,
        "epoch": "e",
        "seq": {"start": 1, "update": 2, "end": 3}[type_],
        "start_s": 13.0,
        "end_s": 20.0 if type_ == "end" else None,
        "start_utc": "2026-01-01T00:00:13.000Z",
        "peak_score": {"start": 0.7, "update": 0.8, "end": 0.8}[type_],
        "threshold": 0.5,
        "degraded": [],
        "bundle": "abc",
        "evidence": None,
        "timing": None,
        **extra,
    }


def csv_text(rows: list[ScoreRow]) -> str:
    lines = [",".join(COLUMNS)]
    for r in rows:
        lines.append(
            f"{r.source},{r.camera},{r.window},{r.start_frame},{r.end_frame},{r.start_s:.3f},{r.end_s:.3f},"
            f"{r.raw:.7f},{r.smoothed:.7f},{'+'.join(r.degraded)}"
        )
    return "\n".join(lines) + "\n"


def test_scores_come_back_as_they_were_written(tmp_path: Path) -> None:
    path = tmp_path / "s.csv"
    rows = rows_of(number=5, degraded=(2,))
    path.write_text(csv_text(rows))
    back = read_scores(path)
    assert [(r.camera, r.window, r.raw, r.degraded) for r in back] == [
        (r.camera, r.window, r.raw, r.degraded) for r in rows
    ]
    assert back[3].end_s == pytest.approx(rows[3].end_s, abs=1e-3)


def test_a_last_line_cut_off_by_a_kill_is_left_out(tmp_path: Path) -> None:
    path = tmp_path / "s.csv"
    text = csv_text(rows_of(number=5))
    path.write_text(text[: text.rindex(",0.1000")])
    assert len(read_scores(path)) == 4


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        ("a.mp4,gate,0,0,15,0.0,0.6,nan,0.1,", "raw is 'nan', not a finite number"),
        ("a.mp4,gate,0,0,15,0.0,0.6,1.5,0.1,", "raw is 1.5, outside 0 to 1"),
        ("a.mp4,gate,0,0,15,0.0,x,0.5,0.1,", "end_s is 'x', not a number"),
        ("a.mp4,gate,0,0,15,2.0,1.0,0.5,0.1,", "before it starts"),
        ("a.mp4,gate,0", "3 columns instead of 10"),
    ],
)
def test_a_wrong_row_is_named_with_its_line(tmp_path: Path, line: str, sentence: str) -> None:
    path = tmp_path / "s.csv"
    path.write_text(f"{','.join(COLUMNS)}\n{line}\na.mp4,gate,1,16,31,0.64,1.24,0.1,0.1,\n")
    with pytest.raises(DataError, match=rf"line 2: .*{sentence}; give the file that --scores wrote"):
        read_scores(path)


@pytest.mark.parametrize("content", [b"", b"hello\n", b"\xff\xfe\x00", b"a,b\n1,2\n"])
def test_what_is_no_scores_file_is_one_sentence(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "s.csv"
    path.write_bytes(content)
    with pytest.raises(DataError, match="give the file that --scores wrote") as caught:
        read_scores(path)
    assert "\n" not in str(caught.value)
    assert caught.value.exit_code == 2


def test_a_missing_file_is_one_sentence(tmp_path: Path) -> None:
    for read, what in ((read_scores, "scores"), (read_events, "events")):
        with pytest.raises(DataError, match=f"{what} file .* does not exist"):
            read(tmp_path / "no")
    with pytest.raises(DataError, match="is a folder"):
        read_scores(tmp_path)


def test_events_become_alarms(tmp_path: Path) -> None:
    path = tmp_path / "e.jsonl"
    timing = {"capture_to_window": 1.0, "forward": 20.0}
    both = {**timing, "captured→window": 1.0}  # as events carry it until 0.2; older files hold the former key alone
    former = {"captured→window": 1.0, "forward": 20.0}
    events = [
        event("start", timing=both),
        {"schema": "stream-detector.status/1", "camera": "gate"},
        event("start", "yard", threshold=0.7),
        event("update", degraded=["gap"], timing=former),
        event("end", degraded=["gap"], evidence={"clip": "c.webm", "snapshot": "s.jpg"}),
        event("end", degraded=["gap"], evidence={"clip": "c.webm", "snapshot": "s.jpg"}),
    ]
    path.write_text("".join(json.dumps(e) + "\n" for e in events) + '{"schema": "stream-detector.al')
    gate, yard = gather_alarms(read_events(path))
    assert (gate.camera, gate.start_s, gate.end_s, gate.ended, gate.reason) == ("gate", 13.0, 20.0, True, "normal")
    assert (gate.peak_score, gate.degraded, gate.clip, gate.snapshot) == (0.8, ("gap",), "c.webm", "s.jpg")
    assert (gate.events, gate.timings) == (3, (timing, timing))  # the end that came twice counts once
    assert (yard.threshold, yard.end_s, yard.ended) == (0.7, None, False)


@pytest.mark.parametrize(
    "line",
    [
        "{}{}",
        "[1]",
        json.dumps(event("start", start_s="soon")),
        json.dumps(event("start", peak_score=float("nan"))),
        json.dumps(event("start", type="begin")),
        json.dumps(event("start", evidence="c.webm")),
        json.dumps(event("start", id=7)),
        "[" * 100_000,
    ],
)
def test_a_wrong_event_is_named_with_its_line(tmp_path: Path, line: str) -> None:
    path = tmp_path / "e.jsonl"
    path.write_text(f"{json.dumps(event('start'))}\n{line}\n")
    with pytest.raises(DataError, match=r"line 2: not an event \(.*give the file that --events wrote"):
        read_events(path)


def test_degraded_windows_side_by_side_are_one_stretch() -> None:
    rows = rows_of(number=10, degraded=(2, 3, 7))
    assert spans_of(rows) == [
        (rows[2].start_s, rows[3].end_s, ("reconnect", "gap")),
        (rows[7].start_s, rows[7].end_s, ("reconnect", "gap")),
    ]


def pixels(path: Path) -> np.ndarray:
    image = cv2.imread(str(path))
    assert image is not None
    return image


def share_of(image: np.ndarray, rgb: str) -> float:
    wanted = np.array([int(rgb[i : i + 2], 16) for i in (5, 3, 1)])
    return float((np.abs(image.astype(int) - wanted).max(axis=2) <= 3).mean())


def test_the_picture_shows_every_mark(tmp_path: Path) -> None:
    rows = rows_of(degraded=(40, 41))
    full = plot_scores(rows, [event("start"), event("end")], tmp_path / "a" / "p.png", {"gate": (12.8, 19.0)})
    bare = plot_scores([row for row in rows if not row.degraded], None, tmp_path / "q.png")
    marked, plain = pixels(full), pixels(bare)
    assert marked.shape[1] >= 1000
    for colour in ("#D55E00", "#009E73", "#E69F00"):  # alarm, incident, degraded
        assert share_of(marked, colour) > 1e-4
        assert share_of(plain, colour) == 0.0
    for colour in ("#0072B2", "#56B4E9"):  # smoothed, raw
        assert share_of(marked, colour) > 1e-4
        assert share_of(plain, colour) > 1e-4


@pytest.mark.parametrize("number", [1, 17, 65])
def test_any_number_of_cameras(tmp_path: Path, number: int) -> None:
    rows = [row for index in range(number) for row in rows_of(f"cam{index}", 3)]
    image = pixels(plot_scores(rows, None, tmp_path / "p.png", threshold=0.5))
    assert image.shape[0] < 6000


def test_files_are_drawn_as_values_are(tmp_path: Path) -> None:
    scores, events = tmp_path / "s.csv", tmp_path / "e.jsonl"
    scores.write_text(csv_text(rows_of()))
    events.write_text("".join(json.dumps(e) + "\n" for e in (event("start"), event("end"))))
    image = pixels(plot_scores(scores, events, tmp_path / "p.png", None))
    assert share_of(image, "#D55E00") > 1e-4


def test_hostile_names_are_drawn_literally(tmp_path: Path) -> None:
    plot_scores(rows_of("$\\frac{a$ \x1b\n$_"), None, tmp_path / "p.png", title="$x^{")


def test_nothing_to_draw_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="there is no score to draw"):
        plot_scores([], None, tmp_path / "p.png")


def test_a_picture_that_cannot_be_written_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="cannot be written"):
        plot_scores(rows_of(), None, tmp_path / "file" / "p.png")


def test_lines_break_where_windows_are_missing_and_keep_every_peak() -> None:
    rows = [row for row in rows_of(number=60) if not 40 <= row.window < 50]
    times, _, smoothed = _lines(rows)
    assert [times[i] for i, value in enumerate(smoothed) if math.isnan(value)] == [rows[40].end_s]
    many = rows_of(number=20_001)
    _, raw, _ = _lines(many)
    assert len(raw) <= 5001
    assert max(raw) == 0.9


def test_axis_steps_are_those_of_a_clock() -> None:
    assert [step_s(span, 10) for span in (8, 60, 600, 3600, 86400, 30 * 86400)] == [1, 10, 60, 600, 10800, 259200]
    assert (clock_label(12.5, 60), clock_label(185, 600), clock_label(3785, 7200)) == ("12.5 s", "3:05", "1:03:05")
