"""extraction: how fast is feature extraction, and does a run killed ten times give the same bytes as an undisturbed
one?

    python -m benchmarks extraction --list videos.csv [--where COLUMN=A,B] [--kills 10]

Every kill is SIGKILL at a random moment between the first video of that run and its end. The bytes of all feature files
are compared. Throughput is that of the undisturbed run, by its own clock (the start of the process does not count).
"""

from __future__ import annotations

import argparse
import hashlib
import json
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.results import write_results


def digests(folder: Path) -> dict[str, str]:
    """sha256 of every feature file."""
    return {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in sorted(folder.glob("*.npz"))}


def main(argv: list[str] | None = None) -> int:
    """Extract once, extract again with kills, compare; exit code 1 when a byte differs."""
    parser = argparse.ArgumentParser(prog="benchmarks extraction", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--list", type=Path, required=True)
    parser.add_argument("--where", action="append", default=[])
    parser.add_argument("--bundle", default="embedded")
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args(argv)
    rng = random.Random(args.seed)
    with tempfile.TemporaryDirectory() as scratch:
        whole, killed = Path(scratch) / "whole", Path(scratch) / "killed"
        command = [sys.executable, "-m", "trainer", "extract", "--list", str(args.list), "--bundle", args.bundle]
        command += [word for where in args.where for word in ("--where", where)]
        done = subprocess.run([*command, "--out", str(whole)], check=True, capture_output=True, text=True)
        told = json.loads(done.stdout.strip().splitlines()[-1])
        wanted = digests(whole)
        killed.mkdir()
        kills = 0
        share = len(wanted) / (args.kills + 1)
        for number in range(args.kills):
            process = subprocess.Popen([*command, "--out", str(killed)], stdout=subprocess.DEVNULL)
            goal = int((number + rng.random()) * share)  # spread over the list, at no particular point of a video
            while process.poll() is None and len(list(killed.glob("*.npz"))) <= goal:
                time.sleep(0.01)
            time.sleep(rng.uniform(0, 0.5) * told["seconds"] / max(len(wanted), 1))
            if process.poll() is None:
                process.kill()
                kills += 1
            process.wait()
        subprocess.run([*command, "--out", str(killed)], check=True, capture_output=True)
        found = digests(killed)
        same = found == wanted and (whole / "manifest.json").read_bytes() == (killed / "manifest.json").read_bytes()
    told |= {
        "kills": kills,
        "byte_identical": same,
        "video_hours_per_hour": round(3600 * told["video_hours"] / told["seconds"], 2),
    }
    print(json.dumps(told))
    write_results("trainer_extraction", told, {"where": args.where, "bundle": args.bundle, "seed": args.seed})
    return 0 if same else 1


if __name__ == "__main__":
    sys.exit(main())
