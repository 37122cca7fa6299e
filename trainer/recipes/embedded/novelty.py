"""`python -m trainer novelty`: fits the novelty model of a bundle, with which the detector marks pictures of unknown
kinds.

    python -m trainer novelty --bundle embedded --clips DIR --out bundles/embedded

    train windows ──features──▶ mean and principal axes        val windows ──features──▶ limit      (NoveltyModel)

Scores, threshold and fingerprint stay unchanged. The model is fitted on all footage that trained the network: clips,
and the packs of `distill` in the cache. The limit is the distance that a given share of val windows exceeds; every set
has the same weight. The share of windows of other kinds beyond the limit is measured on changed val windows (ODD).
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import cv2
import numpy as np
from rich.console import Console

from stream_detector.errors import DataError
from stream_detector.models.bundle import Bundle, write_bundle
from stream_detector.models.novelty import NoveltyModel
from stream_detector.types import Float32Array, UInt8Array
from trainer.data.clips import evenly, load_clips, pack_clips, read_index
from trainer.evaluation.novelty_limits import AXES, SHARE
from trainer.evaluation.novelty_worth import fit_axes, quantile_limit
from trainer.recipes.embedded.card import write_card
from trainer.recipes.embedded.distill import use_threads
from trainer.recipes.embedded.fit_head import Bag, window_weights
from trainer.recipes.embedded.footage import TRAIN_LIMITS, backbone_features, features_of

WINDOWS = 4  # windows per clip
EXTRAS = ("rendered", "long_normal")  # packs of `distill` that trained the network as well
ODD_CLIPS = 60


def _false_colours(window: UInt8Array) -> UInt8Array:
    made = [cv2.applyColorMap(np.ascontiguousarray(frame[:, :, 1]), cv2.COLORMAP_JET)[:, :, ::-1] for frame in window]
    return np.stack(made).astype(np.uint8)


def _edges(window: UInt8Array) -> UInt8Array:
    made = [cv2.Canny(np.ascontiguousarray(frame), 60, 120)[:, :, None].repeat(3, axis=2) for frame in window]
    return np.stack(made).astype(np.uint8)


def _tiles(window: UInt8Array) -> UInt8Array:
    small: UInt8Array = window[:, ::4, ::4]
    return np.tile(small, (1, 4, 4, 1))[:, : window.shape[1], : window.shape[2]]


def _static(window: UInt8Array) -> UInt8Array:
    return np.random.default_rng(int(window.sum())).integers(0, 256, window.shape, np.uint8)


# Kinds of pictures that none of the sets contains; window: uint8 (16, H, W, 3) RGB.
ODD: dict[str, Callable[[UInt8Array], UInt8Array]] = {
    "as it is": lambda window: window,
    "static": _static,
    "false colours": _false_colours,
    "sixteen small pictures": _tiles,
    "negative": lambda window: (255 - window).astype(np.uint8),
    "edges only": _edges,
    "on its side": lambda window: np.rot90(window, 1, (1, 2)),
    "upside down": lambda window: window[:, ::-1],
    "grey": lambda window: window[:, :, :, 1:2].repeat(3, axis=3),
    "a fifth as bright": lambda window: (window // 5).astype(np.uint8),
}


def fit_novelty(bags: Sequence[Bag], axes: int = AXES) -> NoveltyModel:
    """Weighted mean, leading principal axes, and mean residual. Raises DataError for too few windows."""
    return fit_axes(np.concatenate([bag.features for bag in bags]).astype(np.float64), window_weights(bags), axes)


def find_limit(model: NoveltyModel, bags: Sequence[Bag], share: float = SHARE) -> float:
    """Return the distance that `share` of the windows exceed, with equal weight of every set. Raises DataError without
    windows.
    """
    if not bags:
        raise DataError("no val clips to find the limit on; give clips of both splits")
    distances = model.distance(np.concatenate([bag.features for bag in bags]))
    return quantile_limit(distances, window_weights(bags), share)


def gather(
    args: argparse.Namespace, size: int, seen: Callable[..., list[Float32Array]], console: Console
) -> dict[str, list[Bag]]:
    """Return features of some windows of every clip, by split. size: of the network's pictures.  seen: see
    `odd_shares`.
    """
    cache = Path(args.cache)
    clips = read_index(args.clips)
    chosen = [clips[i] for split in ("train", "val") for i in evenly(clips, split, TRAIN_LIMITS)]
    for done, total in pack_clips(chosen, args.clips, cache, size=size, name="novelty"):
        if done % 100 == 0:
            console.print(f"clips: {done} of {total}")
    found: dict[str, list[Bag]] = {"train": [], "val": []}
    for name in ("novelty", *(n for n in EXTRAS if (cache / f"{n}.json").exists())):
        frames, known = load_clips(cache, name)
        rows = seen(frames=frames, items=range(len(known)), limit=WINDOWS)
        for clip, features in zip(known, rows, strict=True):
            found[clip.split].append(Bag(features, clip.set, clip.abnormal))
        console.print(f"{name}: {len(frames)} clips")
    return found


def odd_shares(
    model: NoveltyModel, limit: float, seen: Callable[..., list[Float32Array]], cache: Path
) -> dict[str, float]:
    """Return the share of windows beyond the limit, by kind of change: the first window of each of ODD_CLIPS val clips.

    seen: `features_of` with network, size and workers bound.
    """
    frames, clips = load_clips(cache, "novelty")
    val = [item for item, clip in enumerate(clips) if clip.split == "val"]
    count = min(ODD_CLIPS, len(val))
    chosen = [val[k * len(val) // count] for k in range(count)]
    shares = {}
    for name, change in ODD.items():
        rows = np.concatenate(seen(frames=frames, items=chosen, limit=1, change=change))
        shares[name] = round(float((model.distance(rows) > limit).mean()), 3)
    return shares


def main(args: argparse.Namespace) -> int:
    """Fit, write the bundle, print the limit and the share of every val set beyond it."""
    if not 0 < args.share < 0.5:
        raise DataError(f"--share lies between 0 and 0.5, got {args.share}")
    console = Console(stderr=True)
    use_threads(args.threads)
    bundle = Bundle.load(args.bundle)
    backbone, _, recipe = bundle.build()
    seen = partial(features_of, partial(backbone_features, backbone, recipe), recipe.size[0], workers=args.workers)
    found = gather(args, recipe.size[0], seen, console)
    val = found["val"]
    model = fit_novelty(found["train"], args.axes)
    limit = find_limit(model, val, args.share)
    beyond = {
        name: round(
            float((model.distance(np.concatenate([b.features for b in val if b.set == name])) > limit).mean()), 4
        )
        for name in sorted({b.set for b in val})
    }
    windows = sum(len(bag.features) for bag in val)
    how = f"{args.share:.1%} of {windows} val windows lie beyond it, every set counting the same"
    parts = bundle.manifest.model_dump(mode="json", by_alias=True)
    parts["novelty"] = {"axes": args.axes, "limit": round(limit, 4), "calibrated": how}
    shares = odd_shares(model, limit, seen, Path(args.cache))
    parts["results"] = {**parts["results"], "val_windows_beyond_limit": beyond, "changed_windows_beyond_limit": shares}
    state = None if bundle.manifest.backbone.reference else bundle.backbone_state
    written = write_bundle(
        args.out, parts, state, bundle.head_state, model.state_dict(), bundle.anchors_state, bundle.kind_state
    )
    if args.card:
        write_card(written, args.card)
    print(
        json.dumps(
            {
                "bundle": written.name,
                "fingerprint": written.fingerprint,
                "limit": round(limit, 4),
                "val_windows_beyond": beyond,
                "changed": shares,
                "folder": str(args.out),
            }
        )
    )
    return 0
