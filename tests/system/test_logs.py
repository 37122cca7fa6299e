"""Log lines: their fields, their place, and that they never hold up or end what they tell of."""

from __future__ import annotations

import json
import logging
import os
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from stream_detector.errors import UsageError
from stream_detector.system.logging_setup import LOGGER, QUEUE_LINES, LogFile, fields, run_log
from stream_detector.telemetry.collector import Telemetry
from stream_detector.telemetry.log_lines import RunLogger
from stream_detector.types import CameraStatus, SystemClock

log = logging.getLogger(f"{LOGGER}.test")


@pytest.fixture(autouse=True)
def logger() -> Iterator[None]:
    """As it was, after each test."""
    package = logging.getLogger(LOGGER)
    before = (package.handlers[:], package.level, package.propagate)
    yield
    package.handlers[:], package.level, package.propagate = before[0], before[1], before[2]


def read(path: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_a_json_line_has_the_documented_fields(tmp_path: Path) -> None:
    with run_log("json", level=logging.INFO, path=tmp_path / "log"):
        log.info("%s: %s", "gate", "online", extra=fields(event="camera_state", camera="gate", detail=None, time="no"))
    (line,) = read(tmp_path / "log")
    assert (line["level"], line["logger"], line["message"]) == ("info", "stream_detector.test", "gate: online")
    assert (line["event"], line["camera"]) == ("camera_state", "gate")
    assert "detail" not in line and line["time"] != "no"


def test_a_text_line_is_one_line(tmp_path: Path) -> None:
    with run_log("text", level=logging.INFO, path=tmp_path / "log"):
        log.warning("two\nlines")
    (line,) = (tmp_path / "log").read_text().splitlines()
    assert line.endswith("WARNING stream_detector.test: two lines")


def test_a_renamed_file_is_followed_by_a_new_one(tmp_path: Path) -> None:
    path = tmp_path / "log"
    with run_log("json", level=logging.INFO, path=path) as lines:
        log.info("before")
        lines.reopen()
        log.info("middle")
        pause = threading.Event()
        while "middle" not in path.read_text():
            pause.wait(0.01)
        path.rename(tmp_path / "old")
        lines.reopen()
        log.info("after")
    assert [line["message"] for line in read(tmp_path / "old")][-1] == "middle"
    assert [line["message"] for line in read(path)] == ["the log file was reopened", "after"]


@pytest.mark.parametrize("kind", ["recording", "fifo", "folder", "link"])
def test_a_log_never_goes_into_something_else(tmp_path: Path, kind: str) -> None:
    path, clip = tmp_path / "it", tmp_path / "clip.mp4"
    clip.write_bytes(b"\0\0\0\x18ftypisom" + b"x" * 100)
    if kind == "recording":
        clip.rename(path)
    elif kind == "fifo":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    else:
        path.symlink_to(clip)
    with pytest.raises(UsageError, match="give another"):
        LogFile(path)


def test_a_reader_that_stands_still_costs_lines_and_nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    """Standard error blocks; ten thousand records are logged all the same, and what was lost is told."""
    go, written = threading.Event(), list[str]()

    class Stuck:
        def write(self, text: str) -> int:
            go.wait(30)
            written.append(text)
            return len(text)

        def flush(self) -> None:
            pass

    monkeypatch.setattr("sys.stderr", Stuck())
    with run_log("text", level=logging.INFO):
        for number in range(10_000):
            log.info("line %d", number)
        go.set()
    text = "".join(written)
    assert "line 0\n" in text and "lines of the log were lost" in text
    assert QUEUE_LINES <= text.count(": line ") <= QUEUE_LINES + 1


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), ValueError("closed file"), None])
def test_a_lost_standard_error_ends_nothing(monkeypatch: pytest.MonkeyPatch, error: Exception | None) -> None:
    class Lost:
        def write(self, text: str) -> int:
            assert error is not None
            raise error

    monkeypatch.setattr("sys.stderr", Lost() if error else None)
    with run_log("json", level=logging.INFO) as lines:
        for number in range(100):
            log.info("line %d", number)
        lines.finish()
        assert lines.left_out == 100


def test_states_alarms_and_trouble_are_told_once(tmp_path: Path) -> None:
    telemetry = Telemetry(["gate"], SystemClock())
    narrator = RunLogger(telemetry)
    alarm = {"id": "a1", "camera": "gate", "start_s": 3.0, "peak_score": 0.9, "threshold": 0.5, "evidence": None}
    with run_log("json", level=logging.INFO, path=tmp_path / "log"):
        telemetry.status(CameraStatus("gate", "rtsp://h", "online"))
        narrator.log_new_entries()
        telemetry.status(CameraStatus("gate", "rtsp://h", "online", "picture_quality: black"))
        telemetry.event({**alarm, "type": "start"})
        telemetry.event({**alarm, "type": "end", "end_s": 5.0, "reason": "normal"})
        telemetry.status(CameraStatus("gate", "rtsp://h", "offline", "the connection was lost"))
        narrator.log_new_entries()
        narrator.log_new_entries()
    found = [(line["event"], line["level"]) for line in read(tmp_path / "log")]
    assert found == [
        ("camera_state", "info"),
        ("camera_problem", "warning"),
        ("alarm_start", "warning"),
        ("alarm_end", "info"),
        ("camera_state", "warning"),
    ]
    end = read(tmp_path / "log")[3]
    assert (end["camera"], end["alarm"], end["end_s"], end["reason"]) == ("gate", "a1", 5.0, "normal")


def test_notes_that_were_not_kept_are_counted(tmp_path: Path) -> None:
    telemetry = Telemetry(["gate"], SystemClock())
    for number in range(700):
        telemetry.status(CameraStatus("gate", "x", "online", f"{number}"))
    with run_log("json", level=logging.INFO, path=tmp_path / "log"):
        RunLogger(telemetry).log_new_entries()
    first = read(tmp_path / "log")[0]
    assert (first["event"], first["count"]) == ("lines_left_out", 200)
