"""throughput: how many cameras run in real time before the first drop, where the time goes, and what a camera costs.

    python -m benchmarks throughput --clips DIR --cameras 1 2 4 8 16 24 32 48 64 --sizes 320x240 1280x720

Cameras are H.264 files (25 fps, made from the clips with x264) played by the clock as live sources: a picture is
decoded when it is due and windows are dropped when the machine falls behind, as with real cameras. A number of cameras
is kept up with when no window was dropped, every camera was read at its full rate, and captured → received stayed below
the time that a window lasts. A size ends at the first number that is not kept up with, unless --all.

Also measured: one picture's way on one idle thread (grab, conversion, resize; decoder threads 1 and default; grabbing
without converting, as for pictures that no window needs), and the engine alone on a full queue.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from rich.console import Console
from rich.table import Table

from benchmarks.footage import find_clips, make_h264, need_encoder
from benchmarks.latency import account
from benchmarks.results import load_before, write_results
from benchmarks.rig import WINDOW_S, Spec, run
from stream_detector.capture.picture import resize_frame
from stream_detector.config import EngineConfig
from stream_detector.engines import load_engine
from stream_detector.models.bundle import Bundle
from stream_detector.models.preprocess import Recipe

FPS = 25.0
GOAL_CAMERAS = 32


def kept_up(figures: dict[str, Any]) -> bool:
    """No drop, full rate, and no growing queue."""
    p95 = figures["captured_to_score"].get("p95")
    full_rate = figures["fps_per_camera"] >= 0.985 * FPS
    return bool(figures["dropped"] == 0 and full_rate and p95 is not None and p95 < WINDOW_S * 1e3)


def picture_costs(video: Path, recipe: Recipe, frames: int) -> dict[str, float]:
    """Milliseconds a picture on one thread: wall time, each step by itself."""

    def opened(threads: int) -> cv2.VideoCapture:
        settings = [cv2.CAP_PROP_N_THREADS, threads] if threads else []
        return cv2.VideoCapture(str(video), cv2.CAP_FFMPEG, settings)

    def per_frame(begun_s: float) -> float:
        return round((time.process_time() - begun_s) / frames * 1e3, 4)

    cpu: dict[str, float] = {}
    for name, threads in (("grab", 1), ("grab_default_threads", 0)):
        capture = opened(threads)
        capture.grab()
        begun_s = time.process_time()
        for _ in range(frames):
            capture.grab()
        cpu[name] = per_frame(begun_s)
        capture.release()
    capture = opened(1)
    capture.read()
    begun_s = time.process_time()
    pictures = []
    for index in range(frames):
        _, picture = capture.read()
        if index < 50:
            pictures.append(picture)
    capture.release()
    cpu["grab_and_convert"] = per_frame(begun_s)
    begun_s = time.process_time()
    for index in range(frames):
        resize_frame(pictures[index % len(pictures)], recipe)
    cpu["resize"] = per_frame(begun_s)
    cpu["saved_by_not_converting"] = round(cpu["grab_and_convert"] - cpu["grab"] + cpu["resize"], 4)
    return cpu


def engine_costs(bundle: Bundle, precision: str, seconds: float) -> dict[str, Any]:
    """Windows a second of the engine alone, at batch 1 and at its best batch. CPU counts every thread."""
    engine = load_engine(bundle, EngineConfig(precision=precision))  # type: ignore[arg-type]
    height, width = bundle.recipe.size
    noise = np.random.default_rng(1).integers(0, 256, (16, 16, height, width, 3), np.uint8)
    found: dict[str, Any] = {"engine": f"{engine.name} {engine.precision}", "batches": {}}
    for batch in (1, 2, 8, 16):
        engine.infer(noise[:batch])
        begun_s, cpu_s, done = time.monotonic(), time.process_time(), 0
        while time.monotonic() - begun_s < seconds:
            engine.infer(noise[:batch])
            done += batch
        wall_s = time.monotonic() - begun_s
        found["batches"][str(batch)] = {
            "windows_per_s": round(done / wall_s, 2),
            "ms_per_window": round(wall_s / done * 1e3, 2),
            "cpu_ms_per_window": round((time.process_time() - cpu_s) / done * 1e3, 2),
        }
    engine.close()
    return found


def bottleneck(figures: dict[str, Any]) -> str:
    """The largest part of the CPU time."""
    shares = figures["cpu_share"]
    name = max(shares, key=lambda part: shares[part])
    return f"{name} ({shares[name]:.0%} of the CPU time)"


def measure(size: tuple[int, int], video: Path, args: argparse.Namespace, console: Console) -> dict[str, Any]:
    """All numbers of cameras at one size."""
    rows: list[dict[str, Any]] = []
    settings: dict[str, Any] = {"engine": {"precision": args.precision}}
    for cameras in sorted(args.cameras):
        spec = Spec(
            cameras, "file", str(video), args.seconds, args.settle, FPS, args.stride, probe=False, settings=settings
        )
        try:
            figures, messages = run(spec)
        except RuntimeError as error:
            rows.append({"cameras": cameras, "error": str(error)[:300], "kept_up": False})
            break
        told = account(figures.pop("capture_ms"), messages)
        row = {key: value for key, value in figures.items() if not key.endswith("_utc")}
        row |= {key: told[key] for key in ("captured_to_score", "light_to_score")}
        row["kept_up"] = kept_up(row)
        row["bottleneck"] = bottleneck(row)
        rows.append(row)
        p95, yes = row["captured_to_score"].get("p95"), "kept up" if row["kept_up"] else "NOT kept up"
        console.print(f"{size[0]}×{size[1]}, {cameras} cameras: {yes}, p95 {p95} ms, {row['cores_busy']} cores")
        if not row["kept_up"] and not args.all:
            break
    good = [row for row in rows if row["kept_up"]]
    memory = [(row["cameras"], row["rss_mb"]) for row in rows if "rss_mb" in row]
    slope = float(np.polyfit(*np.array(memory, float).T, 1)[0]) if len(memory) > 1 else None
    return {
        "size": f"{size[0]}x{size[1]}",
        "cameras_in_real_time": max((row["cameras"] for row in good), default=0),
        "memory_mb_per_camera": None if slope is None else round(slope, 2),
        "rows": rows,
    }


def main(argv: list[str]) -> int:
    """Command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks throughput", description=__doc__.splitlines()[0])
    parser.add_argument("--clips", type=Path, required=True, help="folder of .mp4 clips")
    parser.add_argument("--cameras", type=int, nargs="+", default=[1, 2, 4, 8, 16, 24, 32, 48, 64])
    parser.add_argument("--sizes", nargs="+", default=["320x240", "1280x720"])
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--settle", type=float, default=4.0)
    parser.add_argument("--stride", type=int, default=16)
    parser.add_argument("--precision", default="auto", help="int8 needs `stream-detector models quantise` first")
    parser.add_argument("--all", action="store_true", help="go on after the first number that is not kept up with")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--no-save", action="store_true")
    args = parser.parse_args(argv)
    need_encoder(parser)
    console = Console(quiet=args.json)
    bundle = Bundle.load("embedded")
    clips = find_clips(args.clips)
    sizes, pictures = [], {}
    load = load_before()
    with tempfile.TemporaryDirectory() as name:
        for text in args.sizes:
            width, _, height = text.partition("x")
            size = (int(width), int(height))
            video = make_h264(clips, Path(name) / f"{text}.mp4", 40.0, size)
            pictures[text] = picture_costs(video, bundle.recipe, 500)
            sizes.append(measure(size, video, args, console))
    engine = engine_costs(bundle, args.precision, min(5.0, args.seconds))
    results = {
        "arch": bundle.manifest.backbone.arch,
        "goal_cameras": GOAL_CAMERAS,
        "engine": engine,
        "cpu_ms_per_picture": pictures,
        "sizes": sizes,
    }
    settings = {
        "load_before": load,
        "fps": FPS,
        "stride": args.stride,
        "seconds": args.seconds,
        "precision": args.precision,
    }
    if not args.no_save:
        name = "throughput" if args.precision == "auto" else f"throughput_{args.precision}"
        path = write_results(name, results, settings)
    if args.json:
        print(path.read_text(encoding="utf-8") if not args.no_save else results)
    else:
        show(console, results)
    return 0


def show(console: Console, results: dict[str, Any]) -> None:
    """One table a size."""
    for size in results["sizes"]:
        table = Table(title=f"{size['size']}: {size['cameras_in_real_time']} cameras in real time")
        for column in ("cams", "ok", "win/s", "drops", "p95 ms", "cores", "CPU s / cam min", "RSS MB", "bottleneck"):
            table.add_column(column, justify="right")
        for row in size["rows"]:
            if "error" in row:
                table.add_row(str(row["cameras"]), "no", "", "", "", "", "", "", row["error"][:60])
                continue
            cells = (
                row["cameras"],
                "yes" if row["kept_up"] else "no",
                row["windows_per_s"],
                row["dropped"],
                row["captured_to_score"].get("p95"),
                row["cores_busy"],
                row["cpu_s_per_camera_minute"],
                row["rss_mb"],
                row["bottleneck"],
            )
            table.add_row(*(str(cell) for cell in cells))
        console.print(table)
    console.print("CPU ms a picture", results["cpu_ms_per_picture"])
    console.print("engine alone", results["engine"])
