"""Reports to systemd that the service is ready, alive or stopping: `sd_notify(3)` over a datagram socket.

Without NOTIFY_SOCKET all calls do nothing. Watchdog: systemd restarts the service if no `alive` arrives within
WatchdogSec; call it from the thread whose hang should be detected, every `watchdog_s` seconds.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping


class Notifier:
    """A connection to the service manager. environ: the variables NOTIFY_SOCKET and WATCHDOG_*.

    watchdog_s: interval of `alive`, in seconds (a third of systemd's limit); 0.0 without a watchdog.
    """

    def __init__(self, environ: Mapping[str, str] = os.environ) -> None:
        self._address = environ.get("NOTIFY_SOCKET", "")
        self.watchdog_s = 0.0
        microseconds = environ.get("WATCHDOG_USEC", "")
        ours = environ.get("WATCHDOG_PID", "") in ("", str(os.getpid()))
        if self._address and ours and microseconds.isdecimal():
            self.watchdog_s = int(microseconds) / 3e6

    @property
    def active(self) -> bool:
        """Whether a service manager listens."""
        return bool(self._address)

    def ready(self, status: str = "") -> None:
        """Report that the service has started: sockets are bound, cameras are being opened."""
        self._send("READY=1", status)

    def alive(self, status: str = "") -> None:
        """Send a sign of life for the watchdog."""
        self._send("WATCHDOG=1", status)

    def stopping(self) -> None:
        """Report that the service is ending."""
        self._send("STOPPING=1", "")

    def _send(self, state: str, status: str) -> None:
        if not self._address:
            return
        line = " ".join(status.split())[:200]  # a line break would begin another assignment
        text = f"{state}\nSTATUS={line}" if line else state
        address = "\0" + self._address[1:] if self._address.startswith("@") else self._address
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sender:
                sender.setblocking(False)
                sender.sendto(text.encode("utf-8", "replace"), address)
        except OSError:  # the service manager is busy or gone; the run continues
            return
