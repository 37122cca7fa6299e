"""sd_notify over a real datagram socket."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from stream_detector.system.sd_notify import Notifier


@pytest.mark.parametrize("abstract", [False, True])
def test_states_arrive(tmp_path: Path, abstract: bool) -> None:
    name = f"@stream-detector-test-{os.getpid()}" if abstract else str(tmp_path / "n")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as receiver:
        receiver.settimeout(5)
        receiver.bind("\0" + name[1:] if abstract else name)
        notifier = Notifier({"NOTIFY_SOCKET": name, "WATCHDOG_USEC": "30000000", "WATCHDOG_PID": str(os.getpid())})
        assert notifier.active and notifier.watchdog_s == pytest.approx(10.0)
        notifier.ready("2 cameras\nEXTEND_TIMEOUT_USEC=1")
        notifier.alive()
        notifier.stopping()
        assert [receiver.recv(999) for _ in range(3)] == [
            b"READY=1\nSTATUS=2 cameras EXTEND_TIMEOUT_USEC=1",
            b"WATCHDOG=1",
            b"STOPPING=1",
        ]


def test_without_systemd_nothing_happens(tmp_path: Path) -> None:
    for environ in ({}, {"NOTIFY_SOCKET": str(tmp_path / "gone")}, {"NOTIFY_SOCKET": "", "WATCHDOG_USEC": "5"}):
        Notifier(environ).ready()
    assert not Notifier({}).active and Notifier({"WATCHDOG_USEC": "5"}).watchdog_s == 0.0
    other = {"NOTIFY_SOCKET": str(tmp_path / "gone"), "WATCHDOG_USEC": "5", "WATCHDOG_PID": "1"}
    assert Notifier(other).watchdog_s == 0.0
