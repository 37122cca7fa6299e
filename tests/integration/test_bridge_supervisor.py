"""`run --bridge`: bridges are started, started again, ended in order, and outlive a detector that is killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from bridge_rig import Receiver, until
from process_rig import ROOT, Process

from benchmarks.faultlib.detector import free_endpoint
from stream_detector.bridges.supervisor import BridgeSupervisor

pytestmark = pytest.mark.integration

DETECTOR = """
import sys, threading
sys.path.insert(0, {tests!r})
from pathlib import Path
from event_bench import an_event
from stream_detector.bridges.supervisor import BridgeSupervisor
from stream_detector.config import PublishConfig
from stream_detector.events.ledger import Ledger
from stream_detector.events.publisher import Publisher
from stream_detector.types import SystemClock

clock = SystemClock()
ledger = Ledger(Path({folder!r}) / "ledger.sqlite3", clock=clock)
publisher = Publisher(PublishConfig(bind={endpoint!r}, heartbeat_s=0.2), ledger, clock=clock, camera_names=["gate"])
pause = threading.Event()
with BridgeSupervisor(["webhook"], Path({config!r}), {endpoint!r}) as supervisor:
    print("up", file=sys.stderr, flush=True)
    number = 0
    while True:
        publisher.service()
        number += 1
        if number % 40 == 0:
            publisher.alarm(an_event(id=f"{{number:032x}}", start_utc=clock.utc()))
        pause.wait(0.01)
"""


@pytest.fixture
def receiver(tmp_path: Path) -> Iterator[Receiver]:
    made = Receiver(tmp_path)
    yield made
    made.close()


def write_config(folder: Path, receiver: Receiver, endpoint: str) -> Path:
    path = folder / "bridges.toml"
    path.write_text(
        f'[detector]\nendpoint = "{endpoint}"\nstate = "{folder / "state"}"\ndead_s = 2\n'
        f'[webhook.judge]\nurl = "https://localhost:{receiver.port}/"\nca_file = "{receiver.cert}"\n'
        'allow = ["127.0.0.0/8", "::1/128"]\n'
    )
    return path


def alive(pid: int) -> bool:
    stat = Path(f"/proc/{pid}/stat")
    return stat.exists() and stat.read_text().rpartition(")")[2].split()[0] != "Z"


def test_a_bridge_that_dies_is_started_again_and_ends_with_the_run(
    tmp_path: Path, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    endpoint = free_endpoint()
    config = write_config(tmp_path, receiver, endpoint)
    with BridgeSupervisor(["webhook"], config, endpoint) as supervisor:
        first = until(lambda: supervisor.pids.get("webhook"), "the bridge")
        os.kill(first, signal.SIGKILL)
        second = until(
            lambda: supervisor.pids.get("webhook", first) != first and supervisor.pids.get("webhook"), "again"
        )
        until(lambda: any(told["what"] == "silent" for told in receiver.bodies()), "the word of the bridge", 60.0)
    assert not alive(first) and not alive(second) and supervisor.pids == {}


def test_a_bridge_outlives_a_killed_detector_tells_it_and_ends(tmp_path: Path, receiver: Receiver) -> None:
    endpoint = free_endpoint()
    config = write_config(tmp_path, receiver, endpoint)
    tests = str(Path(__file__).parents[1])
    code = DETECTOR.format(tests=tests, folder=str(tmp_path), endpoint=endpoint, config=str(config))
    detector = subprocess.Popen(
        [sys.executable, "-c", code], stderr=subprocess.PIPE, env=os.environ | {"PYTHONPATH": str(ROOT)}
    )
    try:
        assert detector.stderr is not None
        until(lambda: any(told["kind"] == "alarm" for told in receiver.bodies()), "an alarm", 90.0)
        lock = tmp_path / "state" / "webhook.sqlite3.lock"
        bridge = int(lock.read_text())
        assert alive(bridge)
        detector.kill()
        until(lambda: any(told["what"] == "silent" for told in receiver.bodies()), "the silence", 90.0)
        until(lambda: not alive(bridge), "the end of the bridge", 60.0)
    finally:
        detector.kill()
        detector.wait(30)
        if detector.stderr is not None:
            detector.stderr.close()


def test_bridges_that_cannot_work_are_refused_before_anything_is_opened(tmp_path: Path) -> None:
    base = ["-m", "stream_detector", "run", "demo", "--ledger", "none", "--no-dashboard", "--no-evidence"]
    for options, words in (
        (["--bridge", "webhook"], "bridges.toml' does not exist"),
        (["--bridge", "webhook", "--bind", "none"], "--bridge needs the event socket"),
    ):
        process = Process(*base, *options, cwd=tmp_path)
        assert process.end() == 2 and words in process.err
