"""Scores the videos of a split with a checkpoint and reports figures with intervals and oracle lines.

    python -m trainer evaluate FEATURES --checkpoint runs/head --annotations test_annotations.csv --out runs/evaluation

Ground truth is joined by name; a video without an annotation is an error. Without --annotations the label of a clip
applies to all of its frames (--clip-labels confirms that). Writes results.json, scores.csv, plots and one
self-contained report.html.

    python -m trainer evaluate --standard --clips CLIPS --more MORE --quiet QUIET --i3d ARCHIVE --out RECORD.json

evaluates a frozen network or a bundle by the protocol of `trainer.evaluation`: nested folds of whole groups.
"""

from __future__ import annotations

import argparse
import csv
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from stream_detector.errors import DataError, UsageError
from trainer.data.annotations import Annotation, annotation_of, read_annotations
from trainer.data.features import FeatureSet, VideoFeatures, load_features, require_finite
from trainer.data.timeline import Timeline, all_pieces
from trainer.evaluation.events import event_figures, event_table
from trainer.evaluation.metrics import Figure, frame_figures
from trainer.evaluation.options import add_options
from trainer.evaluation.oracles import oracle_lines
from trainer.mil import training_overlap
from trainer.mil.bags import window_spans
from trainer.mil.checkpoint import Checkpoint, load_checkpoint

SEGMENT_FPS = 30.0  # UCF-Crime's frame rate, for features without one
RATES_PER_HOUR = (1.0, 3.0, 10.0, 30.0)


def timeline_of(
    video: VideoFeatures, scores: np.ndarray[Any, np.dtype[np.float64]], truth: Annotation | None
) -> Timeline:
    """Return the scores on the time axis. truth: the video's annotation, or None if its label applies to all frames.

    Raises DataError if label and annotation disagree, or if the length is unknown.
    """
    frames = video.frames or (truth.frames if truth else 0)
    if frames < 1:
        raise DataError(f"the length of video {video.name} is unknown; give annotations with a frames column")
    if truth is None:
        events: tuple[tuple[int, int], ...] = ((0, frames),) if video.label else ()
    else:
        events = _at_rate(truth, frames)
        if bool(events) != bool(video.label):
            said = "events" if events else "no event"
            raise DataError(
                f"video {video.name} is of category {video.category} but its annotation has {said}; correct one of them"
            )
    starts, ends = window_spans(video, frames)
    return Timeline(video.name, video.label, frames, video.fps or SEGMENT_FPS, starts, ends, scores, events)


def _at_rate(truth: Annotation, frames: int) -> tuple[tuple[int, int], ...]:
    """Convert events to the frames of the features: annotations count frames of the file, features may have another
    rate.
    """
    if not truth.frames or truth.frames == frames:
        return truth.clipped(frames)
    ratio = frames / truth.frames
    return tuple((round(a * ratio), max(round(a * ratio) + 1, min(frames, round(b * ratio)))) for a, b in truth.events)


def score_videos(
    features: FeatureSet, checkpoint: Checkpoint, annotations: Mapping[str, Annotation] | None
) -> list[Timeline]:
    """Score every video of `features` as the stream would: window by window, without the future."""
    if checkpoint.spec.dim != features.dim:
        raise DataError(
            f"the head takes {checkpoint.spec.dim} features but {features.origin} has {features.dim}; "
            "use the features that it was trained on"
        )
    require_finite(features)
    head = checkpoint.head()

    def truth(name: str) -> Annotation | None:
        return None if annotations is None else annotation_of(annotations, name)

    return [timeline_of(v, head.score_rows(v.rows, v.cuts), truth(v.name)) for v in features.videos]


def evaluate(
    timelines: Sequence[Timeline], bootstrap: int = 1000, delay_s: float = 0.0, oracles: bool = True
) -> dict[str, Any]:
    """Return all figures, nested by stamping, and the oracles by name. Raises DataError for one class only."""
    labels = np.array([t.label for t in timelines])
    hours = sum(t.frames / t.fps for t in timelines) / 3600
    content = all_pieces(timelines, "content")
    found: dict[str, Any] = {
        "videos": len(timelines),
        "abnormal_videos": int(labels.sum()),
        "events": sum(len(t.events) for t in timelines),
        "hours": round(hours, 4),
        "prevalence": round(float(content.positive.sum() / (content.positive + content.negative).sum()), 6),
        "processing_delay_s": delay_s,
        "content": frame_figures(content, labels, bootstrap),
        "emission": frame_figures(all_pieces(timelines, "emission", delay_s), labels, bootstrap),
        "events_at": event_figures(event_table(timelines, "emission", delay_s), RATES_PER_HOUR, bootstrap),
    }
    if oracles:
        found["oracles"] = {
            name: frame_figures(all_pieces(line, "content"), labels, bootstrap)
            for name, line in oracle_lines(timelines).items()
        }
    return found


def jsonable(value: Any) -> Any:
    """Convert figures and NaN to values that JSON can hold."""
    if isinstance(value, Figure):
        return value.to_dict()
    if isinstance(value, dict):
        return {k: jsonable(v) for k, v in value.items()}
    if isinstance(value, float):
        return round(value, 6) if np.isfinite(value) else None
    return value


def write_scores(timelines: Sequence[Timeline], path: Path) -> None:
    """Write one row per window, with the column names of `stream-detector score`."""
    with path.open("w", newline="", encoding="utf-8") as file:
        out = csv.writer(file)
        out.writerow(["source", "window", "start_frame", "end_frame", "start_s", "end_s", "raw"])
        for t in timelines:
            for i, (a, b, s) in enumerate(zip(t.starts, t.ends, t.scores, strict=True)):
                out.writerow([t.name, i, a, b - 1, f"{a / t.fps:.4f}", f"{(b - 1) / t.fps:.4f}", f"{s:.7f}"])


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Declare `trainer evaluate`."""
    parser = subparsers.add_parser("evaluate", help="figures, intervals, oracle lines, plots and a report")
    parser.add_argument("features", type=Path, nargs="?")
    parser.add_argument("--checkpoint", type=Path, help="head.safetensors or its folder")
    truth = parser.add_mutually_exclusive_group()
    truth.add_argument("--annotations", type=Path, help="frame-level truth (CSV or the official text file)")
    truth.add_argument("--clip-labels", action="store_true", help="a clip's label counts for all of its frames")
    parser.add_argument("--split", default="test", help="test, val or train (default: test; 'all': every video)")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--bootstrap", type=int, default=1000, help="resamples of the videos for the intervals")
    parser.add_argument("--delay", type=float, default=0.0, metavar="S", help="processing time per window, seconds")
    add_options(parser)
    parser.set_defaults(run=main)


def main(args: argparse.Namespace) -> int:
    """Evaluate, write everything to --out, print the figures."""
    if args.standard:
        from trainer.evaluation import command

        return command.main(args)
    if args.features is None or args.checkpoint is None or not (args.annotations or args.clip_labels):
        raise UsageError(
            "evaluate needs FEATURES, --checkpoint, and --annotations or --clip-labels; or --standard for the protocol"
        )
    from trainer.evaluation_report import print_figures, write_report

    features = load_features(args.features)
    if args.split != "all":
        features = features.of_split(args.split)
    checkpoint = load_checkpoint(args.checkpoint)
    annotations = read_annotations(args.annotations) if args.annotations else None
    timelines = score_videos(features, checkpoint, annotations)
    known = training_overlap.overlap(features, checkpoint)
    if words := training_overlap.warning(known, len(features.videos)):
        print(f"warning: {words}", file=sys.stderr)
    found = {**evaluate(timelines, args.bootstrap, args.delay), "seen_in_training": known}
    args.out.mkdir(parents=True, exist_ok=True)
    about = {
        "split": args.split,
        "truth": "annotations" if annotations else "clip labels",
        "hyper": checkpoint.hyper,
        "features": checkpoint.features,
        "validation": checkpoint.validation,
        "versions": checkpoint.versions,
    }
    (args.out / "results.json").write_text(json.dumps(jsonable({**about, **found}), indent=1) + "\n")
    write_scores(timelines, args.out / "scores.csv")
    write_report(timelines, found, about, args.out)
    print_figures(found)
    return 0
