"""`run --bridge KIND`: starts a bridge process for each kind, and starts it again when it ends.

If the detector is killed, its bridges report that it is silent, then end (`--with-detector`). The bridges of the next
run wait until the old ones have ended.
"""

from __future__ import annotations

import contextlib
import logging
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

log = logging.getLogger(__name__)

_FIRST_S, _MOST_S = 0.5, 30.0
_GOOD_S = 60.0  # after a run of this length the wait before a restart is the shortest again
STOP_S = 8.0


@dataclass(slots=True)
class _Child:
    kind: str
    process: subprocess.Popen[bytes] | None = None
    began_s: float = 0.0
    due_s: float = 0.0
    wait_s: float = field(default=_FIRST_S)
    starts: int = 0


class BridgeSupervisor:
    """kinds: of bridges, one process each.  config: bridges.toml.  endpoint: of this run's publisher.

    A context manager; on exit the bridges deliver pending notices for some seconds, and end.
    """

    def __init__(self, kinds: Sequence[str], config: Path, endpoint: str) -> None:
        self._children = [_Child(kind) for kind in dict.fromkeys(kinds)]
        self._config, self._endpoint = config, endpoint
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, name="bridges", daemon=True)

    def __enter__(self) -> BridgeSupervisor:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join(STOP_S)
        end_s = time.monotonic() + STOP_S
        for child in self._children:
            if child.process is not None and child.process.poll() is None:
                child.process.terminate()
        for child in self._children:
            self._end(child, max(0.1, end_s - time.monotonic()))

    @property
    def pids(self) -> dict[str, int]:
        """kind → process id, of the running ones."""
        return {c.kind: c.process.pid for c in self._children if c.process is not None and c.process.poll() is None}

    def command(self, kind: str) -> list[str]:
        """The command line of a bridge process."""
        return [
            *(sys.executable, "-m", "stream_detector", "bridge", kind),
            *("--config", str(self._config), "--endpoint", self._endpoint, "--with-detector"),
        ]

    def _run(self) -> None:
        while not self._over.is_set():
            now_s = time.monotonic()
            for child in self._children:
                self._look(child, now_s)
            self._over.wait(0.2)

    def _look(self, child: _Child, now_s: float) -> None:
        if child.process is not None:
            code = child.process.poll()
            if code is None:
                return
            child.wait_s = _FIRST_S if now_s - child.began_s > _GOOD_S else min(_MOST_S, 2 * child.wait_s)
            log.warning("bridge %s ended with exit code %d; it is started again", child.kind, code)
            self._end(child, 0.1)
            child.due_s = now_s + child.wait_s
        if now_s >= child.due_s:
            child.began_s, child.starts = now_s, child.starts + 1
            try:
                child.process = subprocess.Popen(self.command(child.kind), stdin=subprocess.PIPE)
            except OSError as error:
                log.error("bridge %s cannot be started (%s)", child.kind, error.strerror)
                child.due_s = now_s + _MOST_S

    @staticmethod
    def _end(child: _Child, timeout_s: float) -> None:
        process, child.process = child.process, None
        if process is None:
            return
        try:
            process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        if process.stdin is not None:
            with contextlib.suppress(OSError):
                process.stdin.close()
