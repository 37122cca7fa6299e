"""Command: a program gets the event, no secret, no shell, and an end."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
from bridge_rig import Lab, alarm, until

from stream_detector.bridges.command import Command, CommandSettings

WRITE = """
import json, os, pathlib, sys
entry = {"event": json.load(sys.stdin), "env": dict(os.environ), "argv": sys.argv[1:]}
with open(os.environ["OUT"], "a") as file:
    file.write(json.dumps(entry) + "\\n")
sys.exit(int(pathlib.Path(os.environ["OUT"] + ".code").read_text() or 0))
"""


def lab_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, program: str = WRITE, **values: Any) -> Lab:
    monkeypatch.setenv("OUT", str(tmp_path / "out"))
    monkeypatch.setenv("HOOK_PASSWORD", "hunter2")
    (tmp_path / "out.code").write_text("0")
    given = {"argv": [sys.executable, "-c", program, "a b; c"], "pass_environment": ["OUT"], "backoff_min_s": 1.0}
    return Lab(tmp_path, Command, CommandSettings.model_validate({**given, "tries": 2, **values}))


def entries(tmp_path: Path) -> list[dict[str, Any]]:
    path = tmp_path / "out"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def test_the_program_gets_the_event_and_the_paths_and_no_secret(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lab = lab_of(tmp_path, monkeypatch)
    snapshot = lab.evidence / "gate" / "x.jpg"
    clip = snapshot.with_suffix(".mp4")
    notice = alarm(3, evidence={"clip": str(clip), "snapshot": str(snapshot)})
    lab.add(notice)
    lab.run()
    (entry,) = entries(tmp_path)
    assert entry["event"] == notice.body and entry["argv"] == ["a b; c"]
    env = entry["env"]
    assert (env["SD_CAMERA"], env["SD_WHAT"], env["SD_SEVERITY"], env["SD_CLIP"]) == (
        "gate",
        "start",
        "high",
        str(clip),
    )
    assert env["SD_SNAPSHOT"] == str(snapshot) and env["SD_KEY"] == notice.key
    assert "HOOK_PASSWORD" not in env
    lab.outbox.close()


def test_a_program_that_fails_is_run_again_then_set_aside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lab = lab_of(tmp_path, monkeypatch)
    (tmp_path / "out.code").write_text("3")
    lab.add(alarm(1))
    lab.run(5.0)
    assert [e["env"]["SD_ATTEMPT"] for e in entries(tmp_path)] == ["1", "2"]
    assert lab.letters()[0]["reason"] == "the program ended with exit code 3"
    lab.outbox.close()


def test_a_program_that_asks_for_later_is_run_later_without_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lab = lab_of(tmp_path, monkeypatch)
    (tmp_path / "out.code").write_text("75")
    lab.add(alarm(1))
    lab.run(10.0)
    assert len(entries(tmp_path)) >= 3 and not lab.letters() and lab.outbox.waiting() == 1
    lab.outbox.close()


def test_a_program_that_hangs_is_ended_with_what_it_started(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = (
        "import os, subprocess, sys, pathlib, threading\n"
        "child = subprocess.Popen([sys.executable, '-c', 'import threading; threading.Event().wait(600)'])\n"
        "pathlib.Path(os.environ['OUT']).write_text(str(child.pid))\n"
        "threading.Event().wait(600)\n"
    )
    lab = lab_of(tmp_path, monkeypatch, program, timeout_s=3.0, tries=1)
    lab.add(alarm(1))
    lab.run()
    assert "longer than 3 s" in lab.letters()[0]["reason"]
    pid = int((tmp_path / "out").read_text())

    def gone() -> bool:
        stat = Path(f"/proc/{pid}/stat")
        return not stat.exists() or stat.read_text().rpartition(")")[2].split()[0] == "Z"

    until(gone, "the end of the program's child")
    lab.outbox.close()


def test_programs_are_started_at_a_bounded_rate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lab = lab_of(tmp_path, monkeypatch, max_per_minute=2)
    lab.add(*(alarm(n) for n in range(1, 6)))
    lab.run()
    assert len(entries(tmp_path)) == 2
    lab.run(59.0)
    assert len(entries(tmp_path)) == 2
    lab.run(70.0)
    assert [e["event"]["seq"] for e in entries(tmp_path)] == [1, 2, 3, 4, 5][: len(entries(tmp_path))]
    assert len(entries(tmp_path)) >= 4
    lab.outbox.close()


def test_a_program_that_vanished_waits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = tmp_path / "program"
    program.write_text("#!/bin/sh\nexit 0\n")
    program.chmod(0o755)
    lab = lab_of(tmp_path, monkeypatch, argv=[str(program)])
    program.unlink()
    lab.add(alarm(1))
    lab.run(3.0)
    assert lab.outbox.waiting() == 1 and not lab.letters()
    lab.outbox.close()
