"""startup: how long do the first use of the library and of the command line take, each in a new process?

    python -m benchmarks startup [--times 7]

It prints the median, the fastest and the slowest of several runs, and the heavy libraries that each has loaded at its
end. A first run, which fills the caches of the file system, is not counted.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import time
from typing import Any

from benchmarks.results import write_results
from stream_detector.cli.main import COMMANDS

HEAVY = ("torch", "cv2", "av", "openvino", "numpy", "pydantic", "zmq")
PARSER = "from stream_detector.cli.main import build_parser; "
CASES = {
    "python itself": "pass",
    "import stream_detector": "import stream_detector",
    "stream_detector.Subscriber": "from stream_detector import Subscriber",
    "stream_detector.Session": "from stream_detector import Session",
    "stream-detector --help": PARSER + "build_parser().format_help()",
    **{f"stream-detector {name} --help": PARSER + f"build_parser({name!r}).format_help()" for name in COMMANDS},
}


def measure(code: str, times: int) -> dict[str, Any]:
    """Seconds of a fresh Python process that runs `code`, and the names of HEAVY that it has loaded."""
    program = f"{code}\nimport sys\nprint(*[name for name in {HEAVY!r} if name in sys.modules])"
    seconds = []
    loaded: list[str] = []
    for number in range(times + 1):
        begun_s = time.perf_counter()
        done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
        if number:
            seconds.append(time.perf_counter() - begun_s)
        loaded = done.stdout.split()
    return {
        "median_s": round(statistics.median(seconds), 3),
        "fastest_s": round(min(seconds), 3),
        "slowest_s": round(max(seconds), 3),
        "loaded": loaded,
    }


def main(argv: list[str]) -> int:
    """Measure, print, write results/startup.json."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks startup", description=__doc__)
    parser.add_argument("--times", type=int, default=7, help="runs counted for each row (default 7)")
    args = parser.parse_args(argv)
    rows = {}
    for name, code in CASES.items():
        rows[name] = measure(code, args.times)
        print(f"{name:34} {rows[name]['median_s']:6.3f} s  {' '.join(rows[name]['loaded'])}", flush=True)
    write_results("startup", rows, {"times": args.times})
    return 0
