"""The training data of `distill`, made once and stored in its cache: packed clips, other footage, the teacher's
outputs.

    clips ──pack──▶ clips.u8 ──▶ teacher (plain windows) ─────────────────────────────────────┐
    quiet camera, rendered scenes ──pack──▶ ….u8 ──views: one more camera──▶ teacher (views) ──┴──▶ Pool

A call that was stopped continues at the next call.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path

from rich.console import Console
from rich.progress import Progress

from stream_detector.models.backbones.i3d import load_i3d
from trainer.data.clips import clips_key, load_clips, pack_clips, read_frames, read_index, sides
from trainer.data.content_hash import file_digest
from trainer.data.sizes import Size, named
from trainer.evaluation.compiled_teacher import compiled_teacher
from trainer.recipes.embedded import extra_footage
from trainer.recipes.embedded.teacher import FrameSource, Job, Targets, answer, plan
from trainer.recipes.embedded.view_pool import SHARES, Pack, Pool
from trainer.recipes.embedded.views import ROUNDS, ViewSource, pack_views, soft_labels

CLIP_LIMIT = 150  # frames of a clip that are packed
VIEW_SIZE = 128  # pixels of a side of a view for the student; the teacher gets the same view at its own size
VIEWED_ROWS = 240  # rows of the pictures that views are cut from; the shape is that of the teacher's input


def make_pool(args: argparse.Namespace, console: Console) -> Pool:
    """Pack the clips, run the teacher, render scenes; results that are in the cache are used again."""
    root, cache = Path(args.clips), Path(args.cache)
    clips = read_index(root)
    with Progress(console=console) as progress:
        _show(progress, "pack clips", pack_clips(clips, root, cache, limit=CLIP_LIMIT))
        frames, packed = load_clips(cache)
        lengths = [int(m["frames"]) for m in frames.meta]
        jobs = plan(packed, lengths, per_clip=args.teacher_per_clip, per_set=args.teacher_windows, seed=args.seed)
        teacher = file_digest(Path(args.teacher)) if Path(args.teacher).is_file() else str(args.teacher)
        key = f"i3d/{teacher}/{named(args.teacher_size)}/{clips_key(clips, root, args.teacher_size, CLIP_LIMIT)}"
        targets = Targets(cache / f"teacher-{named(args.teacher_size)}", jobs, key)

        def decoded(size: Size) -> FrameSource:
            return lambda item: read_frames(root / packed[item].path, size, limit=CLIP_LIMIT)

        _ask(progress, "teacher", targets, decoded(args.teacher_size), args)
        packs = [Pack(frames, packed, targets)]
        if args.normal_videos:
            _show(progress, "quiet camera", extra_footage.pack_normal(args.normal_videos, cache))
            packs.append(Pack(*load_clips(cache, "long_normal")))
        if args.rendered:
            if not (args.keep_rendered and (cache / "rendered.json").exists()):
                scenes = extra_footage.RenderPlan(args.rendered, args.rendered // 2)
                _show(progress, "render", extra_footage.pack_rendered(scenes, cache))
            packs.append(Pack(*load_clips(cache, "rendered")))
        if not args.views:
            return Pool(packs, seed=args.seed)
        rows, columns = sides(args.teacher_size)
        others = [(pack.clips, pack.frames.frames) for pack in packs[1:]]
        square = [(packed, decoded(VIEWED_ROWS)), *others]
        shaped = [(packed, decoded((VIEWED_ROWS, round(VIEWED_ROWS * columns / rows)))), *others]
        rounds = []
        for number, plan_of_views in enumerate(ROUNDS[: args.views]):
            name, kept = f"views-{number}", "-maps" if args.maps else ""
            content = [pack.frames.key for pack in packs]
            large = ViewSource(shaped, plan_of_views, args.teacher_size, content)
            small = ViewSource(square, plan_of_views, VIEW_SIZE, content)
            _show(progress, name, pack_views(small, cache / f"{name}.u8"))
            views, seen = load_clips(cache, name)
            asked, key = [Job(item, 0) for item in range(len(seen))], f"i3d/{teacher}/{large.key}"
            targets = Targets(cache / f"teacher-{name}{kept}", asked, key, maps=args.maps)
            _ask(progress, f"teacher, {name}", targets, large.view, args)
            labels = soft_labels(targets, seen, SHARES) if args.label_weight else None
            rounds.append(Pack(views, seen, targets, True, labels))
    return Pool(rounds, seed=args.seed)


def _ask(progress: Progress, name: str, targets: Targets, source: FrameSource, args: argparse.Namespace) -> None:
    if args.skip_teacher or targets.done.all():
        return
    network = load_i3d(args.teacher)
    quick = (
        None
        if args.device.startswith("cuda")
        else compiled_teacher(network, args.teacher_size, maps=bool(targets.maps))
    )
    _show(progress, name, answer(quick or network, targets, source, batch=8, device=args.device))


def _show(progress: Progress, name: str, work: Iterator[tuple[int, int]]) -> None:
    task = progress.add_task(name, total=None)
    for done, total in work:
        progress.update(task, completed=done, total=total)
    progress.update(task, total=1, completed=1)
