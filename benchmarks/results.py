"""The results of benchmarks: one JSON file per benchmark, with the facts that are needed to judge it.

    benchmarks/results/<name>.json    {"name", "date", "commit", "machine", "versions", "settings", "results"}

`python -m benchmarks readme` generates the tables of README.md and docs/ from these files.
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"
PACKAGES = ("torch", "openvino", "numpy", "opencv-python-headless", "pyzmq", "tensorflow", "keras", "scikit-learn")


def write_results(name: str, results: Any, settings: dict[str, Any] | None = None, path: Path | None = None) -> Path:
    """Write `benchmarks/results/<name>.json`, or `path`, and return it. results: anything JSON takes."""
    path = path or RESULTS / f"{name}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    record = {
        "name": name,
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": commit(),
        "machine": machine(),
        "versions": versions(),
        "settings": settings or {},
        "results": results,
    }
    part = path.with_name(f".{path.name}.part")
    part.write_text(json.dumps(record, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    part.replace(path)  # a run that is killed leaves the former file, or this one
    return path


def read_results(name: str) -> dict[str, Any]:
    """The record of one benchmark. Raises FileNotFoundError where it was never run."""
    record: dict[str, Any] = json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8"))
    return record


def commit() -> str:
    """Short hash of the checked-out commit, with `+` when the working tree differs from it; empty outside git."""
    try:
        run = ["git", "-C", str(RESULTS.parent), "describe", "--always", "--dirty=+", "--exclude=*"]
        return subprocess.run(run, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return ""


def machine() -> dict[str, Any]:
    """Processor, cores, memory and system; never the host's name."""
    with open("/proc/cpuinfo", encoding="utf-8") as file:
        lines = [line.partition(":") for line in file]
    facts = {key.strip(): value.strip() for key, _, value in lines}
    flags = set(facts.get("flags", "").split())
    return {
        "processor": facts.get("model name", platform.processor()),
        "cores": os.cpu_count(),
        "vector": [flag for flag in ("avx2", "avx512f", "avx512_bf16", "amx_bf16") if flag in flags],
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "system": f"{platform.system()} {platform.machine()}, Python {platform.python_version()}",
    }


def load_before() -> float:
    """Load average of the last minute, to be noted before a measurement: figures from a busy machine are no figures."""
    load = os.getloadavg()[0]
    if load > 0.75 * (os.cpu_count() or 1):
        print(f"the machine is busy (load average {load:.1f}); these figures will be too bad", file=sys.stderr)
    return round(load, 2)


def versions() -> dict[str, str]:
    """Versions of the packages that decide the figures, as far as they are installed."""
    found = {}
    for package in PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found
