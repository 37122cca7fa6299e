"""`python -m trainer anchors`: adds features of the head's training clips to a bundle.

    train clips of index.csv ──windows of the stream──▶ engine ──▶ a few windows per clip ──▶ anchors.safetensors

An overlay that a site adds to the head must keep the scores of these windows (docs/adaptation.md). They are features,
not pictures, in half precision and under MAX_BYTES; every clip gives the same number of windows, spread over its
length. The bundle's fingerprint stays the same, because these features do not influence a score.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path

import numpy as np
from rich.console import Console

from stream_detector.adaptation.anchors import anchor_state
from stream_detector.capture.recordings import windows
from stream_detector.config import build_config
from stream_detector.engines import load_engine
from stream_detector.errors import DataError
from stream_detector.models.bundle import Bundle, write_bundle
from stream_detector.types import Engine, Float32Array
from trainer.data.clips import Clip, read_index
from trainer.recipes.embedded.card import write_card

MAX_BYTES = 1_900_000
WINDOWS = 3  # most windows of a clip


def features_of(engine: Engine, bundle: Bundle, path: Path) -> Float32Array:
    """Return (n, D) features of the windows of one clip."""
    frames = [window.frames for window in windows(path, bundle.recipe)]
    size = engine.max_batch
    rows = [engine.infer(np.stack(frames[at : at + size])).features for at in range(0, len(frames), size)]
    dim = bundle.manifest.backbone.feature_dim
    found: Float32Array = np.concatenate(rows) if rows else np.empty((0, dim), np.float32)
    return found


def spread(rows: Float32Array, most: int) -> Float32Array:
    """Return at most `most` rows, evenly spread."""
    if len(rows) <= most:
        return rows
    found: Float32Array = rows[np.unique(np.linspace(0, len(rows) - 1, most).round().astype(int))]
    return found


def most_windows(clips: int, dim: int) -> int:
    """Return how many windows a clip may give so that all stay under MAX_BYTES. Raises DataError if not even one
    may.
    """
    most = min(WINDOWS, MAX_BYTES // (clips * (2 * dim + 3)))
    if most < 1:
        raise DataError(f"{clips} clips of {dim} features do not fit into {MAX_BYTES:,} bytes; give fewer clips")
    return most


def with_anchors(bundle: Bundle, rows: Sequence[tuple[Clip, Float32Array]], out: Path) -> Bundle:
    """Write the bundle with anchors. rows: clips with the features of their windows, in order. Raises DataError."""
    rows = [(clip, features) for clip, features in rows if len(features)]
    if not rows:
        raise DataError("no window of any train clip could be read; check --clips")
    most = most_windows(len(rows), bundle.manifest.backbone.feature_dim)
    names = sorted({clip.set for clip, _ in rows})
    kept = [spread(features, most) for _, features in rows]
    counts = [len(part) for part in kept]
    abnormal = np.repeat([clip.abnormal for clip, _ in rows], counts)
    sets = np.repeat([names.index(clip.set) for clip, _ in rows], counts)
    parts = bundle.manifest.model_dump(mode="json", by_alias=True)
    parts["anchors"] = {"count": int(sum(counts)), "sets": names}
    backbone = None if bundle.manifest.backbone.reference else bundle.backbone_state
    state = anchor_state(np.concatenate(kept), abnormal, sets)
    return write_bundle(out, parts, backbone, bundle.head_state, bundle.novelty_state, state, bundle.kind_state)


def gather(bundle: Bundle, clips: Sequence[Clip], root: Path, engine: Engine) -> Iterator[tuple[Clip, Float32Array]]:
    """Yield every clip with the features of its windows."""
    for clip in clips:
        yield clip, features_of(engine, bundle, root / clip.path)


def main(args: argparse.Namespace) -> int:
    """Read the clips, write the bundle, print what it holds."""
    console = Console(stderr=True)
    bundle = Bundle.load(args.bundle)
    fitted = args.sets or list(bundle.manifest.training.get("head_shares", {}))
    clips = [clip for clip in read_index(args.clips) if clip.split == "train"]
    clips = [clip for clip in clips if not fitted or clip.set in fitted]
    if not clips:
        raise DataError(f"no train clip of the sets {fitted} is in {str(args.clips)!r}; give --sets")
    config = build_config({"engine": {"device": args.device}})
    with closing(load_engine(bundle, config.engine)) as engine:
        rows = []
        for number, row in enumerate(gather(bundle, clips, args.clips, engine), 1):
            rows.append(row)
            if number % 200 == 0:
                console.print(f"{number} of {len(clips)} clips")
    written = with_anchors(bundle, rows, args.out)
    if args.card:
        write_card(written, args.card)
    assert written.manifest.anchors is not None
    print(json.dumps({"fingerprint": written.fingerprint, "anchors": written.manifest.anchors.model_dump()}))
    return 0
