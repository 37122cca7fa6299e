"""What the tests of bridges share: made-up notices, a scripted target, a real HTTPS receiver, a real MQTT broker."""

from __future__ import annotations

import contextlib
import http.server
import itertools
import json
import shutil
import signal
import socket
import ssl
import subprocess
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from stream_detector.bridges.delivery import DeadLetters, Delivery
from stream_detector.bridges.evidence import EvidenceFolder
from stream_detector.bridges.kinds import DeliveryError, Memory, Target, TargetContext, TargetSettings
from stream_detector.bridges.notice import Notice
from stream_detector.bridges.outbox import Outbox
from stream_detector.events.protocol import rfc3339
from stream_detector.testing import FakeClock

EPOCH = "0123456789abcdef"
DEADLINE_S = 30.0


def alarm_body(seq: int, camera: str = "gate", what: str = "start", utc: float = 1_700_000_000.0, **more: Any) -> Any:
    return {
        "schema": "stream-detector.alarm/1",
        "id": f"{seq:032x}",
        "camera": camera,
        "type": what,
        "reason": "normal" if what == "end" else None,
        "epoch": EPOCH,
        "seq": seq,
        "start_s": 1.28,
        "end_s": 3.0 if what == "end" else None,
        "start_utc": rfc3339(utc),
        "emitted_utc": rfc3339(utc),
        "peak_score": 0.91,
        "score": 0.9,
        "threshold": 0.6,
        "windows": [],
        "degraded": [],
        "bundle": "f" * 16,
        "evidence": None,
        "timing": None,
        **more,
    }


def alarm(seq: int, camera: str = "gate", what: str = "start", utc: float = 1_700_000_000.0, **more: Any) -> Notice:
    body = alarm_body(seq, camera, what, utc, **more)
    return Notice(f"v1/alarm/{camera}/", EPOCH, seq, "alarm", camera, what, utc, body)


def camera_notice(seq: int, what: str, camera: str = "gate", utc: float = 1_700_000_000.0, **more: Any) -> Notice:
    state = {"offline": "offline", "online": "online"}.get(what, "online")
    body = {
        "schema": "stream-detector.status/1",
        "camera": camera,
        "state": state,
        "detail": "",
        "source": "rtsp://h:554",
        "epoch": EPOCH,
        "seq": seq,
        "media_s": None,
        "emitted_utc": rfc3339(utc),
        **more,
    }
    return Notice(f"v1/status/{camera}/", EPOCH, seq, "camera", camera, what, utc, body)


class Scripted(Target):
    """A target that does what `script` says next ("ok" when it is empty) and keeps what it took."""

    def __init__(self, settings: TargetSettings, context: TargetContext) -> None:
        super().__init__(settings, context)
        self.script: deque[str] = deque()
        self.poison: set[str] = set()
        self.took: list[Notice] = []
        self.tried: list[str] = []

    def deliver(self, notice: Notice) -> Mapping[str, Any]:
        self.tried.append(notice.key)
        act = self.script.popleft() if self.script else "ok"
        if notice.key in self.poison:
            act = "unknown"
        if act != "ok":
            raise DeliveryError(act, f"said {act}")  # type: ignore[arg-type]
        self.took.append(notice)
        return {}


class Lab:
    """An outbox with one target and a clock that stands still."""

    def __init__(self, folder: Path, make: Callable[[Any, TargetContext], Target] = Scripted, settings: Any = None):
        self.folder, self.clock = folder, FakeClock()
        self.settings = settings or TargetSettings()
        self.make = make
        self.evidence = folder / "evidence"
        self.failures: list[Exception] = []
        self.open()

    def open(self) -> None:
        self.outbox = Outbox(self.folder / "box.sqlite3")
        self.dead = DeadLetters(self.folder / "dead.jsonl")
        outbox = self.outbox
        context = TargetContext(
            "here",
            EvidenceFolder(self.evidence),
            self.clock,
            Memory(lambda key: outbox.recall("here", key), lambda prefix: outbox.recall_all("here", prefix)),
            resend=lambda since: outbox.again("here", since),
        )
        self.target: Any = self.make(self.settings, context)
        self.delivery = Delivery("here", self.target, self.outbox, self.dead, self.clock, self.failures.append)

    def restart(self) -> None:
        """As after a kill: what is on disk is all there is."""
        self.outbox.close()
        self.open()

    def add(self, *notices: Notice) -> None:
        rows = []
        for notice in notices:
            if self.target.wants(notice):
                hold_s, (takes_back, alarm_id) = self.target.hold_s(notice), self.target.takes_back(notice)
                utc = self.clock.utc()
                if takes_back:
                    self.outbox.add(rows)
                    rows = []
                    if self.outbox.cancel("here", notice.camera, takes_back, utc, utc, alarm_id):
                        continue
                rows.append(("here", self.target.lane(notice), notice, utc + hold_s if hold_s else 0.0))
        self.outbox.add(rows)

    def run(self, seconds: float = 0.0) -> None:
        """Deliver everything that can be delivered within so much fake time."""
        left_s = seconds
        while True:
            while self.delivery.step():
                pass
            if left_s <= 0:
                return
            self.clock.advance(min(0.1, left_s))
            left_s -= 0.1

    def letters(self) -> list[dict[str, Any]]:
        path = self.dead.path
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def until(condition: Callable[[], Any], what: str = "it", deadline_s: float = DEADLINE_S) -> Any:
    """Poll until `condition` gives something true."""
    end_s = time.monotonic() + deadline_s
    pause = threading.Event()
    while time.monotonic() < end_s:
        result = condition()
        if result:
            return result
        pause.wait(0.01)
    raise AssertionError(f"{what} did not come in time")


def make_certificate(folder: Path, names: str = "DNS:localhost,IP:127.0.0.1") -> tuple[Path, Path]:
    """A certificate and its key, by the program openssl."""
    if shutil.which("openssl") is None:
        pytest.skip("the program openssl is not installed")
    cert, key = folder / "cert.pem", folder / "key.pem"
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    command += ["-days", "2", "-subj", "/CN=localhost", "-addext", f"subjectAltName={names}"]
    subprocess.run([*command, "-keyout", str(key), "-out", str(cert)], check=True, capture_output=True)
    return cert, key


class Receiver:
    """A real HTTPS server on a free port; keeps what it took.  answers: status codes for the next requests."""

    def __init__(self, folder: Path, tls: bool = True) -> None:
        receiver = self
        self.posts: list[tuple[dict[str, str], bytes, float]] = []
        self.answers: deque[int] = deque()
        self.headers: dict[str, str] = {}
        self.hold: threading.Event | None = None
        self.say = b""

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                if receiver.hold is not None:
                    receiver.hold.wait(DEADLINE_S)
                status = receiver.answers.popleft() if receiver.answers else 200
                receiver.posts.append(({k.lower(): v for k, v in self.headers.items()}, body, time.time()))
                with contextlib.suppress(OSError):
                    self.send_response(status)
                    for name, value in receiver.headers.items():
                        self.send_header(name, value)
                    self.send_header("Content-Length", str(len(receiver.say)))
                    self.end_headers()
                    self.wfile.write(receiver.say)

            def log_message(self, *args: Any) -> None:
                pass

        class Server(http.server.ThreadingHTTPServer):
            daemon_threads = True

            def handle_error(self, request: Any, client_address: Any) -> None:
                pass

        self._server = Server(("127.0.0.1", 0), Handler)
        if tls:
            self.cert, key = make_certificate(folder)
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(self.cert, key)
            self._server.socket = context.wrap_socket(
                self._server.socket, server_side=True, do_handshake_on_connect=False
            )
        self.port = self._server.server_address[1]
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True)
        self._thread.start()

    @property
    def keys(self) -> list[str]:
        """Idempotency keys, in order of arrival."""
        return [headers["idempotency-key"] for headers, _, _ in self.posts]

    def bodies(self) -> list[dict[str, Any]]:
        return [json.loads(body) for _, body, _ in self.posts]

    def close(self) -> None:
        self._server.shutdown()
        self._thread.join(DEADLINE_S)
        self._server.server_close()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


MOSQUITTO = shutil.which("mosquitto") or next((p for p in ("/usr/sbin/mosquitto",) if Path(p).exists()), None)
needs_broker = pytest.mark.skipif(MOSQUITTO is None, reason="mosquitto is not installed; run .ci/install-mosquitto.sh")


class Broker:
    """A real mosquitto on a free port; what it keeps in memory is gone with a kill."""

    def __init__(self, folder: Path, anonymous: bool = True) -> None:
        self.port, self.folder = free_port(), folder
        lines = [f"listener {self.port} 127.0.0.1", f"allow_anonymous {str(anonymous).lower()}", "persistence false"]
        text = "\n".join(lines)
        (folder / "mosquitto.conf").write_text(text + "\n", encoding="ascii")
        self._process: subprocess.Popen[bytes] | None = None
        self.start()

    def start(self) -> None:
        assert MOSQUITTO is not None
        conf = str(self.folder / "mosquitto.conf")
        self._process = subprocess.Popen([MOSQUITTO, "-c", conf], stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
        until(self._answers, "the broker")

    def _answers(self) -> bool:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port), 1.0):
            return True
        return False

    def kill(self, number: int = signal.SIGKILL) -> None:
        process, self._process = self._process, None
        if process is not None:
            process.send_signal(number)
            process.wait(DEADLINE_S)


NUMBERS = itertools.count()  # a broker ends the connection of a client when another one comes with the same name


class MqttListener:
    """A subscriber of everything, which connects again by itself. messages: (topic, payload, retained)."""

    def __init__(self, port: int, *topics: str) -> None:
        import paho.mqtt.client as paho
        from paho.mqtt.enums import CallbackAPIVersion

        self.messages: list[tuple[str, bytes, bool]] = []
        self.times: list[float] = []
        self.ready = threading.Event()
        self._client = paho.Client(CallbackAPIVersion.VERSION2, f"listener-{next(NUMBERS)}", protocol=paho.MQTTv5)
        self._client.reconnect_delay_set(1, 1)

        def connected(client: Any, *_: Any) -> None:
            client.subscribe([(topic, paho.SubscribeOptions(qos=1)) for topic in topics or ("#",)])

        def took(_client: Any, _data: Any, message: Any) -> None:
            self.messages.append((message.topic, message.payload, message.retain))
            self.times.append(time.time())

        self._client.on_connect = connected
        self._client.on_subscribe = lambda *_: self.ready.set()
        self._client.on_disconnect = lambda *_: self.ready.clear()
        self._client.on_message = took
        self._client.connect_async("127.0.0.1", port, 10)
        self._client.loop_start()
        assert self.ready.wait(DEADLINE_S)

    def last(self, topic: str) -> bytes | None:
        """The newest payload of a topic."""
        return next((payload for name, payload, _ in reversed(self.messages) if name == topic), None)

    def events(self, suffix: str = "/event") -> list[dict[str, Any]]:
        return [json.loads(payload) for topic, payload, _ in list(self.messages) if topic.endswith(suffix)]

    def close(self) -> None:
        self._client.disconnect()
        self._client.loop_stop()


@contextlib.contextmanager
def closing(*things: Any) -> Iterator[None]:
    try:
        yield
    finally:
        for thing in things:
            thing.close()
