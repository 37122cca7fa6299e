"""Receivers for bridges: an HTTP(S) server, an MQTT broker with a subscriber, a file that a program appends to."""

from __future__ import annotations

import http.server
import json
import shutil
import signal
import socket
import ssl
import subprocess
import threading
import time
from pathlib import Path
from typing import Any

MOSQUITTO = shutil.which("mosquitto") or next((p for p in ("/usr/sbin/mosquitto",) if Path(p).exists()), None)


def certificate(folder: Path) -> tuple[Path, Path]:
    """A certificate for localhost with its key. Raises OSError where the program openssl cannot make one."""
    cert, key = folder / "hook.pem", folder / "hook-key.pem"
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    command += ["-days", "2", "-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1"]
    done = subprocess.run([*command, "-keyout", str(key), "-out", str(cert)], capture_output=True)
    if done.returncode:
        raise OSError("openssl cannot make a certificate here")
    return cert, key


class HttpReceiver:
    """Takes every POST. took: (time of arrival, UTC seconds; the JSON object)."""

    def __init__(self, cert: tuple[Path, Path] | None = None) -> None:
        self.took: list[tuple[float, dict[str, Any]]] = []
        receiver = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                receiver.took.append((time.time(), json.loads(body)))
                self.send_response(200)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *_: Any) -> None:
                pass

        class Server(http.server.ThreadingHTTPServer):
            daemon_threads = True

            def handle_error(self, *_: Any) -> None:  # a bridge was killed in the middle
                pass

        self._server = Server(("127.0.0.1", 0), Handler)
        if cert is not None:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(*cert)
            self._server.socket = context.wrap_socket(
                self._server.socket, server_side=True, do_handshake_on_connect=False
            )
        self.port = int(self._server.server_address[1])
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop."""
        self._server.shutdown()
        self._thread.join(10.0)
        self._server.server_close()


class Broker:
    """mosquitto without persistence: after a kill it has forgotten everything. Raises OSError where there is none."""

    def __init__(self, folder: Path) -> None:
        if MOSQUITTO is None:
            raise OSError("mosquitto is not installed; run .ci/install-mosquitto.sh")
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = int(probe.getsockname()[1])
        self._conf = folder / "mosquitto.conf"
        lines = [f"listener {self.port} 127.0.0.1", "allow_anonymous true", "persistence false"]
        self._conf.write_text("\n".join(lines) + "\n", encoding="ascii")
        self._process: subprocess.Popen[bytes] | None = None
        self.start()

    def start(self) -> None:
        """Start it and wait until it answers."""
        assert MOSQUITTO is not None
        command = [MOSQUITTO, "-c", str(self._conf)]
        self._process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        end_s = time.monotonic() + 20.0
        while time.monotonic() < end_s:
            try:
                with socket.create_connection(("127.0.0.1", self.port), 1.0):
                    return
            except OSError:
                time.sleep(0.02)
        raise OSError("mosquitto does not answer")

    def kill(self) -> None:
        """kill -9."""
        process, self._process = self._process, None
        if process is not None:
            process.send_signal(signal.SIGKILL)
            process.wait(10.0)


class MqttSubscriber:
    """took: (time of arrival, topic, payload), of everything below `base`; it connects again by itself."""

    def __init__(self, port: int, base: str = "stream-detector") -> None:
        import paho.mqtt.client as paho
        from paho.mqtt.enums import CallbackAPIVersion

        self.took: list[tuple[float, str, bytes]] = []
        self._client = paho.Client(CallbackAPIVersion.VERSION2, "judge", protocol=paho.MQTTv5)
        self._client.reconnect_delay_set(1, 1)
        ready = threading.Event()
        options = paho.SubscribeOptions(qos=1)
        self._client.on_connect = lambda client, *_: client.subscribe([(f"{base}/#", options)])
        self._client.on_subscribe = lambda *_: ready.set()
        self._client.on_message = lambda _c, _d, m: self.took.append((time.time(), m.topic, m.payload))
        self._client.connect_async("127.0.0.1", port, 10)
        self._client.loop_start()
        if not ready.wait(20.0):
            raise OSError("the broker takes no subscription")

    def events(self) -> list[tuple[float, dict[str, Any]]]:
        """Arrival and body of every event of a camera."""
        return [(at, json.loads(payload)) for at, topic, payload in list(self.took) if topic.endswith("/event")]

    def close(self) -> None:
        """Stop."""
        self._client.disconnect()
        self._client.loop_stop()
