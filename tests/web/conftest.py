"""A detector with fake sources and a fake engine, and its page on a free port of loopback."""

from __future__ import annotations

import http.client
import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("starlette", reason="the extra 'web' is not installed")
pytest.importorskip("uvicorn", reason="the extra 'web' is not installed")

from stream_detector.config import Config, WebConfig, build_config
from stream_detector.runtime.build import Run, build_run
from stream_detector.testing import ConstantEngine, FakeSource
from stream_detector.types import UInt8Array
from stream_detector.web.live_state import LiveState
from stream_detector.web.server import WebServer

DEADLINE_S = 20.0


def until(condition: Callable[[], Any], what: str) -> Any:
    """Poll until the condition holds; fail with `what` at the deadline."""
    end_s = time.monotonic() + DEADLINE_S
    pause = threading.Event()
    while time.monotonic() < end_s:
        found = condition()
        if found:
            return found
        pause.wait(0.02)
    raise AssertionError(f"not within {DEADLINE_S} s: {what}")


def bright(frames: UInt8Array) -> float:
    """1.0 for windows that begin at frame 64 to 127."""
    return 1.0 if 64 <= int(frames[0, 0, 0, 0]) <= 127 else 0.1


@dataclass
class Answer:
    status: int
    headers: dict[str, str]
    body: bytes

    def json(self) -> Any:
        return json.loads(self.body)


@dataclass
class Page:
    """A running detector and its page."""

    server: WebServer
    run: Run
    live_state: LiveState
    sources: dict[str, FakeSource]
    folder: Path

    def ask(
        self, path: str, body: Any = None, *, method: str = "", headers: dict[str, str] | None = None, port: int = 0
    ) -> Answer:
        connection = http.client.HTTPConnection("127.0.0.1", port or self.server.port, timeout=10)
        data = None if body is None else json.dumps(body).encode()
        given = {"content-type": "application/json"} if body is not None else {}
        try:
            connection.request(method or ("GET" if body is None else "POST"), path, data, {**given, **(headers or {})})
            response = connection.getresponse()
            return Answer(response.status, {k.lower(): v for k, v in response.getheaders()}, response.read())
        finally:
            connection.close()

    def alarm(self, camera: str = "gate") -> dict[str, Any]:
        """The alarm of a camera, once it has ended."""
        found = until(lambda: self.ask(f"/api/alarms?camera={camera}&state=ended").json()["alarms"], "an alarm ended")
        return dict(found[0])

    def stream(self, query: str) -> Iterator[tuple[str, Any]]:
        """(event, data) of the live stream; close the generator to leave."""
        connection = http.client.HTTPConnection("127.0.0.1", self.server.port, timeout=10)
        try:
            connection.request("GET", f"/api/stream?{query}")
            response = connection.getresponse()
            assert response.status == 200
            kind = ""
            while line := response.readline().decode():
                if line.startswith("event: "):
                    kind = line[7:].strip()
                elif line.startswith("data: "):
                    yield kind, json.loads(line[6:])
        finally:
            connection.close()


def make_config(folder: Path, names: tuple[str, ...], **changes: Any) -> Config:
    values: dict[str, Any] = {
        "cameras": [{"name": name, "source": f"{name}.mp4"} for name in names],
        "pace": "max",
        "smoothing": {"kind": "none"},
        "alarm": {"threshold": 0.5, "min_length_s": 0.5, "cooldown_s": 0.5},
        "evidence": {"directory": folder / "evidence", "pre_s": 1.0, "post_s": 1.0},
        "publish": {"bind": "none", "ledger": folder / "ledger.sqlite3"},
        "picture_quality": {"enabled": False},
        "access": {"local_writes": True},
    }
    return build_config({**values, **changes})


@contextmanager
def running(
    folder: Path,
    names: tuple[str, ...] = ("gate", "yard"),
    *,
    steps: tuple[str, ...] = (*("frame",) * 260, "stall"),
    web: WebConfig | None = None,
    config_path: Path | None = None,
    rate: float = 1e6,
    burst: float = 1e6,
    reload: Callable[[], Config] | None = None,
    **changes: Any,
) -> Iterator[Page]:
    """The detector in a thread, the page beside it. reload: gives the configuration of a reload."""
    config = make_config(folder, names, **changes)
    live_state = LiveState(len(names))
    sources = {name: FakeSource(steps) for name in names}
    with ExitStack() as stack:
        run = stack.enter_context(
            build_run(
                config,
                engine=ConstantEngine(score_of=bright),
                on_event=live_state.event,
                on_decision=live_state.decision,
                on_preview=live_state.preview,
                on_camera=live_state.camera,
                reload=reload,
            )
        )
        run.pipeline.open_reader = lambda camera, _config: sources[camera.name]
        web = web or WebConfig(bind="127.0.0.1:0")
        server = WebServer(web, run, live_state, config_path=config_path, rate=rate, burst=burst)
        stack.callback(server.close)
        thread = threading.Thread(target=run.pipeline.run, daemon=True)
        thread.start()
        try:
            yield Page(server, run, live_state, sources, folder)
        finally:
            for source in sources.values():
                source.release()
            run.pipeline.stop()
            thread.join(10)


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    """Shared by the tests of a module that change nothing but acknowledgements."""
    folder = tmp_path_factory.mktemp("page")
    toml = folder / "cameras.toml"
    toml.write_text('[cameras]\ngate = "gate.mp4"  # the gate\n[cameras.yard]\nsource = "yard.mp4"\nthreshold = 0.7\n')
    with running(folder, config_path=toml) as found:
        yield found
