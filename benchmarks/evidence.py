"""evidence: how much CPU time do clips of alarms and recordings of main streams cost, in addition to the cameras?

    python -m benchmarks evidence --clips DIR [--cameras 16] [--seconds 30] [--repeat 3]

The same cameras (H.264, 320×240, 25 fps, `clipcam`) run in one process without an engine: plain, with rings, all in
alarm at the same time, with 1080p main streams, and with recordings of these. The modes alternate; for each mode the
run with the median cost counts. The cost of evidence is the difference from `plain`.
"""

from __future__ import annotations

import statistics
import tempfile
from pathlib import Path
from typing import Any

from rich.console import Console

from benchmarks.cameracosts import make_video
from benchmarks.evidencerig import MODES, Spec, run
from benchmarks.footage import find_clips
from benchmarks.options import parse
from benchmarks.results import load_before, write_results
from stream_detector.models.bundle import Bundle

LIMITS = {"alarm": 0.1, "record": 0.2}  # cores, with 16 cameras


def main(argv: list[str]) -> int:
    """Command line."""
    args = parse("evidence", argv)
    console = Console()
    load = load_before()
    clips = find_clips(args.clips)
    found: dict[str, list[dict[str, Any]]] = {mode: [] for mode in MODES}
    with tempfile.TemporaryDirectory() as name:
        sub = make_video(clips, Path(name) / "sub.mp4", 40.0, (320, 240))
        large = make_video(clips, Path(name) / "main.mp4", 20.0, (1920, 1080))
        for _ in range(args.repeat):
            for mode in MODES:
                row = run(Spec(mode, args.cameras, str(sub), str(large), args.seconds, args.settle))
                found[mode].append(row)
                console.print(row)
        bits = {"sub_kbit_s": _kbit_s(sub, 40.0), "main_kbit_s": _kbit_s(large, 20.0)}
    rows = [_median(found[mode], found["plain"]) for mode in MODES]
    results = {"bundle": Bundle.load("embedded").fingerprint, **bits, "limits": LIMITS, "rows": rows}
    settings = {"cameras": args.cameras, "seconds": args.seconds, "repeat": args.repeat, "load_before": load}
    if not args.no_save:
        console.print(f"written: {write_results('evidence', results, settings)}")
    return 0


def _kbit_s(path: Path, seconds: float) -> int:
    return round(path.stat().st_size * 8 / seconds / 1e3)


def _median(rows: list[dict[str, Any]], plain: list[dict[str, Any]]) -> dict[str, Any]:
    """The run of median cost, with what it costs more than the cameras alone: the median of the pairs' differences."""
    middle = statistics.median_low(row["cores"] for row in rows)
    row = dict(next(row for row in rows if row["cores"] == middle))
    more = [mine["cores"] - alone["cores"] for mine, alone in zip(rows, plain, strict=True)]
    row["more_cores"] = round(statistics.median(more), 4)
    row["runs"] = [found["cores"] for found in rows]
    return row
