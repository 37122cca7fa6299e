"""Memory of cameras that never fill a window, over minutes: it must be flat."""

from __future__ import annotations

import signal
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from rich.progress import track

from benchmarks.faultlib.detector import ended, free_endpoint, kill, start
from benchmarks.faultlib.watched import Watch, run_watched

KINDS = ("flaps", "drips", "holes", "steady")
CAMERAS = 4
# A picture is 230 kB and its preview about as much; the slowest kind brings 109 pictures a minute, 25 MB.
FLAT_BYTES_A_MINUTE = 500_000


def _one(folder: Path, kind: str, seconds: float) -> dict[str, Any]:
    folder.mkdir()
    process = start(run_watched, Watch(folder, free_endpoint(), kind=kind, cameras=CAMERAS))
    watched = psutil.Process(process.pid)
    samples: list[tuple[float, int]] = []
    begun_s = time.monotonic()
    try:
        while (at_s := time.monotonic() - begun_s) < seconds:
            samples.append((at_s, watched.memory_info().rss))
            if ended(process, 1.0) is not None:
                break
    finally:
        code = kill(process, signal.SIGTERM, 30.0)
    late = [(at_s, rss) for at_s, rss in samples if at_s >= seconds / 3]
    times_s, values = np.array(late).T
    slope = float(np.polyfit(times_s / 60, values, 1)[0])
    return {
        "cameras": CAMERAS,
        "minutes": round(seconds / 60, 2),
        "rss_mb_first": round(samples[0][1] / 1e6, 1),
        "rss_mb": round(late[-1][1] / 1e6, 1),
        "bytes_a_minute": round(slope),
        "exit_code": code,
        "passed": code == 0 and slope < FLAT_BYTES_A_MINUTE,
    }


def slopes(folder: Path, seconds: float) -> dict[str, Any]:
    """Every kind of camera beside the others, each in a detector of its own."""
    with ThreadPoolExecutor(len(KINDS)) as pool:
        running = {kind: pool.submit(_one, folder / kind, kind, seconds) for kind in KINDS}
        found = {k: running[k].result() for k in track(KINDS, description="memory", transient=True)}
    return {**found, "passed": all(case["passed"] for case in found.values())}
