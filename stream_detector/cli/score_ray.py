"""`stream-detector score --ray`: write the same table with the workers of a Ray cluster; a stopped run continues."""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import sys

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from stream_detector.cli.score_table import report, summarise
from stream_detector.cluster.archive import FileScores, PartialResults, Scorer
from stream_detector.config import CameraConfig, Config
from stream_detector.config.source import Source
from stream_detector.engines import choose_engine, detect_hardware
from stream_detector.engines.bundle_choice import with_bundle
from stream_detector.errors import UsageError
from stream_detector.models.bundle import Bundle
from stream_detector.runtime.build import check_outputs
from stream_detector.runtime.pipeline import RunResult
from stream_detector.system import signals
from stream_detector.system.actor_pool import connected, import_ray, map_over_actors
from stream_detector.system.outputs import SCORE_COLUMNS, Kind, rename_former, replace_file


def run(args: argparse.Namespace, config: Config) -> int:
    """Score every file that has no result yet; return 2 if a file cannot be played, as `score` does."""
    import_ray("score --ray")
    if args.workers is not None and args.workers < 1:
        raise UsageError(f"--workers {args.workers} is not possible; give at least 1")
    check_outputs(config)
    config = with_bundle(config)
    bundle = Bundle.load(config.bundle)
    chosen = choose_engine(
        config.engine, detect_hardware()
    )  # one engine and one precision for all nodes give the same scores
    device = "cuda" if chosen.device.startswith("cuda") else "cpu"
    engine = config.engine.model_copy(
        update={
            "engine": chosen.engine,
            "device": device,
            "precision": chosen.precision,
            "threads": 1,
            "on_failure": "stop",
        }
    )
    cameras = tuple(
        camera.model_copy(update={"source": Source.of_file(camera.source.path.absolute())}) for camera in config.cameras
    )
    config = config.model_copy(update={"engine": engine, "scores": None, "events": None, "cameras": ()})
    facts = [bundle.fingerprint, chosen.engine, chosen.precision, config.window.stride, config.alarm.threshold]
    parts = PartialResults(args.out, hashlib.sha256(json.dumps(facts).encode()).hexdigest())
    found = {camera.name: parts.load(camera) for camera in cameras}
    todo = [camera for camera in cameras if found[camera.name] is None]
    stopped: signals.Interrupted | None = None
    columns = (
        TextColumn("scoring"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("files"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True)) as progress:
        task = progress.add_task("", total=len(cameras), completed=len(cameras) - len(todo))
        if todo:
            with connected("score --ray", args.address, args.workers) as ray:
                workers = args.workers or max(1, int(ray.cluster_resources().get("CPU", os.cpu_count() or 1)))
                gpu = {"num_gpus": 1} if device == "cuda" else {}
                try:
                    for outcome in map_over_actors(ray, Scorer, (config,), todo, workers, **gpu):
                        camera = todo[outcome.number]
                        parts.save(camera, outcome.value, outcome.error)
                        found[camera.name] = outcome.error or outcome.value
                        progress.advance(task)
                except signals.Interrupted as interrupted:
                    stopped = interrupted
    result = _write(args, cameras, found, stopped is not None)
    if stopped is None:
        parts.clear()
    report(args, summarise(args.out), result)
    return stopped.exit_code if stopped else result.exit_code


def _write(
    args: argparse.Namespace,
    cameras: tuple[CameraConfig, ...],
    found: dict[str, FileScores | str | None],
    stopped: bool,
) -> RunResult:
    """Write the table, and the alarms if requested, in the order of the list."""
    windows, failed, lines, rows = 0, dict[str, str](), list[str](), [",".join(SCORE_COLUMNS) + "\r\n"]
    for camera in cameras:
        scored = found[camera.name]
        if isinstance(scored, FileScores):
            rows.append(scored.rows)
            lines.append(scored.events)
            windows += scored.windows
        failure = scored.failure if isinstance(scored, FileScores) else scored
        if failure:
            failed[camera.name] = failure
    kinds: tuple[Kind, ...] = ("scores", "events")
    for what, path, texts in zip(kinds, (args.out, args.events), (rows, lines), strict=True):
        if path is not None:
            kept = rename_former(path, what)
            if kept:
                print(f"stream-detector: the {what} of a former run were moved to {kept}", file=sys.stderr)
            replace_file(path, "".join(texts).encode("utf-8", "backslashreplace"), what)
    print(f"{len(failed)} of {len(cameras)} files could not be scored", file=sys.stderr)
    alarms = sum(text.count('"type":"start"') for text in lines)
    return RunResult(windows, alarms, stopped, failed)
