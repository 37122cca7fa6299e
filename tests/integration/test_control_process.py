"""`control` and `reload` against a real run: in effect without a restart, and there after one."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from bridge_rig import until
from process_rig import ROOT, Process

from benchmarks.faultlib.detector import free_endpoint

pytestmark = pytest.mark.integration


def command(folder: Path, *words: str) -> tuple[int, str]:
    done = subprocess.run(
        [sys.executable, "-m", "stream_detector", *words],
        cwd=folder,
        env={"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        timeout=90,
    )
    return done.returncode, done.stdout + done.stderr


def test_a_run_takes_controls_and_reloads_and_keeps_them_over_a_restart(tmp_path: Path) -> None:
    endpoint = free_endpoint()
    file = tmp_path / "cameras.toml"
    file.write_text(
        'threshold = 0.9\n[access]\nlocal_writes = true\n[cameras.street]\nsource = "rtsp://127.0.0.1:9/x"\n'
    )
    words = ["-m", "stream_detector", "run", "--config", "cameras.toml", "--bind", endpoint, "--no-dashboard"]
    words += ["--no-evidence", "--set", "publish.ledger=ledger.sqlite3"]
    run = Process(*words, cwd=tmp_path)
    try:
        run.line("watching 1 camera")
        code, text = command(tmp_path, "control", "--mode", "away", "--by", "Ann", "--endpoint", endpoint)
        assert code == 0 and "mode away" in text, text
        code, text = command(tmp_path, "control", "--mode", "holiday", "--endpoint", endpoint)
        assert code != 0 and "home, away" in text
        file.write_text(file.read_text().replace("0.9", "0.8"))
        code, text = command(tmp_path, "reload", "--endpoint", endpoint)
        assert code == 0 and "street: threshold in effect" in text, text
        file.write_text(file.read_text() + "[window]\nstride = 8\n")
        code, text = command(tmp_path, "reload", "--endpoint", endpoint)
        assert code == 1 and "needs a restart: [window] changed" in text, text
        assert run.end(signal.SIGTERM) == 143
    finally:
        run.kill()
    run = Process(*words, cwd=tmp_path)
    try:
        run.line("watching 1 camera")

        def told() -> dict[str, Any] | None:
            code, text = command(
                tmp_path, "control", "--camera", "street", "--mute", "1h", "--json", "--endpoint", endpoint
            )
            return json.loads(text.splitlines()[0]) if code == 0 else None

        assert until(told, "the control", 90.0)["muted_until_utc"]
        words = [
            "subscribe",
            endpoint,
            "--kind",
            "control",
            "--from-start",
            "--count",
            "5",
            "--timeout",
            "30",
            "--json",
        ]
        code, text = command(tmp_path, *words)
        bodies = [json.loads(line) for line in text.splitlines() if line.startswith("{")]
        assert {b["mode"] for b in bodies if b["camera"] == "_detector"} == {"away"}, text
        assert run.end(signal.SIGTERM) == 143
    finally:
        run.kill()
