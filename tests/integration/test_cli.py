"""The command line as people use it: the real model, real files, real sockets, real signals."""

from __future__ import annotations

import csv
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import zmq

from stream_detector.cli.main import main
from stream_detector.testing import FakeCamera

pytestmark = pytest.mark.integration

ROOT = Path(__file__).parents[2]
DEADLINE_S = 240.0  # a busy machine takes its time
SIZE = (160, 120)
VOLATILE = ("epoch", "timing", "start_utc", "emitted_utc")


def write_video(
    path: Path, frames: int, *, fps: float = 25.0, seed: int = 0, size: tuple[int, int] = (160, 120)
) -> Path:
    """A moving square on noise: something to decode, different for every seed."""
    noise = np.random.default_rng(seed)
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"mp4v"), fps, size)
    assert writer.isOpened()
    background = noise.integers(0, 255, (size[1], size[0], 3), np.uint8)
    for index in range(frames):
        picture = background.copy()
        x = (index * (3 + seed)) % (size[0] - 30)
        cv2.rectangle(picture, (x, 40), (x + 30, 70), (0, 0, 255), -1)
        writer.write(picture)
    writer.release()
    return path


def free_port() -> int:
    """A port whose next one is free as well (recovery listens there)."""
    while True:
        with socket.socket() as first, socket.socket() as second:
            first.bind(("127.0.0.1", 0))
            port = int(first.getsockname()[1])
            try:
                second.bind(("127.0.0.1", port + 1))
            except (OSError, OverflowError):
                continue
            return port


def run_stream(*arguments: str, cwd: Path) -> subprocess.Popen[str]:
    command = [sys.executable, str(ROOT / "run_stream.py"), *arguments]
    environment = os.environ | {"COLUMNS": "120"}
    return subprocess.Popen(
        command, cwd=cwd, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def finish(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    try:
        out, err = process.communicate(timeout=DEADLINE_S)
    except subprocess.TimeoutExpired:
        process.kill()
        out, err = process.communicate()
        pytest.fail(f"the detector hangs\n{out}\n{err}")
    return process.returncode, out, err


@pytest.fixture
def subscriber() -> Iterator[tuple[zmq.Socket[bytes], int]]:
    """A plain SUB socket, connected to a port where nobody listens yet."""
    port = free_port()
    with zmq.Context() as context, context.socket(zmq.SUB) as sub:
        sub.setsockopt(zmq.LINGER, 0)
        sub.setsockopt(zmq.RECONNECT_IVL, 20)
        sub.subscribe(b"v1/alarm/")
        sub.connect(f"tcp://127.0.0.1:{port}")
        yield sub, port


def received(sub: zmq.Socket[bytes], process: subprocess.Popen[str]) -> list[dict[str, Any]]:
    """Everything that comes until the process has ended and the line is quiet."""
    found = []
    while True:
        ended = process.poll() is not None
        while sub.poll(200):
            topic, body = sub.recv_multipart()
            event = json.loads(body)
            assert topic == f"v1/alarm/{event['camera']}/".encode()
            found.append(event)
        if ended:
            return found


def read_events(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def read_scores(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_eight_files_at_once(tmp_path: Path, subscriber: tuple[zmq.Socket[bytes], int]) -> None:
    """One score row for every window; a plain subscriber receives every event that the file holds."""
    sub, port = subscriber
    lengths = [40, 48, 50, 64, 70, 31, 96, 33]
    videos = [write_video(tmp_path / f"clip{i}.mp4", n, seed=i) for i, n in enumerate(lengths)]
    process = run_stream(
        *map(str, videos),
        *("--pace", "max", "--no-dashboard", "--events", "e.jsonl", "--scores", "s.csv"),
        *("--bind", f"tcp://127.0.0.1:{port}", "--threshold", "0", "--no-evidence"),
        cwd=tmp_path,
    )
    got = received(sub, process)
    code, out, err = finish(process)
    assert code == 0, f"{out}\n{err}"
    rows = read_scores(tmp_path / "s.csv")
    for index, frames in enumerate(lengths):
        mine = [row for row in rows if row["camera"] == f"clip{index}"]
        assert [int(row["window"]) for row in mine] == list(range(frames // 16))
        assert [int(row["start_frame"]) for row in mine] == [16 * i for i in range(frames // 16)]
        assert all(0.0 <= float(row["raw"]) <= 1.0 for row in mine)
    written = read_events(tmp_path / "e.jsonl")
    assert {e["camera"] for e in written} == {f"clip{i}" for i in range(8)}
    assert [e["type"] for e in written].count("start") == [e["type"] for e in written].count("end") == 8
    key = json.dumps
    assert sorted(map(key, got)) == sorted(map(key, written))


def comparable(events: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Events without what a clock wrote; cameras run beside each other, so only the order within one is fixed."""
    kept = [{name: value for name, value in event.items() if name not in VOLATILE} for event in events]
    return sorted(kept, key=lambda event: (event["camera"], event["seq"]))


def test_a_replay_gives_the_same_events_at_any_pace(tmp_path: Path) -> None:
    videos = [str(write_video(tmp_path / f"clip{i}.mp4", 75, seed=i)) for i in range(3)]
    events, scores = [], []
    for index, pace in enumerate(("max", "max", "realtime")):
        paths = (tmp_path / f"{index}.jsonl", tmp_path / f"{index}.csv")
        arguments = [*videos, "--pace", pace, "--no-dashboard", "--bind", "none", "--ledger", "none", "--no-evidence"]
        process = run_stream(
            *arguments, "--threshold", "0.001", "--events", str(paths[0]), "--scores", str(paths[1]), cwd=tmp_path
        )
        assert finish(process)[0] == 0
        events.append(comparable(read_events(paths[0])))
        scores.append(
            {(r["camera"], r["window"]): (float(r["raw"]), float(r["smoothed"])) for r in read_scores(paths[1])}
        )
    assert events[0] == events[1] == events[2] and events[0]
    assert scores[0].keys() == scores[1].keys() == scores[2].keys() and len(scores[0]) == 12
    for other in scores[1:]:
        for window, pair in scores[0].items():
            assert pair == pytest.approx(other[window], abs=1e-5)


def test_sigterm_in_the_middle_of_an_alarm(tmp_path: Path, subscriber: tuple[zmq.Socket[bytes], int]) -> None:
    sub, port = subscriber
    with FakeCamera(fps=50) as camera:
        url = camera.url.replace("http://", "http://admin:s3cret@")
        process = run_stream(
            f"gate={url}",
            *("--no-dashboard", "--bind", f"tcp://127.0.0.1:{port}", "--threshold", "0", "--events", "e.jsonl"),
            cwd=tmp_path,
        )
        assert sub.poll(int(DEADLINE_S * 1000)), "no alarm came"
        start = json.loads(sub.recv_multipart()[1])
        assert (start["type"], start["camera"]) == ("start", "gate")
        begun_s = time.monotonic()
        process.send_signal(signal.SIGTERM)
        got = [start, *received(sub, process)]
        code, out, err = finish(process)
        took_s = time.monotonic() - begun_s
    assert code == 128 + signal.SIGTERM, err
    assert took_s < 3.0
    assert (got[-1]["type"], got[-1]["reason"], got[-1]["id"]) == ("end", "shutdown", start["id"])
    assert [e["seq"] for e in got] == list(range(1, len(got) + 1))
    assert "s3cret" not in out + err + (tmp_path / "e.jsonl").read_text(encoding="utf-8")


def zero_frames(path: Path) -> Path:
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"mp4v"), 25.0, (64, 48))
    writer.release()
    return path


@pytest.fixture
def quiet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Options that keep a run in its folder and off the network."""
    monkeypatch.chdir(tmp_path)
    return ["--pace", "max", "--no-dashboard", "--bind", "none", "--ledger", "none", "--no-evidence"]


def refused(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """The one sentence with which these arguments are refused, exit code 2."""
    try:
        code = main(["run", *arguments])
    except SystemExit as error:  # argparse
        code = int(error.code or 0)
    captured = capsys.readouterr()
    assert code == 2, f"exit code {code}\n{captured.out}\n{captured.err}"
    lines = [line for line in captured.err.splitlines() if line.startswith("stream-detector")]
    assert len(lines) == 1 and "Traceback" not in captured.err, captured.err
    return lines[0]


def test_a_missing_file_is_named(quiet: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert "nowhere.mp4" in refused(capsys, *quiet, "nowhere.mp4")


def test_a_directory_without_video_is_named(
    quiet: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "notes.txt").write_text("nothing to see")
    assert "empty" in refused(capsys, *quiet, "empty")


def test_a_text_file_is_no_video(quiet: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "fake.mp4").write_text("I am not a video\n" * 100)
    assert "fake.mp4" in refused(capsys, *quiet, "fake.mp4")


def test_a_video_without_frames_is_named(quiet: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    zero_frames(tmp_path / "zero.mp4")
    assert "zero.mp4" in refused(capsys, *quiet, "zero.mp4")


def test_a_bad_file_does_not_cost_the_others_their_scores(
    quiet: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "fake.mp4").write_text("I am not a video\n" * 100)
    write_video(tmp_path / "good.mp4", 48)
    assert "fake" in refused(capsys, *quiet, "fake.mp4", "good.mp4", "--scores", "s.csv")
    assert [row["camera"] for row in read_scores(tmp_path / "s.csv")] == ["good"] * 3


def test_a_truncated_video_plays_what_is_there(
    quiet: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = tmp_path / "whole.avi"  # AVI keeps its frames in order and plays without its index
    noise = np.random.default_rng(0)
    writer = cv2.VideoWriter(str(whole), cv2.VideoWriter.fourcc(*"MJPG"), 25.0, (160, 120))
    for _ in range(160):
        writer.write(noise.integers(0, 255, (120, 160, 3), np.uint8))
    writer.release()
    (tmp_path / "cut.avi").write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])
    assert "truncated" in refused(capsys, *quiet, "cut.avi", "--scores", "s.csv")
    assert 3 <= len(read_scores(tmp_path / "s.csv")) <= 5


def test_an_unknown_key_names_the_nearest(quiet: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "cameras.toml").write_text('[alarm]\ncooldwn_s = 3\n[cameras.gate]\nsource = "demo"\n')
    assert "'cooldown_s'" in refused(capsys, *quiet, "--config", "cameras.toml")
    (tmp_path / "cameras.toml").write_text('[cameras.gate]\nsource = "demo"\nstrid = 8\n')
    assert "'stride'" in refused(capsys, *quiet, "--config", "cameras.toml")


def test_a_bad_camera_name_is_named(quiet: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_video(tmp_path / "a.mp4", 20)
    assert "Gate 1" in refused(capsys, *quiet, "Gate 1=a.mp4")


def test_a_bundle_with_a_wrong_fingerprint_is_refused(
    quiet: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import shutil

    from stream_detector.models.bundle import find_bundle

    write_video(tmp_path / "a.mp4", 20)
    shutil.copytree(find_bundle("embedded"), tmp_path / "bundle")
    head = tmp_path / "bundle" / "head.safetensors"
    content = bytearray(head.read_bytes())
    content[-1] ^= 1
    head.write_bytes(content)
    assert "head" in refused(capsys, *quiet, "a.mp4", "--bundle", str(tmp_path / "bundle"))


def test_a_port_in_use_is_named(quiet: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_video(tmp_path / "a.mp4", 20)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert str(port) in refused(capsys, *quiet, "a.mp4", "--bind", f"tcp://127.0.0.1:{port}")


def test_a_public_bind_needs_curve(quiet: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_video(tmp_path / "a.mp4", 20)
    assert "CURVE" in refused(capsys, *quiet, "a.mp4", "--bind", "tcp://0.0.0.0:5599")


def test_an_unreachable_camera_ends_the_run_when_asked(quiet: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    port = free_port()
    sentence = refused(capsys, *quiet, f"rtsp://admin:s3cret@127.0.0.1:{port}/live", "--exit-on-error")
    assert "127.0.0.1" in sentence and "s3cret" not in sentence
