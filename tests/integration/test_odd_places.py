"""File names of any bytes, an environment with nothing in it, and a log beside the live view. Real processes."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
import threading
from pathlib import Path

import cv2
import numpy as np
import pytest
from process_rig import DEADLINE_S, ROOT, Process

pytestmark = pytest.mark.integration

BARE = {
    "LANG": "C",
    "LC_ALL": "C",
    "TERM": "dumb",
    "PYTHONUTF8": "0",
    "PYTHONCOERCECLOCALE": "0",
    "HOME": "/nonexistent",
}
QUIET = ("--pace", "max", "--bind", "none", "--ledger", "none", "--no-evidence")


@pytest.fixture
def footage(tmp_path: Path) -> Path:
    """Two recordings, one under a name that is not UTF-8, and one that is empty."""
    folder = tmp_path / "footage"
    folder.mkdir()
    path = folder / "ok.avi"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), 25.0, (160, 120))
    for index in range(48):
        picture = np.full((120, 160, 3), 80, np.uint8)
        cv2.rectangle(picture, (2 * index, 40), (2 * index + 30, 70), (0, 0, 255), -1)
        writer.write(picture)
    writer.release()
    try:
        (folder / os.fsdecode(b"caf\xe9.avi")).write_bytes(path.read_bytes())
    except OSError:
        pytest.skip("this file system takes UTF-8 names only")
    (folder / "bad.avi").write_bytes(b"")
    return folder


@pytest.mark.parametrize("command", ["score", "run"])
def test_a_name_that_is_not_utf_8_costs_nobody_a_score(tmp_path: Path, footage: Path, command: str) -> None:
    words = ("score", "footage", "--out", "s.csv", "--json")
    if command == "run":
        words = ("run", "footage", *QUIET, "--scores", "s.csv", "--events", "e.jsonl", "--threshold", "0", "--json")
    process = Process("-m", "stream_detector", *words, cwd=tmp_path, env=BARE, stdin=subprocess.DEVNULL)
    try:
        code = process.end()
    finally:
        process.kill()
    assert code == 2  # for the empty one, which is told in one sentence
    assert "Traceback" not in process.err and process.err.count("stream-detector: bad: ") == 1
    told = json.loads(process.out)
    assert len(told["failed"]) == 1 and told["windows"] == 6
    with (tmp_path / "s.csv").open(newline="", encoding="utf-8") as file:
        rows = [row["source"] for row in csv.DictReader(file)]
    assert sorted(rows) == [r"footage/caf\xe9.avi"] * 3 + ["footage/ok.avi"] * 3
    if command == "run":
        events = [json.loads(line) for line in (tmp_path / "e.jsonl").read_text("utf-8").splitlines()]
        assert {event["camera"] for event in events if event.get("type") == "start"} == {"caf", "ok"}


@pytest.mark.skipif(os.name != "posix", reason="needs a pseudo-terminal")
def test_a_log_file_is_written_beside_the_live_view(tmp_path: Path, footage: Path) -> None:
    master, slave = os.openpty()
    shown = bytearray()

    def read() -> None:
        try:
            while data := os.read(master, 65536):
                shown.extend(data)
        except OSError:  # the other end is closed
            pass

    reader = threading.Thread(target=read)
    words = ("run", "footage/ok.avi", *QUIET, "--threshold", "0", "--log-file", "log", "--log-format", "json")
    process = subprocess.Popen(
        [sys.executable, "-m", "stream_detector", *words],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(ROOT), "TERM": "xterm-256color", "COLUMNS": "100", "LINES": "30"},
        stdin=slave,
        stdout=slave,
        stderr=slave,
        start_new_session=True,
    )
    os.close(slave)
    reader.start()
    try:
        code = process.wait(DEADLINE_S)
    finally:
        process.kill()
        process.wait()
        reader.join(DEADLINE_S)
        os.close(master)
    assert code == 0, shown.decode("utf-8", "replace")
    lines = [json.loads(line) for line in (tmp_path / "log").read_text("utf-8").splitlines()]
    events = [line.get("event") for line in lines]
    assert events.count("alarm_start") == events.count("alarm_end") == 1 and "run_end" in events
    assert b"\x1b[" in shown and b'"event"' not in shown  # a live view, and no log line in it
