"""`python -m trainer search-head`: cross-validates the candidates of the causal head, by video.

    python -m trainer search-head FEATURES --out found.json [--only NAME …] [--keep FOLDER] [--budget SECONDS]

Only the training split is read. Every candidate of candidates.toml is trained four times on three quarters of the
training videos, as `trainer train` does (which holds a part of these out for early stopping), and judged on the
remaining quarter. The training list has no frame labels, so the figures compare windows of abnormal videos with all
windows of normal videos:

    peaks   the three highest windows of each abnormal video against the normal windows
    all     every window of an abnormal video against the normal windows
    video   the highest score of a video: AUC between videos

`figure` is the mean of peaks and all; early stopping uses the same figure. The preset `causal` is the simplest
candidate within one standard error of the best one, with two members. Weak labels cannot tell where inside an abnormal
video the event lies. A killed run continues from --keep.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
import tomllib
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from stream_detector.errors import UsageError
from stream_detector.models.streaming_heads import Scaling
from trainer.data.features import FeatureSet, load_features
from trainer.mil.heads import HeadSpec
from trainer.mil.train import Hyper, train, training_scaling
from trainer.ranking import auc

FOLDS = 4
CANDIDATES = Path(__file__).with_name("candidates.toml")


def read_candidates(path: Path = CANDIDATES) -> dict[str, Hyper]:
    """Read the candidates: the table [base], and each further table as changes of it. Raises DataError."""
    tables: dict[str, dict[str, Any]] = {
        name: {key: tuple(value) if isinstance(value, list) else value for key, value in table.items()}
        for name, table in tomllib.loads(path.read_text(encoding="utf-8")).items()
    }
    base = tables.pop("base")
    return {"base": Hyper(**base)} | {name: Hyper(**{**base, **changes}) for name, changes in tables.items()}


def folds(features: FeatureSet, seed: int = 0) -> list[set[int]]:
    """Return FOLDS disjoint sets of indices; every category is spread evenly."""
    rng, found = np.random.default_rng(seed), [set[int]() for _ in range(FOLDS)]
    for category in sorted({v.category for v in features.videos}):
        mine = rng.permutation([i for i, v in enumerate(features.videos) if v.category == category])
        for place, index in enumerate(mine):
            found[place % FOLDS].add(int(index))
    return found


def judged(scores: list[np.ndarray[Any, Any]], labels: np.ndarray[Any, Any]) -> dict[str, float]:
    """Return the figures of the module's docstring. scores: one array (T,) per video.  labels: (V,)."""
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
    """Return the mean of the figures over the folds, their standard error, and the seconds."""
    began, rows = time.monotonic(), []
    for number, held in enumerate(folds(features)):
        parts = [tuple(v for i, v in enumerate(features.videos) if (i in held) is out) for out in (False, True)]
        learn, judge = (replace(features, videos=part) for part in parts)
        checkpoint = train(learn, replace(hyper, seed=seed + number), "torch", scaling=scaling)
        head = checkpoint.head()
        rows.append(judged([head.score_rows(v.rows) for v in judge.videos], judge.labels()))
    result: dict[str, Any] = {key: round(float(np.mean([r[key] for r in rows])), 4) for key in rows[0]}
    result["figure_se"] = round(float(np.std([r["figure"] for r in rows], ddof=1) / np.sqrt(len(rows))), 4)
    result["figure_by_fold"] = [round(r["figure"], 4) for r in rows]  # the same folds for all: compare them in pairs
    return result | {"seconds": round(time.monotonic() - began, 1)}


def reach(hyper: Hyper) -> int:
    """Return the number of windows that a score of this head depends on; 0 for the whole past."""
    return HeadSpec(4, "causal", hyper.widths, hyper.kernel, hyper.dilations, views=hyper.views).reach


def add_parser(subparsers: Any) -> None:
    """Declare `trainer search-head`."""
    parser = subparsers.add_parser("search-head", help="cross-validate the candidates of the causal head")
    parser.add_argument("features", type=Path, help="features with a training split")
    parser.add_argument("--out", type=Path, required=True, help="JSON file to write")
    parser.add_argument("--only", action="append", metavar="NAME", help="only this candidate; may be repeated")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--keep", type=Path, help="folder for finished candidates; a second run continues from there")
    parser.add_argument(
        "--budget", type=float, default=float("inf"), help="start no candidate after this number of seconds"
    )
    parser.set_defaults(main=main)


def main(args: argparse.Namespace) -> int:
    """Judge every candidate, print the list, write the figures; returns the exit code."""
    candidates = read_candidates()
    names = args.only or list(candidates)
    if unknown := sorted(set(names) - set(candidates)):
        raise UsageError(f"there is no candidate {unknown[0]!r}; candidates.toml lists them")
    began = time.monotonic()
    features = load_features(args.features).of_split("train")
    scalings: dict[Any, Scaling] = {}
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as scratch:
        keep = args.keep or Path(scratch)
        keep.mkdir(parents=True, exist_ok=True)
        for name in names:
            hyper, out = candidates[name], keep / f"{name.replace(' ', '_')}-{args.seed}.json"
            if not out.is_file():
                if time.monotonic() - began > args.budget:
                    continue
                key = (hyper.projection, hyper.target_norm, hyper.standardise)
                if key not in scalings:
                    scalings[key] = training_scaling(features, hyper)
                result = cross_validated(features, hyper, scalings[key], args.seed)
                out.write_text(json.dumps({"reach": reach(hyper), **result}))
            result = found[name] = json.loads(out.read_text())
            figures = "  ".join(f"{key} {result[key]:.4f}" for key in ("figure", "figure_se", "peaks", "all", "video"))
            print(f"{name:<26}{figures}  {result['seconds']:.0f} s", file=sys.stderr, flush=True)
    best = max(found, key=lambda name: float(found[name]["figure"]), default=None)
    args.out.write_text(json.dumps({"candidates": found, "best": best, "folds": FOLDS, "seed": args.seed}, indent=1))
    return 0
