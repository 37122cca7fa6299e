"""The event path between real processes: kill -9 of either side, stalls, hostile peers, clients from the documentation.

The small sister of `python -m benchmarks faults`.
"""

from __future__ import annotations

import contextlib
import json
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import zmq

from benchmarks.faultlib.detector import Plan, free_endpoint, kill, run_pipeline, start
from benchmarks.faultlib.disks import flipped_bytes, small_disk, stepped_clock
from benchmarks.faultlib.disks import full_disk as fill_disk
from benchmarks.faultlib.fuzz import fuzz
from benchmarks.faultlib.hostile import hostile
from benchmarks.faultlib.hosts import kill_hosts
from benchmarks.faultlib.judge import passed
from benchmarks.faultlib.kills import kill_detector, kill_subscriber
from stream_detector.client.subscriber import Subscriber

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.integration


def test_kill_9_of_the_detector_in_alarms(tmp_path: Path) -> None:
    result = kill_detector(tmp_path, 4, seed=7)
    assert result["passed"] and result["restart_ends"] >= 4, result


def test_kill_9_of_capture_hosts_in_alarms(tmp_path: Path) -> None:
    result = kill_hosts(tmp_path, 4, seed=7)
    assert passed(result) and result["kills"] == 4 and result["gaps"] >= 4 and result["back_worst_s"] < 20.0, result
    assert not any(result[key] for key in ("windows_again", "event_file_differs", "lost_by_count")), result


def test_kill_9_of_the_subscriber(tmp_path: Path) -> None:
    result = kill_subscriber(tmp_path, 6, seed=7)
    assert result["passed"] and result["kills_before_anything_came"] < 6, result


def test_hostile_peers(tmp_path: Path) -> None:
    result = hostile(tmp_path, messages=30, wrong_keys=5, seed=7)
    assert result["passed"], json.dumps(result)


def test_flipped_bits_and_a_stepped_clock(tmp_path: Path) -> None:
    flipped = flipped_bytes(tmp_path, 10, seed=7)
    assert flipped["passed"] and flipped["flips"] == 11, flipped
    stepped = stepped_clock(tmp_path, 3.0)
    assert stepped["passed"], stepped


def test_a_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    try:
        with small_disk(tmp_path / "probe", "1m"):
            pass
    except OSError as error:
        pytest.skip(str(error))
    result = fill_disk(tmp_path)
    assert result["passed"], json.dumps(result)


def test_parsers_raise_only_our_errors() -> None:
    result = fuzz(60, 60, 7)
    assert result["passed"], json.dumps(result)


@pytest.fixture
def running(tmp_path: Path) -> Iterator[Plan]:
    """A detector in a process of its own."""
    plan = Plan(free_endpoint(), tmp_path / "ledger.sqlite3")
    process = start(run_pipeline, plan)
    yield plan
    if process.exitcode is None:
        kill(process)


def lines_of(command: list[str], plan: Plan, count: int, **options: Any) -> list[dict[str, Any]]:
    """The first `count` lines that a client prints, while it runs."""
    port = plan.endpoint.rpartition(":")[2]
    process = subprocess.Popen([*command, "127.0.0.1", port], stdout=subprocess.PIPE, text=True, **options)
    assert process.stdout is not None
    timer = threading.Timer(30.0, process.kill)
    timer.start()
    try:
        lines = []
        for line in process.stdout:
            lines.append(json.loads(line))
            if len(lines) == count:
                break
        return lines
    finally:
        timer.cancel()
        process.kill()
        process.wait()
        process.stdout.close()


def in_order(events: list[dict[str, Any]]) -> bool:
    """Whether every camera's events are numbered 1, 2, 3 …"""
    numbers: dict[str, list[int]] = {}
    for event in events:
        numbers.setdefault(event["camera"], []).append(event["seq"])
    return all(seqs == list(range(1, len(seqs) + 1)) for seqs in numbers.values())


def node_has_zeromq() -> bool:
    node = shutil.which("node")
    command = [node or "", "--input-type=module", "-e", "import 'zeromq'"]
    return bool(node) and subprocess.run(command, cwd=ROOT, capture_output=True, check=False).returncode == 0


def test_the_javascript_client_of_the_documentation(running: Plan) -> None:
    if not node_has_zeromq():
        pytest.skip("needs Node.js and its package zeromq (npm install zeromq) above docs/clients")
    events = lines_of(["node", str(ROOT / "docs/clients/subscriber.mjs")], running, 30)
    assert len(events) == 30 and in_order(events)


def test_sigterm_in_an_alarm_reaches_the_subscriber(tmp_path: Path) -> None:
    plan = Plan(free_endpoint(), tmp_path / "ledger.sqlite3")
    process = start(run_pipeline, plan)
    with Subscriber(plan.endpoint, from_start=True, kinds=["alarm"]) as subscriber:
        open_now: set[str] = set()
        ends: dict[str, str] = {}

        def take(condition: Callable[[], bool]) -> None:
            until_s = time.monotonic() + 20.0
            while not condition() and time.monotonic() < until_s:
                message = subscriber.receive(0.1)
                if message is not None and message.body["type"] == "start":
                    open_now.add(message.body["id"])
                elif message is not None and message.body["type"] == "end":
                    open_now.discard(message.body["id"])
                    ends[message.body["id"]] = message.body["reason"]

        take(lambda: bool(open_now))
        assert open_now
        stopper = threading.Thread(target=lambda: kill(process, signal.SIGTERM, 10.0))
        begun_s = time.monotonic()
        stopper.start()
        take(lambda: not open_now and "shutdown" in ends.values())
        stopper.join()
        assert process.exitcode == 0 and time.monotonic() - begun_s < 6.0  # 3 s, and room for a busy machine
        assert "shutdown" in ends.values() and not open_now


def test_a_plain_subscriber_of_ten_lines(running: Plan) -> None:
    context = zmq.Context()
    with contextlib.closing(context.socket(zmq.SUB)) as socket:
        socket.linger = 0
        socket.rcvtimeo = 20_000
        socket.connect(running.endpoint)
        socket.subscribe("v1/alarm/")
        events = [json.loads(socket.recv_multipart()[1]) for _ in range(10)]
    context.term()
    assert all(event["schema"] == "stream-detector.alarm/1" for event in events)
