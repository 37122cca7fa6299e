"""The import direction and the size of the rooms."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "stream_detector"

FOUNDATION = {"types", "errors", "config", "config_errors", "address", "secretfile"}
# What a module may import of the package beside the foundation. A stage that is not named here may import nothing else.
MODEL = {
    "registry",
    "preprocess",
    "recipe",
    "backbones",
    "head",
    "temporal",
    "familiar",
    "manifest",
    "bundle",
    "weights",
}
ALLOWED: dict[str, set[str]] = {
    "bundle": MODEL,
    "manifest": MODEL,
    "weights": MODEL | {"download"},
    "engines": MODEL | {"engines", "recordings", "demo"},  # footage to quantise on, the demo to compare on
    "backbones": MODEL | {"backbones"},
    "window": {"cuts"},
    "head": {"preprocess", "temporal"},
    "preprocess": {"decoded", "recipe"},
    "recipe": set(),
    "pictures": set(),
    "mediaclock": set(),
    "decoder": {"httpio", "mediaclock"},
    "httpio": set(),
    "grabs": set(),
    "slowness": set(),
    "jpegs": {"decoder", "httpio"},
    "netreaders": {"decoded", "decoder", "grabs", "httpio", "jpegs"},
    "containers": set(),
    "decoded": {"pictures", "recipe"},
    "framing": {"decoded", "pictures"},
    "pacing": set(),
    "capture": {"decoded", "framing", "mediaclock", "pacing", "readers", "slowness", "tally", "watchdog"},
    "readers": {"containers", "grabs", "netreaders", "decoded", "decoder", "demo", "pictures", "sources"},
    "recordings": {"cuts", "decoded", "readers", "recipe", "tally", "window"},
    "sources": {"demo"},
    "publish": {
        *{"answering", "curve", "endpoint", "eventfile", "filecopy", "handshakes", "lockfile", "present", "recovery"},
        "wire",
    },
    "answering": {"fairqueue", "ratelimit", "recovery"},
    "handshakes": {"answering"},
    "subscribe": {"wire", "catchup", "curve", "cursor", "endpoint", "recoveryclient"},
    "catchup": {"wire", "cursor"},
    "ledger": {"wire", "journalreads", "lockfile", "openalarms", "pruning", "retention", "salvage", "store"},
    "journalreads": {"wire", "pruning", "store"},
    "openalarms": {"store"},
    "pruning": {"retention"},
    "salvage": {"pruning", "store"},
    "recovery": {"wire", "present"},
    "recoveryclient": {"wire", "curve", "endpoint"},
    "store": {"wire", "retention"},
    "cursor": {"wire"},
    "eventfile": {"wire", "lockfile"},
    "filecopy": {"wire", "eventfile", "store"},
    "wire": {"wirechecks"},
    "endpoint": {"lockfile"},
    "telemetry": {"views"},
    "views": set(),
    "metrics": {"health", "telemetry", "views"},
    "health": {"views"},
    "dashboard": {"telemetry", "views"},
    "narrate": {"logs", "views"},
    "plots": {"outputs", "records"},
    "records": {"outputs"},
    "report": {"records", "plots"},
    "reportpage": {"records", "plots", "report"},
    "evidence": {"clipfile", "evidenceorder"},
    "evidenceorder": {"retention"},
    "arguments": set(),
    "smooth": {"registry"},
    "alarm": {"registry"},
    "sinks": {"published", "registry", "wire"},
}
WIRING = {
    "api",
    "session",
    "stages",
    "start",
    "pipeline",
    "decide",
    "assemble",
    "cli",
    "arguments",
    "commands",
    "testing",
    "web",
    "cluster",
    "__init__",
    "__main__",
}


def modules(package: Path) -> list[Path]:
    return sorted(p for p in package.rglob("*.py") if "__pycache__" not in p.parts)


def imported(path: Path) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return names


def room(path: Path) -> str:
    """The stage that a file belongs to: `engines/torch_engine.py` → engines."""
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


@pytest.mark.parametrize("path", modules(PACKAGE), ids=lambda p: str(p.relative_to(ROOT)))
def test_stages_import_only_what_lies_below_them(path: Path) -> None:
    stage = room(path)
    rooms = {room(p) for p in modules(PACKAGE)}
    used = {n.split(".")[1] for n in imported(path) if n.startswith("stream_detector.")} & rooms
    if stage in WIRING:
        return
    extra = used - FOUNDATION - ALLOWED.get(stage, set()) - {stage}
    assert not extra, f"{stage} must not import {sorted(extra)}"


@pytest.mark.parametrize("path", modules(PACKAGE), ids=lambda p: str(p.relative_to(ROOT)))
def test_the_detector_never_needs_the_trainer(path: Path) -> None:
    tops = {name.split(".")[0] for name in imported(path)}
    assert not tops & {"trainer", "benchmarks", "tensorflow", "keras", "sklearn", "scipy"}


@pytest.mark.parametrize("path", modules(ROOT / "trainer"), ids=lambda p: str(p.relative_to(ROOT)))
def test_the_trainer_uses_the_models_only(path: Path) -> None:
    used = {n.split(".")[1] for n in imported(path) if n.startswith("stream_detector.")}
    rooms = {room(p) for p in modules(PACKAGE)}
    allowed = (
        FOUNDATION
        | MODEL
        | {"demo", "engines", "smooth", "alarm", "calibration", "raypool"}
        | {"decoded", "recordings"}  # footage only ever comes through these
    )
    assert used & rooms <= allowed


@pytest.mark.parametrize(
    "path",
    [p for top in ("stream_detector", "trainer", "benchmarks") for p in modules(ROOT / top)],
    ids=lambda p: str(p.relative_to(ROOT)),
)
def test_rooms_are_small(path: Path) -> None:
    lines = path.read_text(encoding="utf-8").count("\n")
    assert lines <= 400, f"{path.name} has {lines} lines; split it"
