"""/livez, /readyz and /healthz: what they mean, and that strangers cannot keep a probe out."""

from __future__ import annotations

import contextlib
import http.client
import json
import socket
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stream_detector.config import TelemetryConfig
from stream_detector.telemetry import prometheus
from stream_detector.telemetry.collector import Telemetry
from stream_detector.telemetry.health import START_S, check, is_live, is_local_host, ready_share
from stream_detector.telemetry.snapshot import CameraView, Histogram, TelemetrySnapshot
from stream_detector.testing import FakeClock
from stream_detector.types import CameraStatus

SILENT = 620


def snapshot(ages: list[float | None], *, states: list[str] | None = None, **extra: Any) -> TelemetrySnapshot:
    cameras = tuple(
        CameraView(f"c{i}", state=states[i] if states else "online", window_age_s=age)  # type: ignore[arg-type]
        for i, age in enumerate(ages)
    )
    return TelemetrySnapshot(
        **{"elapsed_s": 60.0, "decided_age_s": 0.2, **extra}, cameras=cameras, stages={}, total=Histogram()
    )


def status(path: str, found: TelemetrySnapshot, **config: float) -> int:
    return check(path, found, TelemetryConfig(**config), names=True)[0]  # type: ignore[arg-type]


def test_one_camera_that_reboots_makes_nothing_sick() -> None:
    found = snapshot([0.5] * 19 + [30.0])
    assert [status(path, found) for path in ("/livez", "/readyz", "/healthz")] == [200, 200, 200]
    assert status("/readyz", found, ready_share=1.0) == 503
    code, body = check("/readyz", found, TelemetryConfig(), names=True)
    assert (code, body["late"], body["scored_share"]) == (200, ["c19"], 0.95)


def test_nineteen_dead_cameras_of_twenty_are_told() -> None:
    found = snapshot([0.5] + [None] * 10 + [60.0] * 9)
    assert [status(path, found) for path in ("/livez", "/readyz", "/healthz")] == [200, 503, 200]
    assert status("/readyz", found, ready_share=0.05) == 200
    assert status("/readyz", found, ready_age_s=60.0) == 200


def test_a_decision_thread_that_hangs_is_not_alive() -> None:
    found = snapshot([0.5] * 4, decided_age_s=10.5)
    assert [status(path, found) for path in ("/livez", "/readyz", "/healthz")] == [503, 503, 503]
    assert status("/livez", found, live_age_s=11.0) == 200


def test_starting_and_having_ended_are_alive() -> None:
    starting = snapshot([None], decided_age_s=None)
    assert (status("/livez", starting), status("/readyz", starting)) == (200, 503)
    assert status("/livez", snapshot([None], decided_age_s=None, elapsed_s=START_S + 1)) == 503
    over = snapshot([90.0], states=["ended"], decided_age_s=90.0, over=True)
    assert (status("/livez", over), status("/readyz", over)) == (200, 200)
    failed = snapshot([90.0], states=["failed"], decided_age_s=90.0, over=True)
    assert (status("/livez", failed), status("/readyz", failed)) == (200, 503)


@given(st.lists(st.one_of(st.none(), st.floats(0, 100)), max_size=30), st.floats(0, 1))
def test_readiness_is_the_share_of_cameras_scored_lately(ages: list[float | None], share: float) -> None:
    found = snapshot(ages)
    fresh = sum(age is not None and age <= 10.0 for age in ages)
    assert ready_share(found, 10.0) == (fresh / len(ages) if ages else 1.0)
    assert (status("/readyz", found, ready_share=share) == 200) == (not ages or fresh / len(ages) >= share)


def test_the_decision_thread_s_rounds_are_counted() -> None:
    clock = FakeClock()
    telemetry = Telemetry(["gate"], clock)
    assert telemetry.snapshot().decided_age_s is None
    telemetry.decision_loop_passed()
    clock.advance(4.0)
    assert telemetry.snapshot().decided_age_s == pytest.approx(4.0)
    assert is_live(telemetry.snapshot(), 5.0) and not is_live(telemetry.snapshot(), 3.0)
    telemetry.run_ended()
    assert is_live(telemetry.snapshot(), 3.0)


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST:9090", "127.0.0.1", "127.9.9.9:1", "[::1]:9090"])
def test_own_names(host: str) -> None:
    assert is_local_host(host)


@pytest.mark.parametrize("host", ["", "evil.example", "127.0.0.1.evil.example", "localhost.", "localhost:", "::1", "0"])
def test_foreign_names(host: str) -> None:
    assert not is_local_host(host)


@contextlib.contextmanager
def served(telemetry: Telemetry, **config: Any) -> Iterator[int]:
    server = prometheus.serve_metrics(telemetry, 0, config=TelemetryConfig(**config))
    try:
        yield server.port
    finally:
        server.close()


def ask(
    port: int, path: str, method: str = "GET", host: str = "localhost", **headers: str
) -> tuple[int, bytes, dict[str, str]]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
    with contextlib.closing(connection):
        connection.request(method, path, headers={"host": host, **headers})
        answer = connection.getresponse()
        return answer.status, answer.read(), {name.lower(): value for name, value in answer.getheaders()}


def test_the_endpoints_over_http() -> None:
    clock = FakeClock()
    telemetry = Telemetry(["gate"], clock)
    with served(telemetry, live_age_s=5.0) as port:
        telemetry.decision_loop_passed()
        for path in ("/livez", "/healthz", "/readyz", "/metrics"):
            wanted = 503 if path == "/readyz" else 200
            code, body, headers = ask(port, path)
            assert code == wanted and body
            empty = ask(port, path, "HEAD")
            assert (empty[0], empty[1]) == (wanted, b"") and empty[2]["content-type"] == headers["content-type"]
            assert ask(port, path, host="evil.example")[0] == 421
        assert json.loads(ask(port, "/livez")[1]) | {"healthy": True, "cameras": {}} == json.loads(
            ask(port, "/healthz")[1]
        ) | {"cameras": {}}
        clock.advance(5.5)
        assert ask(port, "/livez")[0] == ask(port, "/healthz")[0] == 503
        telemetry.status(CameraStatus("gate", "gate.mp4", "ended"))
        telemetry.decision_loop_passed()
        assert ask(port, "/readyz")[0] == 200
        assert ask(port, "/other")[0] == 404


@pytest.mark.parametrize(
    "accept", ["", "*/*", "a/b" * 999, "application/openmetrics-text; version=\xff", "text/plain;version="]
)
def test_a_scrape_may_accept_anything(accept: str) -> None:
    with served(Telemetry(["gate"], FakeClock())) as port:
        code, body, headers = ask(port, "/metrics", Accept=accept)
    assert code == 200 and b"stream_detector_uptime_seconds" in body and "text" in headers["content-type"]


def test_peers_that_never_read_keep_no_probe_out() -> None:
    telemetry = Telemetry([f"camera-{i}" for i in range(50)], FakeClock())
    telemetry.decision_loop_passed()
    with served(telemetry) as port, contextlib.ExitStack() as stack:
        for number in range(SILENT):
            peer = stack.enter_context(socket.create_connection(("127.0.0.1", port), timeout=20))
            if number % 2:
                with contextlib.suppress(OSError):  # hung up on already: as it should be
                    peer.sendall(b"GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert ask(port, "/livez")[0] == 200


def test_a_trickle_is_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prometheus, "CONNECTION_S", 0.5)
    with (
        served(Telemetry(["gate"], FakeClock())) as port,
        socket.create_connection(("127.0.0.1", port), timeout=20) as peer,
    ):
        peer.sendall(b"GET /livez HTTP/1.1\r\nX-Slow: ")
        peer.settimeout(0.1)
        for _ in range(200):  # a byte every tenth of a second would keep it open for ever
            try:
                peer.sendall(b"x")
                if peer.recv(1000) == b"":
                    break
            except TimeoutError:
                continue
            except OSError:
                break
        else:
            raise AssertionError("the trickle was never cut off")
