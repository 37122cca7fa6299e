"""From real clips to a deployed bundle, with the commands people type, and whether the stream scores as `evaluate` did.

    python -m benchmarks endtoend --clips DIR        DIR holds index.csv and the clips it names

The five commands of docs/training.md over the sets cctv_fights and cctv_crashes with the embedded backbone, then
`stream-detector score` with the new bundle over every validation clip: once for a head that scores each window alone,
once for a causal one whose state the detector carries. Compared is the raw score of every window of every validation
clip. The engine is PyTorch on the CPU in float32 for extraction and stream alike: bfloat16 rounds to three digits, and
a window's rounding then depends on the engine. Exit code 1 when a window is missing or differs by more than 1e-4.
"""

from __future__ import annotations

import argparse
import csv
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.results import load_before, write_results

SETS = "cctv_fights,cctv_crashes"
PRESETS = {"mlp": "topk", "causal": "causal"}
ENGINE = ("--engine", "torch", "--device", "cpu", "--precision", "fp32")
TOLERANCE = 1e-4

Scores = dict[tuple[str, int], float]


class Stages:
    """Runs commands one after another and notes the wall time of each."""

    def __init__(self) -> None:
        self.wall_s: dict[str, float] = {}

    def run(self, stage: str, module: str, *words: str | Path) -> str:
        """Run `python -m module words`, return its standard output. Raises RuntimeError with what it said."""
        began = time.monotonic()
        command = [sys.executable, "-m", module, *map(str, words)]
        done = subprocess.run(command, capture_output=True, text=True)
        self.wall_s[stage] = round(time.monotonic() - began, 2)
        if done.returncode:
            raise RuntimeError(f"{stage} ended with {done.returncode}: {(done.stderr or done.stdout).strip()[-500:]}")
        print(f"{stage:<18}{self.wall_s[stage]:>8.1f} s", file=sys.stderr, flush=True)
        return done.stdout


def read_scores(path: Path) -> Scores:
    """(stem of the video, number of the window) → raw score, of `evaluate`'s and of the stream's scores.csv alike."""
    with path.open(newline="", encoding="utf-8") as file:
        return {(Path(row["source"]).stem, int(row["window"])): float(row["raw"]) for row in csv.DictReader(file)}


def compared(offline: Scores, streamed: Scores) -> dict[str, Any]:
    """How far apart they are. missing: windows that one of the two does not have."""
    both = offline.keys() & streamed.keys()
    worst = max(both, key=lambda key: abs(offline[key] - streamed[key]), default=None)
    return {
        "videos": len({name for name, _ in both}),
        "windows": len(both),
        "missing": len(offline.keys() ^ streamed.keys()),
        "max_difference": abs(offline[worst] - streamed[worst]) if worst else None,
        "worst": f"{worst[0]} window {worst[1]}" if worst else None,
        "score_range": [min(offline.values(), default=0.0), max(offline.values(), default=0.0)],
    }


def validation_clips(clips: Path) -> list[Path]:
    """Paths of the clips that `--where set=… --split val` means."""
    with (clips / "index.csv").open(newline="", encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file) if row["set"] in SETS.split(",") and row["split"] == "val"]
    return [clips / row["path"] for row in rows]


def measure(clips: Path, work: Path, seed: int) -> dict[str, Any]:
    """All stages; the figures of both heads."""
    stages, features = Stages(), work / "features"
    command: tuple[str | Path, ...]
    where = f"set={SETS}"
    told = stages.run(
        "extract", "trainer", "extract", "--list", clips / "index.csv", "--where", where, "--out", features, *ENGINE
    )
    stages.run("audit", "trainer", "audit", features)
    heads: dict[str, Any] = {}
    for name, preset in PRESETS.items():
        head, evaluation, bundle, scores = (work / f"{name}-{x}" for x in ("head", "eval", "bundle", "scores.csv"))
        command = ("train", features, "--out", head, "--preset", preset, "--seed", str(seed))
        stages.run(f"train {name}", "trainer", *command)
        command = ("evaluate", features, "--checkpoint", head, "--clip-labels", "--split", "val", "--out", evaluation)
        stages.run(f"evaluate {name}", "trainer", *command)
        command = ("export", "--checkpoint", head, "--results", evaluation / "results.json", "--out", bundle)
        stages.run(f"export {name}", "trainer", *command)
        command = ("score", *validation_clips(clips), "--bundle", bundle, "--out", scores, *ENGINE)
        stages.run(f"score {name}", "stream_detector", *command)
        figures = json.loads((evaluation / "results.json").read_text(encoding="utf-8"))["content"]
        manifest = json.loads((bundle / "bundle.json").read_text(encoding="utf-8"))
        heads[name] = {
            "arch": manifest["head"]["arch"],
            "preset": preset,
            **compared(read_scores(evaluation / "scores.csv"), read_scores(scores)),
            "validation": {key: figures[key] for key in ("auc", "ap")},
        }
    return {
        "heads": heads,
        "wall_s": stages.wall_s,
        "wall_s_total": round(sum(stages.wall_s.values()), 1),
        "extraction": json.loads(told.strip().splitlines()[-1]),
        "tolerance": TOLERANCE,
    }


def main(argv: list[str] | None = None) -> int:
    """Run all, write benchmarks/results/endtoend.json."""
    parser = argparse.ArgumentParser(prog="benchmarks endtoend", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--clips", type=Path, required=True)
    parser.add_argument("--work", type=Path, help="keep what is made in this folder (default: a temporary one)")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args(argv)
    if not (args.clips / "index.csv").is_file():
        print(f"{args.clips} has no index.csv; give the folder of the clips", file=sys.stderr)
        return 2
    load = load_before()
    with tempfile.TemporaryDirectory() as scratch:
        found = measure(args.clips, args.work or Path(scratch), args.seed)
    engine = dict(zip(("engine", "device", "precision"), ENGINE[1::2], strict=True))
    write_results("endtoend", found, {"sets": SETS.split(","), "seed": args.seed, "load_before": load, **engine})
    print(json.dumps(found, indent=1))
    fine = all(
        head["missing"] == 0 and head["windows"] and head["max_difference"] <= TOLERANCE
        for head in found["heads"].values()
    )
    return 0 if fine else 1


if __name__ == "__main__":
    sys.exit(main())
