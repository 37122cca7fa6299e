"""Features of the clips that simulated sites are made of, extracted once and kept in a cache.

    clips of an index.csv ──windows of the stream──▶ engine ──▶ (n, D) features and scores a clip, cache/*.npz

The cache is resumable: a part of `PART` clips is written whole or not at all. Its folder names the weights, so another
backbone makes another cache.
"""

from __future__ import annotations

import csv
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np

import stream_detector as sd
from stream_detector.capture.recordings import windows
from stream_detector.errors import SourceError
from stream_detector.types import Float32Array, UInt8Array

PART = 40  # clips in one file
BATCH = 32
MOST = 300  # windows of one file: a scene that stays empty shows little more in an hour
LONG = ("01-09.mp4", "01-11.mp4", "01-13.mp4")  # hours of a fixed camera that no head was fitted to


@dataclass(frozen=True, slots=True)
class Clip:
    """A clip of an index. path: below `root`."""

    root: Path
    path: str
    set: str
    label: str
    group: str
    split: str = ""


@dataclass(frozen=True, slots=True)
class Piece:
    """Features of one clip. features: float32 (n, D).  raw: float32 (n,), the bundle's scores."""

    clip: Clip
    features: Float32Array
    raw: Float32Array


def read_clips(data: Path) -> list[Clip]:
    """The clips of both collections and pieces of the long recordings' list, in a fixed order."""
    found = []
    for folder in ("clips", "more_clips"):
        root = data / folder
        with (root / "index.csv").open(newline="", encoding="utf-8") as file:
            for row in csv.DictReader(file):
                if row["set"] not in ("intel_samples", "unlabelled", "shop_theft"):
                    group = f"{row['set']}/{row['group']}"
                    found.append(Clip(root, row["path"], row["set"], row["label"], group, row["split"]))
    for name in LONG:
        found.append(Clip(data / "long_normal", name, "long_normal", "normal", f"long_normal/{name}"))
    return found


def extract(clips: Sequence[Clip], bundle: str, cache: Path) -> Iterator[tuple[int, int]]:
    """Fill the cache; yields (clips done, clips in all) after every part."""
    with sd.load_bundle(bundle) as model:
        folder = _folder(cache, model.bundle.manifest.backbone.weights_sha256)
        folder.mkdir(parents=True, exist_ok=True)
        for first in range(0, len(clips), PART):
            path = folder / f"part-{first:05d}.npz"
            if not path.exists():
                arrays: dict[str, Float32Array] = {}
                for number, clip in enumerate(clips[first : first + PART]):
                    arrays[f"{number}"] = _features(model, clip.root / clip.path)
                partial = path.with_suffix(".partial.npz")
                np.savez(partial, **arrays)
                os.replace(partial, path)
            yield min(first + PART, len(clips)), len(clips)


def _features(model: sd.Model, path: Path) -> Float32Array:
    rows: list[Float32Array] = []
    waiting: list[UInt8Array] = []
    try:
        for window in islice(windows(path, model.recipe), MOST):
            waiting.append(window.frames)
            if len(waiting) == BATCH:
                rows.append(model.features(np.stack(waiting)))
                waiting = []
    except SourceError:
        pass  # as far as it could be read
    if waiting:
        rows.append(model.features(np.stack(waiting)))
    dim = model.bundle.manifest.backbone.feature_dim
    return np.concatenate(rows) if rows else np.empty((0, dim), np.float32)


def load(clips: Sequence[Clip], bundle: str, cache: Path) -> list[Piece]:
    """The pieces of the cache; clips whose part is missing are left out. Scores are those of the bundle's head."""
    loaded = sd.load_bundle(bundle, engine="torch").bundle
    head = loaded.build_head()
    folder = _folder(cache, loaded.manifest.backbone.weights_sha256)
    import torch

    pieces = []
    for first in range(0, len(clips), PART):
        path = folder / f"part-{first:05d}.npz"
        if path.exists():
            with np.load(path) as arrays:
                for number, clip in enumerate(clips[first : first + PART]):
                    features = arrays[f"{number}"]
                    if len(features):
                        pieces.append(Piece(clip, features, head(torch.from_numpy(features)).numpy()))
    return pieces


def _folder(cache: Path, sha256: str) -> Path:
    return cache / f"features-{sha256[:12]}"
