"""The command line of the recipes; apart from them, so that --help loads no network.

    python -m trainer recipe embedded --data DATA                     all stages, on this machine's CPU
    python -m trainer recipe embedded --data DATA --until pack        teachers and clips, packed to be copied
    python -m trainer recipe embedded --device cuda --minutes 8       train from a pack, teachers run in every step
    python -m trainer recipe accurate --data DATA                     large networks, a head by the protocol

--root holds teachers/, pack/, answers/ (CPU) and protocol/; --run holds checkpoint, log, student and bundle.
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
        "recipe",
        help="make a shipped bundle from published weights and data",
        description=__doc__,
        formatter_class=argparse.RawTextHelpFormatter,
    )
    parser.add_argument("name", choices=sorted(RECIPES))
    parser.add_argument("--data", type=Path, help="folder with clips/, more_clips/ and long_normal/")
    parser.add_argument("--root", type=Path, help="folder of reusable results (default: cache/recipe-NAME)")
    parser.add_argument(
        "--run", type=Path, help="folder of checkpoint, log, student, records (default: runs/recipe-NAME)"
    )
    parser.add_argument("--out", type=Path, help="bundle folder to write (default: RUN/bundle)")
    parser.add_argument("--recipe", type=Path, help="recipe.toml to use in place of the shipped one")
    parser.add_argument("--set", nargs="+", default=[], metavar="KEY=VALUE", help="change values of recipe.toml")
    parser.add_argument("--until", choices=STAGES, default="ship", help="last stage to run (default: all)")
    parser.add_argument(
        "--only", choices=STAGES, help="run this stage only: train without --data, ship an earlier training"
    )
    parser.add_argument("--device", default="cpu", help="cpu, cuda or cuda:N")
    parser.add_argument("--minutes", type=float, help="length of the training (default: views × repeats)")
    parser.add_argument("--threads", type=int, default=0, help="CPU threads of PyTorch; 0: PyTorch chooses")
    parser.set_defaults(main=main)


def main(args: argparse.Namespace) -> int:
    """Run a recipe; returns the exit code."""
    args.root = args.root or Path(f"cache/recipe-{args.name}")
    args.run = args.run or Path(f"runs/recipe-{args.name}")
    return int(importlib.import_module(RECIPES[args.name]).main(args))
