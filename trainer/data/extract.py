"""`python -m trainer extract`: features of videos, by this process or by the workers of a Ray cluster."""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from stream_detector.config import EngineConfig
from stream_detector.errors import DataError
from trainer.data.videos import LabelledVideo, read_list, read_ucf_crime

if TYPE_CHECKING:  # these load PyTorch; the functions below import them
    from stream_detector.models.bundle import Bundle
    from trainer.data.extraction import ExtractionCounts


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Declare `trainer extract`."""
    parser = subparsers.add_parser("extract", help="videos to features, resumable")
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--list", type=Path, help="CSV with the columns path, label[, category, group, split]")
    source.add_argument("--ucf-crime", type=Path, metavar="DIR", help="folder that UCF-Crime was unpacked into")
    parser.add_argument("--root", type=Path, help="what the paths of --list are relative to (default: its folder)")
    parser.add_argument(
        "--where", action="append", default=[], metavar="COLUMN=A,B", help="take these rows of --list only"
    )
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--bundle", default="embedded", help="whose backbone to use (default: the embedded one)")
    parser.add_argument("--backbone", help="instead of --bundle: an architecture, with --weights")
    parser.add_argument("--weights", help="name of stored weights (`stream-detector models list`)")
    parser.add_argument("--stride", type=int, default=16, help="frames between the starts of two windows")
    parser.add_argument("--decoders", type=int, default=2, help="videos decoded at once")
    parser.add_argument("--engine", choices=("auto", "torch", "openvino"), default="auto")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--precision", choices=("auto", "fp32", "bf16", "fp16"), default="auto")
    parser.add_argument("--ray", action="store_true", help="by the workers of a Ray cluster")
    parser.add_argument("--address", metavar="ADDRESS", help="--ray: 'auto' or HOST:PORT of a cluster (default: start)")
    parser.add_argument("--workers", type=int, metavar="N", help="--ray: how many (default: the cluster's CPUs)")
    parser.set_defaults(run=main)


def _extraction(
    args: argparse.Namespace, videos: Sequence[LabelledVideo], bundle: Bundle
) -> Iterator[tuple[LabelledVideo, ExtractionCounts]]:
    if args.ray:
        from trainer.data.extract_ray import extract_ray

        yield from extract_ray(args, videos, bundle)
        return
    from stream_detector.engines import load_engine
    from trainer.data.extraction import extract

    engine = load_engine(bundle, EngineConfig(engine=args.engine, device=args.device, precision=args.precision))
    try:
        yield from extract(videos, bundle, engine, args.out, args.stride, args.decoders)
    finally:
        engine.close()


def main(args: argparse.Namespace) -> int:
    """Extract with a progress bar; print one JSON line of totals. Returns 0 also if some videos were skipped."""
    from trainer.progress import step_progress

    where = {k: set(v.split(",")) for k, _, v in (w.partition("=") for w in args.where)}
    videos = read_list(args.list, args.root, where) if args.list else read_ucf_crime(args.ucf_crime)
    parts = Counter(video.split or "none" for video in videos)
    print("splits: " + ", ".join(f"{count} {name}" for name, count in sorted(parts.items())), file=sys.stderr)
    if args.ray:
        from stream_detector.system.actor_pool import import_ray

        import_ray("extract --ray")  # reports a missing package first
    from trainer.data.extraction import ExtractionCounts, bundle_for

    with bundle_for(args) as bundle, step_progress("extracting") as progress:
        began, tally = time.monotonic(), ExtractionCounts()
        for video, tally in _extraction(args, videos, bundle):
            progress(tally.done + tally.resumed + len(tally.skipped), len(videos), video.name)
    seconds = time.monotonic() - began
    for name, why in tally.skipped.items():
        print(f"skipped {name}: {why}", file=sys.stderr)
    for name, why in tally.damaged.items():
        print(f"damaged {name}: {why}", file=sys.stderr)
    print(
        json.dumps(
            {
                "extracted": tally.done,
                "resumed": tally.resumed,
                "skipped": len(tally.skipped),
                "changed": len(tally.changed),
                "windows": tally.windows,
                "video_hours": round(tally.video_s / 3600, 4),
                "seconds": round(seconds, 2),
                "times_real_time": round(tally.video_s / seconds, 2) if seconds else 0.0,
            }
        )
    )
    if tally.done + tally.resumed == 0:
        raise DataError(f"none of the {len(videos)} videos could be read; the reasons are above")
    return 0
