"""The doctor's check of ports: free, held by a running detector, or held by another program."""

from __future__ import annotations

import contextlib
import errno
import http.client
import json
import socket

from stream_detector.cli.findings import Check
from stream_detector.config import Config
from stream_detector.errors import StreamDetectorError

HELD = "cannot be bound: another program holds it, or a detector that requires a key"


def ports(config: Config) -> list[Check]:
    """Check whether the sockets of a run can be bound."""
    bind = config.publish.bind
    wanted: list[tuple[str, str, int]] = []
    if bind.startswith("tcp://"):
        host, _, port = bind.removeprefix("tcp://").rpartition(":")
        if port.isdecimal():
            numbers = (("events", int(port)), ("recovery", int(port) + 1))
            wanted += [(name, host.strip("[]"), number) for name, number in numbers]
    if config.telemetry.metrics_port:
        wanted.append(("metrics", "127.0.0.1", config.telemetry.metrics_port))
    host, _, port = config.web.bind.rpartition(":")
    if port.isdecimal():
        wanted.append(("page", host.strip("[]"), int(port)))
    checks = []
    ours = False  # a detector already holds the port; then the recovery port and the page are its own as well
    for name, host, number in wanted:
        problem = _bind_problem("0.0.0.0" if host == "*" else host, number)
        option = {"metrics": "--metrics-port", "page": "--web"}.get(name, "--bind, or --bind none")
        advice = f"choose another with {option}" if problem else ""
        if problem == HELD and name == "events":
            ours = _heartbeat_comes(f"tcp://127.0.0.1:{number}" if host in ("*", "0.0.0.0") else bind, config)
        elif problem == HELD and name != "recovery":
            ours = _is_healthz(number) or (ours and name == "page")
        if problem == HELD and ours:
            detail = f"a running stream-detector holds {host}:{number}"
            checks.append(Check(f"{name} port", "warn", detail, f"a second detector needs another port: {option}"))
            continue
        detail = f"{host}:{number} {problem or 'free'}"
        checks.append(Check(f"{name} port", "fail" if problem else "ok", detail, advice))
    return checks or [Check("ports", "ok", f"none needed (events: {bind})")]


def _heartbeat_comes(endpoint: str, config: Config) -> bool:
    """Return whether a detector without CURVE sends its heartbeat at `endpoint` within two intervals."""
    import zmq

    from stream_detector.client.recovery_client import connect
    from stream_detector.events.protocol import HEARTBEAT_TOPIC, decode_message

    with zmq.Context() as context, contextlib.suppress(StreamDetectorError):
        listener = connect(context, zmq.SUB, endpoint, None)
        try:
            listener.subscribe(HEARTBEAT_TOPIC)
            if listener.poll(int(2000 * min(config.publish.heartbeat_s, 10.0) + 500)):
                return decode_message(listener.recv_multipart()).kind == "heartbeat"
        finally:
            listener.close(0)
    return False


def _is_healthz(port: int) -> bool:
    """Return whether the metrics server of a detector answers at `port` on loopback."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=2.0)
    with contextlib.closing(connection), contextlib.suppress(OSError, http.client.HTTPException, ValueError):
        connection.request("GET", "/healthz")
        told = json.loads(connection.getresponse().read(1_000_000))
        return isinstance(told, dict) and "healthy" in told
    return False


def _bind_problem(host: str, port: int) -> str:
    if not 0 < port < 65536:
        return "is no port"
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind, protocol) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # the way ZeroMQ binds
            probe.bind(address)
            probe.listen(1)
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            return HELD
        return f"cannot be bound ({getattr(error, 'strerror', None) or error})"
    return ""
