"""`stream-detector report`: one HTML page from scores and events."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from stream_detector.errors import UsageError
from stream_detector.reports.html_page import page
from stream_detector.reports.read_back import gather_alarms, read_events
from stream_detector.reports.scores_file import read_scores
from stream_detector.reports.summary import make_report
from stream_detector.system.outputs import check_apart, check_free, replace_file
from stream_detector.system.stdio import json_text


def add_parser(subparsers: Any) -> None:
    """Declare the options."""
    parser = subparsers.add_parser(
        "report",
        help="make an HTML page from scores and events",
        description="Make one HTML page with plots and figures from a table of scores, an event file, or both.",
    )
    parser.add_argument("--scores", type=Path, metavar="FILE.csv", help="table that 'run --scores' or 'score' wrote")
    parser.add_argument("--events", type=Path, metavar="FILE.jsonl", help="event file that 'run --events' wrote")
    parser.add_argument("--out", type=Path, metavar="FILE.html", help="HTML file to write")
    parser.add_argument("--threshold", type=float, help="threshold to draw for cameras without an alarm")
    parser.add_argument("--title", default="Detection report", help="title of the page")
    parser.add_argument("--json", action="store_true", help="print the figures as JSON; --out is then optional")


def main(args: argparse.Namespace) -> int:
    """Write the page and print its path, or print the figures. Raises UsageError and DataError."""
    if args.scores is None and args.events is None:
        raise UsageError("there is nothing to report on; give --scores FILE.csv, --events FILE.jsonl or both")
    if args.out is None and not args.json:
        raise UsageError("no output file is given; give --out FILE.html, or --json for the figures alone")
    if args.threshold is not None and not 0.0 <= args.threshold <= 1.0:
        raise UsageError(f"--threshold {args.threshold} is not a score; give a number from 0 to 1")
    if args.out is not None:
        check_free(args.out, "page")
        check_apart({"--out": args.out}, [path for path in (args.scores, args.events) if path])
    rows = read_scores(args.scores) if args.scores else []
    alarms = gather_alarms(read_events(args.events)) if args.events else []
    report = make_report(rows, alarms, threshold=args.threshold)
    if args.out is not None:
        base = (args.events or args.scores).parent
        text = page(report, title=args.title, base=base, out=args.out)
        replace_file(args.out, text.encode("utf-8", "backslashreplace"), "page")
    if args.json:
        print(json_text(report.to_dict()))
    else:
        print(args.out)
    return 0
