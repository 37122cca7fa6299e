"""`stream-detector control`: sets the mode, mutes alarms, or changes a threshold of a running detector."""

from __future__ import annotations

import argparse
import re
from typing import Any

from stream_detector.cli.writing import add_connection, open_writer
from stream_detector.errors import UsageError
from stream_detector.events.protocol import DETECTOR, encode

_SPAN = re.compile(r"(\d+(?:\.\d+)?)(s|m|h|d)")
_SECONDS = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}


def add_parser(subparsers: Any) -> None:
    """Declare the options."""
    parser = subparsers.add_parser(
        "control",
        help="set the mode, mute alarms, or change a threshold of a running detector",
        description="Set the mode, mute alarms, or change a threshold of a running detector. The journal records "
        "the change with its author. The change takes effect at the next window and persists across restarts.",
    )
    parser.add_argument("--camera", metavar="NAME", default="", help="only for this camera (default: all cameras)")
    parser.add_argument("--mode", metavar="NAME", help="mode of the schedules, for instance home or away")
    parser.add_argument("--mute", metavar="TIME", help="mute alarms for this time, for instance 30m or 2h")
    parser.add_argument("--unmute", action="store_true", help="end the mute")
    parser.add_argument("--threshold", metavar="X", help="0 to 1, or 'default' for the configured threshold")
    add_connection(parser)
    parser.add_argument("--json", action="store_true", help="print the journalled event as JSON")


def main(args: argparse.Namespace) -> int:
    """Send one change and print the new state."""
    value = changes_of(args)
    with open_writer(args) as writer:
        body = writer.write(value)
    print(encode(body).decode() if args.json else describe(body))
    return 0


def changes_of(args: argparse.Namespace) -> dict[str, Any]:
    """Return the write of the options. Raises UsageError."""
    value: dict[str, Any] = {"kind": "control", "by": args.by}
    if args.camera:
        value["camera"] = args.camera
    if args.mode is not None:
        value["mode"] = args.mode
    if args.mute is not None and args.unmute:
        raise UsageError("--mute and --unmute exclude each other; give one")
    if args.mute is not None:
        found = _SPAN.fullmatch(args.mute)
        if found is None:
            raise UsageError(f"--mute {args.mute[:20]!r} is not a duration; write for instance 30m or 2h")
        value["mute_s"] = float(found[1]) * _SECONDS[found[2]]
    elif args.unmute:
        value["mute_s"] = 0
    if args.threshold is not None:
        value["threshold"] = None if args.threshold == "default" else _unit(args.threshold)
    if len(value) == 2 + ("camera" in value):
        raise UsageError("nothing to change; give --mode, --mute, --unmute or --threshold")
    return value


def _unit(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0.0 <= value <= 1.0:
        raise UsageError(f"--threshold {text[:20]!r} is not a threshold; give a number from 0 to 1, or 'default'")
    return value


def describe(body: dict[str, Any]) -> str:
    """Return one line for people."""
    who = "all cameras" if body["camera"] == DETECTOR else body["camera"]
    parts = [f"mode {body['mode']}"] if body["mode"] else []
    parts.append(f"muted until {body['muted_until_utc']}" if body["muted_until_utc"] else "not muted")
    parts.append("threshold as configured" if body["threshold"] is None else f"threshold {body['threshold']:g}")
    return f"{who}: {', '.join(parts)}; recorded for {body['author']}"
