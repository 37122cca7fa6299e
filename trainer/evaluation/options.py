"""The options of `evaluate --standard`; apart from `command`, so that --help loads no network."""

from __future__ import annotations

import argparse
from pathlib import Path

from trainer.data.sizes import parse_size


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of `evaluate --standard`."""
    group = parser.add_argument_group("the standard protocol (--standard)")
    group.add_argument("--standard", action="store_true", help="nested grouped folds over all labelled clips")
    group.add_argument("--clips", type=Path, help="folder with index.csv; its file numbers identify the recording")
    group.add_argument("--more", type=Path, help="another such folder; its groups are sources")
    group.add_argument("--quiet", type=Path, help="folder of recordings in which nothing happens, for the streams")
    group.add_argument("--quiet-minutes", type=float, default=60.0, help="longest part of each recording")
    judged = group.add_mutually_exclusive_group()
    judged.add_argument(
        "--network",
        nargs="+",
        choices=("i3d", "mc3"),
        help="judge frozen networks; several: their features are concatenated; downloaded if missing",
    )
    judged.add_argument("--bundle", help="judge a bundle, without training, on the sets of --unseen")
    group.add_argument("--size", type=parse_size, default=160, help="size of the windows in pixels: 160 or 240x320")
    group.add_argument(
        "--choose",
        action="store_true",
        help="with two networks: choose one or both inside the training folds (default: both)",
    )
    group.add_argument("--unseen", nargs="+", default=[], metavar="SET", help="sets that the bundle was not trained on")
    group.add_argument(
        "--seen",
        nargs="*",
        metavar="SET",
        help="sets whose labels a network was trained on: its head neither learns from them nor is judged on them",
    )
    group.add_argument("--ignore", nargs="+", default=[], metavar="SET", help="sets that are not judged")
    group.add_argument("--limit", nargs="+", default=[], metavar="SET=N", help="at most N clips of each label of a set")
    group.add_argument(
        "--cache", type=Path, default=Path("cache/standard"), help="folder that stores features and backgrounds"
    )
    group.add_argument("--name", help="name of the record (default: the name of --out)")
