"""sitecost: how much does the memory of a site cost while it runs, and how much disk does it use for 16 cameras in a
month?

    python -m benchmarks sitecost [--cameras 16] [--hours 2] [--dim 256]

The benchmark submits the windows of the cameras (25 frames per second, stride 16: 1.5625 windows per second each) to
the keeper, as the decision thread does, as fast as it accepts them. The CPU seconds of both threads are divided by the
time that these windows take in real time. Then half of the windows are thinned. The size of a month is the number of
windows that the configuration keeps times the measured bytes per window.
"""

from __future__ import annotations

import json
import tempfile
import threading
import time
from pathlib import Path

import numpy as np

from benchmarks.options import parse
from benchmarks.results import load_before, write_results
from stream_detector.adaptation.keeper import SiteKeeper, prune
from stream_detector.adaptation.memory import Memory
from stream_detector.adaptation.overlay import Correction, Overlay
from stream_detector.config import SiteConfig
from stream_detector.testing import FakeClock
from stream_detector.types import WindowRef

WINDOW_S = 16 / 25


def main(argv: list[str]) -> int:
    """Command line."""
    args = parse("sitecost", argv)
    load, config, clock = load_before(), SiteConfig(), FakeClock()
    names = [f"c{number:02d}" for number in range(args.cameras)]
    count = int(args.hours * 3600 / WINDOW_S)
    features = np.random.default_rng(0).uniform(0, 1, (64, args.dim)).astype(np.float32)
    unit = np.zeros((8, args.dim), np.float32)
    overlay = Overlay("b" * 16, "", 0.5, 1.0, Correction(unit, unit[:, 0], unit[:, 0], 0.0))
    with tempfile.TemporaryDirectory() as folder:
        memory = Memory(Path(folder) / "memory.sqlite3")
        keeper = SiteKeeper(memory, config, cameras=names, bundle="b" * 16, epoch="e" * 16, clock=clock)
        deciding = 0.0
        begun_s = time.process_time()
        for window in range(count):
            at_s, utc = window * WINDOW_S, 1.7e9 + window * WINDOW_S
            for number, name in enumerate(names):
                ref = WindowRef(name, "s", window, 0, 15, at_s, at_s + WINDOW_S, at_s, utc, at_s)
                row = features[(window + number) % 64]
                mine_s = time.thread_time()
                keeper.window(ref, row, 0.1)
                deciding += time.thread_time() - mine_s
            if window % 32 == 31:
                keeper_idle(keeper)
        keeper.flush(60.0)
        spent_s = time.process_time() - begun_s
        stored = memory.bytes
        begun_s = time.process_time()
        changed = prune(memory, config.model_copy(update={"window_hours": args.hours / 2}), 1.7e9 + args.hours * 3600)
        thinning_s = time.process_time() - begun_s
        after = memory.bytes
        keeper.close()
    mine_s = time.process_time()
    for _ in range(2000):
        overlay.adjust(features[:1], np.array([0.1]))
    adjust_us = (time.process_time() - mine_s) / 2000 * 1e6
    windows, seconds = count * args.cameras, args.hours * 3600
    a_window = stored / windows
    month = args.cameras * min(config.window_hours, 720) * 3600 / WINDOW_S * a_window
    found = {
        "windows": windows,
        "dropped_blocks": keeper.dropped,
        "decision_thread_us_a_window": round(deciding / windows * 1e6, 2),
        "cpu_share_percent": round(100 * spent_s / seconds, 4),
        "thinning_cpu_share_percent": round(100 * thinning_s / (seconds / 2), 4),
        "blocks_thinned": changed,
        "overlay_us_a_window": round(adjust_us, 1),
        "bytes_a_window": round(a_window, 1),
        "bytes_after_thinning_half": after,
        "asked_of_disk_by_window_hours": int(month),
        "bounded_to": config.max_bytes,
    }
    if not args.no_save:
        write_results("sitecost", found, {"load_before": load, "cameras": args.cameras, "hours": args.hours})
    print(json.dumps(found, indent=2))
    return 0


def keeper_idle(keeper: SiteKeeper) -> None:
    """Wait until the writer has caught up, as it does in real time; the wait costs no CPU."""
    done = threading.Event()
    keeper.call(done.set)
    done.wait(60.0)
