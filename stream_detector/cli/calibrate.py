"""`stream-detector calibrate`: choose a threshold from normal footage, with a confidence bound on the false alarm rate.

The pipeline of a run scores the footage; tables from `stream-detector score` are used as they are. The alarm rule of a
run counts the alarms, with the settings of the camera.
"""

from __future__ import annotations

import argparse
import re
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from stream_detector.alarms.calibration import (
    Calibration,
    calibrate,
    candidates_of,
    check_rate,
    hours_text,
    poisson_lower,
    poisson_upper,
    rate_text,
)
from stream_detector.alarms.state_machine import make_alarm_rule
from stream_detector.config import AlarmConfig, CameraConfig, Config, build_config, load_config, slug
from stream_detector.config.edit import set_camera, write_camera_settings
from stream_detector.errors import ConfigError, RunError, SourceError, UsageError
from stream_detector.reports.scores_file import ScoreRow, read_scores
from stream_detector.reports.summary import make_report
from stream_detector.system import signals
from stream_detector.system.stdio import json_text
from stream_detector.system.user_files import read_named

SCHEMA = "stream-detector.calibration/1"
Series = list[list[ScoreRow]]
Scorer = Callable[[argparse.Namespace, Config, Sequence[str]], Series]


def add_parser(subparsers: Any) -> None:
    """Declare the options."""
    parser = subparsers.add_parser(
        "calibrate",
        help="choose a threshold from footage in which nothing happens",
        description="Choose a threshold from normal footage, with a confidence bound on the false alarm rate.",
    )
    parser.add_argument(
        "normal",
        nargs="+",
        metavar="[GROUP=]NORMAL",
        help="videos, folders or scores.csv files in which nothing happens; groups such as day=… night=… with --apart",
    )
    parser.add_argument(
        "--false-alarms-per-hour",
        type=float,
        required=True,
        metavar="X",
        help="highest accepted number of false alarms per hour of one camera",
    )
    parser.add_argument(
        "--confidence",
        type=float,
        default=0.95,
        metavar="P",
        help="probability that the true rate is not higher (default 0.95)",
    )
    parser.add_argument(
        "--apart", action="store_true", help="choose a threshold for every GROUP, for instance day and night"
    )
    parser.add_argument(
        "--check",
        nargs="+",
        default=[],
        metavar="NORMAL",
        help="other normal footage on which the alarm rate is measured",
    )
    parser.add_argument(
        "--config",
        type=Path,
        metavar="FILE.toml",
        help="configuration with the settings of smoothing, alarms and stride",
    )
    parser.add_argument("--camera", metavar="NAME", help="use the settings of this camera of the configuration")
    parser.add_argument(
        "--write",
        action="store_true",
        help="write the threshold into the configuration, for the camera given by --camera",
    )
    parser.add_argument("--bundle", metavar="NAME_OR_DIR", help="model bundle (default: the embedded one)")
    parser.add_argument(
        "--stride",
        type=int,
        metavar="FRAMES",
        help="frames from the start of one window to the start of the next (default 16)",
    )
    parser.add_argument("--at-once", type=int, default=4, metavar="N", help="number of files read at the same time")
    parser.add_argument("--json", action="store_true", help="print the result as JSON")


def main(args: argparse.Namespace, scorer: Scorer | None = None) -> int:
    """Choose a threshold, print its bounds, check it on other footage, write it.

    scorer: how videos become scores; None: the pipeline.  Raises UsageError, ConfigError, DataError or RunError.
    """
    if args.write and not (args.config and args.camera):
        raise UsageError("--write needs a place for the threshold; give --config FILE.toml and --camera NAME")
    if args.write and args.apart:
        raise UsageError(
            "a camera has one threshold and --apart gives several; leave out --write, then set one yourself"
        )
    check_rate(args.false_alarms_per_hour, args.confidence)
    if args.at_once < 1:
        raise UsageError(f"--at-once {args.at_once} reads no file; give at least 1")
    values: dict[str, Any] = {}
    if args.bundle:
        values["bundle"] = args.bundle
    if args.stride is not None:
        values["window"] = {"stride": args.stride}
    config = load_config(args.config, values) if args.config else build_config(values)
    if args.camera and all(camera.name != args.camera for camera in config.cameras):
        known = ", ".join(camera.name for camera in config.cameras) or "none"
        raise ConfigError(f"camera {args.camera!r} is not in the configuration; its cameras are: {known}")
    groups: dict[str, list[str]] = {}
    for word in args.normal:
        group, path = _group(word)
        groups.setdefault(group if args.apart else "all", []).append(path)
    others = [_group(word)[1] for word in args.check]
    if scorer is None:  # a bad argument must not end a run after hours of scoring
        check_footage([path for paths in groups.values() for path in paths], others)
    if args.write:
        check_writable(args.config, args.camera)
    score = scorer or score_footage
    found: dict[str, Calibration] = {}
    for name, paths in groups.items():
        series = score(args, config, paths)
        found[name] = calibrate(
            counter(series, config.alarm),
            candidates_of([[row.smoothed for row in part] for part in series]),
            hours=hours_of(series),
            asked=args.false_alarms_per_hour,
            confidence=args.confidence,
        )
    checked = {}
    if args.check:
        other = score(args, config, others)
        for name, calibration in found.items():
            checked[name] = check(calibration, other, config.alarm)
    if args.write:
        (calibration,) = found.values()
        write_camera_settings(args.config, args.camera, {"threshold": calibration.threshold})
    _print_result(args, found, checked)
    return 0


def check_footage(normal: Sequence[str], others: Sequence[str]) -> None:
    """Read every table and find every video before anything is scored.

    Raises SourceError for a path that is no video, DataError for a damaged table, UsageError for a table without rows,
    and for footage that is given both to calibrate and to check.
    """
    from stream_detector.cli.score import find_videos

    both = {Path(path).resolve() for path in normal} & {Path(path).resolve() for path in others}
    if both:
        name = str(min(both))
        raise UsageError(f"{name!r} is given to calibrate on and to --check; a check needs other footage")
    for path in (*normal, *others):
        if not path.lower().endswith(".csv"):
            find_videos([path])
        elif not read_scores(Path(path)):
            raise UsageError(f"{path!r} holds no scored window; give a table of footage that was scored")


def _group(word: str) -> tuple[str, str]:
    name, equals, path = word.partition("=")
    if equals and re.fullmatch(r"[A-Za-z0-9_-]+", name) and not Path(word).exists():
        return name, path
    return "all", word


def score_footage(args: argparse.Namespace, config: Config, paths: Sequence[str]) -> Series:
    """Return the scores by source: tables as they are, videos through the pipeline. Raises SourceError, DataError,
    RunError.
    """
    tables = [Path(path) for path in paths if path.lower().endswith(".csv")]
    videos = [path for path in paths if not path.lower().endswith(".csv")]
    series = [part for table in tables for part in split(read_scores(table))]
    if videos:
        from stream_detector.cli.score import _play as play
        from stream_detector.cli.score import find_videos
        from stream_detector.runtime.build import build_run

        own = next((camera for camera in config.cameras if camera.name == args.camera), None)
        cameras = tuple(_as(own, number, found) for number, found in enumerate(find_videos(videos)))
        with tempfile.TemporaryDirectory() as folder:
            table = Path(folder) / "scores.csv"
            fields = {name: getattr(config, name) for name in Config.model_fields}
            fields |= {"cameras": cameras, "pace": "max", "scores": table, "events": None}
            fields |= {"evidence": {"enabled": False}, "publish": {"bind": "none", "ledger": None}}
            with (
                signals.phase("opening"),
                build_run(build_config(fields), open_limit=max(1, args.at_once)) as run,
            ):
                result = play(run)
            if result.error is not None:
                raise result.error
            if result.stopped:
                signals.check()
            if result.failed:  # a threshold from a part of the footage would look like one from all of it
                name, why = next(iter(result.failed.items()))
                raise SourceError(
                    f"the footage was not scored to its end ({name}: {why}); leave out files that cannot be played"
                )
            if result.stopped:
                raise RunError("the footage was not scored to its end (it was stopped); run it again")
            series += split(read_scores(table))
    return series


def _as(own: CameraConfig | None, number: int, found: CameraConfig) -> CameraConfig:
    """Return a video with the settings of a camera, except source, name and threshold."""
    name = f"{slug(found.name)[:50]}-{number}"
    if own is None:
        return found.model_copy(update={"name": name})
    nothing_kept = {"evidence": False, "record": None, "record_source": None}
    return own.model_copy(update={"name": name, "source": found.source, "threshold": None, **nothing_kept})


def split(rows: Sequence[ScoreRow]) -> Series:
    """Group rows by camera and source, in the order of their windows."""
    parts: dict[tuple[str, str], list[ScoreRow]] = {}
    for row in rows:
        parts.setdefault((row.camera, row.source), []).append(row)
    return [sorted(part, key=lambda row: row.window) for part in parts.values()]


def hours_of(series: Series) -> float:
    """Return the hours of footage without gaps."""
    return sum(make_report(part, []).watched_s for part in series if part) / 3600


def counter(series: Series, alarm: AlarmConfig) -> Callable[[float], int]:
    """Return a function that counts the alarms in all series at a threshold, with the alarm rule of a run."""
    parts = [[(row.score(), row.smoothed) for row in part] for part in series if part]

    def count_alarms(threshold: float) -> int:
        started = 0
        for part in parts:
            machine = make_alarm_rule(part[0][0].ref.camera, "", str, threshold, alarm)
            for score, smoothed in part:
                _, event = machine.step(score, smoothed)
                started += event is not None and event.type == "start"
        return started

    return count_alarms


def check(calibration: Calibration, series: Series, alarm: AlarmConfig) -> dict[str, Any]:
    """Measure the rate in other footage at the chosen threshold, and whether it contradicts the bound (`kept`)."""
    hours = hours_of(series)
    if hours <= 0.0:
        raise UsageError("the footage of --check has no scored window; give other normal footage")
    seen = counter(series, alarm)(calibration.threshold)
    lower = poisson_lower(seen, calibration.confidence) / hours
    return {
        "hours": round(hours, 4),
        "alarms": seen,
        "rate_per_hour": round(seen / hours, 6),
        "lower_per_hour": round(lower, 6),
        "upper_per_hour": round(poisson_upper(seen, calibration.confidence) / hours, 6),
        "kept": seen / hours <= calibration.upper,
        "contradicts": lower > calibration.upper,
    }


def check_writable(path: Path, camera: str) -> None:
    """Raise ConfigError if `write_camera_settings` could not write; the file stays unchanged."""
    try:
        text = read_named(path, "configuration file", ConfigError).decode("utf-8-sig")
        set_camera(text, camera, {"threshold": 0.5})
        with tempfile.TemporaryFile(dir=path.parent):
            pass
    except UnicodeDecodeError:
        raise ConfigError(f"{path} cannot be read (it is not UTF-8); save it as UTF-8") from None
    except OSError as error:
        reason = error.strerror or error
        raise ConfigError(
            f"{path} cannot be written ({reason}); make its folder writable or leave out --write"
        ) from None


def _print_result(args: argparse.Namespace, found: dict[str, Calibration], checked: dict[str, dict[str, Any]]) -> None:
    if args.json:
        told = {name: c.to_dict() | ({"check": checked[name]} if name in checked else {}) for name, c in found.items()}
        print(json_text({"schema": SCHEMA, "groups": told}))
        return
    for name, calibration in found.items():
        prefix = f"{name}: " if len(found) > 1 else ""
        print(prefix + calibration.sentence())
        if name in checked:
            seen = checked[name]
            verdict = "within the bound" if seen["kept"] else "above the bound"
            if seen["contradicts"]:
                verdict += ", by more than chance: that footage differs from the calibration footage"
            print(
                f"{prefix}on the footage of --check: {seen['alarms']} alarms in {hours_text(seen['hours'])}, "
                f"{rate_text(seen['rate_per_hour'])} an hour, {verdict}"
            )
    if args.write:
        print(f"written to [cameras.{args.camera}] of {args.config}")
