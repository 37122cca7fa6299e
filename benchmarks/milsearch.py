"""milsearch: which causal head should `mil` use? Cross-validation by video inside the training list; no test video is
read.

    python -m benchmarks milsearch --data DIR [--only NAME …] [--keep FOLDER] [--budget SECONDS]

Every candidate is trained four times on three quarters of the training videos, as `trainer train` does (it holds a part
of these out for early stopping), and judged on the quarter that it never saw. The training list has no frame labels, so
the figures are those that weak labels allow, between windows of abnormal videos and all those of normal ones:

    peaks   the top three windows of each abnormal video: are the moments that it points at above what is normal?
    all     every window of an abnormal video: is the video found, early and throughout?
    video   the highest score of a video: AUC between videos

`figure` is the mean of peaks and all; early stopping uses the same figure. The preset `causal` is the simplest
candidate within one standard error of the best one, with two members. Weak labels cannot judge where inside an abnormal
video the event lies. A killed run continues from --keep.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.results import load_before, write_results
from stream_detector.models.streaming_heads import Scaling
from trainer.data.features import FeatureSet, load_features
from trainer.mil.heads import HeadSpec
from trainer.mil.train import Hyper, train, training_scaling
from trainer.ranking import auc

FOLDS = 4
THREE = ("rows", "mean:32", "change:8")
WHOLE: dict[str, Any] = {"val_share": 0.0, "steps": 150, "projection": 0}  # every video, every dimension, no stopping
BASE = Hyper(
    head="causal",
    widths=(128,),
    dilations=(1,),
    views=("rows", "change:8"),
    loss="topk",
    mu3=0.0,
    optimizer="adamw",
    weight_decay=0.01,
    projection=512,
    target_norm=8.0,
    steps=200,
    patience=8,
)
CHANGES: dict[str, dict[str, Any]] = {
    "base": {},
    "norm 4": {"target_norm": 4.0},
    "norm 16": {"target_norm": 16.0},
    "norm 32": {"target_norm": 32.0},
    "standardised": {"standardise": True},
    "width 64": {"widths": (64,)},
    "width 256": {"widths": (256,)},
    "no convolution": {"dilations": ()},
    "dilations 1,2": {"dilations": (1, 2)},
    "dilations 1,2,4": {"dilations": (1, 2, 4)},
    "dropout 0.3": {"dropout": 0.3},
    "dropout 0.8": {"dropout": 0.8},
    "k 1": {"k": 1},
    "k 5": {"k": 5},
    "k 8": {"k": 8},
    "rows only": {"views": ("rows",)},
    "mean:32": {"views": ("mean:32",)},
    "rows+mean:32": {"views": ("rows+mean:32",)},
    "mean:8 and change:8": {"views": ("mean:8", "change:8")},
    "mean:32 and change:8": {"views": ("mean:32", "change:8")},
    "rows and change:32": {"views": ("rows", "change:32")},
    "rows, mean:32, change:8": {"views": THREE},
    "three views, norm 4": {"views": THREE, "target_norm": 4.0},
    "three views, k 8": {"views": THREE, "k": 8},
    "three views, no convolution": {"views": THREE, "dilations": ()},
    "three views, 2 members": {"views": THREE, "members": 2},
    "decay 0.1": {"weight_decay": 0.1},
    "rate 3e-4": {"learning_rate": 3e-4, "steps": 500},
    "projection 128": {"projection": 128},
    "2 members": {"members": 2},
    "all videos, 150 steps": {"val_share": 0.0, "steps": 150},
    "rows only, all videos, 150 steps": {"views": ("rows",), "val_share": 0.0, "steps": 150},
    "rows only, all dimensions": {"views": ("rows",), **WHOLE},
    "three views, all dimensions": {"views": THREE, **WHOLE},
    "all dimensions, no dropout": {"views": ("rows",), **WHOLE, "dropout": 0.0},
    "all dimensions, no convolution": {"views": ("rows",), **WHOLE, "dilations": ()},
    "all dimensions, k 8": {"views": ("rows",), **WHOLE, "k": 8},
    "all dimensions, 300 steps": {"views": ("rows",), **WHOLE, "steps": 300},
    "all dimensions, rows+mean:32": {"views": ("rows+mean:32",), **WHOLE},
    "all dimensions, 5 members": {"views": ("rows",), **WHOLE, "members": 5},
    "all dimensions, rows and mean:32": {"views": ("rows", "mean:32"), **WHOLE},
    "alone, no dropout": {"views": ("rows",), **WHOLE, "dilations": (), "dropout": 0.0},
    "alone, dropout 0.3": {"views": ("rows",), **WHOLE, "dilations": (), "dropout": 0.3},
    "alone, rows+mean:32": {"views": ("rows+mean:32",), **WHOLE, "dilations": ()},
    "alone, rows and mean:32": {"views": ("rows", "mean:32"), **WHOLE, "dilations": ()},
    "alone, three views": {"views": THREE, **WHOLE, "dilations": ()},
    "alone, width 512": {"views": ("rows",), **WHOLE, "dilations": (), "widths": (512,)},
    "alone, 300 steps": {"views": ("rows",), **WHOLE, "dilations": (), "steps": 300},
    "alone, decay 0.1": {"views": ("rows",), **WHOLE, "dilations": (), "weight_decay": 0.1},
    "alone, norm 16": {"views": ("rows",), **WHOLE, "dilations": (), "target_norm": 16.0},
    "alone, norm 4": {"views": ("rows",), **WHOLE, "dilations": (), "target_norm": 4.0},
    "alone, k 5": {"views": ("rows",), **WHOLE, "dilations": (), "k": 5},
    "alone, rows and mean:32, dropout 0.3": {
        "views": ("rows", "mean:32"),
        **WHOLE,
        "dilations": (),
        "dropout": 0.3,
        "weight_decay": 0.1,
    },
    "alone, 5 members": {"views": ("rows",), **WHOLE, "dilations": (), "members": 5},
    "three views, all videos, 100 steps": {"views": THREE, "val_share": 0.0, "steps": 100},
    "three views, all videos, 150 steps": {"views": THREE, "val_share": 0.0, "steps": 150},
    "three views, all videos, 300 steps": {"views": THREE, "val_share": 0.0, "steps": 300},
}


def folds(features: FeatureSet, seed: int = 0) -> list[set[int]]:
    """FOLDS disjoint sets of indices, every category spread evenly."""
    rng, found = np.random.default_rng(seed), [set[int]() for _ in range(FOLDS)]
    for category in sorted({v.category for v in features.videos}):
        mine = rng.permutation([i for i, v in enumerate(features.videos) if v.category == category])
        for place, index in enumerate(mine):
            found[place % FOLDS].add(int(index))
    return found


def judged(scores: list[np.ndarray[Any, Any]], labels: np.ndarray[Any, Any]) -> dict[str, float]:
    """The figures of the module's docstring. scores: one array (T,) a video."""
    normal = np.concatenate([s for s, label in zip(scores, labels, strict=True) if not label])
    abnormal = [s for s, label in zip(scores, labels, strict=True) if label]

    found = {
        "peaks": auc(np.concatenate([np.sort(s)[-3:] for s in abnormal]), normal),
        "all": auc(np.concatenate(abnormal), normal),
        "video": auc(
            np.array([s.max() for s in abnormal]),
            np.array([s.max() for s, label in zip(scores, labels, strict=True) if not label]),
        ),
    }
    return {"figure": (found["peaks"] + found["all"]) / 2, **found}


def cross_validated(features: FeatureSet, hyper: Hyper, scaling: Scaling, seed: int) -> dict[str, Any]:
    """Mean of the figures over the folds, their standard error, and seconds."""
    began, rows = time.monotonic(), []
    for number, held in enumerate(folds(features)):
        parts = [tuple(v for i, v in enumerate(features.videos) if (i in held) is out) for out in (False, True)]
        learn, judge = (replace(features, videos=part) for part in parts)
        checkpoint = train(learn, replace(hyper, seed=seed + number), "torch", scaling=scaling)
        head = checkpoint.head()
        rows.append(judged([head.score_rows(v.rows) for v in judge.videos], judge.labels()))
    told: dict[str, Any] = {key: round(float(np.mean([r[key] for r in rows])), 4) for key in rows[0]}
    told["figure_se"] = round(float(np.std([r["figure"] for r in rows], ddof=1) / np.sqrt(len(rows))), 4)
    told["figure_by_fold"] = [round(r["figure"], 4) for r in rows]  # the same folds for all: compare them in pairs
    return told | {"seconds": round(time.monotonic() - began, 1)}


def reach(hyper: Hyper) -> int:
    """Windows that a score of this head depends on; 0 for all of the past."""
    return HeadSpec(4, "causal", hyper.widths, hyper.kernel, hyper.dilations, views=hyper.views).reach


def main(argv: list[str] | None = None) -> int:
    """Judge every candidate, print the list, write benchmarks/results/trainer_mil_search.json."""
    parser = argparse.ArgumentParser(prog="benchmarks milsearch", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--only", choices=sorted(CHANGES), action="append")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--keep", type=Path, help="folder for finished candidates; a second run goes on from there")
    parser.add_argument("--budget", type=float, default=float("inf"), help="begin no candidate after so many seconds")
    args = parser.parse_args(argv)
    load, began = load_before(), time.monotonic()
    features = load_features(args.data / "c3d_fc6_segments.npz").of_split("train")
    scalings: dict[Any, Scaling] = {}
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as scratch:
        keep = args.keep or Path(scratch)
        keep.mkdir(parents=True, exist_ok=True)
        for name in args.only or CHANGES:
            hyper, out = replace(BASE, **CHANGES[name]), keep / f"{name.replace(' ', '_')}-{args.seed}.json"
            if not out.is_file():
                if time.monotonic() - began > args.budget:
                    continue
                key = (hyper.projection, hyper.target_norm, hyper.standardise)
                if key not in scalings:
                    scalings[key] = training_scaling(features, hyper)
                told = cross_validated(features, hyper, scalings[key], args.seed)
                out.write_text(json.dumps({"changes": CHANGES[name], "reach": reach(hyper), **told}))
            found[name] = json.loads(out.read_text())
            told = found[name]
            figures = "  ".join(f"{key} {told[key]:.4f}" for key in ("figure", "figure_se", "peaks", "all", "video"))
            print(f"{name:<26}{figures}  {told['seconds']:.0f} s", file=sys.stderr, flush=True)
    best = max(found, key=lambda name: float(found[name]["figure"]), default=None)
    write_results(
        "trainer_mil_search",
        {"candidates": found, "best": best},
        {"folds": FOLDS, "seed": args.seed, "load_before": load},
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
