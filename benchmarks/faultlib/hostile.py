"""Peers that mean harm, with CURVE on: ten kinds of messages, and wrong keys; nothing reaches them, nobody notices."""

from __future__ import annotations

import random
import signal
import socket
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import zmq
from rich.progress import track

from benchmarks.faultlib.detector import Plan, free_endpoint, kill, run_pipeline, run_server, start
from benchmarks.faultlib.judge import Event, journalled, judge, passed, slim
from stream_detector.client.subscriber import Subscriber
from stream_detector.events import curve

_GREETING = b"\xff" + bytes(7) + b"\x01\x7f" + b"\x03\x00" + b"NULL".ljust(20, b"\0") + b"\x00" + bytes(31)
_READY = b"\x04\x19\x05READY"
_ASK = b'{"from":{"v1/alarm/cam0/":0}}'


class Hostile:
    """The ten kinds. Those on a raw TCP socket have no key; the others hold one that is admitted, and misuse it."""

    def __init__(self, plan: Plan, keys: Path, dice: random.Random) -> None:
        self.plan, self.keys, self.dice = plan, keys, dice
        host, port = plan.endpoint.removeprefix("tcp://").split(":")
        self.ports = [(host, int(port)), (host, int(port) + 1)]
        self.context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self.half_open: list[socket.socket] = []
        self.delivered = 0

    def kinds(self) -> dict[str, Callable[[], None]]:
        """Name → action; each sends one message, or one burst."""
        dice = self.dice
        return {
            "random bytes": lambda: self._raw(dice.randbytes(dice.randrange(1, 4000))),
            "http": lambda: self._raw(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n" * 20),
            "greeting, then garbage": lambda: self._raw(_GREETING + dice.randbytes(200)),
            "greeting without a key, then a request": lambda: self._raw(_GREETING + _READY + b"\x00\x1d" + _ASK),
            "frame of 2^62 bytes": lambda: self._raw(_GREETING + b"\x02" + (1 << 62).to_bytes(8, "big") + bytes(5000)),
            "half-open connection": self._connect_only,
            "plain subscriber without a key": self._no_key,
            "garbage request with a key": lambda: self._ask([dice.randbytes(dice.randrange(0, 2000))]),
            "huge request with a key": lambda: self._ask([b"[" * 70_000], [b'{"from":' * 200_000]),
            "flood of requests with a key": lambda: self._ask(*[[_ASK]] * 300),
        }

    def _raw(self, data: bytes) -> None:
        with suppress(OSError), socket.create_connection(self.dice.choice(self.ports), timeout=2.0) as peer:
            peer.settimeout(0.05)
            peer.sendall(data)
            with suppress(TimeoutError):
                while got := peer.recv(65536):
                    self.delivered += b"stream-detector" in got

    def _connect_only(self) -> None:
        with suppress(OSError):
            self.half_open.append(socket.create_connection(self.dice.choice(self.ports), timeout=2.0))

    def _no_key(self) -> None:
        self._plain({})

    def wrong_key(self) -> None:
        """A client with a key pair of its own making."""
        public, secret = zmq.curve_keypair()
        server = curve.load_public(self.keys / "server.key")
        self._plain({"curve_publickey": public, "curve_secretkey": secret, "curve_serverkey": server})

    def _plain(self, options: dict[str, bytes]) -> None:
        with self.context.socket(zmq.SUB) as events, self.context.socket(zmq.DEALER) as recovery:
            for peer, endpoint in ((events, 0), (recovery, 1)):
                peer.linger = 0
                for name, value in options.items():
                    setattr(peer, name, value)
                peer.connect("tcp://{}:{}".format(*self.ports[endpoint]))
            events.subscribe("")
            recovery.send(_ASK)
            self.delivered += bool(events.poll(60)) + bool(recovery.poll(20))

    def _ask(self, *messages: list[bytes]) -> None:
        pair = curve.load_pair(self.keys / "mallory.key_secret")
        with self.context.socket(zmq.DEALER) as peer:
            peer.linger = 50
            peer.curve_publickey, peer.curve_secretkey = pair.public, pair.secret
            peer.curve_serverkey = curve.load_public(self.keys / "server.key")
            peer.connect("tcp://{}:{}".format(*self.ports[1]))
            for message in messages:
                peer.send_multipart(message)
            peer.poll(30)  # and its answers are left unread

    def close(self) -> None:
        """Let go of everything."""
        for peer in self.half_open:
            peer.close()
        self.context.destroy(0)


def hostile(folder: Path, messages: int, wrong_keys: int, seed: int) -> dict[str, Any]:
    """`messages` of ten kinds and `wrong_keys` keys against one detector, while an honest subscriber listens."""
    dice = random.Random(seed)
    keys = folder / "keys"
    for name in ("server", "alice", "mallory"):
        curve.new_pair(keys, name)
    allowed = keys / "allowed"
    allowed.mkdir()
    for name in ("alice", "mallory"):
        (keys / f"{name}.key").rename(allowed / f"{name}.key")
    plan = Plan(
        free_endpoint(), folder / "ledger.sqlite3", curve_secret=keys / "server.key_secret", curve_clients=allowed
    )
    events: list[Event] = []
    process = start(run_pipeline, plan)
    watched = psutil.Process(process.pid)
    peers = Hostile(plan, keys, dice)
    kinds = peers.kinds()
    honest = Subscriber(
        plan.endpoint,
        from_start=True,
        keys=curve.load_pair(keys / "alice.key_secret"),
        server_key=curve.load_public(keys / "server.key"),
    )

    def listen(seconds: float) -> int:
        before, end_s = len(events), time.monotonic() + seconds
        while (left_s := end_s - time.monotonic()) > 0:
            message = honest.receive(left_s)
            if message is not None:
                events.append(slim(message.body))
        return len(events) - before

    try:
        listen(8.0)  # imports, first allocations
        calm = [listen(1.0) for _ in range(8)]
        memory_mb = [watched.memory_info().rss / 1e6]
        todo = [name for name in kinds for _ in range(messages // len(kinds))] + ["wrong key"] * wrong_keys
        dice.shuffle(todo)
        troubled, sent = [], Counter(todo)
        second_s, count = time.monotonic(), 0
        for name in track(todo, description="hostile peers", transient=True):
            (peers.wrong_key if name == "wrong key" else kinds[name])()
            count += listen(0.01)
            if time.monotonic() - second_s >= 1.0:
                troubled.append(count / (time.monotonic() - second_s))
                second_s, count = time.monotonic(), 0
        memory_mb.append(watched.memory_info().rss / 1e6)
        listen(6.0)  # handshakes that never came are given up after 5 s
        memory_mb.append(watched.memory_info().rss / 1e6)
        alive = process.exitcode is None
        code = kill(process, signal.SIGTERM)
        written = journalled(plan.ledger)
        server = start(run_server, plan)
        end_s = time.monotonic() + 30.0
        while len(events) < len(written) and time.monotonic() < end_s:
            listen(0.1)
        kill(server, signal.SIGTERM)
    finally:
        peers.close()
        honest.close()
    counts = judge(events, written)
    growth_mb = max(memory_mb) - memory_mb[0]
    good = passed(counts) and peers.delivered == 0 and growth_mb < 20 and alive and code == 0 and honest.lost == 0
    return {
        **counts,
        "sent": dict(sorted(sent.items())),
        "delivered_to_them": peers.delivered,
        "memory_mb": [round(value, 1) for value in memory_mb],
        "memory_growth_mb": round(growth_mb, 1),
        "honest_events_per_s": {"calm": float(np.median(calm)), "under_attack": round(float(np.median(troubled)), 1)},
        "exit_code": code,
        "passed": good,
    }
