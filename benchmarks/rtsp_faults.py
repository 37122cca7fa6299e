"""rtsp_faults: how does a failing RTSP server affect its own camera and the one beside it?

    python -m benchmarks.rtsp_faults --cycles 20 --out rtsp_faults.json

One cycle: SIGSTOP of the server for `--stall-s` seconds, SIGCONT, then SIGKILL and a new server on the same port.
Reported for each: how soon the stall was reported, how soon frames came again, and the second camera's rate in the
meantime; for the run: threads and descriptors before and after. It needs a server that `.ci/install-rtsp.sh` installs.

The figures come from a `Recorder`, which is independent of its source: here bare capture threads, elsewhere a whole
run.
"""

from __future__ import annotations

import json
import os
import select
import signal
import socket
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from benchmarks.options import parse
from stream_detector.capture.camera import Capture
from stream_detector.capture.framing import Views
from stream_detector.capture.picture import Picture, make_views
from stream_detector.capture.watchdog import Watchdog
from stream_detector.config import CameraConfig, CaptureConfig
from stream_detector.models.recipe import RECIPES
from stream_detector.types import CameraStatus, Frame, SystemClock

SCRIPT = Path(__file__).parents[1] / "tests" / "integration" / "rtsp_server.py"
SYSTEM_PYTHON = "/usr/bin/python3"


def missing_server() -> str:
    """Why no RTSP server can be had on this machine; empty when it can."""
    if not Path(SYSTEM_PYTHON).exists():
        return f"{SYSTEM_PYTHON} does not exist"
    probe = (
        "import gi; gi.require_version('GstRtspServer', '1.0'); from gi.repository import Gst, GstRtspServer; "
        "Gst.init(None); names = ('x264enc', 'rtph264pay', 'videotestsrc'); "
        "raise SystemExit(next((n + ' is missing' for n in names if not Gst.ElementFactory.find(n)), 0))"
    )
    done = subprocess.run([SYSTEM_PYTHON, "-c", probe], capture_output=True, text=True, timeout=60)
    return "" if done.returncode == 0 else "GstRtspServer: " + (done.stderr.strip().splitlines() or ["absent"])[-1]


class RtspServer:
    """The test server as a process. stall, resume and kill are signals; `start` again takes the same port."""

    def __init__(self, fps: int = 25, udp: bool = False) -> None:
        self._more = ["udp"] if udp else []
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = int(probe.getsockname()[1])
        self.url = f"rtsp://127.0.0.1:{self.port}/live"
        self._fps = fps
        self._process: subprocess.Popen[str] | None = None

    def __enter__(self) -> RtspServer:
        self.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.kill()

    def start(self, timeout_s: float = 20.0) -> None:
        """Start it and wait until it listens. Raises RuntimeError when it does not."""
        command = [SYSTEM_PYTHON, str(SCRIPT), str(self.port), str(self._fps), *self._more]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        self._process = process
        assert process.stdout is not None
        ready, _, _ = select.select([process.stdout], [], [], timeout_s)
        if not ready or process.stdout.readline().strip() != "ready":
            self.kill()
            raise RuntimeError(f"the RTSP server did not come up on port {self.port}")

    def stall(self) -> None:
        """SIGSTOP: connections stay, nothing moves."""
        self._signal(signal.SIGSTOP)

    def resume(self) -> None:
        """SIGCONT."""
        self._signal(signal.SIGCONT)

    def kill(self) -> None:
        """SIGKILL, also while stalled; waits for the process. Safe to repeat."""
        if self._process is not None:
            self._signal(signal.SIGKILL)
            self._process.wait(10)
            if self._process.stdout is not None:
                self._process.stdout.close()
            self._process = None

    def _signal(self, number: int) -> None:
        if self._process is not None and self._process.poll() is None:
            os.kill(self._process.pid, number)


class Recorder:
    """Frames (or windows) by camera and states, with monotonic times; `wait` for what is to come."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._frames: dict[str, list[float]] = {}
        self._states: list[tuple[float, str, str]] = []

    def frame(self, camera: str) -> None:
        """A frame or window of this camera came."""
        with self._changed:
            self._frames.setdefault(camera, []).append(time.monotonic())
            self._changed.notify_all()

    def status(self, status: CameraStatus) -> None:
        """A camera's state changed."""
        with self._changed:
            self._states.append((time.monotonic(), status.camera, status.state))
            self._changed.notify_all()

    def state_after(self, camera: str, states: Sequence[str], after_s: float, timeout_s: float) -> float | None:
        """Monotonic time of the first such state told after `after_s`; None when the time is up."""
        return self._wait(
            lambda: next((t for t, c, s in self._states if c == camera and s in states and t > after_s), None),
            timeout_s,
        )

    def frames_after(self, camera: str, after_s: float, timeout_s: float, count: int = 1) -> float | None:
        """Monotonic time of the `count`-th frame after `after_s`; None when the time is up."""

        def nth() -> float | None:
            later = [t for t in reversed(self._frames.get(camera, [])[-1000:]) if t > after_s]
            return later[-count] if len(later) >= count else None

        return self._wait(nth, timeout_s)

    def rate(self, camera: str, since_s: float, until_s: float) -> float:
        """Frames a second, from the first to the last one between the two times."""
        with self._changed:
            times = [t for t in self._frames.get(camera, []) if since_s <= t <= until_s]
        return (len(times) - 1) / (times[-1] - times[0]) if len(times) > 1 else 0.0

    def _wait(self, found: Callable[[], float | None], timeout_s: float) -> float | None:
        deadline_s = time.monotonic() + timeout_s
        with self._changed:
            while (when := found()) is None:
                left_s = deadline_s - time.monotonic()
                if left_s <= 0:
                    return None
                self._changed.wait(left_s)
            return when


def counts() -> dict[str, int]:
    """Threads (also those of libraries) and descriptors of this process."""
    return {"threads": len(os.listdir("/proc/self/task")), "descriptors": len(os.listdir("/proc/self/fd"))}


def one_cycle(
    server: RtspServer, recorder: Recorder, faulty: str, steady: str, stall_s: float, few: int = 5, many: int = 25
) -> dict[str, float | None]:
    """Stall, recovery, loss, recovery. Seconds; None for what did not come within a minute.

    few: frames (or windows) that count as a recovery.  many: as many more are awaited before the next fault.
    """
    began_s = time.monotonic()
    server.stall()
    stalled_s = recorder.state_after(faulty, ("stalled",), began_s, stall_s)
    threading.Event().wait(max(0.0, began_s + stall_s - time.monotonic()))
    server.resume()
    resumed_s = time.monotonic()
    again_s = recorder.frames_after(faulty, resumed_s, 60.0, count=few)
    recorder.frames_after(faulty, time.monotonic(), 60.0, count=many)
    killed_s = time.monotonic()
    server.kill()
    lost_s = recorder.state_after(faulty, ("offline", "stalled"), killed_s, 60.0)
    server.start()
    back_s = time.monotonic()
    recovered_s = recorder.frames_after(faulty, back_s, 60.0, count=few)
    recorder.frames_after(faulty, time.monotonic(), 60.0, count=many)

    def since(then_s: float, when_s: float | None) -> float | None:
        return None if when_s is None else round(when_s - then_s, 3)

    return {
        "stall_reported_s": since(began_s, stalled_s),
        "frames_after_resume_s": since(resumed_s, again_s),
        "loss_reported_s": since(killed_s, lost_s),
        "frames_after_restart_s": since(back_s, recovered_s),
        "steady_fps": round(recorder.rate(steady, began_s, time.monotonic()), 3),
    }


def summary(cycles: Sequence[dict[str, float | None]], baseline_fps: float) -> dict[str, Any]:
    """Worst and median of each figure; `steady_ratio`: the second camera's rate in the faults to its rate before."""
    result: dict[str, Any] = {"cycles": len(cycles), "steady_baseline_fps": round(baseline_fps, 3)}
    for key in ("stall_reported_s", "frames_after_resume_s", "loss_reported_s", "frames_after_restart_s"):
        seen = [value for cycle in cycles if (value := cycle[key]) is not None]
        result[key] = {
            "median": round(statistics.median(seen), 3) if seen else None,
            "worst": max(seen) if len(seen) == len(cycles) and seen else None,
            "missing": len(cycles) - len(seen),
        }
    ratios = [(cycle["steady_fps"] or 0.0) / baseline_fps for cycle in cycles] if baseline_fps else [0.0]
    result["steady_ratio"] = {"lowest": round(min(ratios), 4), "highest": round(max(ratios), 4)}
    return result


def measure(cycles: int, stall_s: float = 8.0, baseline_s: float = 10.0) -> dict[str, Any]:
    """Two cameras on two servers, bare capture threads; the first server fails, cycle by cycle."""
    recorder, stop, clock, config = Recorder(), threading.Event(), SystemClock(), CaptureConfig()
    errors: list[str] = []

    def resize(picture: Picture) -> Views:
        return make_views(picture, RECIPES["stream-112"])

    def on_frame(frame: Frame) -> None:
        recorder.frame(frame.camera)

    with RtspServer() as faulty, RtspServer() as steady:
        captures = [
            Capture(
                CameraConfig(name=name, source=server.url),
                config,
                resize=resize,
                frame_fps=25.0,
                pace="realtime",
                on_frame=on_frame,
                on_status=recorder.status,
                on_end=lambda camera, reason: None,
                on_error=lambda error: errors.append(repr(error)),
                clock=clock,
                stop=stop,
            )
            for name, server in (("faulty", faulty), ("steady", steady))
        ]
        watchdog = Watchdog(lambda: captures, config.stall_after_s, stop)
        try:
            for capture in captures:
                capture.start()
            watchdog.start()
            for capture in captures:
                if recorder.frames_after(capture.name, 0.0, 30.0, count=25) is None:
                    raise RuntimeError(f"camera {capture.name!r} brought no frames")
            since_s = time.monotonic()
            threading.Event().wait(baseline_s)
            baseline_fps = recorder.rate("steady", since_s, time.monotonic())
            before = counts()
            done = []
            for number in range(cycles):
                done.append(one_cycle(faulty, recorder, "faulty", "steady", stall_s))
                print(f"cycle {number + 1} of {cycles}: {json.dumps(done[-1])}", file=sys.stderr, flush=True)
            result = summary(done, baseline_fps)
            result["before"], result["after"] = before, counts()
            result["reconnects"] = captures[0].counters().reconnects
            result["abandoned"] = captures[0].abandoned
            result["errors"] = errors
            return result
        finally:
            stop.set()
            for capture in captures:
                capture.join(20.0)
            if watchdog.is_alive():
                watchdog.join(5.0)


def main(argv: Sequence[str] | None = None) -> int:
    """The command line; 0 when the targets are met, 1 when not, 2 when there is no RTSP server here."""
    options = parse("rtsp_faults", argv)
    missing = missing_server()
    if missing:
        print(f"no RTSP server here ({missing}); run .ci/install-rtsp.sh", file=sys.stderr)
        return 2
    result = measure(options.cycles, options.stall_s)
    text = json.dumps(result, indent=2)
    print(text)
    if options.out:
        options.out.write_text(text + "\n", encoding="utf-8")
    return 0 if met(result) else 1


def met(result: dict[str, Any]) -> bool:
    """Stalls told within 5 s, every recovery seen, the second camera within 5 %, nothing left behind."""
    ratio = result["steady_ratio"]
    return (
        all(
            result[key]["missing"] == 0
            for key in ("stall_reported_s", "frames_after_resume_s", "frames_after_restart_s")
        )
        and result["stall_reported_s"]["worst"] <= 5.0
        and ratio["lowest"] >= 0.95
        and ratio["highest"] <= 1.05
        and result["after"]["threads"] <= result["before"]["threads"]
        and result["after"]["descriptors"] <= result["before"]["descriptors"]
        and not result["errors"]
    )


if __name__ == "__main__":
    raise SystemExit(main())
