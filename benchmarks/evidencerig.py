"""One measured run of cameras whose packets are kept, in a process of its own; no network scores them.

python -m benchmarks.evidencerig '{"mode": "alarm", "cameras": 16, "sub": …}'    → JSON on standard output

plain     cameras are read, nothing is kept
kept      their packets go into rings
alarm     every camera is in alarm all the time: clips of 10 s and snapshots, one after another
main      main streams are read into rings beside the cameras
record    main streams are recorded in segments beside the cameras
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import psutil

from benchmarks.clipcam import address
from stream_detector.capture.host import CameraTask, CaptureHost
from stream_detector.capture.picture import make_views
from stream_detector.config import CameraConfig, Config, build_config
from stream_detector.evidence.messages import EvidenceProblem, FileWritten, PacketsLost, Report
from stream_detector.evidence.recorder import ClipRecorder
from stream_detector.evidence.writer import EvidenceWriter
from stream_detector.models.bundle import Bundle
from stream_detector.types import CameraStatus, Preview, SystemClock, Window

ROOT = Path(__file__).parents[1]
MODES = ("plain", "kept", "alarm", "main", "record")
ALARM_S = 10.0


@dataclass(frozen=True)
class Spec:
    """What to run. sub, main: H.264 files that are played as cameras.  seconds: measured, after settle_s."""

    mode: str
    cameras: int
    sub: str
    main: str
    seconds: float = 30.0
    settle_s: float = 8.0


class Alarms:
    """Implements `host.HostOutput`: as the decision side of a camera that is in alarm all the time."""

    def __init__(self, evidence: EvidenceWriter | None) -> None:
        self.windows = 0
        self._evidence = evidence
        self._open: dict[str, tuple[str, float]] = {}
        self._count = 0
        self._lock = threading.Lock()

    def window(self, window: Window) -> None:
        camera, end_s = window.ref.camera, window.ref.end_s
        with self._lock:
            self.windows += 1
            if self._evidence is None:
                return
            alarm_id, begun_s = self._open.get(camera, ("", 0.0))
            if not alarm_id:
                self._count += 1
                alarm_id = f"{self._count:032x}"
                self._open[camera] = (alarm_id, end_s)
                self._evidence.start(camera, alarm_id, end_s, 0.6, window.ref.start_s)
            elif end_s - begun_s >= ALARM_S:
                self._evidence.end(camera, alarm_id, end_s)
                del self._open[camera]
            else:
                self._evidence.peak(camera, alarm_id, end_s, 0.6 + 0.01 * (end_s - begun_s))

    def status(self, status: CameraStatus) -> None:
        pass

    def preview(self, camera: str, preview: Preview) -> None:
        pass

    def ended(self, camera: str, reason: str) -> None:
        pass

    def failed(self, error: Exception) -> None:
        raise error


def _config(spec: Spec, folder: Path, begin_s: float) -> Config:
    cameras = []
    for number in range(spec.cameras):
        phase_s = 0.64 * number / spec.cameras
        values: dict[str, Any] = {
            "name": f"cam{number:03d}",
            "source": address(Path(spec.sub), begin_s, phase_s, folder),
        }
        if spec.mode in ("main", "record"):
            values["record_source"] = address(Path(spec.main), begin_s, phase_s, folder)
        if spec.mode == "record":
            values["record"] = "always"
        cameras.append(CameraConfig.model_validate(values))
    return build_config(
        {
            "cameras": cameras,
            "evidence": {"directory": folder / "evidence"},
            "recording": {"directory": folder / "recordings", "segment_s": 60.0},
            "picture_quality": {"enabled": False},
        }
    )


def child(spec: Spec, folder: Path) -> dict[str, Any]:
    """The measured process."""
    config = _config(spec, folder, time.monotonic() + 1.0)
    recipe = Bundle.load("embedded").recipe
    reports: list[Report] = []
    clock = SystemClock()
    recorder = ClipRecorder(config, clock=clock, report=reports.append)
    evidence = EvidenceWriter(config, clock=clock, on_error=lambda text: None)
    evidence.send_to(recorder.command)
    output = Alarms(evidence if spec.mode == "alarm" else None)
    resize = partial(make_views, recipe=recipe)
    host = CaptureHost(config, resize, recipe.fps, output, taps=None if spec.mode == "plain" else recorder)
    for camera in config.cameras:
        host.assign(CameraTask(camera, 16, keep=True))
    time.sleep(1.0 + spec.settle_s)
    first = _sample(output)
    time.sleep(spec.seconds)
    last = _sample(output)
    host.stop()
    host.join(5.0)
    recorder.close(20.0)
    evidence.close(5.0)
    span_s = last["at_s"] - first["at_s"]
    written = [report for report in reports if isinstance(report, FileWritten)]
    return {
        "mode": spec.mode,
        "cameras": spec.cameras,
        "seconds": round(span_s, 2),
        "cores": round((last["cpu_s"] - first["cpu_s"]) / span_s, 4),
        "writer_cores": round((last["clips_s"] - first["clips_s"]) / span_s, 4),
        "windows_per_s": round((last["windows"] - first["windows"]) / span_s, 2),
        "files": len(written),
        "mb": round(sum(report.size for report in written) / 1e6, 2),
        "packets_lost": sum(report.count for report in reports if isinstance(report, PacketsLost)),
        "trouble": sorted({report.sentence for report in reports if isinstance(report, EvidenceProblem)})[:3],
        "rss_mb": round(psutil.Process().memory_info().rss / 1e6, 1),
    }


def _sample(output: Alarms) -> dict[str, float]:
    named = {thread.native_id: thread.name for thread in threading.enumerate()}
    clips_s = sum(
        thread.user_time + thread.system_time
        for thread in psutil.Process().threads()
        if named.get(thread.id) in ("clips", "transcode")
    )
    return {"at_s": time.monotonic(), "cpu_s": time.process_time(), "clips_s": clips_s, "windows": output.windows}


def run(spec: Spec, timeout_s: float = 300.0) -> dict[str, Any]:
    """Run the child; returns its figures. Raises RuntimeError when it fails."""
    command = [sys.executable, "-m", "benchmarks.evidencerig", json.dumps(asdict(spec))]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=timeout_s, check=False)
    if done.returncode:
        raise RuntimeError(f"the run {spec.mode!r} failed: {done.stderr.strip()[-400:]}")
    figures: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return figures


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as name:
        print(json.dumps(child(Spec(**json.loads(sys.argv[1])), Path(name))))
