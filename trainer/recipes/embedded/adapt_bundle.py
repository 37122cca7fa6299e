"""`python -m trainer adapt`: a bundle → a bundle that raises fewer false alarms on footage of your own camera.

    python -m trainer adapt --bundle embedded --clips CLIPS --quiet-videos QUIET --out BUNDLE

    bundle ──head──▶ adapt_head(known: training clips; calm: normal footage; loud: incidents) ──▶ threshold ──▶ bundle

Calm footage is rendered scenes as long as the demo, the time before and after their incidents, and recordings in which
nothing happens: half of the recordings train the head, the threshold is chosen on the others. Features come from the
engine that the detector would use on this machine. Smoothing, threshold and all figures of the head are computed again.
The backbone stays unchanged, and so do the figures of heads that were fitted without one set.
"""

from __future__ import annotations

import argparse
import json
from contextlib import closing
from dataclasses import asdict
from pathlib import Path

import numpy as np
from rich.console import Console

from stream_detector.config import build_config
from stream_detector.engines import load_engine
from stream_detector.errors import DataError
from stream_detector.models.bundle import Bundle, write_bundle
from stream_detector.models.heads import Head
from stream_detector.types import Float32Array
from trainer.data.clips import PACK_SIZE, pack_clips, read_index
from trainer.recipes.embedded.adapt_head import AdaptConfig, adapt_head
from trainer.recipes.embedded.card import write_card
from trainer.recipes.embedded.clip_metrics import Stream
from trainer.recipes.embedded.distill import torch_device, use_threads
from trainer.recipes.embedded.fit_head import Bag
from trainer.recipes.embedded.footage import INCIDENTS, QUIET, TRAIN_LIMITS, Footage, measured, work
from trainer.recipes.embedded.normal_recordings import recording_bags
from trainer.recipes.embedded.training_data import CLIP_LIMIT

OVER_S = 1.0  # time after the end of an incident from which footage counts as calm


def pieces(stream: Stream, features: Float32Array) -> tuple[list[Bag], list[Bag]]:
    """Return the (calm, loud) bags of one scene: before and after its incident, and one bag per window of the incident.

    features: (n, D) of the stream's windows.  Windows that hold the start of the incident are in neither.

    Each window of an incident is a bag, because only the highest windows of a bag count. When the first seconds of an
    incident were one bag, the head learned only what happens there (bystanders run away), and gave no alarm during the
    fight.
    """
    if stream.incident_s is None:
        return [Bag(features, "calm", False)], []
    start, end = stream.incident_s
    ends = stream.ends_s
    begins = ends - (stream.stride - 1) / stream.fps
    parts = [ends < start, begins > end + OVER_S]
    during = np.flatnonzero((begins >= start) & (ends <= end))
    calm = [Bag(features[part], "calm", False) for part in parts if part.any()]
    return calm, [Bag(features[k : k + 1], "loud", True) for k in during.tolist()]


def gather(footage: Footage, head: Head, args: argparse.Namespace, console: Console) -> tuple[list[Bag], list[Bag]]:
    """Return all calm and loud bags of the rendered scenes. head: any; only the times of the scenes are used."""
    calm: list[Bag] = []
    loud: list[Bag] = []
    for pack, loud_ones, calm_ones in ((QUIET, 0, args.quiet_scenes), (INCIDENTS, args.incident_scenes, 0)):
        if loud_ones + calm_ones == 0:
            continue
        footage.pack_scenes(pack, loud_ones, calm_ones, args.scene_s, console)
        bags, items, _ = footage.bags(pack[0], "val")
        for stream, bag in zip(footage.scored(pack[0], head, bags, items), bags, strict=True):
            found = pieces(stream, bag.features)
            calm += found[0]
            loud += found[1]
    return calm, loud


def build(args: argparse.Namespace, console: Console) -> Bundle:
    """Adapt the head and write the bundle; return it as written."""
    bundle = Bundle.load(args.bundle)
    _, head, recipe = bundle.build()
    if not isinstance(head, Head) or recipe.size[0] > PACK_SIZE:
        raise DataError(
            f"bundle {bundle.name} has a head that carries a state or looks at more than {PACK_SIZE} pixels; "
            "adapt one made by `trainer embed`"
        )
    config = build_config({"engine": {"device": args.device, "threads": args.threads}})
    with closing(load_engine(bundle, config.engine)) as engine:
        key = [bundle.manifest.backbone.weights_sha256, engine.name, engine.precision]
        footage = Footage(lambda windows: engine.infer(windows).features, recipe.size[0], args.cache, args.run, key)
        return _adapt(bundle, head, footage, args, console)


def _adapt(bundle: Bundle, head: Head, footage: Footage, args: argparse.Namespace, console: Console) -> Bundle:
    manifest = bundle.manifest
    root = Path(args.clips)
    work(console, "clips", pack_clips(read_index(root), root, footage.cache, limit=CLIP_LIMIT))
    footage.pack_val(root, console)
    known = footage.bags("clips", "train", TRAIN_LIMITS)[0]
    calm, loud = gather(footage, head, args, console)
    learned = footage.hours(args.quiet_videos, 0)
    quiet = footage.hours(args.quiet_videos, 1)
    calm += recording_bags(learned)
    config = AdaptConfig(keep=args.keep, calm=args.calm, loud=args.loud, hidden=args.hidden)
    adapted, moved = adapt_head(head, known, calm, loud, config)
    found = measured(footage, adapted, quiet, (args.scenes, args.check_scenes), args.scene_s, console)
    facts = {
        "from": bundle.fingerprint,
        "config": asdict(config),
        "known_logits_moved_rms": round(moved, 4),
        "calm": len(calm),
        "loud_windows": len(loud),
        "quiet_scenes": args.quiet_scenes,
        "incident_scenes": args.incident_scenes,
        "scene_s": args.scene_s,
        "seeds": f"from {QUIET[1]} (quiet) and {INCIDENTS[1]} (incidents)",
        "quiet_recordings": [recording.name for recording in learned],
        "notes": list(args.note),
    }
    parts = manifest.model_dump(mode="json", by_alias=True, exclude={"created"})
    parts |= {
        "head": {"arch": "mlp", "dims": list(adapted.dims)},
        "name": args.name or bundle.name,
        "smoothing": {"kind": "ema", "time_constant_s": found.smoothing_s},
        "threshold": {"value": found.threshold, "calibrated": found.how},
        "training": {**{k: v for k, v in manifest.training.items() if k != "settled"}, "adapted": facts},
        "results": {**manifest.results, **found.results},
    }
    state = None if manifest.backbone.reference else bundle.backbone_state
    kept = (bundle.novelty_state, bundle.anchors_state, bundle.kind_state)
    return write_bundle(Path(args.out), parts, state, adapted.state_dict(), *kept)


def main(args: argparse.Namespace) -> int:
    """Run `adapt`; returns the exit code."""
    console = Console(stderr=True)
    use_threads(args.threads)
    args.device = torch_device(args.device)
    bundle = build(args, console)
    if args.card:
        write_card(bundle, args.card)
    manifest = bundle.manifest
    console.print_json(json.dumps({"results": manifest.results, "threshold": manifest.threshold.model_dump()}))
    console.print(f"{bundle.directory}: fingerprint {bundle.fingerprint}")
    return 0
