"""Features of packed footage by one network, and the results of a head on them: alarms, threshold, figures.

    packs in the cache ──▶ Footage.bags (clips), .streams (scenes), .hours (recordings) ──▶ measured(head) ──▶ Found

`embed` and `adapt` both end with this. The head is judged on `val` clips, on rendered scenes and on quiet recordings;
the threshold comes from footage in which nothing happens.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from torch import nn

from stream_detector.errors import DataError
from stream_detector.models.heads import Head
from stream_detector.models.preprocess import Recipe, normalise
from stream_detector.types import Float32Array, UInt8Array
from trainer.data.clips import Clip, PackedFrames, evenly, load_clips, pack_clips, read_index, window_starts
from trainer.data.disk_cache import cached_arrays
from trainer.recipes.embedded import extra_footage
from trainer.recipes.embedded.augment import plain
from trainer.recipes.embedded.clip_metrics import Stream, clip_aucs, judge_scenes
from trainer.recipes.embedded.fit_head import Bag, clip_scores
from trainer.recipes.embedded.normal_recordings import Network, Recording, recordings
from trainer.recipes.embedded.threshold import choose_smoothing

# Packs of whole rendered scenes and their first seeds: for training, for the threshold, for the check.
QUIET, INCIDENTS = ("scenes-quiet", 2200), ("scenes-incident", 1800)
CALIBRATE, CHECK = ("scenes-calibrate", 1500), ("scenes-check", 2100)
TRAIN_LIMITS = {"hockey_fights": 240}  # clips per label; more did not help the head


def features_of(
    see: Network,
    size: int,
    frames: PackedFrames,
    items: Sequence[int],
    limit: int = 10**9,
    batch: int = 8,
    workers: int = 1,
    change: Callable[[UInt8Array], UInt8Array] = lambda window: window,
) -> list[Float32Array]:
    """Return features (n, D) of the n windows (16 frames, every 16) of each item, as in the running detector.

    see: uint8 (B, 16, size, size, 3) RGB → float32 (B, D); several threads call it if there are more `workers`. limit:
    most windows of an item, evenly spread.  change: of each window, uint8 (16, H, W, 3) RGB, before `see`.
    """
    places = [(k, start) for k, item in enumerate(items) for start in _some(frames, item, limit)]
    found: list[list[Float32Array]] = [[] for _ in items]
    parts = [places[first : first + batch] for first in range(0, len(places), batch)]

    def run(part: list[tuple[int, int]]) -> Float32Array:
        return see(np.stack([change(plain(frames.frames(items[k]), start, size)) for k, start in part]))

    with ThreadPoolExecutor(workers) as threads:  # one single-threaded network per thread: none waits for another
        for part, rows in zip(parts, threads.map(run, parts), strict=True):
            for (k, _), row in zip(part, rows, strict=True):
                found[k].append(row)
    return [np.stack(rows) for rows in found]


@torch.no_grad()
def backbone_features(backbone: nn.Module, recipe: Recipe, windows: UInt8Array, device: str = "cpu") -> Float32Array:
    """uint8 (B, 16, H, W, 3) RGB → features (B, D)."""
    clip = normalise(torch.from_numpy(windows).to(device), recipe)
    result: Float32Array = backbone.features(clip).float().cpu().numpy()  # type: ignore[operator]
    return result


def _some(frames: PackedFrames, item: int, limit: int) -> list[int]:
    starts = window_starts(int(frames.meta[item]["frames"]))
    if len(starts) <= limit:
        return starts
    return [starts[round(k * (len(starts) - 1) / max(1, limit - 1))] for k in range(limit)]


def raw_scores(head: Head, features: Float32Array) -> Float32Array:
    """(n, D) → (n,) in [0, 1]."""
    result: Float32Array = head(torch.from_numpy(features)).numpy()
    return result


def work(console: Console, name: str, steps: Iterator[tuple[int, int]]) -> None:
    """Run a generator that yields (done, all), and print its progress."""
    done = total = 0
    for done, total in steps:
        if done % 50 == 0:
            console.print(f"{name}: {done} of {total}")
    console.print(f"{name}: ready" + (f", {total} made" if done else ""))


@dataclass(frozen=True, slots=True)
class Footage:
    """The packed footage and the network for it. cache: packs.  run: stores features, valid while `key` is the same.

    see, workers: as in `features_of`.  size: pixels of a side.  key: identifies the network.
    """

    see: Network
    size: int
    cache: Path
    run: Path
    key: Sequence[Any]
    workers: int = 1

    def bags(
        self, name: str, split: str, limits: Mapping[str, int] | None = None
    ) -> tuple[list[Bag], list[int], tuple[Clip, ...]]:
        """Return the bags of a pack's split, at most `limits[set]` per label; also their positions and all clips of the
        pack.
        """
        frames, clips = load_clips(self.cache, name)
        items = evenly(clips, split, limits or {})
        limit = 4 if split == "train" else 10**9
        key = json.dumps([*self.key, frames.key, items, limit])
        seen = partial(features_of, self.see, self.size, frames, items, limit, workers=self.workers)
        found = cached_arrays(self.run / "features" / f"{name}-{split}.npz", key, seen)
        return [Bag(f, clips[i].set, clips[i].abnormal) for f, i in zip(found, items, strict=True)], items, clips

    def streams(self, name: str, head: Head) -> list[Stream]:
        """Return a head's scores along the `val` items of a pack."""
        found, items, _ = self.bags(name, "val")
        return self.scored(name, head, found, items)

    def scored(self, name: str, head: Head, bags: Sequence[Bag], items: Sequence[int]) -> list[Stream]:
        """The same for bags that are given."""
        streams = []
        frames = PackedFrames(self.cache / f"{name}.u8")
        for item, bag in zip(items, bags, strict=True):
            meta = frames.meta[item]
            start, end = meta.get("incident_start_s"), meta.get("incident_end_s")
            incident = None if start is None or end is None else (float(start), float(end))
            streams.append(Stream(str(meta["path"]), raw_scores(head, bag.features), float(meta["fps"]), incident))
        return streams

    def hours(self, folder: Path | None, half: int) -> list[Recording]:
        """Return every second quiet recording of a folder; [] without a folder."""
        if folder is None:
            return []
        path = self.run / "features" / f"hours-{half}.npz"
        return recordings(folder, half, self.see, self.size, path, json.dumps(list(self.key)))

    def pack_val(self, clips: Path, console: Console) -> None:
        """Pack the `val` clips of an index at the network's size."""
        index = [clip for clip in read_index(clips) if clip.split == "val"]
        work(console, "val clips", pack_clips(index, clips, self.cache, size=self.size, name="val"))

    def pack_scenes(
        self, pack: tuple[str, int], incidents: int, quiet: int, duration_s: float, console: Console
    ) -> None:
        """Render whole scenes, one seed each. Raises DataError if they would reach the seeds of another pack."""
        name, first = pack
        room = min((other - first for _, other in (QUIET, INCIDENTS, CALIBRATE, CHECK) if other > first), default=10**6)
        if incidents + quiet > room:
            raise DataError(f"{name} has seeds for {room} rendered scenes, got {incidents + quiet}; ask for fewer")
        packing = extra_footage.pack_scenes(self.cache, name, first, incidents, quiet, duration_s=duration_s)
        work(console, name, packing)


@dataclass(frozen=True, slots=True)
class Found:
    """Results of `measured`. how: reason for the threshold.  results: for the manifest."""

    smoothing_s: float
    threshold: float
    how: str
    results: dict[str, Any]


def measured(
    footage: Footage, head: Head, quiet: Sequence[Recording], scenes: tuple[int, int], scene_s: float, console: Console
) -> Found:
    """Judge a calibrated head on `val`, and find its smoothing and threshold.

    quiet: recordings below whose scores the threshold must not lie.  scenes: of each kind, for calibration and for the
    check.
    """
    for pack, count in zip((CALIBRATE, CHECK), scenes, strict=True):
        footage.pack_scenes(pack, count, count, scene_s, console)
    val, items, clips = footage.bags("val", "val")
    quiet_camera = footage.streams("long_normal", head) if (footage.cache / "long_normal.json").exists() else []
    calibrate, check = (footage.streams(name, head) for name, _ in (CALIBRATE, CHECK))
    streams = footage.scored("val", head, val, items)
    normal = [s for s, i in zip(streams, items, strict=True) if not clips[i].abnormal]
    abnormal = [s for s, i in zip(streams, items, strict=True) if clips[i].abnormal]
    hours = [Stream(r.name, raw_scores(head, r.features), r.fps) for r in quiet]
    smoothing_s, threshold, how = choose_smoothing(quiet_camera, calibrate, normal, abnormal, hours)
    _keep_scores(footage.run / "scores.json", [*quiet_camera, *hours, *calibrate, *streams, *check])
    scores = clip_scores(head, val)
    reached = [s.smoothed(smoothing_s).max() >= threshold for s in normal]
    return Found(
        smoothing_s,
        threshold,
        how,
        {
            "val_clip_auc": clip_aucs(scores, [b.set for b in val], [b.abnormal for b in val]),
            "mean_score": _mean_scores(scores, val),
            "rendered_scenes": {
                "calibrate": judge_scenes(calibrate, threshold, smoothing_s),
                "check": judge_scenes(check, threshold, smoothing_s),
            },
            "normal_val_clips_above_threshold": round(float(np.mean(reached)), 4),
        },
    )


def _keep_scores(path: Path, streams: Sequence[Stream]) -> None:
    """Store the raw scores behind the figures, for a closer look."""
    rows = [
        {"name": s.name, "fps": s.fps, "incident_s": s.incident_s, "raw": [round(float(r), 4) for r in s.raw]}
        for s in streams
    ]
    path.write_text(json.dumps(rows), encoding="utf-8")


def _mean_scores(scores: Float32Array, bags: Sequence[Bag]) -> dict[str, float]:
    cells: dict[str, list[float]] = {}
    for score, bag in zip(scores.tolist(), bags, strict=True):
        cells.setdefault(f"{bag.set}/{'abnormal' if bag.abnormal else 'normal'}", []).append(score)
    return {name: round(float(np.mean(values)), 4) for name, values in sorted(cells.items())}
