"""Signals at every point of a process: while it imports, opens, runs and ends. Real processes, real signals."""

from __future__ import annotations

import csv
import random
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest
from process_rig import DEADLINE_S, ROOT, Process, waiting_module

pytestmark = pytest.mark.integration

QUIET = ("--no-dashboard", "--bind", "none", "--ledger", "none", "--no-evidence")
RUN = str(ROOT / "run_stream.py")
SCRIPT = "from stream_detector.cli.start import entry; entry()"  # what the console script does


@pytest.fixture(autouse=True)
def usual_hangup() -> Iterator[None]:
    """SIGHUP has its default action, also where the test run itself was started under nohup."""
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGHUP, before)


@pytest.fixture(scope="module")
def long(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two minutes of small pictures: nothing here waits for their end."""
    path = tmp_path_factory.mktemp("long") / "gate.mp4"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"mp4v"), 25.0, (160, 120))
    for index in range(120 * 25):
        picture = np.full((120, 160, 3), 80, np.uint8)
        cv2.rectangle(picture, (index % 130, 40), (index % 130 + 30, 70), (0, 0, 255), -1)
        writer.write(picture)
    writer.release()
    return path


@pytest.fixture
def processes() -> Iterator[list[Process]]:
    """Ended at the end of the test, whatever happens."""
    found: list[Process] = []
    yield found
    for process in found:
        process.kill()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize(
    ("arguments", "module"),
    [
        ((RUN, "demo"), "torch"),
        (("-m", "stream_detector", "run", "demo"), "torch"),
        (("-c", SCRIPT, "score", "a.mp4", "--out", "s.csv"), "torch"),
        (("-m", "stream_detector", "models", "list"), "torch"),
        (("-m", "stream_detector", "subscribe", "tcp://127.0.0.1:9"), "zmq"),
        (("-m", "stream_detector", "calibrate", "a.mp4", "--false-alarms-per-hour", "1"), "pydantic"),
        (("-m", "stream_detector", "report", "--scores", "s.csv", "--out", "r.html"), "numpy"),
    ],
    ids=["run_stream", "run", "score", "models", "subscribe", "calibrate", "report"],
)
def test_a_signal_during_imports(
    tmp_path: Path, processes: list[Process], arguments: tuple[str, ...], module: str, number: signal.Signals
) -> None:
    modules = waiting_module(tmp_path / "modules", module, tmp_path / "never")
    (tmp_path / "a.mp4").touch()
    process = Process(*arguments, cwd=tmp_path, path=modules)
    processes.append(process)
    process.line("importing")
    assert process.end(number) == 128 + number
    assert process.lines == ["importing", "stream-detector: interrupted"] and process.out == ""


@pytest.mark.parametrize("seed", range(3))
def test_a_signal_at_a_random_point_of_the_imports(
    tmp_path: Path, long: Path, processes: list[Process], seed: int
) -> None:
    """-X importtime writes a line for every module: the signal is sent after one of them, drawn by chance."""
    chance = random.Random(seed)
    number, after = chance.choice([signal.SIGINT, signal.SIGTERM]), chance.randrange(1, 1200)
    process = Process("-X", "importtime", RUN, str(long), *QUIET, cwd=tmp_path)
    processes.append(process)

    def reached(lines: list[str]) -> bool:
        first = next((n for n, line in enumerate(lines) if "stream_detector.cli.main" in line), None)
        return first is not None and len(lines) > first + after

    process.when(reached, f"line {after}")
    assert process.end(number) == 128 + number, process.err[-2000:]
    assert not any("Traceback" in line for line in process.lines)
    assert any("interrupted" in line or "stopping" in line for line in process.lines)


def test_a_signal_while_it_opens_opens_no_camera(tmp_path: Path, long: Path, processes: list[Process]) -> None:
    modules = waiting_module(tmp_path / "modules", "openvino", tmp_path / "go")
    process = Process(RUN, str(long), *QUIET, "--engine", "openvino", "--scores", "s.csv", cwd=tmp_path, path=modules)
    processes.append(process)
    process.line("importing")
    process.popen.send_signal(signal.SIGTERM)
    process.line("stopping")
    (tmp_path / "go").touch()
    assert process.end() == 143
    assert process.lines[-1] == "stream-detector: interrupted"
    assert "connecting" not in process.err and "Traceback" not in process.err


def test_a_second_signal_ends_at_once(tmp_path: Path, long: Path, processes: list[Process]) -> None:
    modules = waiting_module(tmp_path / "modules", "openvino", tmp_path / "never")
    process = Process(RUN, str(long), *QUIET, "--engine", "openvino", cwd=tmp_path, path=modules)
    processes.append(process)
    process.line("importing")
    process.popen.send_signal(signal.SIGINT)
    process.line("stopping")
    assert process.end(signal.SIGINT) == 130
    assert "ended immediately" in process.lines[-1]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_while_it_runs(tmp_path: Path, long: Path, processes: list[Process], number: signal.Signals) -> None:
    process = Process(RUN, str(long), *QUIET, "--run-dir", "r", "--json", cwd=tmp_path)
    processes.append(process)
    process.line("online")
    assert process.end(number) == 128 + number
    assert f'"exit_code": {128 + number}' in process.out and '"stopped": true' in process.out
    assert (tmp_path / "r" / "scores.csv").read_text().startswith("source,camera")


def test_an_interrupted_score_keeps_and_announces_its_part(
    tmp_path: Path, long: Path, processes: list[Process]
) -> None:
    """Stopped when the first rows are in the table, long before the last file."""
    process = Process(
        "-m",
        "stream_detector",
        "score",
        *[str(long)] * 40,
        "--out",
        "s.csv",
        "--at-once",
        "1",
        cwd=tmp_path,
    )
    processes.append(process)
    _until(process, lambda: _rows(tmp_path / "s.csv") > 0)
    assert process.end(signal.SIGINT) == 130
    rows = _rows(tmp_path / "s.csv")
    assert rows > 0 and f"{rows} windows of" in process.out and "incomplete" in process.out
    assert "interrupted" in process.err and "Traceback" not in process.err


def _rows(path: Path) -> int:
    if not path.exists():
        return 0
    with path.open(newline="", encoding="utf-8") as file:
        return sum(1 for _ in csv.DictReader(file))


def test_a_waiting_subscriber_is_interrupted(tmp_path: Path, processes: list[Process]) -> None:
    process = Process("-m", "stream_detector", "subscribe", "tcp://127.0.0.1:9", cwd=tmp_path)
    processes.append(process)
    process.line("still waiting")
    assert process.end(signal.SIGTERM) == 143
    assert "Traceback" not in process.err


def test_an_ignored_hangup_stays_ignored(tmp_path: Path, processes: list[Process]) -> None:
    """As with nohup, in a session without a terminal."""
    short = tmp_path / "short.avi"
    writer = cv2.VideoWriter(str(short), cv2.VideoWriter.fourcc(*"MJPG"), 25.0, (160, 120))
    for _ in range(5 * 25):
        writer.write(np.full((120, 160, 3), 80, np.uint8))
    writer.release()
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)  # inherited
    try:
        process = Process(RUN, str(short), *QUIET, cwd=tmp_path, start_new_session=True)
    finally:
        signal.signal(signal.SIGHUP, before)
    processes.append(process)
    process.line("online")
    assert process.end(signal.SIGHUP) == 0, process.err


def test_a_hangup_makes_a_service_open_its_files_anew(tmp_path: Path, long: Path, processes: list[Process]) -> None:
    """Without a terminal, as logrotate wants it; the run goes on and ends by SIGTERM."""
    process = Process(
        RUN,
        str(long),
        *QUIET,
        "--threshold",
        "0",
        "--set",
        "alarm.update_interval_s=0.1",
        "--log-format",
        "json",
        "--log-file",
        "log",
        "--events",
        "events.jsonl",
        cwd=tmp_path,
        start_new_session=True,
    )
    processes.append(process)
    _until(process, lambda: b'"update"' in _bytes(tmp_path / "events.jsonl"))
    for name in ("log", "events.jsonl"):
        (tmp_path / name).rename(tmp_path / f"{name}.1")
    process.popen.send_signal(signal.SIGHUP)
    _until(process, lambda: b'"update"' in _bytes(tmp_path / "events.jsonl"))
    assert process.end(signal.SIGTERM) == 143
    assert b"log_reopened" in _bytes(tmp_path / "log") and b"alarm_end" in _bytes(tmp_path / "log")
    assert b"alarm_start" in _bytes(tmp_path / "log.1")
    assert b'"end"' in _bytes(tmp_path / "events.jsonl") and b'"start"' in _bytes(tmp_path / "events.jsonl.1")


@pytest.mark.parametrize("arguments", [("report", "--scores", "s.csv")])
def test_a_hangup_of_the_terminal_ends_a_command(
    tmp_path: Path, processes: list[Process], arguments: tuple[str, ...]
) -> None:
    """With a controlling terminal SIGHUP means that it went away."""
    modules = waiting_module(tmp_path / "modules", "numpy", tmp_path / "never")
    take_terminal = (
        "import os, fcntl, sys, termios; master, slave = os.openpty(); fcntl.ioctl(slave, termios.TIOCSCTTY, 0); "
        "sys.argv[1:1] = []; from stream_detector.cli.start import entry; entry()"
    )
    process = Process("-c", take_terminal, *arguments, cwd=tmp_path, path=modules, start_new_session=True)
    processes.append(process)
    process.line("importing")
    assert process.end(signal.SIGHUP) == 129


def _bytes(path: Path) -> bytes:
    return path.read_bytes() if path.exists() else b""


def _until(process: Process, holds: Callable[[], bool]) -> None:
    """Wait until something is in a file that the process writes."""
    pause, deadline_s = threading.Event(), time.monotonic() + DEADLINE_S
    while not holds():
        assert process.popen.poll() is None and time.monotonic() < deadline_s, process.err
        pause.wait(0.02)
