"""`stream-detector score`: score recordings into a table, with the pipeline of `run`, as fast as possible."""

from __future__ import annotations

import argparse
import os
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from stream_detector.capture.sources import parse_sources
from stream_detector.cli.score_table import report, summarise
from stream_detector.config import CameraConfig, build_config
from stream_detector.errors import SourceError, UsageError
from stream_detector.system import signals
from stream_detector.system.logging_setup import set_up_logging

if TYPE_CHECKING:  # these load PyTorch; `main` imports them
    from stream_detector.runtime.build import Run
    from stream_detector.runtime.pipeline import RunResult


def add_parser(subparsers: Any) -> None:
    """Declare the options."""
    parser = subparsers.add_parser(
        "score",
        help="score recordings as fast as possible, write a table",
        description="Score recordings as fast as possible with the pipeline of `run`; write one row a window.",
    )
    parser.add_argument(
        "videos", nargs="+", metavar="VIDEO|DIR", help="files, folders (with their subfolders) or globs"
    )
    parser.add_argument("--out", type=Path, required=True, metavar="FILE.csv", help="table to write, one row a window")
    parser.add_argument("--events", type=Path, metavar="FILE.jsonl", help="also write the alarm events")
    parser.add_argument("--bundle", default="embedded", metavar="NAME_OR_DIR", help="model bundle")
    parser.add_argument(
        "--engine",
        metavar="NAME",
        default="auto",
        help="inference engine: auto, torch, openvino or a registered one (default: auto)",
    )
    parser.add_argument(
        "--device", default="auto", metavar="auto|cpu|cuda[:N]|mps", help="device of the engine (default auto)"
    )
    parser.add_argument(
        "--precision",
        choices=("auto", "fp32", "tf32", "bf16", "fp16", "int8"),
        default="auto",
        help="number format of the network (default auto)",
    )
    parser.add_argument("--hwaccel", default="", metavar="NAME", help="decode on a device: cuda, qsv, … (see `doctor`)")
    parser.add_argument(
        "--deterministic", action="store_true", help="bit-equal scores with the torch engine, but slower"
    )
    parser.add_argument(
        "--stride",
        type=int,
        default=16,
        metavar="FRAMES",
        help="frames from the start of one window to the start of the next (default 16)",
    )
    parser.add_argument(
        "--threshold", type=float, metavar="X", help="threshold of alarms, with --events (default: that of the bundle)"
    )
    parser.add_argument(
        "--at-once",
        type=int,
        default=2 * (os.cpu_count() or 1),
        metavar="N",
        help="number of files read at the same time",
    )
    parser.add_argument("--ray", action="store_true", help="use the workers of a Ray cluster; a stopped run continues")
    parser.add_argument(
        "--address", metavar="ADDRESS", help="with --ray: 'auto' or HOST:PORT of a cluster (default: start one)"
    )
    parser.add_argument(
        "--workers",
        type=int,
        metavar="N",
        help="with --ray: number of workers (default: number of CPUs of the cluster)",
    )
    parser.add_argument("--json", action="store_true", help="print a summary per file as JSON")


def find_videos(arguments: list[str]) -> tuple[CameraConfig, ...]:
    """Return the recordings as cameras; a directory is searched with all its subfolders.

    Raises SourceError for a path without a video, UsageError for a live source.
    """
    expanded: list[str] = []
    for argument in arguments:
        path = Path(argument)
        if argument and path.is_dir():  # Path("") is the working directory; an empty argument is refused
            folders = sorted({file.parent for file in path.rglob("*") if file.is_file()})
            found: list[str] = []
            for folder in folders:
                try:
                    found += [str(camera.source.path) for camera in parse_sources([str(folder)])]
                except SourceError:
                    continue  # a folder without videos
            if not found:
                raise SourceError(f"directory {argument!r} holds no video; give a folder with video files")
            expanded += found
        else:
            expanded.append(argument)
    cameras = parse_sources(expanded)
    for camera in cameras:
        if camera.source.live:
            raise UsageError(f"{camera.source.shown!r} is a live source; 'score' takes recordings, use 'run' for it")
    return cameras


def main(args: argparse.Namespace) -> int:
    """Score every file; return the exit code, 2 if a file cannot be played (it is named at the end)."""
    set_up_logging("text", level=30)
    values: dict[str, Any] = {
        "cameras": find_videos(args.videos),
        "bundle": args.bundle,
        "pace": "max",
        "scores": args.out,
        "events": args.events,
        "capture": {"hwaccel": args.hwaccel},
        "window": {"stride": args.stride},
        "alarm": {"threshold": args.threshold},
        "engine": {
            "engine": args.engine,
            "device": args.device,
            "precision": args.precision,
            "deterministic": args.deterministic,
        },
        "evidence": {"enabled": False},
        "publish": {"bind": "none", "ledger": None},
        "telemetry": {"dashboard": False},
    }
    if args.ray:
        from stream_detector.cli import score_ray

        return score_ray.run(args, build_config(values))
    from stream_detector.cli.outcome import exit_code_of
    from stream_detector.runtime.build import build_run

    with (
        signals.phase("opening"),
        build_run(build_config(values), open_limit=max(1, args.at_once)) as run,
    ):
        result = _play(run)
    report(args, summarise(args.out), result)
    return exit_code_of(result)


def _play(run: Run) -> RunResult:
    over = threading.Event()
    columns = (
        TextColumn("scoring"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("files · {task.fields[windows]} windows"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True)) as progress:
        task = progress.add_task("", total=len(run.plans), windows=0)

        def follow() -> None:
            while not over.wait(0.2):
                cameras = run.telemetry.snapshot().cameras
                done = sum(camera.state in ("ended", "failed") for camera in cameras)
                progress.update(task, completed=done, windows=sum(camera.scored for camera in cameras))

        viewer = threading.Thread(target=follow, name="progress", daemon=True)
        viewer.start()
        try:
            with signals.on_stop(run.pipeline.stop):
                result = run.pipeline.run()
        finally:
            over.set()
            viewer.join(1.0)
        progress.update(task, completed=len(run.plans), windows=result.windows)
    return result
