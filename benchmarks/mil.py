"""Weakly supervised heads on real C3D features of UCF-Crime: every method, five seeds, both backends, one command.

    python -m benchmarks mil --data DIR        DIR holds c3d_fc6_segments.npz and test_annotations.csv

Training sees the training list only, and every choice was made inside it (how the causal head was chosen:
benchmarks/milsearch.py). The test list is scored once per trained head. Each (method,
backend) runs in a process of its own, because Keras keeps one backend per process. Reported: median and range over the
seeds, the video bootstrap interval of the median seed, and oracle lines, one of which is told the test videos' own
labels (benchmarks/milbound.py).
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.milbound import bounds
from benchmarks.results import write_results
from trainer.annotations import annotation_of, read_annotations
from trainer.bags import bags_of
from trainer.evaluate import evaluate, jsonable, score_videos, timeline_of
from trainer.features import load_features
from trainer.metrics import frame_figures
from trainer.oracles import oracle_lines
from trainer.timeline import all_pieces
from trainer.train import PRESETS, Hyper, train, training_scaling

SHOWN = ("auc", "ap", "auc_abnormal", "auc_macro", "far_at_half")
CURVE_STEPS = (100, 200, 300, 500, 700, 1000, 1500, 2000, 3000, 4000, 5000, 7000, 10_000)
# All methods train on the whole training list for a fixed number of steps; nothing is chosen on the test list. With
# 153 abnormal videos, stopping by a held-out seventh of them was worse in cross-validation (milsearch), and so were
# principal axes for the top-k losses. The ranking losses have the paper's head and 512 axes, for ten thousand steps on
# 4096 dimensions take too long; the axes do not go through the mean, so rows stay what was published (unit rows).
WHOLE = {"val_share": 0.0}
LONG = {**WHOLE, "steps": 10_000, "check_every": 100, "projection": 512}
MILR = replace(PRESETS["paper"], centre=False, **LONG)  # type: ignore[arg-type]
SULTANI = replace(PRESETS["sultani"], widths=(128, 32), centre=False, **LONG)  # type: ignore[arg-type]
METHODS: dict[str, Hyper] = {
    "sultani": SULTANI,
    "milr": MILR,
    "topk-mlp": replace(PRESETS["topk"], steps=150, projection=0, **WHOLE),  # type: ignore[arg-type]
    "causal": replace(PRESETS["causal"], **WHOLE),  # type: ignore[arg-type]
    "topk-512": replace(PRESETS["topk"], **LONG),  # type: ignore[arg-type]
    # What each difference from the sources is worth: a thousand steps, one change at a time.
    "milr, accumulators from 0.1 and centred rows": replace(MILR, steps=1000, accumulator=0.1, centre=True),
    "milr, accumulators from 0.1": replace(MILR, steps=1000, accumulator=0.1),
    "milr, centred rows": replace(MILR, steps=1000, centre=True),
    "milr, glorot_normal": replace(MILR, steps=1000, initializer="glorot_normal"),
    "milr, no ReLU after 32": replace(MILR, steps=1000, linear_last=True),
    "sultani, accumulators from 0.1 and centred rows": replace(SULTANI, steps=1000, accumulator=0.1, centre=True),
    "sultani, accumulators from 0.1": replace(SULTANI, steps=1000, accumulator=0.1),
    "sultani, glorot_uniform": replace(SULTANI, steps=1000, initializer="glorot_uniform"),
    "sultani, ReLU after 32": replace(SULTANI, steps=1000, linear_last=False),
    "sultani, Adadelta": replace(SULTANI, steps=1000, optimizer="adadelta"),
}
BACKEND_STEPS = {
    "tensorflow": 2000
}  # it takes a graph's time for each; compare with the same step of the other's curve
MAIN = (("causal", "torch"), ("topk-mlp", "torch"), ("milr", "torch"), ("sultani", "torch"),
        ("milr", "tensorflow"), ("sultani", "tensorflow"))  # fmt: skip
VARIANTS = tuple((name, "torch") for name in METHODS if ", " in name)
RUNS = (*MAIN, *VARIANTS, ("topk-512", "torch"))
FIRST = ("milr", "sultani")  # of all seeds before the others, for they take longest


def hyper_of(method: str, backend: str, steps: int = 0) -> Hyper:
    """What a run trains with. steps: 0 for the method's own."""
    hyper = METHODS[method]
    return replace(hyper, steps=steps or min(hyper.steps, BACKEND_STEPS.get(backend, hyper.steps)))


def run_methods(
    methods: list[str], backend: str, data: Path, seeds: int, bootstrap: int, keep: Path, steps: int
) -> None:
    """Train and score every seed of the methods; one JSON file a seed in `keep`, so a killed run goes on there."""
    features = load_features(data / "c3d_fc6_segments.npz")
    annotations = read_annotations(data / "test_annotations.csv")
    training, test = features.of_split("train"), features.of_split("test")
    labels, scalings = test.labels(), dict[Any, Any]()
    order = sorted(((m not in FIRST, s, m) for s in range(seeds) for m in methods), key=lambda x: x[:2])
    for _, seed, method in order:
        hyper = hyper_of(method, backend, steps)
        key = (hyper.projection, hyper.target_norm, hyper.centre)
        out = keep / f"{file_name(method)}-{backend}-{seed}.json"
        if kept_row(out, hyper) is not None:
            continue
        if key not in scalings:
            scalings[key] = training_scaling(training, hyper)
        curve = list[dict[str, float]]()

        def look(step: int, model: Any, rows: Any = None, curve: list[dict[str, float]] = curve) -> None:
            from trainer.step import predict

            if step in CURVE_STEPS:
                scores = 1 / (1 + np.exp(-predict(model, rows).astype(np.float64)))
                lines = [
                    timeline_of(v, s, annotation_of(annotations, v.name))
                    for v, s in zip(test.videos, scores, strict=True)
                ]
                told = frame_figures(all_pieces(lines, "content"), labels, 0)
                curve.append({"step": step, **{k: round(told[k].value, 4) for k in SHOWN}})

        has_curve = hyper.head == "mlp" and hyper.steps > 150
        shown = scalings[key].apply(bags_of(test, hyper.segments)) if has_curve else None
        began = time.monotonic()
        checkpoint = train(
            training,
            replace(hyper, seed=seed),
            backend,
            scaling=scalings[key],
            look=partial(look, rows=shown) if has_curve else None,
        )
        seconds = time.monotonic() - began
        found = evaluate(score_videos(test, checkpoint, annotations), bootstrap, oracles=False)
        row = {
            "seed": seed,
            "hyper": jsonable(asdict(hyper)),
            "train_s": round(seconds, 1),
            "steps": hyper.steps,
            "loss": [curve.loss[-1] for curve in checkpoint.curves],
            "curve": curve,
            **jsonable({k: found[k] for k in ("content", "emission", "events_at")}),
        }
        part = out.with_suffix(".part")
        part.write_text(json.dumps(row))
        part.replace(out)
        print(f"{method} {backend} seed {seed}: {hyper.steps} steps, {seconds:.0f} s", file=sys.stderr, flush=True)


def kept_row(path: Path, hyper: Hyper) -> dict[str, Any] | None:
    """What a finished seed left; None where there is none, or where it was trained with other hyper-parameters."""
    if not path.is_file():
        return None
    row: dict[str, Any] = json.loads(path.read_text())
    return row if row.get("hyper") == json.loads(json.dumps(jsonable(asdict(hyper)))) else None


def file_name(method: str) -> str:
    """A method's name as part of a file's."""
    return method.replace(", ", "_").replace(" ", "-")


def summary(rows: list[dict[str, Any]], stamping: str = "content") -> dict[str, Any]:
    """Median and range over the seeds; the interval is that of the seed with the median AUC."""
    ordered = sorted(rows, key=lambda r: float(r[stamping]["auc"]["value"]))
    middle = ordered[len(ordered) // 2]
    found = {}
    for name in SHOWN:
        values = [float(r[stamping][name]["value"]) for r in rows]
        found[name] = {
            "median": round(float(np.median(values)), 4),
            "range": [round(min(values), 4), round(max(values), 4)],
            "interval_of_median_seed": [middle[stamping][name]["low"], middle[stamping][name]["high"]],
        }
    return found


def oracles(data: Path, bootstrap: int) -> dict[str, Any]:
    """Oracle lines on this test list, and what heads reach that are told the test videos' own labels."""
    annotations = read_annotations(data / "test_annotations.csv")
    features = load_features(data / "c3d_fc6_segments.npz")
    training, test = features.of_split("train"), features.of_split("test")
    truth = [timeline_of(v, np.zeros(len(v.rows)), annotation_of(annotations, v.name)) for v in test.videos]
    lines = oracle_lines(truth)
    found = {n: frame_figures(all_pieces(t, "content"), test.labels(), bootstrap) for n, t in lines.items()}
    return {name: jsonable(figures) for name, figures in (found | bounds(training, test, truth, bootstrap)).items()}


def main(argv: list[str] | None = None) -> int:
    """Run all, print the table, write benchmarks/results/trainer_mil.json."""
    parser = argparse.ArgumentParser(prog="benchmarks mil", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--bootstrap", type=int, default=500)
    parser.add_argument("--only", choices=sorted(METHODS), action="append", help="leave the other methods out")
    parser.add_argument("--keep", type=Path, help="folder for finished seeds; a second run goes on from there")
    parser.add_argument("--steps", type=int, default=0, help="at most so many, only to see it run; writes no results")
    parser.add_argument("--collect", action="store_true", help="train nothing; only tell what --keep holds")
    parser.add_argument("--worker", choices=("torch", "tensorflow"), help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    runs = [run for run in RUNS if not args.only or run[0] in args.only]
    if args.worker:
        mine = [method for method, backend in runs if backend == args.worker]
        run_methods(mine, args.worker, args.data, args.seeds, args.bootstrap, args.keep, args.steps)
        return 0
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as scratch:
        keep = args.keep or Path(scratch)
        keep.mkdir(parents=True, exist_ok=True)
        if not args.collect:
            train_all(runs, args, keep)
        for method, backend in runs:
            paths = [keep / f"{file_name(method)}-{backend}-{seed}.json" for seed in range(args.seeds)]
            kept = [kept_row(path, hyper_of(method, backend, args.steps)) for path in paths]
            rows = [{k: v for k, v in row.items() if k != "hyper"} for row in kept if row is not None]
            if not rows:
                continue
            name = f"{method} ({backend})"
            hyper = asdict(hyper_of(method, backend, args.steps))
            found[name] = {"hyper": hyper, "content": summary(rows), "emission": summary(rows, "emission"),
                           "curve": curve_of(rows), "seeds": rows}  # fmt: skip
            show(name, found[name]["content"])
    lines = oracles(args.data, args.bootstrap)
    for name, figures in lines.items():
        print(f"{name:<38}" + "".join(f"{_number(figures[k]['value']):>26}" for k in SHOWN))
    if args.steps:
        return 0
    write_results(
        "trainer_mil", {"methods": found, "oracles": lines}, {"seeds": args.seeds, "bootstrap": args.bootstrap}
    )
    return 0


def train_all(runs: list[tuple[str, str]], args: argparse.Namespace, keep: Path) -> None:
    """A process for each backend, side by side. Raises CalledProcessError when one fails."""
    only = [x for method in args.only or [] for x in ("--only", method)]
    workers = []
    try:
        for backend in dict.fromkeys(backend for _, backend in runs):
            command = [sys.executable, "-m", "benchmarks.mil", "--data", str(args.data), "--seeds", str(args.seeds),
                       "--bootstrap", str(args.bootstrap), "--keep", str(keep), "--steps", str(args.steps), *only,
                       "--worker", backend]  # fmt: skip
            threads = {"OMP_NUM_THREADS": "1", "TF_NUM_INTRAOP_THREADS": "1", "TF_NUM_INTEROP_THREADS": "1"}
            workers.append(subprocess.Popen(command, env={**threads, **os.environ}))
        for worker in workers:
            if worker.wait():
                raise subprocess.CalledProcessError(worker.returncode, worker.args)
    finally:
        for worker in workers:
            worker.terminate()
            worker.wait()


def curve_of(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Median and range of the frame AUC over the seeds, at every step that all of them were looked at."""
    steps = [{point["step"]: point["auc"] for point in row["curve"]} for row in rows]
    told = []
    for step in sorted(set.intersection(*map(set, steps))):
        values = [points[step] for points in steps]
        told.append({"step": step, "median": round(float(np.median(values)), 4), "range": [min(values), max(values)]})
    return told


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def show(name: str, figures: dict[str, Any]) -> None:
    """One line of the table: median [range] of each figure."""
    cells = (f"{figures[k]['median']:.3f} [{figures[k]['range'][0]:.3f}, {figures[k]['range'][1]:.3f}]" for k in SHOWN)
    print(f"{name:<38}" + "".join(f"{c:>26}" for c in cells), flush=True)


if __name__ == "__main__":
    sys.exit(main())
