"""A recorder and the decision side of evidence in a folder; packets come from files that `video_rig` made."""

from __future__ import annotations

import threading
import time
from pathlib import Path
from typing import Any

from video_rig import fill

from stream_detector.config import CameraConfig, Config, build_config
from stream_detector.evidence.messages import Report
from stream_detector.evidence.recorder import ClipRecorder
from stream_detector.evidence.writer import EvidenceWriter
from stream_detector.testing import FakeClock

ID_1, ID_2 = "1" * 32, "2" * 32
WAIT_S = 30.0


class Rig:
    """A recorder and the decision side in a folder, with what they complained about."""

    def __init__(self, folder: Path, epoch: str = "", **settings: Any) -> None:
        self.folder = folder
        self.errors: list[str] = []
        self.losses: list[tuple[str, int]] = []
        self.reports: list[Report] = []
        self.connections: dict[str, Any] = {}
        self.clock = FakeClock()
        camera = settings.pop("camera", {})
        more = settings.pop("more", {})
        evidence = {"directory": folder, "pre_s": 3, "post_s": 2, **settings}
        cameras = {name: {"source": f"rtsp://host/{name}", **camera} for name in ("gate", "yard")}
        self.config: Config = build_config({"evidence": evidence, "cameras": cameras, **more})
        self.writer = EvidenceWriter(
            self.config,
            clock=self.clock,
            epoch=epoch,
            on_error=self.errors.append,
            on_loss=lambda *lost: self.losses.append(lost),
        )
        self.recorder = ClipRecorder(self.config, clock=self.clock, report=self._report)
        self.writer.send_to(self.recorder.command)

    def _report(self, report: Report) -> None:
        self.reports.append(report)
        self.writer.report(report)

    def camera(self, name: str = "gate") -> CameraConfig:
        return next(camera for camera in self.config.cameras if camera.name == name)

    def tap(self, name: str = "gate", main: bool = False) -> Any:
        return self.recorder.tap(self.camera(name), main)

    def fill(self, path: Path, name: str = "gate", shift_s: float = 0.0) -> None:
        tap = self.tap(name)
        tap.ring._keep_s = 1000.0  # all of it is there before the alarm is asked for
        self.connections[name] = fill(tap.ring, path, shift_s=shift_s, connection=tap.connection())

    def fill_main(self, path: Path, name: str = "gate") -> None:
        """All packets of a file, as the main stream of a camera."""
        tap = self.tap(name, main=True)
        tap.ring._keep_s = 1000.0
        fill(tap.ring, path, connection=tap.connection())

    def clip(self, alarm_id: str = ID_1, name: str = "gate") -> Path:
        return Path(self.writer.paths(name, alarm_id)[0])

    def snapshot(self, alarm_id: str = ID_1, name: str = "gate") -> Path:
        return Path(self.writer.paths(name, alarm_id)[1])

    def alarm(self, begins_s: float, end_s: float, alarm_id: str = ID_1, name: str = "gate") -> None:
        self.writer.start(name, alarm_id, begins_s + 1.0, 0.6, begins_s)
        self.writer.end(name, alarm_id, end_s)

    def close(self) -> None:
        assert self.recorder.close(WAIT_S)
        assert self.writer.close(WAIT_S)


class Deadline:
    """Polls until WAIT_S are over."""

    def __init__(self) -> None:
        self._pause, self._now = threading.Event(), time.monotonic
        self._end_s = self._now() + WAIT_S

    def check(self) -> None:
        assert self._now() < self._end_s, "not in time"
        self._pause.wait(0.02)
