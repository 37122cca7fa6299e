"""rtsp_run: how does the whole detector behave on two RTSP cameras, one of which fails again and again?

    python -m benchmarks rtsp_run --cycles 20

The detector runs in a separate process, as its users run it. This process listens to its status and score topics with a
plain SUB socket and applies `rtsp_faults.one_cycle` to the first camera's server: SIGSTOP, SIGCONT, SIGKILL, a new
server. Reported: how soon each fault was reported and survived, the second camera's window rate in the meantime, and
the detector's threads and descriptors before and after.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import psutil
import zmq

from benchmarks.options import parse
from benchmarks.results import write_results
from benchmarks.rtsp_faults import Recorder, RtspServer, met, missing_server, one_cycle, summary
from stream_detector.types import CameraStatus

ROOT = Path(__file__).parents[1]
STRIDE = 8  # frames: 3.1 windows a second and camera, so that a change of rate shows within one cycle


def listen(endpoint: str, recorder: Recorder, over: threading.Event) -> None:
    """Feed the recorder from the wire until `over` is set."""
    with zmq.Context() as context, context.socket(zmq.SUB) as sub:
        sub.setsockopt(zmq.LINGER, 0)
        sub.subscribe(b"v1/score/")
        sub.subscribe(b"v1/status/")
        sub.connect(endpoint)
        while not over.is_set():
            if not sub.poll(100):
                continue
            topic, data = sub.recv_multipart()
            body = json.loads(data)
            if topic.startswith(b"v1/score/"):
                recorder.frame(body["camera"])
            elif not body.get("replayed") and body.get("camera") in ("faulty", "steady"):
                recorder.status(CameraStatus(body["camera"], "", body["state"]))


def measure(cycles: int, stall_s: float, baseline_s: float, port: int) -> dict[str, Any]:
    """`cycles` cycles against one run of the detector."""
    recorder, over = Recorder(), threading.Event()
    endpoint = f"tcp://127.0.0.1:{port}"
    with RtspServer() as faulty, RtspServer() as steady, tempfile.TemporaryDirectory() as folder:
        arguments = [f"faulty={faulty.url}", f"steady={steady.url}", "--stride", str(STRIDE), "--bind", endpoint]
        command = [sys.executable, str(ROOT / "run_stream.py"), *arguments, "--no-dashboard", "--run-dir", folder]
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        listener = threading.Thread(target=listen, args=(endpoint, recorder, over))
        listener.start()
        watched = psutil.Process(process.pid)

        def counts() -> dict[str, int]:
            return {"threads": watched.num_threads(), "descriptors": watched.num_fds()}

        done = []
        try:
            for name in ("faulty", "steady"):
                if recorder.frames_after(name, 0.0, 90.0, count=12) is None:
                    raise RuntimeError(f"camera {name!r} brought no windows")
            since_s = time.monotonic()
            threading.Event().wait(baseline_s)
            baseline = recorder.rate("steady", since_s, time.monotonic())
            before = counts()
            for number in range(cycles):
                done.append(one_cycle(faulty, recorder, "faulty", "steady", stall_s, few=2, many=8))
                print(f"cycle {number + 1} of {cycles}: {json.dumps(done[-1])}", file=sys.stderr, flush=True)
            result = summary(done, baseline)
            result |= {"before": before, "after": counts(), "seconds": round(time.monotonic() - since_s, 1)}
            begun_s = time.monotonic()
            os.kill(process.pid, signal.SIGTERM)
            result["exit_code"] = process.wait(10)
            result["exit_s"] = round(time.monotonic() - begun_s, 2)
            result["errors"] = [] if process.returncode == 128 + signal.SIGTERM else [f"exit code {process.returncode}"]
            return result
        finally:
            over.set()
            listener.join(5.0)
            if process.poll() is None:
                process.kill()
            process.communicate()


def main(argv: Sequence[str]) -> int:
    """The command line; 0 when the targets are met, 1 when not, 2 when there is no RTSP server here."""
    args = parse("rtsp_run", argv)
    missing = missing_server()
    if missing:
        print(f"no RTSP server here ({missing}); run .ci/install-rtsp.sh", file=sys.stderr)
        return 2
    result = measure(args.cycles, args.stall_s, args.baseline_s, args.port)
    settings = {"cycles": args.cycles, "stall_s": args.stall_s, "stride_frames": STRIDE, "baseline_s": args.baseline_s}
    path = write_results("rtsp_run", result, settings)
    print(path.read_text(encoding="utf-8"))
    return 0 if met(result) else 1


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
