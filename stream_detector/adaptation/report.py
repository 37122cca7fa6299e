"""The gate's report: JSON for programs, one HTML page for people, with the pictures of the alarms that change."""

from __future__ import annotations

import base64
import json
from importlib import resources
from pathlib import Path
from typing import Any

import jinja2

from stream_detector.adaptation.gate import Verdict
from stream_detector.adaptation.overlay import Overlay, write_whole

MOST_PICTURES = 60
MAX_PICTURE_BYTES = 300_000
ROWS = (
    ("judged true alarms and misses found", "found"),
    ("of judged true alarms and misses", "of"),
    ("unjudged alarms found", "unjudged_found"),
    ("false alarms, unjudged ones being true", "false_low"),
    ("false alarms, unjudged ones being false", "false_high"),
    ("false alarms an hour, lower bound", "false_per_hour_low"),
    ("false alarms an hour, upper bound", "false_per_hour_high"),
    ("seconds of alarm in calm", "alarmed_s"),
    ("median delay, seconds", "delay_s"),
    ("AUC of the anchors", "anchors_auc"),
)


def write_report(folder: Path, overlay: Overlay, service: Overlay, verdict: Verdict, notes: tuple[str, ...]) -> Path:
    """Write FINGERPRINT.json and .html; returns the path of the page. Raises OSError."""
    gate = verdict.to_dict()
    named = {"overlay": overlay.fingerprint, "camera": overlay.camera, "in_service": service.fingerprint}
    folder.mkdir(parents=True, exist_ok=True)
    body = {**named, "bundle": overlay.bundle, "notes": list(notes), **gate}
    write_whole(folder / f"{overlay.fingerprint}.json", json.dumps(body, indent=1, allow_nan=False).encode())
    page = folder / f"{overlay.fingerprint}.html"
    write_whole(page, render(overlay, service, gate, notes).encode())
    return page


def render(overlay: Overlay, service: Overlay, gate: dict[str, Any], notes: tuple[str, ...]) -> str:
    """The page."""
    source = resources.files("stream_detector.adaptation").joinpath("assets", "gate.html.j2").read_text("utf-8")
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.ChainableUndefined)
    changes, pictures = [], 0
    for change in gate["changes"]:
        picture = picture_of(change["snapshot"]) if pictures < MOST_PICTURES else ""
        pictures += bool(picture)
        changes.append({**change, "picture": picture})
    return environment.from_string(source).render(
        overlay=overlay.fingerprint,
        camera=overlay.camera,
        service=service.fingerprint,
        gate=gate,
        rows=ROWS,
        changes=changes,
        notes=notes,
        show=_show,
    )


def picture_of(path: str) -> str:
    """Return a snapshot as a data URI; "" if there is none, or if it is too large."""
    if not path or Path(path).suffix != ".jpg":
        return ""
    try:
        data = Path(path).read_bytes()
    except OSError:
        return ""
    return f"data:image/jpeg;base64,{base64.b64encode(data).decode()}" if len(data) <= MAX_PICTURE_BYTES else ""


def _show(value: Any) -> str:
    if value is None or isinstance(value, jinja2.Undefined):
        return "–"
    return f"{value:g}" if isinstance(value, float) else str(value)
