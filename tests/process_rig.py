"""Real processes of the command line, with modules that stand in for heavy ones and wait when they are imported."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).parents[1]
DEADLINE_S = 90.0

# Says that it is being imported, waits in Python code until the file `go` is there, then gives way to the real module.
_WAITING_MODULE = """
import os, pathlib, sys, threading
os.write(2, b"importing\\n")  # a signal in the middle of a print would have it printed twice
pause = threading.Event()
while not pathlib.Path({go!r}).exists():
    pause.wait(0.01)
sys.path.remove({folder!r})
del sys.modules[__name__]
__import__(__name__)
"""


class Process:
    """One command, its standard error read line by line as it comes."""

    def __init__(
        self, *arguments: str, cwd: Path, path: Path | None = None, env: dict[str, str] | None = None, **options: object
    ) -> None:
        """path: a folder whose modules come before the real ones."""
        paths = [str(p) for p in (path, ROOT) if p]
        environment = os.environ | {"PYTHONPATH": os.pathsep.join(paths), "COLUMNS": "120"} | (env or {})
        self.popen = subprocess.Popen(
            [sys.executable, *arguments],
            cwd=cwd,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            encoding="utf-8",
            errors="backslashreplace",
            **options,  # type: ignore[call-overload]
        )
        self.lines: list[str] = []
        self.out = ""
        self._more = threading.Condition()
        self._over = False
        self._threads = [threading.Thread(target=self._read), threading.Thread(target=self._read_out)]
        for thread in self._threads:
            thread.start()

    def _read(self) -> None:
        assert self.popen.stderr is not None
        for line in self.popen.stderr:
            with self._more:
                self.lines.append(line.rstrip("\n"))
                self._more.notify_all()
        with self._more:
            self._over = True
            self._more.notify_all()

    def _read_out(self) -> None:
        assert self.popen.stdout is not None
        self.out = self.popen.stdout.read()

    @property
    def err(self) -> str:
        """Standard error so far."""
        return "\n".join(self.lines)

    def when(self, wanted: Callable[[list[str]], bool], what: str) -> None:
        """Wait until `wanted` holds of the lines of standard error."""
        with self._more:
            done = self._more.wait_for(lambda: wanted(self.lines) or self._over, DEADLINE_S)
            good = done and wanted(self.lines)
        if not good:
            self.kill()
            raise AssertionError(f"{what} did not come\n{self.out}\n{self.err}")

    def line(self, words: str) -> None:
        """Wait for a line with these words."""
        self.when(lambda lines: any(words in line for line in lines), words)

    def end(self, number: int = 0) -> int:
        """Send a signal, if one is given, and wait for the end; the exit code."""
        if number:
            self.popen.send_signal(number)
        try:
            code = self.popen.wait(DEADLINE_S)
        except subprocess.TimeoutExpired:
            self.kill()
            raise AssertionError(f"the process hangs\n{self.out}\n{self.err}") from None
        self._join()
        return code

    def kill(self) -> None:
        """End it in any case."""
        if self.popen.poll() is None:
            self.popen.kill()
        self.popen.wait(DEADLINE_S)
        self._join()

    def _join(self) -> None:
        for thread in self._threads:
            thread.join(DEADLINE_S)
        for stream in (self.popen.stdout, self.popen.stderr):
            if stream is not None:
                stream.close()


def waiting_module(folder: Path, name: str, go: Path) -> Path:
    """A folder with a module `name` that waits for the file `go`."""
    folder.mkdir(exist_ok=True)
    (folder / f"{name}.py").write_text(_WAITING_MODULE.format(go=str(go), folder=str(folder)), encoding="utf-8")
    return folder
