"""What the event tests share: made-up events, and a publisher with sockets that talk to it, all in one thread."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import zmq

from stream_detector.config import PublishConfig
from stream_detector.events import protocol
from stream_detector.events.ledger import Ledger
from stream_detector.events.publisher import Publisher
from stream_detector.testing import FakeClock
from stream_detector.types import AlarmEvent, CameraStatus, Decision, EventWindow, Score, Timing, WindowRef

EPOCH = "0123456789abcdef"
DEADLINE_S = 30.0


def an_event(**changes: Any) -> AlarmEvent:
    values: dict[str, Any] = {
        "id": "a" * 32,
        "camera": "gate",
        "type": "start",
        "reason": None,
        "start_s": 1.28,
        "end_s": None,
        "start_utc": 1_700_000_000.1234,
        "peak_score": 0.91,
        "score": 0.9,
        "threshold": 0.6,
        "bundle": "f" * 64,
        "windows": (EventWindow(16, 31, 0.9, 0.8),),
        "degraded": ("gap",),
        "timing": Timing(1.0, 2.0, 3.0, 4.0, 0.5, 0.1),
    }
    return AlarmEvent(**{**values, **changes})


def a_decision(camera: str = "gate", index: int = 0) -> Decision:
    ref = WindowRef(camera, "a.mp4", index, 16 * index, 16 * index + 15, 0.0, 0.6, 1.0, 2.0, 1.0)
    return Decision(Score(ref, 0.5, 1.1, Timing(1, 2, 3, 4)), 0.4, False)


def online(camera: str = "gate") -> CameraStatus:
    return CameraStatus(camera, "rtsp://u:secret@h/x", "online")


class Bench:
    """One publisher with its journal, and plain sockets that talk to it; all in one thread."""

    def __init__(self, folder: Path, **options: Any) -> None:
        self.folder = folder
        self.clock = FakeClock()
        self.context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self.sockets: list[zmq.Socket[bytes]] = []
        self.start(**options)

    def start(self, **options: Any) -> None:
        self.ledger = Ledger(self.folder / "l.sqlite3", clock=self.clock, on_problem=lambda text: None)
        events, local_writes = options.pop("events_path", None), options.pop("local_writes", False)
        config = PublishConfig(**{"bind": "tcp://127.0.0.1:*", "linger_ms": 0, **options})
        self.publisher = Publisher(
            config,
            self.ledger,
            clock=self.clock,
            events_path=events,
            camera_names=["gate", "yard"],
            local_writes=local_writes,
        )

    def stop(self) -> None:
        self.publisher.close()
        self.ledger.close()

    def close(self) -> None:
        self.stop()
        for socket in self.sockets:
            socket.close(0)
        self.context.term()

    def socket(self, kind: int, **keys: Any) -> zmq.Socket[bytes]:
        socket = self.context.socket(kind)
        self.sockets.append(socket)
        for name, value in keys.items():
            setattr(socket, name, value)
        socket.connect(self.publisher.endpoint if kind == zmq.SUB else self.publisher.recovery_endpoint)
        return socket

    def subscriber(self, *prefixes: str, **keys: Any) -> zmq.Socket[bytes]:
        socket = self.socket(zmq.SUB, **keys)
        for prefix in prefixes:
            socket.subscribe(prefix)
        return socket

    def until(self, condition: Callable[[], Any]) -> Any:
        """Serve until `condition` gives something true; fails after a deadline."""
        end = time.monotonic() + DEADLINE_S
        while time.monotonic() < end:
            self.publisher.service()
            result = condition()
            if result:
                return result
        raise AssertionError("it did not come in time")

    def tick(self, seconds: float) -> bool:
        """Let the fake time go by; False, for use in a condition."""
        self.clock.advance(seconds)
        return False

    def next(self, socket: zmq.Socket[bytes]) -> tuple[str, dict[str, Any]]:
        self.until(lambda: socket.poll(1))
        topic, body = socket.recv_multipart()
        loaded: dict[str, Any] = json.loads(body)
        return topic.decode(), loaded

    def joined(self, *prefixes: str, **keys: Any) -> zmq.Socket[bytes]:
        """A subscriber that is surely connected: it has heard a heartbeat."""
        socket = self.subscriber(protocol.HEARTBEAT_TOPIC, *prefixes, **keys)

        def heard() -> bool:
            self.clock.advance(1.0)
            return bool(socket.poll(5))

        self.until(heard)
        while socket.poll(50):
            socket.recv_multipart()
        socket.unsubscribe(protocol.HEARTBEAT_TOPIC)
        return socket

    def ask(self, socket: zmq.Socket[bytes], request: object) -> dict[str, Any]:
        socket.send(request if isinstance(request, bytes) else json.dumps(request).encode())
        self.until(lambda: socket.poll(1))
        loaded: dict[str, Any] = json.loads(socket.recv())
        return loaded


MakeBench = Callable[..., Bench]
