"""`stream-detector reload`: let a running detector read its configuration again."""

from __future__ import annotations

import argparse
from typing import Any

from stream_detector.cli.writing import add_connection, open_writer
from stream_detector.events.protocol import encode


def add_parser(subparsers: Any) -> None:
    """Declare the options."""
    parser = subparsers.add_parser(
        "reload",
        help="let a running detector read its configuration again",
        description="Let a running detector read its configuration again. Thresholds and schedules take effect at the "
        "next window; what needs a restart is named.",
    )
    add_connection(parser)
    parser.add_argument("--json", action="store_true", help="print the event as it was journalled")


def main(args: argparse.Namespace) -> int:
    """Ask for it and print what took effect; 1 if something needs a restart."""
    with open_writer(args) as writer:
        body = writer.write({"kind": "reload", "by": args.by})
    if args.json:
        print(encode(body).decode())
    else:
        for camera, names in body["reloaded"].items():
            print(f"{camera}: {', '.join(names)} in effect")
        if not body["reloaded"] and not body["restart"]:
            print("nothing changed")
        for text in body["restart"]:
            print(f"needs a restart: {text}")
    return 1 if body["restart"] else 0
