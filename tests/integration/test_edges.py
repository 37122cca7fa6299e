"""Commands at the edges of their world: full, closed, gone and foreign-encoded outputs, and outputs over inputs."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
from process_rig import DEADLINE_S, ROOT

from stream_detector.cli.main import main

pytestmark = pytest.mark.integration

HEADER = "source,camera,window,start_frame,end_frame,start_s,end_s,raw,smoothed,degraded\r\n"
ROW = "{0},{0},0,0,15,0.000,0.600,0.1000000,0.1000000,\r\n"
QUIET = ("--no-dashboard", "--bind", "none", "--ledger", "none", "--no-evidence", "--pace", "max")


def shell(line: str, cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """A line of a real shell; `detector` in it is the command line."""
    detector = f"{sys.executable} -m stream_detector"
    return subprocess.run(
        ["bash", "-c", line.replace("detector", detector)],
        cwd=cwd,
        env=os.environ | {"PYTHONPATH": str(ROOT)} | environment,
        capture_output=True,
        text=True,
        errors="backslashreplace",
        timeout=DEADLINE_S,
        check=False,
    )


@pytest.fixture
def table(tmp_path: Path) -> Path:
    path = tmp_path / "s.csv"
    path.write_text(HEADER + ROW.format("caf\u00e9"), encoding="utf-8", newline="")
    return path


@pytest.fixture
def clip(tmp_path: Path) -> Path:
    path = tmp_path / "clip.avi"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), 25.0, (160, 120))
    for index in range(40):
        writer.write(np.full((120, 160, 3), index, np.uint8))
    writer.release()
    return path


COMMANDS = ("report --scores s.csv --json", "report --scores s.csv --out r.html", "--help")


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize(("where", "word"), [("> /dev/full", "No space left"), (">&-", "closed")])
def test_a_full_or_closed_output_is_one_sentence(
    tmp_path: Path, table: Path, command: str, where: str, word: str
) -> None:
    done = shell(f"detector {command} {where}", tmp_path)
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert line.startswith("stream-detector: standard output cannot be written") and word in line


@pytest.mark.parametrize("command", COMMANDS)
def test_a_reader_that_goes_away_ends_it_in_silence(tmp_path: Path, table: Path, command: str) -> None:
    """The pipe has no reader before anything is written."""
    done = shell(f"detector {command} > >(exec true); wait $!", tmp_path)  # fills the shell's variables only
    done = shell(
        f"(until [ -e gone ]; do :; done; detector {command}; echo $? > code) | (exec <&-; touch gone)", tmp_path
    )
    assert (tmp_path / "code").read_text().strip() == "141" and done.stderr == ""


@pytest.mark.parametrize("where", ["2> /dev/full", "2>&-"])
def test_a_lost_standard_error_changes_no_exit_code(tmp_path: Path, table: Path, where: str) -> None:
    assert shell(f"detector report --scores nowhere.csv --json {where}", tmp_path).returncode == 2
    assert shell(f"detector report --scores s.csv --json {where}", tmp_path).returncode == 0


def test_a_run_without_any_output_goes_on(tmp_path: Path, clip: Path) -> None:
    """Descriptors 0 to 2 are closed: the next files opened must not become standard output."""
    done = shell(f"detector run clip.avi {' '.join(QUIET)} --scores o.csv --events e.jsonl <&- >&- 2>&-", tmp_path)
    assert done.returncode == 1  # the summary could not be printed
    assert (tmp_path / "o.csv").read_text().count("\n") == 3


@pytest.mark.parametrize("environment", [{"PYTHONIOENCODING": "ascii"}, {"LC_ALL": "C", "PYTHONUTF8": "0"}])
def test_a_foreign_encoding_ends_nothing(tmp_path: Path, table: Path, environment: dict[str, str]) -> None:
    done = shell("detector report --scores s.csv --json", tmp_path, **environment)
    assert done.returncode == 0 and "caf\u00e9" in str(json.loads(done.stdout))
    done = shell("detector report --scores $'caf\\xe9.csv' --json", tmp_path, **environment)
    assert "Traceback" not in done.stderr and done.returncode == 2


def called(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    """The command line in this process: exit code, standard output, standard error."""
    code = main(arguments)
    captured = capsys.readouterr()
    return code, captured.out, captured.err


@pytest.mark.parametrize("link", ["itself", "soft", "hard"])
@pytest.mark.parametrize(
    "command",
    [
        ("score", "clip.avi", "--out"),
        ("run", "clip.avi", *QUIET, "--scores"),
        ("run", "clip.avi", *QUIET, "--events"),
        ("run", "clip.avi", *QUIET, "--log-file"),
        ("report", "--scores", "s.csv", "--out"),
        ("subscribe", "tcp://127.0.0.1:9", "--timeout", "0", "--output"),
    ],
    ids=["score", "scores", "events", "log", "report", "subscribe"],
)
def test_no_output_overwrites_a_recording(
    tmp_path: Path,
    table: Path,
    clip: Path,
    command: tuple[str, ...],
    link: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    before, target = clip.read_bytes(), clip
    if link != "itself":
        target = tmp_path / "other"
        (target.symlink_to if link == "soft" else target.hardlink_to)(clip)
    code, _, err = called(capsys, *command, target.name)
    assert code == 2, err
    assert sum(line.startswith("stream-detector: ") for line in err.splitlines()) == 1
    assert clip.read_bytes() == before


@pytest.mark.parametrize("more", [(), ("--json",)])
def test_the_real_error_is_never_hidden(
    tmp_path: Path, more: tuple[str, ...], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """As `make demo SOURCES=…` runs it: --run-dir, and no window was scored."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "bad.mp4").write_text("I am not a video\n" * 100)
    code, out, err = called(capsys, "run", "bad.mp4", "--run-dir", "r", "--bind", "none", "--no-dashboard", *more)
    assert code == 2 and "no score to draw" not in err
    assert any(line.startswith("stream-detector: bad:") for line in err.splitlines()), err
    if more:
        assert json.loads(out)["failed"].keys() == {"bad"}
    code, _, err = called(capsys, "run", "nowhere.mp4", "--run-dir", "r2", *more)
    assert code == 2 and "nowhere.mp4" in err


def test_scores_of_a_former_run_are_kept(
    tmp_path: Path, clip: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    for _ in range(2):
        code, _, err = called(capsys, "score", "clip.avi", "--out", "o.csv")
        assert code == 0, err
    assert "kept in" in err
    assert (tmp_path / "o.csv").read_bytes() == (tmp_path / "o.1.csv").read_bytes()


def test_a_cache_that_cannot_be_written_is_a_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("STREAM_DETECTOR_CACHE", str(tmp_path / "file" / "cache"))
    code, _, err = called(capsys, "models", "fetch", "r3d-18-kinetics400")
    assert code == 2 and "set STREAM_DETECTOR_CACHE" in err


def test_a_name_that_no_file_can_have_is_bad_input(capsys: pytest.CaptureFixture[str]) -> None:
    code, _, err = called(capsys, "run", "x" * 300)
    assert code == 2 and "too long" in err and len(err.splitlines()) == 1
