"""No secret of a source comes out of a run: log, events, journal, socket, page, report, scores, metrics, terminal.

The reader of these runs behaves like a library that names the whole address in everything it raises and prints.
"""

from __future__ import annotations

import contextlib
import io
import json
import logging
import tempfile
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import zmq
from hypothesis import HealthCheck, Phase, given, settings
from prometheus_client import generate_latest
from rich.console import Console
from secret_rig import PLACES, Address, addresses, check

from stream_detector.cli.outcome import outcome
from stream_detector.config import build_config
from stream_detector.config.source import Source
from stream_detector.errors import SourceError
from stream_detector.reports.html_page import page
from stream_detector.reports.read_back import gather_alarms, read_events
from stream_detector.reports.scores_file import read_scores
from stream_detector.reports.summary import make_report
from stream_detector.runtime.build import Run, build_run
from stream_detector.system.logging_setup import JsonFormatter, TextFormatter
from stream_detector.telemetry.prometheus import make_registry
from stream_detector.telemetry.terminal_view import TerminalView, ViewHeader, render
from stream_detector.testing import ConstantEngine, FakeClock, FakeSource

DEADLINE_S = 60.0
GOOD = tuple(place for place in PLACES if place not in ("no host", "bad port"))


class Talkative(FakeSource):
    """The first open is refused, then there are frames and a stall, and at last an exception that no reader may raise;
    what is raised names the address."""

    def __init__(self, address: str, clock: FakeClock) -> None:
        super().__init__((*("frame",) * 150, "stall"), live=True, clock=clock)
        self._address = address

    def open(self) -> None:
        super().open()
        if self.opens == 1:
            raise SourceError(f"cannot open {self._address}: 401 Unauthorized")

    def grab(self) -> Any:
        grabbed = super().grab()
        if self.stalled.is_set():
            raise OSError(5, "Input/output error", self._address)
        return grabbed


def until(condition: Callable[[], Any], what: str) -> None:
    end_s = time.monotonic() + DEADLINE_S
    pause = threading.Event()
    while not condition():
        assert time.monotonic() < end_s, f"not within {DEADLINE_S} s: {what}"
        pause.wait(0.01)


@contextlib.contextmanager
def listening() -> Iterator[list[io.StringIO]]:
    """The package's log in both styles, down to DEBUG."""
    logger = logging.getLogger("stream_detector")
    before = logger.level, logger.handlers[:], logger.propagate
    texts = [io.StringIO(), io.StringIO()]
    logger.handlers[:] = [logging.StreamHandler(text) for text in texts]
    for handler, formatter in zip(logger.handlers, (TextFormatter(), JsonFormatter()), strict=True):
        handler.setFormatter(formatter)
    logger.setLevel(logging.DEBUG)
    logger.propagate = False
    try:
        yield texts
    finally:
        logger.level, logger.handlers[:], logger.propagate = before


def web_answers(run: Run, live_state: Any) -> list[bytes]:
    """What the page's server says, of a page that is served for the moment."""
    from http.client import HTTPConnection

    from stream_detector.config import WebConfig
    from stream_detector.web.server import WebServer

    server = WebServer(WebConfig(bind="127.0.0.1:0"), run, live_state)
    found = []
    try:
        for path in ("/api/run", "/api/alarms", "/api/alarms.csv", "/api/replay/gate", "/metrics", "/readyz", "/"):
            connection = HTTPConnection("127.0.0.1", server.port, timeout=DEADLINE_S)
            connection.request("GET", path)
            found.append(connection.getresponse().read())
            connection.close()
    finally:
        server.close()
    assert b'"gate"' in found[0] and b"stream_detector_frames" in found[4]
    return found


def outputs(source: Source, folder: Path) -> list[object]:
    """All that a run of one camera with this source says and leaves behind."""
    module = pytest.importorskip("stream_detector.web.live_state", reason="the extra 'web' is not installed")
    clock, live_state = FakeClock(), module.LiveState(1)
    said: list[Any] = []
    config = build_config(
        {
            "cameras": {"gate": {"source": source}},
            "bundle": "embedded",
            "smoothing": {"kind": "none"},
            "alarm": {"threshold": 0.5, "min_length_s": 0.2, "update_interval_s": 0.2},
            "capture": {"backoff_min_s": 0.0, "backoff_max_s": 0.0, "stall_after_s": 600, "abandon_after_s": 600},
            "evidence": {"enabled": False},
            "publish": {"bind": "tcp://127.0.0.1:*", "ledger": folder / "ledger.sqlite3"},
            "events": folder / "events.jsonl",
            "scores": folder / "scores.csv",
        }
    )
    reader = Talkative(source.reveal(), clock)
    subscriber = zmq.Context.instance().socket(zmq.SUB)
    with (
        listening() as logs,
        build_run(
            config, clock=clock, engine=ConstantEngine(0.9), on_event=live_state.event, on_decision=live_state.decision
        ) as run,
    ):
        run.pipeline.open_reader = lambda _camera, _config: reader
        subscriber.subscribe(b"")
        subscriber.connect(run.publisher.endpoint or "")
        results: list[Any] = []
        thread = threading.Thread(target=lambda: results.append(run.pipeline.run()))
        thread.start()
        try:
            until(lambda: run.telemetry.snapshot().cameras[0].alarms, "an alarm")
            until(lambda: subscriber.poll(0), "a message on the socket")
            said.append(subscriber.recv_multipart())
            said += web_answers(run, live_state)
            snapshot = run.telemetry.snapshot()
            header = ViewHeader("engine", "bundle", "endpoint")
            screen = Console(file=io.StringIO(), width=200, height=50, force_terminal=True)
            screen.print(render(snapshot, header, 200, 50))
            lines = Console(file=io.StringIO(), width=200)
            over = threading.Event()
            over.set()
            TerminalView(run.telemetry, header, console=lines, plain=True).run(over)
            said += [screen.file.getvalue(), lines.file.getvalue(), snapshot]  # type: ignore[attr-defined]
            said.append(generate_latest(make_registry(run.telemetry)))
        finally:
            reader.release()
            thread.join(DEADLINE_S)
            run.pipeline.stop()
        assert results and results[0].error is not None, "the exception of the library ended the run"
        error = results[0].error
        logging.getLogger("stream_detector.test").error("%s", error, exc_info=error)
        said += [error, repr(error), *traceback.format_exception(error), results[0]]
        said += [json.dumps(outcome(run, results[0], None)), repr(run.config), repr(run.plans)]
        while subscriber.poll(50):
            said.append(subscriber.recv_multipart())
        said += [log.getvalue() for log in logs]
    subscriber.close(0)
    report = make_report(read_scores(folder / "scores.csv"), gather_alarms(read_events(folder / "events.jsonl")))
    said += [page(report, title="Report", base=folder, out=folder / "report.html"), json.dumps(report.to_dict())]
    files = [path for path in folder.rglob("*") if path.is_file()]
    assert {"events.jsonl", "scores.csv", "ledger.sqlite3"} <= {path.name for path in files}
    return [*said, *(path.read_bytes() for path in files)]


def opens(address: Address) -> bool:
    """Whether the address is one that is not refused."""
    try:
        return bool(Source.parse(address.text))
    except SourceError:
        return False


@settings(
    max_examples=6,
    deadline=None,
    phases=(Phase.explicit, Phase.reuse, Phase.generate),
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
)
@given(addresses(broken=False, places=GOOD).filter(opens))
def test_no_output_of_a_run_shows_a_secret(address: Address) -> None:
    source = Source.parse(address.text)
    with tempfile.TemporaryDirectory() as folder:
        found = outputs(source, Path(folder))
    text = "".join(part.decode("utf-8", "replace") if isinstance(part, bytes) else str(part) for part in found)
    assert source.shown in text and "401 Unauthorized" in text and "OSError" in text  # it was all told, but for this:
    check(address, *found)
