"""`stream-detector site`: the memory of a site, its model in service, and the commands that change them."""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from stream_detector.cli.writing import add_connection, open_writer
from stream_detector.config import DETECTOR, SiteConfig
from stream_detector.errors import LedgerError, UsageError
from stream_detector.events.ledger import Ledger
from stream_detector.events.protocol import SITE_SCHEMA, encode, rfc3339, topic_of
from stream_detector.types import SystemClock

DEFAULT = Path("runs/site")


def add_parser(subparsers: Any) -> None:
    """Add the command and its parts."""
    parser = subparsers.add_parser(
        "site",
        help="show the memory of a site and its model in service; promote, roll back",
        description="Show, prune and export the memory of a site; promote, run in shadow and roll back its models.",
    )
    parts = parser.add_subparsers(dest="part", metavar="PART", required=True)
    for name, text in (
        ("show", "show the memory, the promised rate and the model in service"),
        ("prune", "apply the limits of time and size now, or delete the memory of a camera"),
        ("export", "write features, scores and verdicts to a file of arrays"),
        ("promote", "put an overlay into service that the gate has accepted"),
        ("rollback", "return to the previous overlay, or to the bundle"),
        ("shadow", "run an overlay beside the model in service for some hours"),
    ):
        part = parts.add_parser(name, help=text, description=text[0].upper() + text[1:] + ".")
        part.add_argument("--site", type=Path, default=DEFAULT, metavar="DIR", help=f"folder of the site ({DEFAULT})")
        part.add_argument("--json", action="store_true", help="print JSON")
        if name in ("show", "export", "prune", "rollback"):
            part.add_argument("--camera", default="", metavar="NAME", help="only this camera")
        if name == "export":
            part.add_argument(
                "--out", type=Path, required=True, metavar="FILE.npz", help="NumPy file to write; it must not exist yet"
            )
        if name == "prune":
            part.add_argument("--forget", action="store_true", help="delete everything of --camera, or of all cameras")
            part.add_argument("--window-hours", type=float, metavar="H", help="keep every window for H hours")
            part.add_argument("--alarm-days", type=float, metavar="D", help="keep windows around alarms for D days")
            part.add_argument("--max-bytes", type=int, metavar="N", help="largest size of the memory on disk")
        if name in ("promote", "shadow"):
            part.add_argument("overlay", metavar="FINGERPRINT", help="of the overlay; `site show` lists them")
        if name == "shadow":
            part.add_argument("--hours", type=float, default=24.0, metavar="H", help="duration (default: 24)")
        if name in ("promote", "rollback", "shadow"):
            add_connection(part)
            part.add_argument("--ledger", type=Path, metavar="FILE", help="journal of the site, if no detector uses it")


def main(args: argparse.Namespace) -> int:
    """Run one part."""
    if args.part in ("promote", "rollback", "shadow"):
        return _command(args)
    return {"show": _show, "prune": _prune, "export": _export}[args.part](args)


def _memory_path(args: argparse.Namespace) -> Path:
    path: Path = args.site / "memory.sqlite3"
    if not path.is_file():
        raise UsageError(f"{str(args.site)!r} has no memory of a site; it is stored beside the journal, see --site")
    return path


# -- commands -----------------------------------------------------------------------------------------------------


def _command(args: argparse.Namespace) -> int:
    write: dict[str, Any] = {"kind": "command", "command": args.part, "by": args.by}
    if args.part != "rollback":
        write["overlay"] = args.overlay
    else:
        write["camera"] = args.camera
    if args.part == "shadow":
        write["hours"] = args.hours
    if args.ledger:
        if args.endpoint:
            raise UsageError("--ledger and --endpoint exclude each other; a running detector changes its model itself")
        body = _offline(args)
    else:
        with open_writer(args) as writer:
            body = writer.write(write)
    print(encode(body).decode() if args.json else body["detail"])
    return 0


def _offline(args: argparse.Namespace) -> dict[str, Any]:
    """Change the model of the next run while no detector runs: the journal first, then the state, as in a run."""
    from stream_detector.adaptation.service import Service
    from stream_detector.cli.verdict import account

    service, clock = Service.load(args.site), SystemClock()
    if args.part == "shadow":
        overlay = service.load_overlay(args.overlay)
        camera = overlay.camera
        change: dict[str, Any] = {"type": "shadow_started", "overlay": overlay.fingerprint, "hours": args.hours}
    elif args.part == "promote":
        overlay = service.load_overlay(args.overlay)
        camera, change = overlay.camera, service.promoted(overlay, clock.utc())
    else:
        camera, change = args.camera, service.rolled_back(args.camera)
    if not args.ledger.is_file():
        raise UsageError(f"the journal {str(args.ledger)!r} does not exist; give the file of --ledger of the run")
    whose = f"camera {camera}" if camera else "the site"
    detail = f"{whose}: {change['type'].replace('_', ' ')}, overlay {change['overlay'] or 'none'}"
    ledger = Ledger(args.ledger, clock=clock, keep_days=0, max_bytes=0)
    try:
        utc = clock.utc()
        body = {"schema": SITE_SCHEMA, "camera": camera or DETECTOR, **change, "by": args.by}
        body |= {"author": f"file:{account()}", "detail": detail, "epoch": "", "seq": 0, "emitted_utc": rfc3339(utc)}
        ledger.append(topic_of("site", camera or DETECTOR), body)
        if ledger.degraded:
            raise LedgerError(f"the journal {str(args.ledger)!r} cannot be written; free or repair the disk")
        if args.part == "shadow":
            service.set_shadow(camera, args.overlay, utc, utc + args.hours * 3600)
        else:
            service.apply(camera, body, (str(body["epoch"]), int(body["seq"])), utc)
    finally:
        ledger.close()
    return body


# -- looking ------------------------------------------------------------------------------------------------------


def _show(args: argparse.Namespace) -> int:
    from stream_detector.adaptation.keeper import rates_of
    from stream_detector.adaptation.memory import Memory
    from stream_detector.adaptation.service import Service

    service = Service.load(args.site)
    memory = Memory(_memory_path(args), read_only=True)
    try:
        wanted = memory.fact("wanted") or {}
        held = [camera for camera in memory.cameras() if args.camera in ("", camera.camera)]
        if args.camera and not held:
            raise UsageError(f"nothing of camera {args.camera!r} is in the memory; `site show` lists the cameras")
        rates = {
            c.camera: rates_of(memory, c.camera, wanted.get(c.camera), service.changed_utc(c.camera)) for c in held
        }
        size = memory.bytes
    finally:
        memory.close()
    overlays = service.overlays()
    if args.json:
        content = {
            "bytes": size,
            "cameras": [
                {
                    "camera": c.camera,
                    "windows": c.windows,
                    "thinned_windows": c.thinned,
                    "hours": round(c.hours, 3),
                    "bytes": c.bytes,
                    "alarms": c.alarms,
                    "verdicts": c.verdicts,
                    "in_service": service.of(c.camera) or None,
                    "rate": rates[c.camera].to_dict(),
                }
                for c in held
            ],
            "overlays": [
                {"overlay": o.fingerprint, "camera": o.camera, "bundle": o.bundle, "facts": o.facts} for o in overlays
            ],
        }
        print(json.dumps(content))
        return 0
    console = Console()
    table = Table(title=f"{args.site}: {size / 1e6:.1f} MB")
    for column in ("camera", "windows", "thinned", "hours", "alarms", "verdicts", "in service", "false alarms a day"):
        table.add_column(column)
    for c in held:
        verdicts = ", ".join(f"{name} {number}" for name, number in sorted(c.verdicts.items()) if number)
        table.add_row(
            c.camera,
            str(c.windows),
            str(c.thinned),
            f"{c.hours:.1f}",
            str(c.alarms),
            verdicts or "–",
            service.of(c.camera) or "bundle",
            rates[c.camera].sentence(),
        )
    console.print(table)
    for overlay in overlays:
        gate = overlay.facts.get("gate", {})
        made = rfc3339(float(overlay.facts.get("made_utc", 0.0)))
        console.print(f"{overlay.fingerprint} for {overlay.camera or 'the site'}, {made}: {gate.get('sentence', '–')}")
    return 0


def _prune(args: argparse.Namespace) -> int:
    from stream_detector.adaptation.keeper import prune
    from stream_detector.adaptation.memory import Memory

    memory = Memory(_memory_path(args))
    try:
        before = memory.bytes
        if args.forget:
            memory.forget(args.camera)
        given = {"window_hours": args.window_hours, "alarm_days": args.alarm_days, "max_bytes": args.max_bytes}
        config = SiteConfig.model_validate({name: value for name, value in given.items() if value is not None})
        changed = prune(memory, config, time.time())
        after = memory.bytes
    finally:
        memory.close()
    told = {"blocks_changed": changed, "bytes_before": before, "bytes_after": after}
    print(json.dumps(told) if args.json else f"{before / 1e6:.1f} MB before, {after / 1e6:.1f} MB now")
    return 0


def _export(args: argparse.Namespace) -> int:
    import numpy as np

    from stream_detector.adaptation.memory import Memory

    if args.out.exists():
        raise UsageError(f"file {str(args.out)!r} exists already; choose another name")
    memory = Memory(_memory_path(args), read_only=True)
    try:
        blocks = list(memory.blocks(args.camera))
        if not blocks:
            raise UsageError("the memory is empty; `site show` lists its content")
        if len({block.features.shape[1] for block in blocks}) > 1:
            blocks = [b for b in blocks if b.bundle == blocks[-1].bundle]
        alarms = [{name: getattr(a, name) for name in _OF_ALARMS} for a in memory.alarms(args.camera)]
    finally:
        memory.close()
    arrays: dict[str, Any] = {
        "camera": np.concatenate([np.full(len(b), b.camera) for b in blocks]),
        "epoch": np.concatenate([np.full(len(b), b.epoch) for b in blocks]),
        **{name: np.concatenate([getattr(b, name) for b in blocks]) for name in _ARRAYS},
        "alarms_json": np.array(json.dumps(alarms)),
    }
    np.savez(args.out, **arrays)
    number = len(arrays["raw"])
    print(json.dumps({"windows": number, "file": str(args.out)}) if args.json else f"{number} windows to {args.out}")
    return 0


_OF_ALARMS = ("id", "epoch", "camera", "start_s", "end_s", "verdict", "note", "by", "author")
_ARRAYS = ("starts_s", "ends_s", "utc", "raw", "flags", "features")
