"""`stream-detector reload`: makes a running detector read its configuration again."""

from __future__ import annotations

import argparse
from typing import Any

from stream_detector.cli.writing import add_connection, open_writer
from stream_detector.events.protocol import encode


def add_parser(subparsers: Any) -> None:
    """Declare the options."""
    parser = subparsers.add_parser(
        "reload",
        help="make a running detector read its configuration again",
        description="Make a running detector read its configuration again. Thresholds and schedules take effect at the "
        "next window; cameras that were added, removed or changed begin, end or are opened again while the others run; "
        "the command lists the changes that need a restart.",
    )
    add_connection(parser)
    parser.add_argument("--json", action="store_true", help="print the journalled event as JSON")


def main(args: argparse.Namespace) -> int:
    """Reload and print the changes in effect; return 1 if a change needs a restart."""
    with open_writer(args) as writer:
        body = writer.write({"kind": "reload", "by": args.by})
    if args.json:
        print(encode(body).decode())
    else:
        for camera, names in body["reloaded"].items():
            print(f"{camera}: {', '.join(names)} in effect")
        for camera in body.get("added", ()):
            print(f"{camera}: added")
        for camera in body.get("removed", ()):
            print(f"{camera}: removed")
        for camera, names in body.get("reopened", {}).items():
            print(f"{camera}: opened again, for {', '.join(names)} changed")
        if not any(body.get(key) for key in ("reloaded", "restart", "added", "removed", "reopened")):
            print("nothing changed")
        for text in body["restart"]:
            print(f"needs a restart: {text}")
    return 1 if body["restart"] else 0
