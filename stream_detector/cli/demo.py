"""`stream-detector demo`: watch the rendered street scene with one scripted incident; needs no camera and no file."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from stream_detector.cli import run
from stream_detector.errors import UsageError

FOLDER = Path("runs/demo")


def add_parser(subparsers: Any) -> None:
    """Declare the options: those of `run`."""
    parser = subparsers.add_parser(
        "demo",
        help="watch the rendered demo",
        description="Watch a street scene that the program renders itself, with one scripted incident. Options are "
        f"those of `run`; events, scores and evidence go to {FOLDER} unless --run-dir names another folder.",
    )
    run.add_options(parser)
    run.add_bridge_options(parser)
    for action in parser._actions:
        if action.dest == "sources":
            action.help = argparse.SUPPRESS  # refused in `main`, with a sentence


def main(args: argparse.Namespace) -> int:
    """Run the demo."""
    if args.sources:
        raise UsageError("`demo` takes no sources; for your own cameras and files use `stream-detector run SOURCE…`")
    args.sources = ["demo"]
    args.run_dir = args.run_dir or FOLDER
    return run.main(args)
