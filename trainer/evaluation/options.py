"""What `evaluate --standard` asks for; apart from `command`, so that asking for help loads no network."""

from __future__ import annotations

import argparse
from pathlib import Path

from trainer.data.sizes import parse_size


def add_options(parser: argparse.ArgumentParser) -> None:
    """What `evaluate --standard` asks for."""
    group = parser.add_argument_group("the standard protocol (--standard)")
    group.add_argument("--standard", action="store_true", help="nested grouped folds over all labelled clips")
    group.add_argument("--clips", type=Path, help="folder with index.csv; its file numbers tell the recording")
    group.add_argument("--more", type=Path, help="another such folder, whose groups are sources")
    group.add_argument("--quiet", type=Path, help="folder of recordings in which nothing happens, for the streams")
    group.add_argument("--quiet-minutes", type=float, default=60.0, help="at most so much of each of them")
    look = group.add_mutually_exclusive_group()
    look.add_argument(
        "--network",
        nargs="+",
        choices=("i3d", "mc3"),
        help="judge frozen networks, their features side by side; fetched by checksum unless they are here",
    )
    look.add_argument("--bundle", help="judge a bundle as it is, on the sets of --unseen")
    group.add_argument("--size", type=parse_size, default=160, help="pixels of their windows: 160, 240x320")
    group.add_argument(
        "--choose",
        action="store_true",
        help="with two networks: choose one of them, or both, inside the training folds; both unless given",
    )
    group.add_argument("--unseen", nargs="+", default=[], metavar="SET", help="sets that the bundle never saw")
    group.add_argument("--ignore", nargs="+", default=[], metavar="SET", help="sets that are not judged")
    group.add_argument("--limit", nargs="+", default=[], metavar="SET=N", help="at most N clips of a label of a set")
    group.add_argument("--cache", type=Path, default=Path("cache/standard"), help="keeps features and backgrounds")
    group.add_argument("--name", help="of the record; the name of --out unless given")
