"""viewers: what people who look at the page cost the detector: window rate and latency, alone and with 20 of them.

    python -m benchmarks viewers --clips DIR --cameras 16 --viewers 20

Cameras are live sources as in `latency` ("file"). The page is served in both runs; in the second, viewers in a process
of their own hold the live stream of all cameras open, with pictures at the rate at which the page asks for them. Their
own work runs on the same cores and counts against the detector. Runs take turns: a machine's pace changes.
"First picture" is from the request of the stream to the first picture in full.
"""

from __future__ import annotations

import argparse
import gzip
import http.client
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
from rich.console import Console
from rich.table import Table

from benchmarks.footage import find_clips, make_h264, missing_encoder
from benchmarks.latency import FPS, SIZE, account
from benchmarks.results import load_before, write_results
from benchmarks.rig import ROOT, Spec, run

LIMIT = 0.05  # a change that the page may cause
PAGE_LIMIT_BYTES = 150_000


def look(url: str, cameras: int, rate: float, found: list[dict[str, Any]]) -> None:
    """One viewer, until the stream ends: first picture in ms, pictures, bytes."""
    place = urlsplit(url)
    names = ",".join(f"cam{index:02d}" for index in range(cameras))
    seen: dict[str, Any] = {"first_picture_ms": None, "pictures": 0, "bytes": 0, "error": ""}
    found.append(seen)
    connection = http.client.HTTPConnection(place.hostname or "127.0.0.1", place.port, timeout=60)
    try:
        begun_s = time.monotonic()
        connection.request("GET", f"/api/stream?cameras={names}&rate={rate}")
        response = connection.getresponse()
        if response.status != 200:
            seen["error"] = f"status {response.status}"
            return
        after_event = False
        while line := response.readline():
            seen["bytes"] += len(line)
            if after_event and line.startswith(b"data:"):
                seen["pictures"] += 1
                if seen["first_picture_ms"] is None:
                    seen["first_picture_ms"] = round((time.monotonic() - begun_s) * 1e3, 1)
            after_event = line.startswith(b"event: picture")
    except (OSError, http.client.HTTPException) as error:
        if not seen["pictures"]:
            seen["error"] = f"{type(error).__name__}: {error}"
    finally:
        connection.close()


def crowd(url: str, cameras: int, viewers: int, rate: float) -> None:
    """All viewers, in this process; prints what they saw as JSON when the server has gone."""
    found: list[dict[str, Any]] = []
    threads = [threading.Thread(target=look, args=(url, cameras, rate, found)) for _ in range(viewers)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    times = os.times()
    print(json.dumps({"viewers": found, "cpu_s": times.user + times.system}))


@contextmanager
def crowd_at(url: str, cameras: int, viewers: int, rate: float, told: dict[str, Any]) -> Iterator[None]:
    """The crowd in a process of its own; what it saw goes into `told`."""
    command = [sys.executable, "-m", "benchmarks.viewers", url, str(cameras), str(viewers), str(rate)]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    try:
        yield
        out, _ = process.communicate(timeout=60)
        told.update(json.loads(out))
    finally:
        if process.poll() is None:
            process.kill()
            process.communicate()


def page_bytes() -> dict[str, int]:
    """What a browser fetches for the page: plain and compressed."""
    static = ROOT / "stream_detector" / "web" / "static"
    files = [p for p in static.rglob("*") if p.is_file()]
    plain = sum(p.stat().st_size for p in files)
    return {"plain": plain, "gzip": sum(len(gzip.compress(p.read_bytes())) for p in files)}


def measure(video: Path, args: argparse.Namespace, viewers: int) -> dict[str, Any]:
    """One run."""
    told: dict[str, Any] = {}
    spec = Spec(args.cameras, "file", str(video), args.seconds, args.settle, FPS, web=True)
    beside = (lambda url: crowd_at(url, args.cameras, viewers, args.rate, told)) if viewers else None
    figures, messages = run(spec, beside=beside)
    counted = account(figures.pop("capture_ms"), messages)
    row = {"viewers": viewers, "windows_per_s": figures["windows_per_s"], "dropped": figures["dropped"]}
    row |= {"cores_busy": figures["cores_busy"], "score": counted["captured_to_score"]}
    row |= {"event": counted["captured_to_event"]}
    if told:
        seen = told["viewers"]
        row["viewers_failed"] = [v["error"] for v in seen if v["error"]]
        first = [v["first_picture_ms"] for v in seen if v["first_picture_ms"] is not None]
        row["first_picture_ms"] = {"median": float(np.median(first)), "worst": max(first)} if first else None
        row["pictures_per_viewer"] = float(np.mean([v["pictures"] for v in seen]))
        row["viewers_cpu_s"] = round(told["cpu_s"], 2)
    return row


def main(argv: list[str]) -> int:
    """Command line; 1 when the viewers cost more than a twentieth."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks viewers", description=__doc__.splitlines()[0])
    parser.add_argument("--clips", type=Path, required=True, help="folder of .mp4 clips")
    parser.add_argument("--cameras", type=int, default=16)
    parser.add_argument("--viewers", type=int, default=20)
    parser.add_argument("--rate", type=float, default=1.0, help="pictures a second (the page's own choice: 1)")
    parser.add_argument("--rounds", type=int, default=3, help="runs of each kind, taking turns")
    parser.add_argument("--seconds", type=float, default=25.0)
    parser.add_argument("--settle", type=float, default=5.0)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--no-save", action="store_true")
    args = parser.parse_args(argv)
    missing = missing_encoder()
    if missing:
        parser.error(f"{missing}; run .ci/install-rtsp.sh")
    load = load_before()
    rows = []
    with tempfile.TemporaryDirectory() as name:
        video = make_h264(find_clips(args.clips), Path(name) / "footage.mp4", 60.0, SIZE)
        for _ in range(args.rounds):
            for viewers in (0, args.viewers):
                rows.append(measure(video, args, viewers))
                if not args.json:
                    print(f"{viewers} viewers: {rows[-1]['windows_per_s']} windows/s", flush=True)
    results = compare(rows)
    settings = {key: getattr(args, key) for key in ("cameras", "viewers", "rate", "rounds", "seconds")}
    if not args.no_save:
        write_results("viewers", results, {"load_before": load, "size": list(SIZE), "fps": FPS, **settings})
    if args.json:
        print(json.dumps(results, indent=2))
    else:
        show(results)
    return 0 if results["within_limit"] else 1


def compare(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Medians over the rounds, and the viewers' as a ratio to none."""

    def median(kind: str, key: str, busy: bool) -> float:
        values = [row[kind][key] if kind else row[key] for row in rows if bool(row["viewers"]) == busy]
        return float(np.median(values))

    wanted = {
        "windows_per_s": ("", "windows_per_s"),
        "score_p50": ("score", "p50"),
        "score_p95": ("score", "p95"),
        "event_p95": ("event", "p95"),
        "cores_busy": ("", "cores_busy"),
    }
    figures = {name: {"alone": median(*place, False), "viewed": median(*place, True)} for name, place in wanted.items()}
    ratios = {
        name: round(pair["viewed"] / pair["alone"], 4) if pair["alone"] else None for name, pair in figures.items()
    }
    rate, p95 = ratios["windows_per_s"] or 0.0, ratios["event_p95"] or 9.9
    page = page_bytes()
    return {
        "figures": figures,
        "ratios": ratios,
        "page_bytes": page,
        "page_is_small": page["plain"] < PAGE_LIMIT_BYTES,
        "within_limit": abs(rate - 1) <= LIMIT and p95 - 1 <= LIMIT,
        "runs": rows,
    }


def show(results: dict[str, Any]) -> None:
    """One table."""
    table = Table(title="the detector alone and with viewers (medians)")
    for column in ("", "alone", "viewed", "ratio"):
        table.add_column(column, justify="right")
    for name, pair in results["figures"].items():
        table.add_row(name, str(pair["alone"]), str(pair["viewed"]), str(results["ratios"][name]))
    console = Console()
    console.print(table)
    first = [row["first_picture_ms"] for row in results["runs"] if row.get("first_picture_ms")]
    console.print("first picture, ms", first, "page, bytes", results["page_bytes"])


if __name__ == "__main__":
    crowd(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), float(sys.argv[4]))
