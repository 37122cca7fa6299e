"""cameras: how many cameras can be scored in time, as a share of the cores' budget; overload; isolation.

    python -m benchmarks cameras --clips DIR [--hosts auto] [--sizes 320x240 1280x720] [--repeat 3]

1. The cost of a picture and of a window alone (`cameracosts`), and the budget from these: cores ÷ (25 × picture + 25/16
× window). 2. Growing numbers of cameras (H.264, 25 fps, `clipcam`) until one is too large. A number is in time with no
drop, the full rate, and a p95 of due → score of at most 150 ms, in most of `--repeat` runs. 3. Overload: `--overload`
cameras, and two and four times the largest number in time; goodput is windows scored per second, compared with the best
of all runs. 4. Isolation: 4 cameras alone; beside 12 that accept and send nothing and 12 that do not answer; and beside
hostile ones: first window, window rate, memory.

`--part` runs some of these; the figures of the other parts are kept if they are of the same commit. On a machine with
many cores and a GPU: `--sizes 320x240 --cameras 64 128 192` and `--sizes 1280x720 --cameras 16 32 48`.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import statistics
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks import cameracosts
from benchmarks.badcameras import bad_cameras
from benchmarks.camerarig import WINDOW_S, Spec, run
from benchmarks.footage import find_clips
from benchmarks.options import parse
from benchmarks.results import commit, load_before, read_results, write_results
from stream_detector.capture.host_pool import cores_here
from stream_detector.models.bundle import Bundle

FPS = 25.0
P95_MS = 150.0
SHARES = (0.5, 0.7, 0.8, 0.85, 0.9, 0.95, 1.0)  # of the budget, tried in turn
HEALTHY = 4


def kept_up(row: dict[str, Any]) -> bool:
    """No drop, full rate, and scores in time."""
    p95 = row.get("delay_ms", {}).get("p95")
    full = row.get("fps_per_camera", 0.0) >= 0.985 * FPS
    nothing_lost = not row.get("drops", {"": 1}).get("overload") and not row.get("drops", {}).get("skipped")
    return bool("error" not in row and full and nothing_lost and p95 is not None and p95 <= P95_MS)


def measured(spec: Spec, repeat: int) -> dict[str, Any]:
    """The run of median goodput; kept up if most runs were."""
    rows: list[dict[str, Any]] = []
    for _ in range(repeat):
        try:
            rows.append(run(spec))
        except RuntimeError as error:
            rows.append({"cameras": spec.cameras, "error": str(error)[:300]})
    good = [row for row in rows if "error" not in row]
    if not good:
        return {**rows[0], "kept_up": False}
    middle = statistics.median_low(row["windows_per_s"] for row in good)
    row = next(row for row in good if row["windows_per_s"] == middle)
    row["kept_up"] = sum(map(kept_up, rows)) * 2 > len(rows)
    row["runs"] = [{k: r.get(k) for k in ("windows_per_s", "dropped", "delay_ms", "error")} for r in rows]
    del row["first_window_s"]
    return row


def curve(size: str, video: Path, costs: dict[str, Any], args: argparse.Namespace, console: Console) -> dict[str, Any]:
    """Growing numbers of cameras of one size."""
    counts = args.cameras or sorted({max(1, int(costs["budget"] * share)) for share in SHARES})
    rows = []
    for cameras in counts:
        row = measured(_spec(cameras, video, args), args.repeat)
        rows.append(row)
        console.print(f"{size}, {cameras} cameras: {_told(row)}")
        if not row["kept_up"] and not args.all:
            break
    most = max((row["cameras"] for row in rows if row["kept_up"]), default=0)
    last = next((row for row in reversed(rows) if row.get("cpu_share")), {})
    shares: dict[str, float] = last.get("cpu_share", {})
    return {
        "size": size,
        "kept_up_cameras": most,
        "share_of_budget": round(most / costs["budget"], 3),
        "bottleneck": max(shares, key=lambda name: shares[name]) if shares else None,
        "rows": rows,
    }


def _spec(cameras: int, video: Path, args: argparse.Namespace, **more: Any) -> Spec:
    settings: dict[str, Any] = {"engine": {"precision": args.precision}}
    return Spec(cameras, str(video), args.hosts, args.seconds, args.settle, settings=settings, **more)


def _told(row: dict[str, Any]) -> str:
    if "error" in row:
        return str(row["error"])
    return (
        f"{'kept up' if row.get('kept_up') else 'NOT kept up'}, {row['windows_per_s']} windows/s, p95 "
        f"{row['delay_ms'].get('p95')} ms, {row['cores_busy']} cores, {row['hosts']} hosts, "
        f"drops {row['drops'] or 'none'}"
    )


def overload(
    size: str, video: Path, kept: dict[str, Any], args: argparse.Namespace, console: Console
) -> dict[str, Any]:
    """Goodput at 2 and 4 times the load, and at `--overload` cameras."""
    most = kept["kept_up_cameras"]
    rows = []
    for cameras in sorted({2 * most, 4 * most, *args.overload} - {0}):
        row = measured(_spec(cameras, video, args), args.repeat)
        rows.append(row)
        console.print(f"{size}, overload of {cameras} cameras: {_told(row)}")
    best = max((row.get("windows_per_s", 0.0) for row in [*kept["rows"], *rows]), default=0.0)
    for row in rows:
        row["of_best"] = round(row.get("windows_per_s", 0.0) / best, 3) if best else None
        row["delay_bound_ms"] = round((4 + 2) * WINDOW_S * 1e3)
    return {"size": size, "best_windows_per_s": best, "rows": rows}


def isolation(video: Path, args: argparse.Namespace, console: Console) -> list[dict[str, Any]]:
    """Healthy cameras alone, and beside others that are silent, unreachable, or hostile."""
    rows: list[dict[str, Any]] = []
    with contextlib.ExitStack() as stack:
        crowds = bad_cameras(stack, args.scale_isolation)
        for name, beside in {"alone": {}, **crowds}.items():
            found = [run(_spec(HEALTHY, video, args, beside=beside)) for _ in range(args.repeat)]
            row = {
                "beside": name,
                "others": len(beside),
                "hosts": found[0]["hosts"],
                "restarts": max(r["restarts"] for r in found),
                "first_window_s": statistics.median(max(r["first_window_s"].values()) for r in found),
                "windows_per_s": statistics.median(r["windows_per_s"] for r in found),
                "p95_ms": statistics.median(r["delay_ms"].get("p95", 0.0) for r in found),
                "private_mb": max(r["private_mb"] for r in found),
            }
            alone = rows[0] if rows else row
            row["rate_of_alone"] = round(row["windows_per_s"] / alone["windows_per_s"], 4)
            row["first_window_later_s"] = round(row["first_window_s"] - alone["first_window_s"], 3)
            row["memory_more_mb"] = round(row["private_mb"] - alone["private_mb"], 1)
            rows.append(row)
            console.print(row)
    return rows


def main(argv: list[str]) -> int:
    """Command line."""
    args = parse("cameras", argv)
    console = Console()
    bundle = Bundle.load("embedded")
    clips = find_clips(args.clips)
    load = load_before()
    results = _earlier(bundle.fingerprint) | {"arch": bundle.manifest.backbone.arch, "bundle": bundle.fingerprint}
    windows = results["engine"] = cameracosts.window_costs(bundle, args.precision, min(5.0, args.seconds))
    window_ms = 0.0 if " cuda" in windows["engine"] else windows["cpu_ms_per_window"]
    costs: dict[str, Any] = results.setdefault("costs", {})
    sizes: dict[str, Any] = results.setdefault("sizes", {})
    for text in args.sizes:
        width, _, height = text.partition("x")
        with tempfile.TemporaryDirectory() as name:
            video = cameracosts.make_video(clips, Path(name) / "clip.mp4", 40.0, (int(width), int(height)))
            bare = statistics.median(cameracosts.bare_picture_ms(video, bundle.recipe) for _ in range(3))
            product = statistics.median(cameracosts.product_picture_ms(video, bundle.recipe) for _ in range(3))
            costs[text] = {
                "bare_picture_ms": round(bare, 3),
                "product_picture_ms": round(product, 3),
                "product_to_bare": round(product / bare, 3),
                "window_ms": window_ms,
                "cores": cores_here(),
                "budget": round(cameracosts.budget(cores_here(), bare, window_ms), 2),
            }
            console.print(text, costs[text])
            found = sizes.setdefault(text, {})
            parts: dict[str, Callable[[], Any]] = {
                "kept": lambda v=video, t=text: curve(t, v, costs[t], args, console),  # type: ignore[misc]
                "overload": lambda v=video, t=text, f=found: overload(t, v, f["kept"], args, console),  # type: ignore[misc]
            }
            for part in ("kept", "overload"):
                if part in args.part:
                    found[part] = parts[part]()
            if "isolation" in args.part and text == args.sizes[0]:
                results["isolation"] = isolation(video, args, console)
    settings = {
        "load_before": load,
        "hosts": args.hosts,
        "seconds": args.seconds,
        "repeat": args.repeat,
        "precision": args.precision,
        "p95_limit_ms": P95_MS,
        "cpus": os.cpu_count(),
    }
    if not args.no_save:
        write_results("cameras" if args.precision == "auto" else f"cameras_{args.precision}", results, settings)
    show(console, results)
    return 0


def _earlier(fingerprint: str) -> dict[str, Any]:
    """Parts that were measured before on the same commit and bundle."""
    try:
        record = read_results("cameras")
    except (OSError, ValueError):
        return {}
    same = record["commit"] == commit() and record["results"].get("bundle") == fingerprint
    return dict(record["results"]) if same and not record["commit"].endswith("+") else {}


def show(console: Console, results: dict[str, Any]) -> None:
    """One table a size."""
    for size, found in results["sizes"].items():
        table = Table(title=f"{size}: {found.get('kept', {}).get('kept_up_cameras')} cameras kept up")
        for column in ("cameras", "ok", "windows/s", "p95 ms", "drops", "cores", "hosts", "MB"):
            table.add_column(column, justify="right")
        for row in [*found.get("kept", {}).get("rows", []), *found.get("overload", {}).get("rows", [])]:
            cells = [row["cameras"], row["kept_up"], row.get("windows_per_s"), row.get("delay_ms", {}).get("p95")]
            cells += [row.get("drops"), row.get("cores_busy"), row.get("hosts"), row.get("private_mb")]
            table.add_row(*map(str, cells))
        console.print(table)
    console.print("costs", results["costs"])
