"""`python -m trainer teacher-bundle`: a head on the features of the teacher, the I3D, in a bundle without weights.

    teacher targets (of `distill`) ──fit──▶ head candidates ──val──▶ chosen ──calibrate──▶ bundle that refers to the I3D

This bundle prefers accuracy to speed: a window costs several times the embedded model's. The 25 million weights are
not in the bundle; it names them with the checksum of their tensors, and `stream-detector models fetch` downloads them.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from dataclasses import asdict, replace
from typing import Any

import numpy as np
from rich.console import Console

from stream_detector.errors import DataError
from stream_detector.models.backbones.i3d import FEATURE_DIM
from stream_detector.models.bundle import Bundle, write_bundle
from stream_detector.models.preprocess import recipe_named
from trainer.data.clips import Clip, load_clips, sides
from trainer.data.sizes import named
from trainer.recipes.embedded.clip_metrics import Stream, clip_aucs, leave_one_set_out
from trainer.recipes.embedded.embed import licences
from trainer.recipes.embedded.fit_head import Bag, HeadConfig, calibrate, clip_scores, fit_head
from trainer.recipes.embedded.footage import raw_scores
from trainer.recipes.embedded.select_head import MEASURED_SHARES
from trainer.recipes.embedded.teacher import Targets
from trainer.recipes.embedded.threshold import above_most
from trainer.recipes.embedded.view_pool import SHARES

HEADS = tuple(HeadConfig((), decay, dropout=0.0) for decay in (0.01, 0.03, 0.1, 0.3, 1.0))
TIME_CONSTANT_S = 1.0
REFERENCE = "i3d-kinetics400"


def clip_bags(targets: Targets, clips: tuple[Clip, ...]) -> dict[str, list[tuple[Bag, Clip]]]:
    """Return the clips that the teacher has scored, by split, each with its windows in order of time."""
    rows: dict[int, list[int]] = {}
    for row in np.flatnonzero(targets.done).tolist():
        rows.setdefault(targets.jobs[row].item, []).append(row)
    found: dict[str, list[tuple[Bag, Clip]]] = {"train": [], "val": []}
    for item, of_item in sorted(rows.items()):
        ordered = sorted(of_item, key=lambda row: targets.jobs[row].start)
        clip = clips[item]
        found[clip.split].append((Bag(np.array(targets.features[ordered]), clip.set, clip.abnormal), clip))
    if not found["train"] or not found["val"]:
        raise DataError("the teacher has scored one split only; run `python -m trainer distill` first")
    return found


def build(args: argparse.Namespace, console: Console) -> Bundle:
    """Fit, choose, calibrate, write; return the bundle. Raises DataError and BundleError."""
    _, clips = load_clips(args.cache)
    targets = Targets.open(args.cache / f"teacher-{named(args.teacher_size)}")
    found = clip_bags(targets, clips)
    train, val = [bag for bag, _ in found["train"]], [bag for bag, _ in found["val"]]
    tried: list[dict[str, Any]] = []
    best = None
    for config in HEADS:
        head = fit_head(train, config, SHARES)
        table = clip_aucs(clip_scores(head, val), [b.set for b in val], [b.abnormal for b in val])
        value = float(np.mean([row["value"] for row in table.values()]))
        tried.append({"decay": config.decay, "mean_auc": round(value, 4)})
        if best is None or value > best[0]:
            best = (value, head, config, table)
    assert best is not None
    _, head, chosen, table = best
    calibrate(head, val, MEASURED_SHARES)
    normal = [
        Stream(clip.path, raw_scores(head, bag.features), clip.fps) for bag, clip in found["val"] if not clip.abnormal
    ]
    threshold = above_most(normal, TIME_CONSTANT_S)
    how = f"above 95 % of {len(normal)} normal val clips; no quiet hours were seen: calibrate it on your own"
    recipe = replace(
        recipe_named("i3d-224"),
        name=f"i3d-{named(args.teacher_size)}-stretch",
        size=sides(args.teacher_size),
        fit="stretch",
        views=(),
    )
    console.print({name: round(row["value"], 3) for name, row in table.items()})
    parts = {
        "name": args.name,
        "backbone": {"arch": "i3d", "feature_dim": FEATURE_DIM, "reference": REFERENCE},
        "preprocess": recipe,
        "head": {"arch": "mlp", "dims": list(head.dims)},
        "smoothing": {"kind": "ema", "time_constant_s": TIME_CONSTANT_S},
        "threshold": {"value": threshold, "calibrated": how},
        "training": {
            "head": asdict(chosen),
            "windows": int(targets.done.sum()),
            "teacher_size": named(args.teacher_size),
        },
        "results": {
            "val_clip_auc": table,
            "heads_tried": tried,
            "leave_one_set_out": leave_one_set_out([*train, *val], lambda bags: fit_head(bags, chosen, SHARES))[0],
        },
        "licences": {name: text for name, text in licences(clips).items() if name != "rendered"},
    }
    return write_bundle(args.out, parts, None, head.state_dict())


def render_card(manifest: Mapping[str, Any]) -> str:
    """The model card, from `bundle.json` alone."""
    training, threshold = manifest["training"], manifest["threshold"]

    lines = [
        f"# Model card: {manifest['name']}",
        "",
        "Written by `python -m trainer teacher-bundle` from `bundle.json`; do not edit.",
        "",
        "## What it is",
        "",
        "The Kinetics-400 I3D (RGB; Carreira and Zisserman 2017), "
        f"{'×'.join(map(str, manifest['preprocess']['size']))} pixels (rows first), 1024 features, with a linear head",
        "that gives the probability that something violent or sudden happens. The network is as published, only the",
        "head was trained here. A window costs several times the embedded model's (`python -m benchmarks roofline`).",
        "The weights are not in the bundle; it names them with their checksum:",
        "",
        f"    stream-detector models fetch {REFERENCE}",
        f"    python run_stream.py SOURCE --bundle {manifest['name']}",
        "",
        "## Data",
        "",
        "| set | licence, as stated by its source |",
        "|---|---|",
        *(f"| {name} | {licence} |" for name, licence in manifest["licences"].items()),
        "",
        f"{training['windows']} windows, a few a clip; the head saw those of the train split. Labels are one a clip.",
        "",
        "## What it is worth",
        "",
        "Earlier cards gave figures of the val clips. They were wrong as a promise, because L2, calibration and",
        "threshold of the head were chosen on those clips. No figure here is of clips that anything was chosen on:",
        "they are of clips that lie elsewhere, and of `wild_clips`, which this bundle never saw.",
        "",
        "<!-- benchmark:heldout -->",
        "<!-- /benchmark -->",
        "",
        "AUC of clips; a clip's score is the highest of its windows; 0.5 is chance. The network itself saw no label of",
        "these collections. With a head whose every choice was made inside the training folds",
        "(`python -m trainer evaluate --standard`) it is worth:",
        "",
        "<!-- benchmark:standard -->",
        "<!-- /benchmark -->",
        "",
        "## Threshold",
        "",
        f"{threshold['value']} on the smoothed score, chosen on val clips: calibrate it on quiet hours of your own.",
        "",
        "What the embedded model cannot see, this one cannot see either: see [its card](embedded.md).",
    ]
    return "\n".join(lines) + "\n"


def main(args: argparse.Namespace) -> int:
    """Run `teacher-bundle`; returns the exit code."""
    console = Console(stderr=True)
    bundle = build(args, console)
    if args.card:
        args.card.write_text(render_card(bundle.manifest.model_dump(mode="json", by_alias=True)), encoding="utf-8")
    console.print(f"{bundle.directory}: threshold {bundle.threshold}, fingerprint {bundle.fingerprint}")
    return 0
