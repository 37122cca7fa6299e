"""The whole program against cameras that refuse: nothing in what it prints or writes holds a password.

Standard output and standard error are those of the process, so what FFmpeg prints by itself is in them.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socketserver
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

pytestmark = pytest.mark.integration

ROOT = Path(__file__).parents[2]
DEADLINE_S = 180.0
SECRET = "hunter22"
# A password with what is awkward in one, and what a shell, a URL and a library make of it; {0} is the server's place.
SOURCES = (
    "raw=rtsp://admin:it's {1}@{0}/live",
    "encoded=rtsp://admin:pa%2Fss%23{1}@{0}/live",
    "path=rtsp://{0}/user=admin_password={1}_channel=1_stream=0.sdp",
    "query=http://{0}/video?user=admin&zugang={1}",
    "token=http://{1}@{0}/video.mjpg#{1}",
    "variable=rtsp://admin:${{GATE_PASSWORD}}@{0}/live",
)


class Refusing(socketserver.ThreadingTCPServer):
    """Answers every request of RTSP or HTTP with 401; `asked` counts them by the paths' first line."""

    daemon_threads = True
    allow_reuse_address = True

    def __init__(self) -> None:
        self.asked: list[bytes] = []
        super().__init__(("127.0.0.1", 0), _Handler)


class _Handler(socketserver.StreamRequestHandler):
    timeout = 10

    def handle(self) -> None:
        assert isinstance(self.server, Refusing)
        with contextlib.suppress(OSError):
            while line := self.rfile.readline():
                self.server.asked.append(line)
                number = b"0"
                while (header := self.rfile.readline()).strip():
                    if header.lower().startswith(b"cseq:"):
                        number = header.split(b":")[1].strip()
                version = b"RTSP/1.0" if b"RTSP/" in line else b"HTTP/1.1"
                realm = b'WWW-Authenticate: Basic realm="camera"\r\n'
                self.wfile.write(
                    version + b" 401 Unauthorized\r\nCSeq: " + number + b"\r\nContent-Length: 0\r\n" + realm + b"\r\n"
                )


@pytest.fixture
def server() -> Iterator[Refusing]:
    with Refusing() as found:
        thread = threading.Thread(target=found.serve_forever, args=(0.05,), daemon=True)
        thread.start()
        yield found
        found.shutdown()
        thread.join(10)


def start(folder: Path, *arguments: str) -> subprocess.Popen[bytes]:
    command = [
        sys.executable,
        str(ROOT / "run_stream.py"),
        *arguments,
        "--bind",
        "none",
        "--run-dir",
        str(folder / "run"),
    ]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "GATE_PASSWORD": f"it's/{SECRET}@#"}
    with (folder / "out").open("wb") as out, (folder / "err").open("wb") as err:
        return subprocess.Popen(command, cwd=folder, env=environment, stdout=out, stderr=err)


def finish(process: subprocess.Popen[bytes]) -> int:
    try:
        return process.wait(DEADLINE_S)
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()


def written(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_six_cameras_that_refuse_are_told_without_a_secret(server: Refusing, tmp_path: Path) -> None:
    place = f"127.0.0.1:{server.server_address[1]}"
    sources = [text.format(place, SECRET) for text in SOURCES]
    process = start(tmp_path, *sources, "--no-dashboard", "--log-format", "json", "--debug")
    try:
        end_s = time.monotonic() + DEADLINE_S
        pause = threading.Event()
        names = [text.partition("=")[0].encode() for text in SOURCES]

        def offline() -> set[bytes]:
            lines = b"".join(written(tmp_path).values()).splitlines()
            return {name for name in names for line in lines if b'"' + name + b'"' in line and b"offline" in line}

        while offline() != set(names) or not server.asked:
            assert process.poll() is None and time.monotonic() < end_s, written(tmp_path)
            pause.wait(0.2)
        arguments = Path(f"/proc/{process.pid}/cmdline")
        if arguments.exists():
            shown = arguments.read_bytes().split(b"\0")
            assert [word for word in shown if word.startswith(b"variable=")] == [f"variable={sources[-1][9:]}".encode()]
            assert b"${GATE_PASSWORD}" in arguments.read_bytes()
        process.send_signal(signal.SIGINT)
        assert finish(process) == 130
    finally:
        process.kill()
        process.wait()
    files = written(tmp_path)
    assert place.encode() in b"".join(files.values())
    assert any(SECRET.encode() in line for line in server.asked)  # the address was opened with it
    for name, content in files.items():
        assert SECRET.encode() not in content, (name, content[-2000:])


@pytest.mark.parametrize("source", SOURCES[1:4:2])
def test_a_first_open_that_fails_ends_the_run_without_a_secret(server: Refusing, tmp_path: Path, source: str) -> None:
    text = source.format(f"127.0.0.1:{server.server_address[1]}", SECRET)
    process = start(tmp_path, text, "--exit-on-error", "--debug")
    assert finish(process) in (1, 2)
    files = written(tmp_path)
    assert b"127.0.0.1" in files["out"] + files["err"]
    for name, content in files.items():
        assert SECRET.encode() not in content, (name, content[-2000:])
