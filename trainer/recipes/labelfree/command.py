"""`python -m trainer recipe embedded`: every stage that is not finished, in order.

    fetch teachers ─▶ pack clips ─▶ answers (CPU: stored in files) ─▶ train ─▶ head, bundle, card

Results are stored, so the same command continues a run that was stopped or killed. Without DATA but with a pack (on a
machine that is borrowed for minutes), the run ends after training.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections import Counter
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from stream_detector.errors import UsageError
from stream_detector.models.backbones.i3d import I3D
from trainer.recipes.embedded.distill import use_threads
from trainer.recipes.labelfree import teachers
from trainer.recipes.labelfree.answers import Answers, Kept, Online, answers_key
from trainer.recipes.labelfree.bank import HeldBank, ReadingBank
from trainer.recipes.labelfree.material import make_pack, pack_digest, read_pack
from trainer.recipes.labelfree.options import STAGES
from trainer.recipes.labelfree.settings import Settings, load
from trainer.recipes.labelfree.ship import ship
from trainer.recipes.labelfree.training import Run
from trainer.recipes.labelfree.views import Drawer, Frames

LEARN, WATCH = 0, 1  # streams of views


def main(args: argparse.Namespace) -> int:
    """Run the stages; returns the exit code. Raises UsageError."""
    console = Console(stderr=True)
    settings = load(args.set, args.recipe)
    use_threads(args.threads)
    root = Path(args.root)
    stages = {args.only} if args.only else set(STAGES[: STAGES.index(args.until) + 1])
    if args.device.startswith("cuda") and not torch.cuda.is_available():
        raise UsageError("--device cuda needs a GPU, and PyTorch finds none; give --device cpu")
    if "pack" in stages and args.data is not None:
        make_pack(args.data, root / "pack", root / "protocol", settings, console)
    elif stages & {"pack", "answers", "train"} and not (root / "pack/index.csv").exists():
        raise UsageError(f"{str(root / 'pack')!r} holds no pack; give --data (clips, more_clips, long_normal)")
    if stages & {"fetch", "answers", "train"}:
        files = {name: teachers.place(name, root / "teachers") for name in settings.teachers}
        console.print(f"teachers: {teachers.digest(files)}")
        if stages & {"answers", "train"}:
            learn(settings, files, args, console, train="train" in stages)
    if "ship" in stages:
        if args.data is None:
            console.print("no --data: trained but not judged; run again with --data on the machine that has the clips")
            return 0
        ship(Path(args.run), args.data, root / "protocol", args.out or Path(args.run) / "bundle", settings, console)
    return 0


def learn(
    settings: Settings, files: dict[str, Path], args: argparse.Namespace, console: Console, *, train: bool
) -> None:
    """Compute the teachers' outputs and, with `train`, train."""
    began, cuda = time.monotonic(), args.device.startswith("cuda")
    torch.backends.cudnn.benchmark = cuda  # tensor shapes stay the same for thousands of steps
    clips = read_pack(Path(args.root) / "pack")
    size = (settings.rows, settings.columns)
    bank: Frames = HeldBank(clips, size, args.device) if cuda else ReadingBank(clips, size)
    networks = {name: teachers.load(name, file) for name, file in files.items()}
    stem = networks["i3d"] if settings.inherit_stem else None
    run = Run(
        settings,
        args.run,
        args.device,
        kept=not cuda,
        minutes=args.minutes,
        stem=stem if isinstance(stem, I3D) else None,
    )
    askers = {
        name: teachers.asker(name, network, args.device, settings.view_side) for name, network in networks.items()
    }
    lengths, sets = [clip.frames for clip in clips], [clip.set for clip in clips]
    learned = [k for k, clip in enumerate(clips) if not clip.watched]
    watched = [k for k, clip in enumerate(clips) if clip.watched]

    def answers(name: str, chosen: list[int], stream: int) -> Answers:
        online = Online(Drawer(sets, lengths, chosen, settings, stream), bank, askers, settings)
        if cuda:
            return online
        side = max(settings.size, *(side for side, _ in settings.sizes))
        key = answers_key(pack_digest(clips), teachers.digest(files), side, settings)
        return Kept(online, Path(args.root) / "answers" / key, name, side)

    mine, theirs = answers("learn", learned, LEARN), answers("watch", watched, WATCH) if watched else None
    console.print(f"{len(learned)} clips to learn from, {len(watched)} watched; ready after {_since(began)}")
    for kept, count in ((theirs, settings.watched), (mine, settings.views)):
        if isinstance(kept, Kept):
            for done in kept.fill(count):
                if done % (8 * settings.shard) == 0 or done == count:
                    console.print(f"answers, {kept.name}: {done} of {count} views, {_since(began)}")
    if not train:
        return
    console.print(f"{'resumed' if run.resume() else 'start'} at step {run.step}")
    facts: dict[str, Any] = {
        "pack": pack_digest(clips),
        "teachers": teachers.digest(files),
        "sets": dict(Counter(sets[k] for k in learned)),
        "machine": torch.cuda.get_device_name() if cuda else f"{os.cpu_count()} CPU cores, shared",
    }
    with (Path(args.run) / "log.jsonl").open("a", encoding="utf-8") as log:
        for report in run.train(mine):
            if run.step % settings.log_every == 0:
                line = {"step": run.step, "seconds": round(run.seconds, 1), "skipped": run.skipped, **report}
                log.write(json.dumps({k: round(v, 5) for k, v in line.items()}) + "\n")
                log.flush()
                console.print({k: round(v, 4) for k, v in line.items()}, highlight=False)
    seen = run.step * settings.batch
    facts |= {"distinct": seen if cuda else min(seen, settings.views), "watch": run.watch(theirs) if theirs else {}}
    run.write(facts)
    console.print(f"trained: {run.step} steps, {seen} views, {run.skipped} skipped; cosine unseen {facts['watch']}")


def _since(began: float) -> str:
    return f"{time.monotonic() - began:.0f} s"
