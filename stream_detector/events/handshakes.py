"""Counts refused connections, and logs them at most every ten seconds."""

from __future__ import annotations

import logging
from itertools import islice

import zmq
from zmq.utils.monitor import parse_monitor_message

from stream_detector.events.recovery_service import receive_ready
from stream_detector.types import Clock

log = logging.getLogger(__name__)

_LOG_INTERVAL_S = 10.0
_AT_ONCE = 2000  # the queue of a monitor must never be full, because its socket would then block
_MONITORED = (
    zmq.Event.HANDSHAKE_FAILED_AUTH | zmq.Event.HANDSHAKE_FAILED_PROTOCOL | zmq.Event.HANDSHAKE_FAILED_NO_DETAIL
)


class HandshakeMonitor:
    """Monitors handshakes on several sockets. refused: number of refused connections so far."""

    def __init__(self, clock: Clock) -> None:
        self.refused = 0
        self._clock = clock
        self._monitors: list[zmq.Socket[bytes]] = []
        self._log_s = float("-inf")

    def watch(self, socket: zmq.Socket[bytes]) -> None:
        """Watch a socket that is not bound yet."""
        self._monitors.append(socket.get_monitor_socket(_MONITORED))

    def read(self) -> None:
        """Read the events of the monitors. Never blocks."""
        for monitor in self._monitors:
            for frames in islice(receive_ready(monitor, _AT_ONCE), _AT_ONCE):
                self.refused += 1
                if self._clock.monotonic() >= self._log_s:
                    self._log_s = self._clock.monotonic() + _LOG_INTERVAL_S
                    event = parse_monitor_message(frames)
                    log.warning(
                        "refused a handshake at %s (%s); %d refused so far: wrong or missing key, or not ZeroMQ",
                        event["endpoint"].decode("ascii", "replace")[:80],
                        zmq.Event(event["event"]).name,
                        self.refused,
                    )

    def close(self) -> None:
        """Close the monitors, after the sockets."""
        for monitor in self._monitors:
            monitor.close(0)
