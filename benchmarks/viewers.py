"""viewers: what do viewers of the web page cost the detector, in window rate and latency, with none and with 20 of
them?

    python -m benchmarks viewers --clips DIR --cameras 16 --viewers 20

Cameras are live sources as in `latency` ("file"). The page is served in both runs; in the second, viewers in a separate
process hold the live stream of all cameras open, with pictures at the rate that the page requests. That process runs on
the same cores with a lower priority: in use it would be other machines, while the server's work is counted. Runs take
turns, because the speed of a machine changes. "First picture" is the time from the request of the stream to the first
complete picture.
"""

from __future__ import annotations

import argparse
import gzip
import json
import os
import selectors
import socket
import subprocess
import sys
import tempfile
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
from benchmarks.latency import FPS, SIZE, quantiles, waits_ms
from benchmarks.options import fail, parse
from benchmarks.results import load_before, write_results
from benchmarks.rig import ROOT, Spec, run

END = b'"}\n\n'  # of a picture's message (an alarm's may end so too, a state's does not)
LIMIT = 0.05  # a change that the page may cause
PAGE_LIMIT_BYTES = 150_000
UPDATE_S = 0.5  # the alarming camera tells of every window: the usual 2 s give too few events for a p95


class Viewer:
    """One open stream, read without looking into it: first picture in ms, pictures, bytes."""

    def __init__(self, url: str, cameras: int, rate: float) -> None:
        place = urlsplit(url)
        names = ",".join(f"cam{index:02d}" for index in range(cameras))
        self.seen: dict[str, Any] = {"first_picture_ms": None, "pictures": 0, "bytes": 0, "error": ""}
        self._tail, self._begun_s = b"", time.monotonic()
        self.socket = socket.create_connection((place.hostname or "127.0.0.1", place.port or 80), timeout=60)
        request = f"GET /api/stream?cameras={names}&rate={rate} HTTP/1.1\r\nHost: {place.netloc}\r\n\r\n"
        self.socket.sendall(request.encode())

    def read(self, buffer: bytearray) -> bool:
        """Take what is there; False when the stream has ended."""
        try:
            size = self.socket.recv_into(buffer)
        except OSError as error:
            size = 0
            self.seen["error"] = "" if self.seen["pictures"] else f"{type(error).__name__}: {error}"
        if not size:
            return False
        if not self.seen["bytes"] and not buffer.startswith(b"HTTP/1.1 200"):
            self.seen["error"] = bytes(buffer[: min(size, 60)]).decode("latin-1")
            return False
        self.seen["bytes"] += size
        text = self._tail + buffer[:size]
        self.seen["pictures"] += text.count(END)
        self._tail = text[-len(END) + 1 :]
        if self.seen["first_picture_ms"] is None and self.seen["pictures"]:
            self.seen["first_picture_ms"] = round((time.monotonic() - self._begun_s) * 1e3, 1)
        return True


def crowd(url: str, cameras: int, viewers: int, rate: float) -> None:
    """All viewers, in this process; prints what they saw as JSON when the server has gone."""
    waiting, buffer = selectors.DefaultSelector(), bytearray(1 << 20)
    everybody = [Viewer(url, cameras, rate) for _ in range(viewers)]
    for viewer in everybody:
        waiting.register(viewer.socket, selectors.EVENT_READ, viewer)
    while waiting.get_map():
        for key, _ in waiting.select():
            if not key.data.read(buffer):
                waiting.unregister(key.fileobj)
                key.data.socket.close()
    times = os.times()
    print(json.dumps({"viewers": [viewer.seen for viewer in everybody], "cpu_s": times.user + times.system}))


@contextmanager
def crowd_at(url: str, cameras: int, viewers: int, rate: float, told: dict[str, Any]) -> Iterator[None]:
    """The crowd in a process of its own; what it saw goes into `told`."""
    command = [sys.executable, "-m", "benchmarks.viewers", url, str(cameras), str(viewers), str(rate)]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, preexec_fn=lambda: os.nice(19))
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
    often = {"alarm": {"update_interval_s": UPDATE_S}}
    spec = Spec(args.cameras, "file", str(video), args.seconds, args.settle, FPS, web=True, settings=often)
    beside = (lambda url: crowd_at(url, args.cameras, viewers, args.rate, told)) if viewers else None
    figures, messages = run(spec, beside=beside)
    scores, events = waits_ms(messages)
    row = {"viewers": viewers, "windows_per_s": figures["windows_per_s"], "dropped": figures["dropped"]}
    row |= {"cores_busy": figures["cores_busy"], "score": quantiles(scores), "event": quantiles(events)}
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
    args = parse("viewers", argv)
    missing = missing_encoder()
    if missing:
        fail("viewers", f"{missing}; run .ci/install-rtsp.sh")
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
        write_results(
            "viewers", results, {"load_before": load, "update_s": UPDATE_S, "size": list(SIZE), "fps": FPS, **settings}
        )
    if args.json:
        print(json.dumps(results, indent=2))
    else:
        show(results)
    return 0 if results["within_limit"] else 1


def compare(rows: list[dict[str, Any]], draws: int = 2000) -> dict[str, Any]:
    """Viewed as a ratio to alone: medians over the rounds, so that one disturbed round decides nothing.

    The interval of a ratio is that of a bootstrap over rounds: a round has a pace of its own.
    """
    kinds = {busy: [row for row in rows if bool(row["viewers"]) == busy] for busy in (False, True)}
    rng = np.random.default_rng(0)

    def middle(of: str, key: str, chosen: list[dict[str, Any]]) -> float:
        return float(np.median([row[of][key] for row in chosen]))

    def pick(own: list[dict[str, Any]]) -> list[dict[str, Any]]:
        return [own[i] for i in rng.integers(0, len(own), len(own))]

    wanted: dict[str, Any] = {
        "windows_per_s": lambda chosen: float(np.median([row["windows_per_s"] for row in chosen])),
        "cores_busy": lambda chosen: float(np.median([row["cores_busy"] for row in chosen])),
        "score_p50": lambda chosen: middle("score", "p50", chosen),
        "score_p95": lambda chosen: middle("score", "p95", chosen),
        "event_p50": lambda chosen: middle("event", "p50", chosen),
        "event_p95": lambda chosen: middle("event", "p95", chosen),
    }
    figures = {}
    for name, figure in wanted.items():
        alone, viewed = figure(kinds[False]), figure(kinds[True])
        drawn = [figure(pick(kinds[True])) / figure(pick(kinds[False])) for _ in range(draws)]
        low, high = np.percentile(drawn, [2.5, 97.5])
        figures[name] = {
            "alone": round(alone, 2),
            "viewed": round(viewed, 2),
            "ratio": round(viewed / alone, 4),
            "low": round(float(low), 4),
            "high": round(float(high), 4),
        }
    page = page_bytes()
    return {
        "figures": figures,
        "page_bytes": page,
        "page_is_small": page["plain"] < PAGE_LIMIT_BYTES,
        "within_limit": abs(figures["windows_per_s"]["ratio"] - 1) <= LIMIT
        and figures["event_p95"]["ratio"] - 1 <= LIMIT,
        "runs": rows,
    }


def show(results: dict[str, Any]) -> None:
    """One table."""
    table = Table(title="the detector alone and with viewers")
    for column in ("", "alone", "viewed", "ratio", "95 % interval"):
        table.add_column(column, justify="right")
    for name, pair in results["figures"].items():
        interval = f"{pair['low']:.3f} to {pair['high']:.3f}"
        table.add_row(name, str(pair["alone"]), str(pair["viewed"]), f"{pair['ratio']:.3f}", interval)
    console = Console()
    console.print(table)
    first = [row["first_picture_ms"] for row in results["runs"] if row.get("first_picture_ms")]
    console.print("first picture, ms", first, "page, bytes", results["page_bytes"])


if __name__ == "__main__":
    crowd(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), float(sys.argv[4]))
