"""One measured run of the detector with many cameras, in a process of its own; capture hosts are its children.

    python -m benchmarks.camerarig '{"cameras": 28, "video": …}' FOLDER    → FOLDER/figures.json

The detector is built as `run` builds it; its cameras are `clipcam` sources. Counted between the end of settling and the
stop: scores and their delay from the time at which the last picture of their window was due, drops, pictures passed
over, CPU of the main process by thread and of all capture hosts, memory.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import psutil

from benchmarks.clipcam import FPS, address
from stream_detector.config import CameraConfig, build_config
from stream_detector.runtime.build import Run, build_run
from stream_detector.types import Decision

ROOT = Path(__file__).parents[1]
WINDOW_S = 16 / FPS
FIRST_S = 120.0  # at most so long until every healthy camera has been scored


@dataclass(frozen=True)
class Spec:
    """What to run. beside: sources of further cameras, which nobody waits for.  settings: of the configuration.

    bundle: name or folder.  first_s: at most so long until every healthy camera has been scored.
    """

    cameras: int
    video: str
    hosts: str = "auto"
    seconds: float = 20.0
    settle_s: float = 6.0
    beside: dict[str, str] = field(default_factory=dict)
    settings: dict[str, Any] = field(default_factory=dict)
    bundle: str = "embedded"
    first_s: float = FIRST_S


class Scores:
    """Every decision about a healthy camera: when it was known, and which picture was its last."""

    def __init__(self) -> None:
        self.rows: list[tuple[str, int, float]] = []

    def take(self, decision: Decision) -> None:
        ref = decision.score.ref
        self.rows.append((ref.camera, ref.end_frame, decision.score.scored_s))


def child(spec: Spec, folder: Path) -> dict[str, Any]:
    """The measured process."""
    begin_s = time.monotonic() + 2.0
    names = [f"cam{number:03d}" for number in range(spec.cameras)]
    sources = {
        name: address(Path(spec.video), begin_s, WINDOW_S * number / spec.cameras, folder)
        for number, name in enumerate(names)
    }
    values: dict[str, Any] = {
        "cameras": [CameraConfig(name=name, source=source) for name, source in {**spec.beside, **sources}.items()],
        "evidence": {"enabled": False},
        "publish": {"bind": "tcp://127.0.0.1:*", "ledger": folder / "ledger.sqlite3"},
        "capture": {"hosts": spec.hosts},
        "bundle": spec.bundle,
    }
    for section, keys in spec.settings.items():
        values[section] = {**values.get(section, {}), **keys}
    scores = Scores()
    with build_run(build_config(values), on_decision=scores.take) as run:
        result: dict[str, Any] = {}
        measurer = threading.Thread(target=_measure, args=(spec, run, scores, names, folder, result), name="measure")
        measurer.start()
        ended = run.pipeline.run()
        measurer.join()
        engine = run.engine
        result["engine"] = f"{engine.name} {engine.device} {engine.precision}"
        result["bundle"], result["bundle_name"] = run.bundle.fingerprint, run.bundle.name
        result["exit_code"] = ended.exit_code
        result["error"] = str(ended.error or "")
    return result


def _measure(spec: Spec, run: Run, scores: Scores, names: list[str], folder: Path, result: dict[str, Any]) -> None:
    begun_s = time.monotonic()
    wanted = set(names)
    while time.monotonic() - begun_s < spec.first_s:
        if wanted <= {row[0] for row in list(scores.rows)}:
            break
        time.sleep(0.05)
    time.sleep(spec.settle_s)
    first = _sample(run)
    time.sleep(spec.seconds)
    last = _sample(run)
    rows = list(scores.rows)
    due = {path.stem: float(path.read_text()) for path in folder.glob("cam*.due")}
    opened = {name: due[name] for name in names if name in due}
    result.update(_figures(spec, first, last, rows, opened, names))
    run.pipeline.stop()


def _sample(run: Run) -> dict[str, Any]:
    snapshot = run.telemetry.snapshot()
    me = psutil.Process()
    named = {thread.native_id: thread.name for thread in threading.enumerate()}
    groups = {"capture": 0.0, "inference": 0.0, "decide": 0.0, "other": 0.0}
    for thread in me.threads():
        name = named.get(thread.id, "engine").partition("-")[0]
        part = {"worker": "inference", "engine": "inference"}.get(name, name)
        groups[part if part in groups else "other"] += thread.user_time + thread.system_time
    private = _private_bytes(me)
    hosts = 0
    for process in me.children(recursive=True):
        try:
            groups["capture"] += sum(process.cpu_times()[:2])
            private += _private_bytes(process)
            hosts += 1
        except psutil.Error:
            continue
    healthy = [camera for camera in snapshot.cameras if camera.name.startswith("cam")]
    dropped: dict[str, int] = {}
    for camera in healthy:
        for cause, number in camera.dropped.items():
            dropped[cause] = dropped.get(cause, 0) + number
    return {
        "at_s": time.monotonic(),
        "cpu_s": groups,
        "private_mb": private / 1e6,
        "hosts": hosts,
        "restarts": run.pipeline.host_restarts,
        "share": run.pipeline.share,
        "frames": sum(camera.frames for camera in healthy),
        "scored": {camera.name: camera.scored for camera in healthy},
        "dropped": dropped,
    }


def _private_bytes(process: psutil.Process) -> int:
    memory = process.memory_info()
    return int(memory.rss - getattr(memory, "shared", 0))


def _figures(
    spec: Spec,
    first: dict[str, Any],
    last: dict[str, Any],
    rows: list[tuple[str, int, float]],
    due: dict[str, float],
    names: list[str],
) -> dict[str, Any]:
    """What happened between two samples. due: of each camera's first picture, monotonic."""
    span_s = last["at_s"] - first["at_s"]
    cpu = {name: last["cpu_s"][name] - first["cpu_s"][name] for name in last["cpu_s"]}
    total_s = sum(cpu.values())
    delays_ms = [
        (at_s - due[name] - frame / FPS) * 1e3
        for name, frame, at_s in rows
        if name in due and first["at_s"] <= at_s < last["at_s"]
    ]
    firsts = {}
    for name, _, at_s in rows:
        firsts.setdefault(name, at_s)
    each = [last["scored"][name] - first["scored"][name] for name in names]
    causes = {c: n - first["dropped"].get(c, 0) for c, n in last["dropped"].items() if n > first["dropped"].get(c, 0)}
    percentiles = {f"p{p}": np.percentile(delays_ms, p) for p in (50, 95, 99)} if delays_ms else {}
    return {
        "cameras": spec.cameras,
        "hosts": last["hosts"],
        "restarts": last["restarts"],
        "seconds": round(span_s, 2),
        "fps_per_camera": round((last["frames"] - first["frames"]) / span_s / max(1, spec.cameras), 3),
        "windows_per_s": round(sum(each) / span_s, 2),
        "windows_of_a_camera": {"least": min(each, default=0), "most": max(each, default=0)},
        "dropped": causes.get("overload", 0),
        "drops": causes,
        "share": round(last["share"], 3),
        "delay_ms": {name: round(float(value), 1) for name, value in percentiles.items()},
        "first_window_s": {name: round(at_s - due[name], 3) for name, at_s in firsts.items() if name in due},
        "cores_busy": round(total_s / span_s, 3),
        "cpu_share": {name: round(seconds / total_s, 3) for name, seconds in cpu.items()} if total_s else {},
        "private_mb": round(last["private_mb"], 1),
    }


def run(spec: Spec, timeout_s: float = 400.0) -> dict[str, Any]:
    """Run the child; returns its figures. Raises RuntimeError when it fails."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        command = [sys.executable, "-m", "benchmarks.camerarig", json.dumps(asdict(spec)), name]
        process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        try:
            _, err = process.communicate(timeout=timeout_s)
        except BaseException as error:  # also where the benchmark itself is ended: the child must not outlive it
            process.kill()
            process.communicate()
            if not isinstance(error, subprocess.TimeoutExpired):
                raise
            raise RuntimeError(f"the measured run did not end within {timeout_s:.0f} s") from None
        out = folder / "figures.json"
        if process.returncode or not out.is_file():
            raise RuntimeError(f"the measured run failed with {process.returncode}: {err[-800:]}")
        found: dict[str, Any] = json.loads(out.read_text(encoding="utf-8"))
    if error := found.pop("error"):
        raise RuntimeError(f"the measured run failed: {error[-800:]}")
    return found


if __name__ == "__main__":
    described = Spec(**json.loads(sys.argv[1]))
    where = Path(sys.argv[2])
    measured = child(described, where)
    (where / "figures.json").write_text(json.dumps(measured), encoding="utf-8")
    os._exit(0)  # a library thread that will not end is no part of the measurement
