"""`stream-detector probe`: measure what cameras and files send, and what reading them costs on this machine."""

from __future__ import annotations

import argparse
import dataclasses
import os
import re
import sys
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table

from stream_detector.capture.sources import parse_sources
from stream_detector.config import CaptureConfig
from stream_detector.errors import SourceError, UsageError
from stream_detector.system import signals
from stream_detector.system.stdio import json_text

if TYPE_CHECKING:  # these load PyTorch and OpenCV; the functions below import them
    from stream_detector.capture.probe import SourceFacts
    from stream_detector.models.recipe import Recipe

SCHEMA = "stream-detector.probe/1"


def add_parser(subparsers: Any) -> None:
    """Declare the options."""
    parser = subparsers.add_parser(
        "probe",
        help="measure what a camera sends and what reading it costs",
        description="Measure what cameras and files send, and what reading them costs on this machine.",
    )
    parser.add_argument("sources", nargs="+", metavar="[NAME=]SOURCE", help="as for `stream-detector run`")
    parser.add_argument("--seconds", type=float, default=5.0, metavar="S", help="seconds to measure (default 5)")
    parser.add_argument(
        "--angle",
        type=float,
        metavar="DEGREES",
        help="horizontal angle of view of the lens; used to estimate how large people appear",
    )
    parser.add_argument("--bundle", default="embedded", metavar="NAME_OR_DIR", help="bundle whose input size is used")
    parser.add_argument("--json", action="store_true", help="print the findings as JSON")


def main(args: argparse.Namespace) -> int:
    """Probe one source after the other; return 2 if one of them cannot be read."""
    if not 0.1 <= args.seconds <= 600:
        raise UsageError(f"--seconds is {args.seconds:g}; give 0.1 to 600")
    if args.angle is not None and not 1 <= args.angle <= 179:
        raise UsageError(f"--angle is {args.angle:g}; give the lens's horizontal angle of view, 1 to 179 degrees")
    from stream_detector.capture.probe import probe
    from stream_detector.models.bundle import find_bundle, read_manifest

    recipe = read_manifest(find_bundle(args.bundle)).preprocess.to_recipe()
    found: list[SourceFacts] = []
    failed: dict[str, str] = {}
    with signals.phase("probing"):
        for number, argument in enumerate(args.sources, 1):
            signals.check()
            name = f"source {number}"
            try:
                for camera in parse_sources([argument]):
                    name = camera.name
                    found.append(probe(camera, CaptureConfig(), recipe, args.seconds))
            except SourceError as error:
                failed[name] = str(error)
    if args.json:
        rows = [{**dataclasses.asdict(facts), **_sizes(facts, recipe, args.angle)} for facts in found]
        print(json_text({"schema": SCHEMA, "sources": rows, "failed": failed}))
    else:
        for facts in found:
            _show(facts, recipe, args.angle)
    for name, reason in failed.items():
        print(f"stream-detector: {name}: {reason}", file=sys.stderr)
    return 2 if failed else 0


def _sizes(facts: SourceFacts, recipe: Recipe, angle_deg: float | None) -> dict[str, float]:
    if angle_deg is None:
        return {}
    from stream_detector.capture.probe import person_pixels

    return {"person_pixels": round(person_pixels(facts, recipe, angle_deg), 1)}


def _show(facts: SourceFacts, recipe: Recipe, angle_deg: float | None) -> None:
    console = Console()
    table = Table(box=None, show_header=False, padding=(0, 2, 0, 0), title=f"{facts.camera}  {facts.source}")
    table.title_justify = "left"
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    rows = [
        ("video", f"{facts.codec or facts.kind}, {facts.width}×{facts.height}"),
        ("frame rate", f"{facts.fps_measured:.4g} fps measured, {facts.fps_announced:.4g} announced"),
        ("key frames", "–" if facts.key_interval_s is None else f"one every {facts.key_interval_s:.3g} s"),
        ("bit rate", "–" if facts.bit_rate is None else f"{facts.bit_rate / 1e6:.3g} Mbit/s"),
        ("damage", f"{facts.damaged} of {facts.pictures} pictures"),
        ("cost", f"{facts.cpu_ms:.3g} ms of CPU a picture, {facts.cores:.2g} of {os.cpu_count() or 1} cores"),
        ("network sees", f"{recipe.size[1]}×{recipe.size[0]} pixels, {recipe.fps:g} fps"),
    ]
    if angle_deg is not None:
        from stream_detector.capture.probe import PERSON_AT_M, PERSON_M, person_pixels

        rows_of = person_pixels(facts, recipe, angle_deg)
        rows.append(
            ("a person", f"{PERSON_M:g} m tall, {PERSON_AT_M:g} m away: {rows_of:.0f} of {recipe.size[0]} rows")
        )
    for name, text in rows:
        table.add_row(name, text)
    console.print(table)
    if facts.slow:
        console.print(f"[yellow]{facts.slow}[/yellow]")
    console.print(_settings(facts), style="bright_black", markup=False, highlight=False)
    console.print()


def _settings(facts: SourceFacts) -> str:
    """Return the lines for cameras.toml. User, password and path of an address are left out; the user fills them in."""
    source = facts.source
    if re.match(r"(rtsps?|https?)://", source):
        source += "/…"
    quoted = source.replace("\\", "\\\\").replace('"', '\\"')
    return f'[cameras.{facts.camera}]\nsource = "{quoted}"'
