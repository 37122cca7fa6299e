"""Everybody who can reach the detector, all at once and none of them friendly; who is decent must not notice.

Loopback has many addresses, so that strangers are told apart from one another and from the decent ones.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import random
import select
import socket
import ssl
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import zmq

from benchmarks.faultlib.detector import free_endpoint, kill, start
from benchmarks.faultlib.watched import Watch, make_certificate, port_of, run_watched
from stream_detector.client.subscriber import Subscriber
from stream_detector.events.endpoint import recovery_endpoint

DEAF_PEERS = 200
DEAF_VIEWERS = 60
IDLE = 300
QUIET_S = 10.0
MOST_GAP_S = 2.0


def _context() -> ssl.SSLContext:
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE  # it is our own, of a minute ago
    return context


@dataclass
class Crowd:
    """The strangers; `counts` of what they did. Runs in a process of its own."""

    port: int
    endpoint: str
    cameras: int
    report: Path
    over: threading.Event = field(default_factory=threading.Event)
    counts: dict[str, int] = field(default_factory=dict)

    def count(self, name: str, number: int = 1) -> None:
        """Note what was done."""
        self.counts[name] = self.counts.get(name, 0) + number

    def connect(self, address: str, tls: bool = True) -> socket.socket:
        """To the page. Raises OSError."""
        plain = socket.create_connection(("127.0.0.1", self.port), timeout=10, source_address=(address, 0))
        if not tls:
            return plain
        try:
            return _context().wrap_socket(plain)
        except BaseException:
            plain.close()
            raise

    def cancel_acknowledgements(self) -> None:
        """Ask for one, and hang up at once, or after a moment."""
        dice, name = random.Random(1), ""
        while not self.over.is_set():
            with contextlib.suppress(OSError, ValueError, IndexError, http.client.HTTPException):
                if not name:
                    name = self._an_alarm()
                body = b'{"note":"x","by":"y"}'
                head = f"POST /api/alarms/{name}/ack HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
                with self.connect("127.0.0.30") as line:
                    line.sendall(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
                    self.over.wait(dice.choice((0.0, 0.0, 0.001, 0.02)))
                self.count("acknowledgements_cancelled")
            self.over.wait(0.02)

    def _an_alarm(self) -> str:
        line = http.client.HTTPSConnection("127.0.0.1", self.port, timeout=10, context=_context())
        try:
            line.request("GET", "/api/alarms")
            return str(json.loads(line.getresponse().read())["alarms"][0]["id"])
        finally:
            line.close()

    def churn(self, context: zmq.Context[zmq.Socket[bytes]]) -> None:
        """Subscribe and unsubscribe, thousands of prefixes a second."""
        dice, letters = random.Random(2), "v1/alarmscoreu0"
        line = context.socket(zmq.SUB)
        line.rcvhwm = 1
        line.connect(self.endpoint)
        had: list[bytes] = []
        while not self.over.is_set():
            for _ in range(50):
                camera = f"cam{dice.randrange(self.cameras)}/"
                prefix = dice.choice(("v1/", "v1/alarm/", "v1/status/", f"v1/alarm/{camera}", f"v1/score/{camera}", ""))
                prefix = prefix or "".join(dice.choices(letters, k=dice.randint(1, 30)))
                line.subscribe(prefix)
                had.append(prefix.encode())
                self.count("prefixes")
            while len(had) > 100:
                line.unsubscribe(had.pop(dice.randrange(len(had))))
            self.over.wait(0.01)
        line.close(0)

    def ask_and_never_read(self, context: zmq.Context[zmq.Socket[bytes]]) -> None:
        """DEAF_PEERS peers that ask for everything, again and again."""
        peers = []
        for _ in range(DEAF_PEERS):
            peer = context.socket(zmq.DEALER)
            peer.rcvhwm, peer.rcvbuf, peer.sndhwm = 1, 4096, 10
            peer.connect(recovery_endpoint(self.endpoint))
            peers.append(peer)
        topics = {f"v1/{kind}/cam{n}/": 0 for kind in ("alarm", "score", "status") for n in range(self.cameras)}
        questions = (
            json.dumps({"from": topics, "epoch": "first", "limit": 1000}).encode(),
            json.dumps({"snapshot": ["v1/alarm/", "v1/status/"] * 100}).encode(),
            b"{",
        )
        dice = random.Random(3)
        while not self.over.is_set():
            for peer in peers:
                with contextlib.suppress(zmq.Again):
                    peer.send_multipart([b"", dice.choice(questions)], zmq.NOBLOCK)
                    self.count("questions")
            self.over.wait(0.1)
        for peer in peers:
            peer.close(0)

    def view_and_never_read(self) -> None:
        """Pages and streams of pictures, asked for and left unread; again when they are cut off."""
        lines: list[socket.socket | None] = [None] * DEAF_VIEWERS
        names = ",".join(f"cam{n}" for n in range(self.cameras))
        paths = (f"/api/stream?rate=10&cameras={names}", "/", "/api/alarms.json", "/api/picture/cam0.jpg")
        while not self.over.is_set():
            for place, line in enumerate(lines):
                if line is not None and not _gone(line):
                    continue
                with contextlib.suppress(OSError):
                    if line is not None:
                        line.close()
                    lines[place] = line = self.connect(f"127.0.0.{40 + place % 6}")
                    path = paths[0] if place % 2 else paths[place // 2 % len(paths)]
                    line.sendall(f"GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode() * (1 if place % 2 else 20))
                    line.settimeout(0)
                    self.count("viewers")
            self.over.wait(0.2)
        for line in lines:
            if line is not None:
                line.close()

    def idle(self) -> None:
        """Connections that say nothing: before the handshake, in its middle, after it; again when they are cut off."""
        lines: list[socket.socket | None] = [None] * IDLE
        while not self.over.is_set():
            for place, line in enumerate(lines):
                if self.over.is_set():
                    break
                if line is not None and not _gone(line):
                    continue
                with contextlib.suppress(OSError):
                    if line is not None:
                        line.close()
                    lines[place] = line = self.connect(f"127.0.0.{60 + place % 5}", tls=place % 10 == 0)
                    if place % 3 == 1 and place % 10:
                        line.sendall(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03")
                    line.settimeout(0)
                    self.count("idle_connections")
            self.over.wait(0.2)
        for line in lines:
            if line is not None:
                line.close()


def _gone(line: socket.socket) -> bool:
    """Whether the other side hung up, whatever of what it sent is unread."""
    look = select.poll()
    look.register(line.fileno(), select.POLLRDHUP | select.POLLERR | select.POLLHUP)
    return bool(look.poll(0))


def run_crowd(port: int, endpoint: str, cameras: int, report: Path, seconds: float) -> None:
    """All of them for so long, then write what they did."""
    crowd = Crowd(port, endpoint, cameras, report)
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    jobs: list[Callable[[], None]] = [
        crowd.cancel_acknowledgements,
        lambda: crowd.churn(context),
        lambda: crowd.ask_and_never_read(context),
        crowd.view_and_never_read,
        crowd.idle,
    ]
    threads = [threading.Thread(target=job, daemon=True) for job in jobs]
    for thread in threads:
        thread.start()
    crowd.over.wait(seconds)
    crowd.over.set()
    for thread in threads:
        thread.join(20)
    report.write_text(json.dumps(crowd.counts), encoding="utf-8")


# -- the decent ones ------------------------------------------------------------------------------------------------


@dataclass
class Decent:
    """A listener for heartbeats, a subscriber, a viewer of pages, and one of the stream; what they felt, by phase."""

    endpoint: str
    port: int
    phase: str = "quiet"
    over: threading.Event = field(default_factory=threading.Event)
    felt: dict[str, dict[str, list[float]]] = field(default_factory=lambda: {"quiet": {}, "crowd": {}})
    refused: dict[str, int] = field(default_factory=dict)
    lost: int = 0
    failures: list[str] = field(default_factory=list)

    def note(self, name: str, value: float) -> None:
        """One measurement."""
        self.felt[self.phase].setdefault(name, []).append(value)

    def heartbeats(self) -> None:
        """Seconds between two."""
        context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        line = context.socket(zmq.SUB)
        line.connect(self.endpoint)
        line.subscribe("v1/heartbeat/")
        last_s: float | None = None
        while not self.over.is_set():
            if line.poll(100):
                line.recv_multipart()
                now_s = time.monotonic()
                if last_s is not None:
                    self.note("heartbeat_gap_s", now_s - last_s)
                last_s = now_s
        if last_s is not None:  # one that never came counts as well
            self.note("heartbeat_gap_s", time.monotonic() - last_s)
        context.destroy(0)

    def subscribe(self) -> None:
        """Milliseconds from an event's emission to its arrival."""
        with Subscriber(self.endpoint, kinds=("alarm", "status", "score")) as subscriber:
            while not self.over.is_set():
                message = subscriber.receive(0.1)
                if message is not None and not message.replayed:
                    emitted_s = datetime.fromisoformat(message.body["emitted_utc"]).timestamp()
                    self.note("event_ms", (time.time() - emitted_s) * 1e3)
            self.lost = subscriber.lost

    def view(self) -> None:
        """Milliseconds of a request, each over a new connection."""
        paths = ("/api/run", "/api/alarms", "/api/picture/cam1.jpg", "/livez")
        number = 0
        while not self.over.wait(0.1):
            begun_s = time.monotonic()
            path = paths[number % len(paths)]
            number += 1
            line = http.client.HTTPSConnection("127.0.0.1", self.port, timeout=10, context=_context())
            try:
                line.request("GET", path)
                reply = line.getresponse()
                reply.read()
                if reply.status != 200:
                    self._refused(str(reply.status))
                self.note("request_ms", (time.monotonic() - begun_s) * 1e3)
            except (OSError, http.client.HTTPException) as error:
                self._refused(type(error).__name__)
            finally:
                line.close()

    def _refused(self, why: str) -> None:
        if self.phase == "crowd" and not self.over.is_set():
            self.refused[why] = self.refused.get(why, 0) + 1

    def stream(self) -> None:
        """Milliseconds between two messages of the live stream."""
        while not self.over.is_set():
            line = http.client.HTTPSConnection("127.0.0.1", self.port, timeout=10, context=_context())
            try:
                line.request("GET", "/api/stream?rate=5&cameras=cam0")
                reply, last_s = line.getresponse(), time.monotonic()
                while not self.over.is_set() and (text := reply.readline()):
                    if text.startswith(b"event:"):
                        self.note("stream_gap_ms", (time.monotonic() - last_s) * 1e3)
                        last_s = time.monotonic()
            except (OSError, http.client.HTTPException) as error:
                self._refused(f"stream {type(error).__name__}")
            finally:
                line.close()
            if not self.over.wait(0.1):
                self._refused("stream ended")

    def guarded(self, job: Callable[[], None]) -> Callable[[], None]:
        """Whatever a job raises is a finding."""

        def run() -> None:
            try:
                job()
            except Exception as error:
                self.failures.append(f"{type(error).__name__}: {error}")

        return run


def _figures(felt: dict[str, list[float]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, values in felt.items():
        if name == "heartbeat_gap_s":
            found["largest_heartbeat_gap_s"] = round(max(values), 2)
        else:
            p50, p95 = np.percentile(values, (50, 95))
            found[name] = {
                "p50": round(float(p50), 1),
                "p95": round(float(p95), 1),
                "max": round(max(values), 1),
                "n": len(values),
            }
    return found


def strangers(folder: Path, seconds: float, cameras: int = 8) -> dict[str, Any]:
    """`seconds` of all strangers at once, after some quiet ones."""
    try:
        cert, key = make_certificate(folder)
    except OSError as error:
        return {"passed": None, "not_done": str(error)}
    watch = Watch(folder, free_endpoint(), cameras=cameras, cert=cert, key=key)
    process = start(run_watched, watch)
    port = port_of(watch, process)
    decent = Decent(watch.endpoint, port)
    jobs = (decent.heartbeats, decent.subscribe, decent.view, decent.stream)
    threads = [threading.Thread(target=decent.guarded(job), daemon=True) for job in jobs]
    watched = psutil.Process(process.pid)
    samples: list[int] = []
    try:
        time.sleep(5.0)  # until alarms have come
        for thread in threads:
            thread.start()
        time.sleep(QUIET_S)
        decent.phase, report = "crowd", folder / "crowd.json"
        crowd = start(run_crowd, port, watch.endpoint, cameras, report, seconds)
        end_s = time.monotonic() + seconds
        while time.monotonic() < end_s:
            time.sleep(1.0)
            samples.append(watched.memory_info().rss)
            descriptors = watched.num_fds()
        crowd.join(60)
    finally:
        decent.over.set()
        for thread in threads:
            thread.join(20)
        code = kill(process, 15, 30.0)
    third = max(1, len(samples) // 3)
    slope = float(np.polyfit(np.arange(len(samples) - third) / 60, np.array(samples[third:]) / 1e6, 1)[0])
    figures = {phase: _figures(felt) for phase, felt in decent.felt.items()}
    gap_s = figures["crowd"].get("largest_heartbeat_gap_s", float("inf"))
    done = json.loads(report.read_text(encoding="utf-8")) if report.exists() else {}
    kinds = ("acknowledgements_cancelled", "prefixes", "questions", "viewers", "idle_connections")
    good = gap_s < MOST_GAP_S and code == 0 and not decent.lost and not decent.failures and not decent.refused
    return {
        "seconds": seconds,
        "strangers": done,
        "largest_heartbeat_gap_s": gap_s,
        **{f"decent_{phase}": values for phase, values in figures.items()},
        "decent_refused": decent.refused,
        "lost_by_count": decent.lost,
        "crashes": len(decent.failures),
        "failures": decent.failures[:3],
        "rss_mb": [round(rss / 1e6) for rss in samples[:: max(1, len(samples) // 12)]],
        "rss_mb_a_minute": round(slope, 2),
        "descriptors": descriptors,
        "exit_code": code,
        "passed": good and all(done.get(kind) for kind in kinds),
    }
