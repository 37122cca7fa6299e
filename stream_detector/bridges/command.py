"""Command: runs a program for each notice, with the event on its standard input; bounded in time, number and rate."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
from collections import deque
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field

from stream_detector.bridges.kinds import DELIVER, Admission, DeliveryError, Target, TargetContext, TargetSettings
from stream_detector.bridges.notice import Notice
from stream_detector.errors import ConfigError
from stream_detector.events.protocol import encode

_KEPT = ("PATH", "HOME", "LANG", "LC_ALL", "TZ", "TMPDIR", "USER", "LOGNAME")


class CommandSettings(TargetSettings):
    """`[command.NAME]`."""

    argv: Annotated[tuple[str, ...], Field(min_length=1, max_length=64)]  # the program and its arguments; no shell
    pass_environment: tuple[str, ...] = ()  # variables of the environment that the program gets besides the usual ones
    muted: bool = False  # also run for muted alarms
    max_per_minute: Annotated[int, Field(ge=1, le=6000)] = 60  # further notices wait


class Command(Target):
    """One program."""

    Settings = CommandSettings

    def __init__(self, settings: CommandSettings, context: TargetContext) -> None:
        super().__init__(settings, context)
        self._given = settings
        self._starts: deque[float] = deque()
        program = settings.argv[0]
        found = shutil.which(program)
        if found is None:
            raise ConfigError("argv names a program that does not exist or may not be run; correct it")
        self._argv = [str(Path(found).absolute()), *settings.argv[1:]]

    def wants(self, notice: Notice) -> bool:
        """A muted alarm starts no program unless `muted` is set."""
        return super().wants(notice) and (self._given.muted or notice.for_people)

    def admit(self, notice: Notice) -> Admission:
        """Let the notice wait if `max_per_minute` is used up."""
        now_s = self.context.clock.monotonic()
        while self._starts and now_s - self._starts[0] >= 60.0:
            self._starts.popleft()
        if len(self._starts) >= self._given.max_per_minute:
            left_s = max(0.1, 60.0 - (now_s - self._starts[0]))
            return Admission("wait", self.context.clock.utc() + left_s)
        self._starts.append(now_s)
        return DELIVER

    def environment(self, notice: Notice) -> dict[str, str]:
        """Return the program's environment. The bridge's own variables are passed only if harmless: others may hold
        secrets.
        """
        names = {*_KEPT, *self._given.pass_environment}
        kept = {name: value for name, value in os.environ.items() if name in names}
        evidence = self.context.evidence
        values = {
            "SD_KEY": notice.key,
            "SD_KIND": notice.kind,
            "SD_WHAT": notice.what,
            "SD_CAMERA": notice.camera,
            "SD_SEVERITY": notice.severity,
            "SD_ID": str(notice.body.get("id") or ""),
            "SD_SNAPSHOT": str(evidence.named(notice, "snapshot") or ""),
            "SD_CLIP": str(evidence.named(notice, "clip") or ""),
            "SD_ATTEMPT": str(notice.attempts + 1),
        }
        return kept | {name: value.replace("\0", "") for name, value in values.items()}

    def deliver(self, notice: Notice) -> Mapping[str, Any]:
        """Run the program; exit code 0 is success, 75 (EX_TEMPFAIL) means "later". Raises DeliveryError."""
        try:
            process = subprocess.Popen(
                self._argv,
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                env=self.environment(notice),
                start_new_session=True,
            )
        except OSError as error:
            raise DeliveryError("unreachable", f"the program cannot be started ({error.strerror})") from None
        try:
            process.communicate(encode(notice.body) + b"\n", self._given.timeout_s)
        except subprocess.TimeoutExpired:
            raise DeliveryError("failed", f"the program ran longer than {self._given.timeout_s:g} s") from None
        finally:
            _end(process)
        if process.returncode == 75:
            raise DeliveryError("unreachable", "the program returned exit code 75 (try again later)")
        if process.returncode:
            raise DeliveryError("failed", f"the program ended with exit code {process.returncode}")
        return {}


def _end(process: subprocess.Popen[bytes]) -> None:
    """Kill the rest of the program's process group."""
    if process.poll() is None:
        try:
            os.killpg(process.pid, signal.SIGKILL)
        except (ProcessLookupError, PermissionError):
            process.kill()
    if process.stdin is not None:
        with contextlib.suppress(OSError):
            process.stdin.close()
    process.wait()
