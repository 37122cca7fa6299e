"""The command lines of the commands that make embedded bundles; apart from them, so that --help loads no PyTorch."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from stream_detector.adaptation.fit_config import FitConfig
from trainer.data.sizes import parse_size
from trainer.evaluation.novelty_limits import AXES, SHARE
from trainer.recipes.embedded.settings import TrainConfig

THREADS = "CPU threads of PyTorch; 0: PyTorch chooses"
DEVICE = "cpu, cuda, cuda:N, or auto: the GPU where there is one (default: auto)"
CARD = "model card to write (Markdown)"
CLIPS = "folder with index.csv and the clips"


def parse_sizes(text: str) -> tuple[tuple[int, float], ...]:
    """'64:0.5,112:0.5' → ((64, 0.5), (112, 0.5)). Raises argparse's error otherwise."""
    try:
        sizes = tuple((int(size), float(share)) for size, share in (part.split(":") for part in text.split(",")))
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not like 64:0.5,112:0.5") from None
    if not all(32 <= size <= 128 and share > 0 for size, share in sizes):
        raise argparse.ArgumentTypeError(f"{text!r}: sizes must be 32 to 128 and shares positive")
    return sizes


def add_parser(subparsers: Any) -> None:
    """Add all commands of this package."""
    for add in (_adapt, _distill, _average, _embed, _novelty, _anchors, _kind, _teacher_bundle):
        add(subparsers)


def _shared(parser: argparse.ArgumentParser) -> None:
    """Options of `embed` and `adapt`."""
    parser.add_argument("--clips", type=Path, required=True, help=CLIPS)
    parser.add_argument("--cache", type=Path, default=Path("cache/distill"), help="folder of the packed footage")
    parser.add_argument("--out", type=Path, required=True, help="bundle folder to write; may hold an older bundle")
    parser.add_argument("--card", type=Path, help=CARD)
    parser.add_argument(
        "--quiet-videos",
        type=Path,
        help="folder of long recordings in which nothing happens; one half trains the head, the other half sets the "
        "lower bound of the threshold",
    )
    parser.add_argument("--note", action="append", default=[], help="text to store in bundle.json under `training`")
    parser.add_argument(
        "--quiet-scenes", type=int, default=320, help="rendered scenes without an incident that train the head"
    )
    parser.add_argument("--scenes", type=int, default=40, help="rendered scenes of each kind for calibration")
    parser.add_argument("--check-scenes", type=int, default=20, help="rendered scenes of each kind for the check")
    parser.add_argument("--scene-s", type=float, default=40.0, help="length of each rendered scene, seconds")
    parser.add_argument("--device", default="auto", help=DEVICE)
    parser.add_argument("--threads", type=int, default=0, help=THREADS)


def _adapt(subparsers: Any) -> None:
    parser = subparsers.add_parser("adapt", help="adapt a bundle to the normal footage of a camera")
    _shared(parser)
    usual = FitConfig()
    parser.add_argument(
        "--bundle", default="embedded", help="bundle to start from; its head has at most one hidden layer"
    )
    parser.add_argument("--run", type=Path, default=Path("runs/adapt"), help="folder that keeps the features")
    parser.add_argument("--name", help="name of the new bundle (default: the name of the old one)")
    parser.add_argument("--incident-scenes", type=int, default=120, help="rendered scenes with an incident")
    parser.add_argument("--keep", type=float, default=usual.keep, help="weight of unchanged scores of known clips")
    parser.add_argument("--calm", type=float, default=usual.calm, help="weight of normal footage")
    parser.add_argument("--loud", type=float, default=usual.loud, help="weight of incidents")
    parser.add_argument("--hidden", type=int, default=usual.hidden, help="hidden units to add to the head")


def _distill(subparsers: Any) -> None:
    parser = subparsers.add_parser("distill", help="train the small ResNet3D from the Kinetics I3D and labelled clips")
    usual = TrainConfig()
    parser.add_argument("--clips", type=Path, required=True, help=CLIPS)
    parser.add_argument("--teacher", type=Path, required=True, help="I3D checkpoint, or the archive that contains it")
    parser.add_argument("--cache", type=Path, default=Path("cache/distill"), help="packed frames and teacher targets")
    parser.add_argument("--run", type=Path, default=Path("runs/distill"), help="folder of the checkpoint and the log")
    parser.add_argument("--normal-videos", type=Path, help="folder of long recordings in which nothing happens")
    parser.add_argument("--rendered", type=int, default=30, help="rendered scenes with an incident; 0: none")
    parser.add_argument("--keep-rendered", action="store_true", help="do not render again after a generator change")
    parser.add_argument("--steps", type=int, default=usual.steps, help="training steps")
    parser.add_argument("--batch", type=int, default=usual.batch, help="windows in a batch")
    parser.add_argument("--rate", type=float, default=usual.rate, help="highest learning rate")
    parser.add_argument(
        "--sizes", type=parse_sizes, default=usual.sizes, help="PIXELS:SHARE of the steps, for example 64:0.5,112:0.5"
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--start-from", metavar="BUNDLE", help="start from the weights of a bundle or of another run's student.pt"
    )
    parser.add_argument("--device", default="auto", help=DEVICE)
    parser.add_argument("--threads", type=int, default=0, help=f"of each replica: {THREADS}")
    parser.add_argument(
        "--replicas", type=int, default=1, help="copies of the student that share a batch (for a busy CPU)"
    )
    parser.add_argument("--workers", type=int, default=1, help="threads that prepare batches")
    parser.add_argument(
        "--teacher-size", type=parse_size, default=160, help="input size of the teacher in pixels: S or ROWSxCOLUMNS"
    )
    parser.add_argument("--teacher-windows", type=int, default=250, help="most teacher windows of one set")
    parser.add_argument("--teacher-per-clip", type=int, default=2, help="most teacher windows of one clip")
    parser.add_argument(
        "--views", type=int, choices=(0, 1, 2), default=0, help="rounds of crops that the teacher scores as well"
    )
    parser.add_argument(
        "--maps", action="store_true", help="also match the teacher's feature maps, position by position (with --views)"
    )
    parser.add_argument("--label-weight", type=float, default=usual.label_weight, help="weight of labels in the loss")
    parser.add_argument("--skip-teacher", action="store_true", help="train with the teacher targets in the cache only")


def _average(subparsers: Any) -> None:
    parser = subparsers.add_parser("average", help="average two checkpoints of one distillation run")
    parser.add_argument("first", type=Path, help="student.pt")
    parser.add_argument("second", type=Path, help="a later student.pt")
    parser.add_argument("--cache", type=Path, default=Path("cache/distill"), help="packed frames")
    parser.add_argument("--out", type=Path, required=True, help="run folder to write student.pt into")
    parser.add_argument("--seed", type=int, default=7)


def _embed(subparsers: Any) -> None:
    parser = subparsers.add_parser("embed", help="fit head and threshold to a trained student and write a bundle")
    _shared(parser)
    parser.add_argument("--run", type=Path, default=Path("runs/distill"), help="folder with student.pt")
    parser.add_argument("--name", default="embedded", help="name of the bundle")
    parser.add_argument("--workers", type=int, default=1, help="batches that are computed in parallel")
    parser.add_argument(
        "--normal-licence",
        default="as its owner says",
        help="licence of the recordings of `distill --normal-videos`, for the model card",
    )
    parser.add_argument("--teacher-size", type=parse_size, default=160, help="as `distill --teacher-size`")


def _novelty(subparsers: Any) -> None:
    parser = subparsers.add_parser("novelty", help="fit the novelty model of a bundle")
    parser.add_argument("--bundle", default="embedded", help="bundle to start from")
    parser.add_argument("--clips", type=Path, required=True, help=CLIPS)
    parser.add_argument("--cache", type=Path, default=Path("cache/distill"), help="packed frames")
    parser.add_argument("--out", type=Path, required=True, help="bundle folder to write; may be the same")
    parser.add_argument("--card", type=Path, help=CARD)
    parser.add_argument("--axes", type=int, default=AXES, help="principal axes of the model")
    parser.add_argument("--share", type=float, default=SHARE, help="share of val windows beyond the limit")
    parser.add_argument("--threads", type=int, default=0, help=THREADS)
    parser.add_argument("--workers", type=int, default=1, help="batches that are computed in parallel")


def _anchors(subparsers: Any) -> None:
    parser = subparsers.add_parser("anchors", help="add features of the head's training clips to a bundle")
    parser.add_argument("--bundle", default="embedded", help="bundle to start from")
    parser.add_argument("--clips", type=Path, required=True, help=CLIPS)
    parser.add_argument("--sets", nargs="+", help="only these sets (default: all sets that trained the head)")
    parser.add_argument("--out", type=Path, required=True, help="bundle folder to write; may be the same")
    parser.add_argument("--card", type=Path, help=CARD)
    parser.add_argument("--device", default="auto", help=DEVICE)


def _kind(subparsers: Any) -> None:
    parser = subparsers.add_parser("kind", help="add a model that tells fights from crashes, if grouped folds allow it")
    parser.add_argument("--bundle", default="embedded", help="bundle to start from")
    parser.add_argument("--clips", type=Path, required=True, help=CLIPS)
    parser.add_argument("--more", type=Path, help="a second folder, whose groups are sources")
    parser.add_argument("--cache", type=Path, default=Path("cache/standard"), help="folder of features by content")
    parser.add_argument("--limit", action="append", default=[], metavar="SET=N", help="most clips of a set and label")
    parser.add_argument("--record", type=Path, help="file for the figures")
    parser.add_argument("--out", type=Path, required=True, help="bundle folder to write; may be the same")


def _teacher_bundle(subparsers: Any) -> None:
    parser = subparsers.add_parser("teacher-bundle", help="fit a head on the teacher and write a second bundle")
    parser.add_argument("--cache", type=Path, default=Path("cache/distill"), help="cache with teacher targets")
    parser.add_argument("--teacher-size", type=parse_size, default=224, help="as `distill --teacher-size`")
    parser.add_argument("--out", type=Path, required=True, help="bundle folder to write")
    parser.add_argument("--card", type=Path, help=CARD)
    parser.add_argument("--name", default="i3d", help="name of the bundle")
