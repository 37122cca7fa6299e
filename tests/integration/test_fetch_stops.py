"""`models fetch` that is interrupted, and goes on from there: real processes against a server on loopback."""

from __future__ import annotations

import hashlib
import signal
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from process_rig import Process
from tiny_weights import TINY, saved, tiny_state

pytestmark = pytest.mark.integration

PART = 1 << 18  # what one read of a download takes
FETCH = """
import sys
from stream_detector.models import weights
sha, size, url = sys.argv[1:4]
weights.KNOWN["tiny"] = weights.KnownWeights("tiny", {arch!r}, "tiny.pth", sha, int(size), "CC0", url=url)
sys.argv[1:] = ["models", "fetch", "tiny"]
from stream_detector.cli.start import entry
entry()
"""


class Holding(ThreadingHTTPServer):
    """Sends the first PART bytes of its content and holds the rest back until `go` is set."""

    daemon_threads = True

    def __init__(self, content: bytes) -> None:
        self.go, self.ranges = threading.Event(), list[str]()
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                asked = self.headers.get("Range", "")
                outer.ranges.append(asked)
                start = int(asked.removeprefix("bytes=").rstrip("-") or 0)
                self.send_response(206 if start else 200)
                self.send_header("Content-Length", str(len(content) - start))
                self.end_headers()
                self.wfile.write(content[start : start + PART])
                self.wfile.flush()
                if outer.go.wait(90):
                    self.wfile.write(content[start + PART :])

            def log_message(self, *_: Any) -> None:
                pass

        super().__init__(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server_address[1]}/tiny.pth"


@pytest.fixture
def content(tmp_path: Path) -> bytes:
    return saved(tmp_path / "served.pth", tiny_state(400)).read_bytes()


@pytest.fixture
def server(content: bytes) -> Iterator[Holding]:
    made = Holding(content)
    thread = threading.Thread(target=made.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield made
    made.go.set()
    made.shutdown()
    made.server_close()
    thread.join()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_an_interrupted_fetch_goes_on_where_it_stopped(
    tmp_path: Path, server: Holding, content: bytes, number: signal.Signals
) -> None:
    assert len(content) > 2 * PART
    cache = tmp_path / "cache"
    part = cache / "downloads" / "tiny.pth.part"
    asked = ("-c", FETCH.format(arch=TINY), hashlib.sha256(content).hexdigest(), str(len(content)), server.url)
    environment = {"STREAM_DETECTOR_CACHE": str(cache)}
    first = Process(*asked, cwd=tmp_path, env=environment)
    try:
        poll, deadline = threading.Event(), 900
        while not (part.exists() and part.stat().st_size >= PART) and deadline:
            poll.wait(0.1)
            deadline -= 1
        code = first.end(number)
    finally:
        first.kill()
    assert code == (-9 if number == signal.SIGKILL else 128 + number)
    assert "Traceback" not in first.err
    if number != signal.SIGKILL:
        assert "the same command continues the download" in first.err
    assert part.stat().st_size == PART and not (cache / "models" / "tiny").exists()
    server.go.set()
    second = Process(*asked, cwd=tmp_path, env=environment)
    try:
        assert second.end() == 0, second.err
    finally:
        second.kill()
    assert server.ranges == ["", f"bytes={PART}-"]
    assert (cache / "models" / "tiny" / "weights.safetensors").is_file() and not list((cache / "downloads").iterdir())
