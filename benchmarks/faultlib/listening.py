"""A recovering subscriber of a detector that is killed: what it received, and which alarms are open."""

from __future__ import annotations

import signal
import time

from benchmarks.faultlib.detector import Plan, kill, run_server, start
from benchmarks.faultlib.judge import Event, journalled, slim
from stream_detector.client.subscriber import Subscriber

DEADLINE_S = 60.0


class Listener:
    """Receives every event of a plan's endpoint. received: in order of arrival.  open_now: ids of open alarms."""

    def __init__(self, subscriber: Subscriber) -> None:
        self.subscriber = subscriber
        self.received: list[Event] = []
        self.open_now: set[str] = set()

    def take(self, wait_s: float) -> bool:
        """Receive one event; False when none came within `wait_s`."""
        message = self.subscriber.receive(wait_s)
        if message is None:
            return False
        event = slim(message.body)
        self.received.append(event)
        if event.type == "start":
            self.open_now.add(event.id)
        elif event.type == "end":
            self.open_now.discard(event.id)
        return True

    def complete(self, plan: Plan) -> list[Event]:
        """Fetch from a server of the journal what the stopped detector had no time to send; return the journal."""
        server = start(run_server, plan)
        written = journalled(plan.ledger)
        limit_s = time.monotonic() + DEADLINE_S
        while len(self.received) < len(written) and time.monotonic() < limit_s:
            self.take(0.1)
        while self.take(1.0):  # an event that came twice would come now
            pass
        kill(server, signal.SIGTERM)
        return written
