"""learning: what more clips, more windows and mirrored pictures give the head of the embedded model, on val.

    python -m benchmarks learning --clips DIR [--cache DIR] [--student student.pt]

The network stays as it is; a head is fitted as `trainer embed` does and judged on the val clips (highest window of a
clip, AUC). Shares of the train clips are drawn anew DRAWS times, in every set and label alike. `--student`: a network
out of `trainer distill` that is judged in the same way, as one more row.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console

from benchmarks.results import load_before, write_results
from stream_detector.bundle import Bundle
from stream_detector.types import UInt8Array
from trainer.clips import Clip, evenly, load_clips, pack_clips, read_index
from trainer.embed import TRAIN_LIMITS, features_of
from trainer.fit import Bag, HeadConfig, clip_scores, fit_head
from trainer.measure import clip_aucs
from trainer.pool import SHARES
from trainer.student import student_from

DRAWS = 5
SHARES_OF_CLIPS = (0.125, 0.25, 0.5, 1.0)
BASE = HeadConfig((), 0.03)
DECAYS = (0.003, 0.3, 1.0)
WINDOWS = 4  # of a train clip
FITTED_AS = f"L2 {BASE.decay:g}, {WINDOWS} windows of a train clip"
SETS = ("cctv_fights", "cctv_crashes", "hockey_fights", "pooled")
Rows = np.ndarray[Any, np.dtype[np.float32]]


def mirrored(window: UInt8Array) -> UInt8Array:
    """Left and right changed. window: uint8 (16, H, W, 3)."""
    return window[:, :, ::-1]


def thinned(rows: Rows, most: int) -> Rows:
    """At most so many rows, evenly over the clip."""
    return rows if len(rows) <= most else rows[np.linspace(0, len(rows) - 1, most).round().astype(int)]


def drawn(clips: Sequence[Clip], share: float, rng: np.random.Generator) -> list[int]:
    """Places of a share of the clips, of every set and label at least two."""
    cells: dict[tuple[str, bool], list[int]] = {}
    for place, clip in enumerate(clips):
        cells.setdefault((clip.set, clip.abnormal), []).append(place)
    chosen: list[int] = []
    for places in cells.values():
        chosen += rng.permutation(places)[: max(2, round(share * len(places)))].tolist()
    return sorted(chosen)


def judged(train: Sequence[Bag], val: Sequence[Bag], config: HeadConfig) -> dict[str, float]:
    """AUC by set."""
    scores = clip_scores(fit_head(train, config, SHARES), val)
    table = clip_aucs(scores, [b.set for b in val], [b.abnormal for b in val])
    return {name: table[name]["value"] for name in SETS if name in table}


def main(argv: list[str]) -> int:
    """Command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks learning", description=__doc__.splitlines()[0])
    parser.add_argument("--clips", type=Path, required=True, help="folder with index.csv and the clips")
    parser.add_argument("--cache", type=Path, help="keeps decoded clips for the next time")
    parser.add_argument("--bundle", default="embedded")
    parser.add_argument("--student", type=Path, help="student.pt of `trainer distill`, as one more row")
    parser.add_argument("--no-save", action="store_true")
    args = parser.parse_args(argv)
    load, console, bundle = load_before(), Console(stderr=True), Bundle.load(args.bundle)
    backbone, _, recipe = bundle.build()
    with tempfile.TemporaryDirectory() as scratch:
        cache = args.cache or Path(scratch)
        everything = read_index(args.clips)
        index = [everything[i] for i in evenly(everything, "train", TRAIN_LIMITS) + evenly(everything, "val", {})]
        for done, total in pack_clips(index, args.clips, cache, size=recipe.size[0], name="learning"):
            if done % 200 == 0:
                console.print(f"decoded {done} of {total} clips")
        frames, clips = load_clips(cache, "learning")
        train = [i for i, clip in enumerate(clips) if clip.split == "train"]
        val = [i for i, clip in enumerate(clips) if clip.split == "val"]
        seen = partial(features_of, recipe=recipe, frames=frames, workers=os.cpu_count() or 1)
        plain_rows = dict(zip([*train, *val], seen(backbone, items=[*train, *val]), strict=True))
        console.print("features found; now mirrored")
        mirrored_rows = seen(backbone, items=train, change=mirrored)
        student = None
        if args.student:
            state = torch.load(args.student, map_location="cpu", weights_only=True)
            other = student_from(state)
            found = seen(other.backbone.eval(), items=[*train, *val])
            student = (int(state["step"]), dict(zip([*train, *val], found, strict=True)))

    def bags(rows: dict[int, Rows], items: Sequence[int], most: int) -> list[Bag]:
        return [Bag(thinned(rows[i], most), clips[i].set, clips[i].abnormal) for i in items]

    val_bags, all_bags = bags(plain_rows, val, 10**9), bags(plain_rows, train, WINDOWS)
    curve = []
    for share in SHARES_OF_CLIPS:
        draws = []
        for draw in range(DRAWS if share < 1 else 1):
            rng = np.random.default_rng(draw)
            chosen = drawn([clips[i] for i in train], share, rng)
            draws.append(judged([all_bags[k] for k in chosen], val_bags, BASE))
        middle = {name: round(float(np.median([d[name] for d in draws])), 4) for name in draws[0]}
        extent = {name: [min(d[name] for d in draws), max(d[name] for d in draws)] for name in draws[0]}
        curve.append({"share": share, "clips": len(chosen), "median": middle, "range": extent})
        console.print(curve[-1])
    flipped = [
        Bag(thinned(rows, WINDOWS), clips[i].set, clips[i].abnormal)
        for rows, i in zip(mirrored_rows, train, strict=True)
    ]
    tried: dict[str, dict[str, float]] = {
        FITTED_AS: judged(all_bags, val_bags, BASE),
        "one window of a train clip": judged(bags(plain_rows, train, 1), val_bags, BASE),
        "all windows of a train clip": judged(bags(plain_rows, train, 10**9), val_bags, BASE),
        "mirrored windows too": judged([*all_bags, *flipped], val_bags, BASE),
        "a hidden layer of 32": judged(all_bags, val_bags, replace(BASE, hidden=(32,))),
        **{f"L2 {decay:g}": judged(all_bags, val_bags, replace(BASE, decay=decay)) for decay in DECAYS},
    }
    if student:
        step, rows = student
        tried[f"another student, {step} steps"] = judged(bags(rows, train, WINDOWS), bags(rows, val, 10**9), BASE)
    results = {"bundle": bundle.fingerprint, "val_clips": len(val), "curve": curve, "tried": tried}
    if not args.no_save:
        write_results("learning", results, {"load_before": load, "draws": DRAWS, "windows": WINDOWS})
    print(json.dumps(results, indent=2))
    return 0
