"""The command line of the recipes; kept apart from them, so that asking for help loads no network.

    python -m trainer recipe embedded --data DATA                     all stages, on this machine's CPU
    python -m trainer recipe embedded --data DATA --until pack        teachers and clips, packed to travel
    python -m trainer recipe embedded --device cuda --minutes 8       train from a pack, answers online
    python -m trainer recipe accurate --data DATA                     large networks, a head by the protocol

Under --root lie teachers/, pack/, answers/ (CPU) and protocol/; under --run checkpoint, log, student and bundle.
"""

from __future__ import annotations

import argparse
import importlib
from pathlib import Path
from typing import Any

STAGES = ("fetch", "pack", "answers", "train", "ship")
RECIPES = {"embedded": "trainer.recipes.labelfree.command", "accurate": "trainer.recipes.accurate.command"}


def add_parser(subparsers: Any) -> None:
    """Add `recipe` to the trainer's command line."""
    parser = subparsers.add_parser(
        "recipe", help="from nothing to a bundle", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("name", choices=sorted(RECIPES))
    parser.add_argument("--data", type=Path, help="folder with clips/, more_clips/ and long_normal/")
    parser.add_argument("--root", type=Path, help="what is made once; cache/recipe-NAME unless given")
    parser.add_argument("--run", type=Path, help="checkpoint, log, student, records; runs/recipe-NAME unless given")
    parser.add_argument("--out", type=Path, help="bundle folder to write; RUN/bundle unless given")
    parser.add_argument("--recipe", type=Path, help="another recipe.toml")
    parser.add_argument("--set", nargs="+", default=[], metavar="KEY=VALUE", help="change values of recipe.toml")
    parser.add_argument("--until", choices=STAGES, default="ship", help="the last stage; all unless given")
    parser.add_argument("--only", choices=STAGES, help="this stage alone: train without --data, ship what was trained")
    parser.add_argument("--device", default="cpu", help="cpu, cuda or cuda:N")
    parser.add_argument("--minutes", type=float, help="length of the training; views × repeats unless given")
    parser.add_argument("--threads", type=int, default=0, help="CPU threads of PyTorch; 0: its own choice")
    parser.set_defaults(main=main)


def main(args: argparse.Namespace) -> int:
    """Run a recipe; returns the exit code."""
    args.root = args.root or Path(f"cache/recipe-{args.name}")
    args.run = args.run or Path(f"runs/recipe-{args.name}")
    return int(importlib.import_module(RECIPES[args.name]).main(args))
