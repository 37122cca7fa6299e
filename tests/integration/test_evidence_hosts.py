"""Clips of cameras that are read in a process of their own: only messages cross; its death leaves what it wrote."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest
from evidence_rig import WAIT_S, Deadline
from video_rig import make_video, read_back

from stream_detector.capture.host import CameraTask
from stream_detector.capture.host_pool import HostPool
from stream_detector.capture.picture import make_views
from stream_detector.config import build_config
from stream_detector.evidence.messages import FileWritten, Report
from stream_detector.evidence.recorder import RECORDER
from stream_detector.evidence.writer import EvidenceWriter
from stream_detector.models.recipe import Recipe
from stream_detector.testing import FakeClock
from stream_detector.types import CameraStatus, Preview, Window

pytestmark = [
    pytest.mark.integration,
    pytest.mark.skipif(not hasattr(os, "memfd_create"), reason="capture hosts need Linux"),
]
ALARM = "a" * 32
RECIPE = Recipe("tiny", (16, 24), (0.0, 0.0, 0.0), (1.0, 1.0, 1.0), 1.0, fps=1e6)  # takes every frame


class Hosts:
    """One capture process that plays a file, and an alarm from its second 8 to its second 11."""

    def __init__(self, folder: Path, source: Path, stop_at_s: float = 1e9) -> None:
        self.reports: list[Report | None] = []
        self.errors: list[Exception] = []
        self.begun = threading.Event()
        self._stop_at_s, self._go_on = stop_at_s, threading.Event()
        self._open = self._closed = False
        config = build_config(
            {
                "cameras": {"gate": {"source": str(source)}},
                "capture": {"hosts": 1},
                "pace": "max",
                "evidence": {"directory": folder, "pre_s": 3, "post_s": 2},
            }
        )
        self.writer = EvidenceWriter(config, clock=FakeClock(), on_error=lambda text: None)
        self.pool = HostPool(
            config,
            partial(make_views, recipe=RECIPE),
            RECIPE.fps,
            self,
            recipe=RECIPE,
            taps_name=RECORDER,
            on_kept=self._report,
        )
        self.writer.send_to(self.pool.command)
        self.clip, self.snapshot = map(Path, self.writer.paths("gate", ALARM))
        self.pool.assign(CameraTask(config.cameras[0], 16, keep=True))

    def _report(self, report: Report | None) -> None:
        self.reports.append(report)
        self.writer.report(report)

    def window(self, window: Window) -> None:
        end_s = window.ref.end_s
        if end_s >= 9.0 and not self._open:
            self._open = True
            self.writer.start("gate", ALARM, end_s, 0.6, 8.0)
        elif end_s >= 11.0 and self._open and not self._closed:
            self._closed = True
            self.writer.end("gate", ALARM, 11.0)
        elif self._open and not self._closed:
            self.writer.peak("gate", ALARM, end_s, 0.7)
        if end_s >= self._stop_at_s:
            self.begun.set()
            self._go_on.wait(WAIT_S)
        if window.release is not None:
            window.release()

    def let_go(self) -> None:
        self._go_on.set()

    def status(self, status: CameraStatus) -> None:
        pass

    def preview(self, camera: str, preview: Preview) -> None:
        pass

    def ended(self, camera: str, reason: str) -> None:
        pass

    def failed(self, error: Exception) -> None:
        self.errors.append(error)

    def close(self) -> None:
        self.let_go()
        self.pool.stop()
        assert self.pool.join(10.0)
        assert self.writer.close(WAIT_S)


@pytest.fixture
def source(tmp_path: Path) -> Iterator[Path]:
    path = tmp_path / "a.mp4"
    make_video(path, 18)
    yield path


def test_a_clip_is_written_by_the_capture_process(source: Path, tmp_path: Path) -> None:
    hosts = Hosts(tmp_path / "evidence", source)
    try:
        deadline = Deadline()
        while not hosts.clip.exists():
            deadline.check()
        assert hosts.pool.finish_files(20.0)
        times, seconds = read_back(hosts.clip)
        assert times[-1] - times[0] == pytest.approx(3 + 3 + 2, abs=1.1) and seconds[0] in (4, 5)
        assert hosts.snapshot.exists() and not hosts.errors
        assert any(isinstance(report, FileWritten) for report in hosts.reports)
    finally:
        hosts.close()


def test_a_capture_process_killed_in_an_alarm_leaves_what_it_wrote(source: Path, tmp_path: Path) -> None:
    hosts = Hosts(tmp_path / "evidence", source, stop_at_s=10.8)
    try:
        assert hosts.begun.wait(WAIT_S)
        deadline = Deadline()
        while not any(part.stat().st_size > 5000 for part in hosts.clip.parent.glob(".*.part.mp4")):
            deadline.check()
        (pid,) = hosts.pool.pids()
        os.kill(pid, signal.SIGKILL)
        hosts.let_go()
        while not hosts.clip.exists():
            deadline.check()
        times, seconds = read_back(hosts.clip)
        assert len(times) > 25 and seconds == sorted(seconds) and None in hosts.reports
    finally:
        hosts.close()
