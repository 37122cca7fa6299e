"""The summary that `score` and `score --ray` print of a finished table."""

from __future__ import annotations

import argparse
import csv
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from stream_detector.system.stdio import json_text

if TYPE_CHECKING:
    from stream_detector.runtime.pipeline import RunResult


@dataclass(slots=True)
class FileSummary:
    """The result of one file."""

    windows: int = 0
    peak: float = 0.0
    peak_at_s: float = 0.0


def summarise(scores: Path) -> dict[str, FileSummary]:
    """Return the number of windows, the highest raw score and its time, by source."""
    found: dict[str, FileSummary] = {}
    with scores.open(newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            summary = found.setdefault(row["source"], FileSummary())
            summary.windows += 1
            if float(row["raw"]) >= summary.peak:
                summary.peak, summary.peak_at_s = float(row["raw"]), float(row["start_s"])
    return found


def report(args: argparse.Namespace, summaries: dict[str, FileSummary], result: RunResult) -> None:
    """Print the result; first, on standard error, the files that could not be scored."""
    failed = dict(result.failed)
    for name, reason in failed.items():
        print(f"stream-detector: {name}: {reason}", file=sys.stderr)
    if result.error is not None:
        print(f"stream-detector: {result.error}", file=sys.stderr)
    if result.stopped:
        print(f"stream-detector: interrupted; {args.out} holds a part of the rows", file=sys.stderr)
    if args.json:
        files = {
            source: {"windows": s.windows, "peak": s.peak, "peak_at_s": s.peak_at_s} for source, s in summaries.items()
        }
        whole = {"out": str(args.out), "windows": result.windows, "files": files, "failed": failed}
        print(json_text({**whole, "interrupted": result.stopped}))
    else:
        part = " (incomplete: the run was interrupted)" if result.stopped else ""
        print(f"{result.windows} windows of {len(summaries)} files → {args.out}{part}")
