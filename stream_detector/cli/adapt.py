"""`stream-detector adapt`: fit an overlay to what a site remembers, and ask the gate."""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import time
from pathlib import Path
from typing import Any

from stream_detector.errors import DataError, UsageError


def add_parser(subparsers: Any) -> None:
    """Add the command and its options."""
    parser = subparsers.add_parser(
        "adapt",
        help="fit an overlay to the memory of a site, and test it in the gate",
        description="Fit an overlay (head correction, threshold, smoothing) to the memory and the verdicts of a site. "
        "The gate replays it on days that the fit did not use. `site promote` puts an overlay into service.",
        epilog="Exit code 0: accepted; 1: refused, the report says why; 2: too few verdicts.",
    )
    parser.add_argument("--camera", default="", metavar="NAME", help="for this camera (default: for the whole site)")
    parser.add_argument("--site", type=Path, default=Path("runs/site"), metavar="DIR", help="folder of the site")
    parser.add_argument("--bundle", default="embedded", metavar="NAME_OR_DIR", help="bundle that the site runs")
    parser.add_argument("--low-priority", action="store_true", help="run at low priority")
    parser.add_argument("--json", action="store_true", help="print the gate's report as JSON")


def main(args: argparse.Namespace) -> int:
    """Fit, gate, write the overlay and its report."""
    if args.low_priority:
        with contextlib.suppress(OSError, AttributeError):
            os.nice(10)
    import torch

    from stream_detector.adaptation.adapt import adapt, split_days
    from stream_detector.adaptation.anchors import anchors_of
    from stream_detector.adaptation.gate import run_gate
    from stream_detector.adaptation.memory import Memory
    from stream_detector.adaptation.overlay import Overlay
    from stream_detector.adaptation.recall_site import stretches_of
    from stream_detector.adaptation.report import write_report
    from stream_detector.adaptation.service import Service
    from stream_detector.models.bundle import Bundle

    path: Path = args.site / "memory.sqlite3"
    if not path.is_file():
        raise UsageError(
            f"{str(args.site)!r} holds no memory of a site; run with site.keep = true, or give --site (it lies beside "
            "the journal)"
        )
    begun_s = time.monotonic()
    if args.low_priority:
        torch.set_num_threads(1)
    bundle = Bundle.load(args.bundle)
    anchors = anchors_of(bundle)
    service = Service.load(args.site)
    memory = Memory(path, read_only=True)
    try:
        stretches = stretches_of(memory, bundle.fingerprint, args.camera)
        plan = memory.fact("plan") or {}
    finally:
        memory.close()
    rules, threshold, tau = rules_of(plan, args.camera, bundle.threshold, bundle.smoothing.time_constant_s)
    in_service = service.of(args.camera)
    now = (
        service.load_overlay(in_service, bundle.fingerprint)
        if in_service
        else Overlay(bundle.fingerprint, args.camera, threshold, tau)
    )
    fit, gate = split_days(stretches)
    if not gate:
        raise DataError("only one stretch of time is remembered, so nothing can be kept apart for the gate; wait a day")
    adapted = adapt(fit, now, anchors, camera=args.camera, rules=rules)
    verdict = run_gate(gate, now, adapted.overlay, anchors, rules)
    facts = {**adapted.overlay.facts, "gate": {"accepted": verdict.accepted, "sentence": verdict.sentence}}
    facts |= {"seconds": round(time.monotonic() - begun_s, 1), "made_utc": time.time()}
    overlay = Overlay(
        adapted.overlay.bundle,
        adapted.overlay.camera,
        adapted.overlay.threshold,
        adapted.overlay.time_constant_s,
        adapted.overlay.correction,
        adapted.overlay.novelty,
        facts,
    )
    page = write_report(args.site / "overlays", overlay, now, verdict, adapted.notes)
    overlay.save(service.path(overlay.fingerprint))  # last: an overlay that is there has its report
    if args.json:
        print(json.dumps({"overlay": overlay.fingerprint, "report": str(page), **verdict.to_dict()}))
    else:
        print(f"{overlay.fingerprint}: {verdict.sentence}")
        print(f"report: {page}")
        if verdict.accepted:
            print(f"put it into service: stream-detector site promote {overlay.fingerprint}")
    return 0 if verdict.accepted else 1


def rules_of(plan: dict[str, Any], camera: str, threshold: float, time_constant_s: float) -> tuple[Any, float, float]:
    """Return (alarm rules, threshold, time constant) of the run without an overlay, as the run stored them."""
    from stream_detector.adaptation.site_data import Rules
    from stream_detector.config import AlarmConfig

    mine: dict[str, Any] = plan.get(camera) or next(iter(plan.values()), {}) if plan else {}
    rules = Rules(AlarmConfig.model_validate(mine["alarm"])) if mine.get("alarm") else Rules()
    if mine.get("smoothing") == "ema":
        time_constant_s = float(mine["time_constant_s"])
    return rules, float(mine.get("threshold", threshold)), time_constant_s
