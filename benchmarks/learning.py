"""learning: what more clips, more windows and other shares of the sets give the head of the embedded model, on val.

    python -m benchmarks learning --clips DIR [--cache DIR] [--student student.pt]

The network stays as it is; a head is fitted as the bundle's was and judged on the val clips (highest window of a clip,
AUC). Shares of the train clips are drawn anew DRAWS times, in every set and label alike. `--student`: the run that the
bundle was made from; a head that was fitted in a space shared with the teacher (`trainer.spaces`) needs its maps.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
from collections.abc import Mapping, Sequence
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
from trainer.choose import FITTED_SHARES
from trainer.clips import Clip, evenly, load_clips, pack_clips, read_index
from trainer.fit import Bag, HeadConfig, clip_scores
from trainer.footage import TRAIN_LIMITS, features_of, look
from trainer.measure import clip_aucs
from trainer.pool import SHARES
from trainer.spaces import Maps, fit_in_space, maps_of
from trainer.student import student_from

DRAWS = 5
SHARES_OF_CLIPS = (0.125, 0.25, 0.5, 1.0)
DECAYS = (0.03, 0.3, 1.0, 3.0)
FIGHTS = (0.02, 0.08, 0.15, 0.27)  # shares of cctv_fights, beside those of the bundle
WINDOWS = 4  # of a train clip
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


def judged(
    train: Sequence[Bag],
    val: Sequence[Bag],
    config: HeadConfig,
    maps: Maps,
    shares: Mapping[str, float] = FITTED_SHARES,
) -> dict[str, float]:
    """AUC by set."""
    scores = clip_scores(fit_in_space(train, config, shares, maps), val)
    table = clip_aucs(scores, [b.set for b in val], [b.abnormal for b in val])
    return {name: table[name]["value"] for name in SETS if name in table}


def main(argv: list[str]) -> int:
    """Command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks learning", description=__doc__.splitlines()[0])
    parser.add_argument("--clips", type=Path, required=True, help="folder with index.csv and the clips")
    parser.add_argument("--cache", type=Path, help="keeps decoded clips for the next time")
    parser.add_argument("--bundle", default="embedded")
    parser.add_argument("--student", type=Path, help="student.pt that the bundle was made from")
    parser.add_argument("--no-save", action="store_true")
    args = parser.parse_args(argv)
    load, console, bundle = load_before(), Console(stderr=True), Bundle.load(args.bundle)
    backbone, _, recipe = bundle.build()
    head = bundle.manifest.training.get("head", {})
    fitted = HeadConfig(tuple(head.get("hidden", ())), head.get("decay", 0.03), head.get("space", "features"))
    maps: Maps = {}
    if args.student:
        maps = maps_of(
            student_from(torch.load(args.student, map_location="cpu", weights_only=True)).requires_grad_(False)
        )
    elif fitted.space != "features":
        parser.error(f"the head of {bundle.manifest.name!r} was fitted in space {fitted.space!r}; give --student")
    judge = partial(judged, maps=maps)
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
        seen = partial(
            features_of, partial(look, backbone, recipe), recipe.size[0], frames, workers=os.cpu_count() or 1
        )
        plain_rows = dict(zip([*train, *val], seen([*train, *val]), strict=True))
        console.print("features found; now mirrored")
        mirrored_rows = seen(train, change=mirrored)

    def bags(rows: dict[int, Rows], items: Sequence[int], most: int) -> list[Bag]:
        return [Bag(thinned(rows[i], most), clips[i].set, clips[i].abnormal) for i in items]

    val_bags, all_bags = bags(plain_rows, val, 10**9), bags(plain_rows, train, WINDOWS)
    curve = []
    for share in SHARES_OF_CLIPS:
        draws = []
        for draw in range(DRAWS if share < 1 else 1):
            rng = np.random.default_rng(draw)
            chosen = drawn([clips[i] for i in train], share, rng)
            draws.append(judge([all_bags[k] for k in chosen], val_bags, fitted))
        middle = {name: round(float(np.median([d[name] for d in draws])), 4) for name in draws[0]}
        extent = {name: [min(d[name] for d in draws), max(d[name] for d in draws)] for name in draws[0]}
        curve.append({"share": share, "clips": len(chosen), "median": middle, "range": extent})
        console.print(curve[-1])
    flipped = [
        Bag(thinned(rows, WINDOWS), clips[i].set, clips[i].abnormal)
        for rows, i in zip(mirrored_rows, train, strict=True)
    ]
    base = replace(fitted, space="features")
    tried: dict[str, dict[str, float]] = {
        f"as the bundle: {fitted.space}, L2 {fitted.decay:g}": judge(all_bags, val_bags, fitted),
        "one window of a train clip": judge(bags(plain_rows, train, 1), val_bags, fitted),
        "all windows of a train clip": judge(bags(plain_rows, train, 10**9), val_bags, fitted),
        "mirrored windows too": judge([*all_bags, *flipped], val_bags, fitted),
        **{
            f"fights weigh {share:g}": judge(all_bags, val_bags, fitted, shares={**FITTED_SHARES, "cctv_fights": share})
            for share in FIGHTS
        },
        "sets weigh as in the network's training": judge(all_bags, val_bags, fitted, shares=SHARES),
        "features, a hidden layer of 32": judge(all_bags, val_bags, replace(base, hidden=(32,))),
        **{
            f"{space}, L2 {decay:g}": judge(all_bags, val_bags, replace(fitted, space=space, decay=decay))
            for space in ("features", *maps)
            for decay in DECAYS
            if (space, decay) != (fitted.space, fitted.decay)
        },
    }
    results = {"bundle": bundle.fingerprint, "val_clips": len(val), "curve": curve, "tried": tried}
    if not args.no_save:
        write_results("learning", results, {"load_before": load, "draws": DRAWS, "windows": WINDOWS})
    print(json.dumps(results, indent=2))
    return 0
