"""`stream-detector run`: watch cameras and recordings, publish alarms."""

from __future__ import annotations

import argparse
import contextlib
import logging
import re
import threading
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stream_detector.capture.sources import expand_cameras, parse_sources
from stream_detector.config import Config, build_config, load_config, merge
from stream_detector.errors import ConfigError, MissingExtraError, StageError, UsageError
from stream_detector.system import signals
from stream_detector.system.logging_setup import fields, run_log
from stream_detector.system.sd_notify import Notifier
from stream_detector.telemetry.log_lines import RunLogger
from stream_detector.telemetry.terminal_view import TerminalView, ViewHeader, count_text, drawable

if TYPE_CHECKING:  # these load PyTorch; the functions below import them when a run begins
    from stream_detector.runtime.build import Run
    from stream_detector.runtime.pipeline import RunResult

log = logging.getLogger("stream_detector.run")


def add_parser(subparsers: Any) -> None:
    """Declare the options; each sets one key of the configuration (see `_MAP`)."""
    parser = subparsers.add_parser(
        "run",
        help="watch cameras and recordings, publish alarms",
        description="Watch cameras and recordings, publish alarms. Files end by themselves; stop cameras with Ctrl-C.",
    )
    add_options(parser)
    add_bridge_options(parser)


def add_bridge_options(parser: argparse.ArgumentParser) -> None:
    """Declare the options of a run that starts bridges."""
    parser.add_argument(
        "--bridge",
        action="append",
        default=[],
        metavar="KIND",
        help="start and watch a bridge: webhook, mqtt, notify, command or a registered kind; may be repeated",
    )
    parser.add_argument(
        "--bridge-config",
        type=Path,
        default=Path("bridges.toml"),
        metavar="FILE.toml",
        help="targets of the bridges (default bridges.toml)",
    )


def add_options(parser: argparse.ArgumentParser) -> None:
    """Declare the options of a run; `make_config` reads them."""
    parser.add_argument(
        "sources",
        nargs="*",
        metavar="[NAME=]SOURCE",
        help="file, folder, glob, rtsp:// or http:// URL (${NAME}: a variable of the environment), USB camera, or "
        "'demo' (default: the rendered demo)",
    )
    parser.add_argument("--config", type=Path, metavar="FILE.toml", help="cameras and settings; options given here win")
    parser.add_argument("--bundle", metavar="NAME_OR_DIR", help="model bundle, or auto (default: the embedded one)")
    parser.add_argument("--bind", metavar="ENDPOINT", help="ZeroMQ endpoint, or 'none' (default tcp://127.0.0.1:5555)")
    parser.add_argument("--insecure", action="store_true", default=None, help="allow a public bind without CURVE")
    parser.add_argument("--curve-secret", type=Path, metavar="FILE", help="server key; see 'stream-detector keys'")
    parser.add_argument(
        "--curve-clients", type=Path, metavar="DIR", help="folder with the public keys of the allowed clients"
    )
    parser.add_argument("--pace", choices=("realtime", "max"), help="speed of files: real time, or as fast as possible")
    parser.add_argument(
        "--engine", metavar="NAME", help="inference engine: auto, torch, openvino or a registered one (default: auto)"
    )
    parser.add_argument("--device", metavar="auto|cpu|cuda[:N]|mps", help="device of the engine (default: auto)")
    parser.add_argument(
        "--precision",
        choices=("auto", "fp32", "tf32", "bf16", "fp16", "int8"),
        help="number format of the network (default: auto)",
    )
    parser.add_argument(
        "--deterministic", action="store_true", default=None, help="bit-equal scores with the torch engine, but slower"
    )
    parser.add_argument(
        "--hwaccel",
        metavar="NAME",
        help="device for decoding: cuda, qsv, … (`doctor` lists them); falls back to software",
    )
    parser.add_argument(
        "--capture-hosts",
        metavar="N|auto",
        help="processes that read the cameras; 0: the main process reads them (default auto: by cameras and cores)",
    )
    parser.add_argument(
        "--stride",
        type=int,
        metavar="FRAMES",
        help="frames from the start of one window to the start of the next (default 16)",
    )
    parser.add_argument(
        "--threshold",
        type=float,
        metavar="X",
        help="smoothed score, 0 to 1, at which an alarm starts (default: the bundle's)",
    )
    parser.add_argument(
        "--events", type=Path, metavar="FILE.jsonl", help="append every alarm event to this file, one a line"
    )
    parser.add_argument("--scores", type=Path, metavar="FILE.csv", help="write the score of every window to this file")
    parser.add_argument(
        "--evidence", type=Path, metavar="DIR", help="folder of clips and snapshots (default runs/evidence)"
    )
    parser.add_argument("--no-evidence", action="store_true", help="write no clips and no snapshots")
    parser.add_argument(
        "--ledger",
        metavar="FILE",
        help="file of the event journal, or 'none' for memory only (default runs/ledger.sqlite3)",
    )
    parser.add_argument(
        "--metrics-port", type=int, metavar="PORT", help="serve /metrics (Prometheus), /livez and /readyz on 127.0.0.1"
    )
    parser.add_argument("--web", metavar="HOST:PORT", help="serve the web page there, for instance 127.0.0.1:8080")
    parser.add_argument(
        "--web-token-file",
        type=Path,
        metavar="FILE",
        help="file with the password of the page: one line of at least 16 characters",
    )
    parser.add_argument(
        "--web-operator-token-file",
        type=Path,
        metavar="FILE",
        help="file with the tokens of those who may write verdicts, acknowledgements and commands: lines NAME TOKEN",
    )
    parser.add_argument(
        "--allow-local-writes",
        action="store_true",
        default=None,
        help="allow writes without token or key from loopback",
    )
    parser.add_argument("--web-cert", type=Path, metavar="FILE.pem", help="TLS certificate of the page")
    parser.add_argument("--web-key", type=Path, metavar="FILE.pem", help="key of the TLS certificate")
    parser.add_argument("--web-stay", action="store_true", help="keep serving the page after the sources have ended")
    parser.add_argument(
        "--no-dashboard", action="store_true", default=None, help="print log lines instead of the live view"
    )
    parser.add_argument("--log-format", choices=("text", "json"), help="format of log lines (default text)")
    parser.add_argument(
        "--log-file", type=Path, metavar="FILE", help="append log lines to this file instead of standard error"
    )
    parser.add_argument(
        "--exit-on-error", action="store_true", default=None, help="end with exit code 2 if a source cannot be opened"
    )
    parser.add_argument(
        "--run-dir", type=Path, metavar="DIR", help="folder for events, scores, evidence, journal and a plot"
    )
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="SECTION.KEY=VALUE",
        help="set any key of the configuration, for instance alarm.cooldown_s=10; may be repeated",
    )
    parser.add_argument("--json", action="store_true", help="print the outcome as JSON")


_MAP: dict[str, tuple[str, ...]] = {
    "bundle": ("bundle",),
    "pace": ("pace",),
    "events": ("events",),
    "scores": ("scores",),
    "bind": ("publish", "bind"),
    "insecure": ("publish", "insecure"),
    "curve_secret": ("publish", "curve_secret"),
    "curve_clients": ("publish", "curve_clients"),
    "engine": ("engine", "engine"),
    "device": ("engine", "device"),
    "precision": ("engine", "precision"),
    "deterministic": ("engine", "deterministic"),
    "hwaccel": ("capture", "hwaccel"),
    "capture_hosts": ("capture", "hosts"),
    "stride": ("window", "stride"),
    "threshold": ("alarm", "threshold"),
    "evidence": ("evidence", "directory"),
    "metrics_port": ("telemetry", "metrics_port"),
    "web": ("web", "bind"),
    "web_token_file": ("web", "token_file"),
    "web_operator_token_file": ("web", "operator_token_file"),
    "allow_local_writes": ("access", "local_writes"),
    "web_cert": ("web", "cert"),
    "web_key": ("web", "key"),
    "log_format": ("telemetry", "log_format"),
    "log_file": ("telemetry", "log_file"),
    "exit_on_error": ("capture", "exit_on_error"),
}


_OF_THE_PAGE = ("web_token_file", "web_operator_token_file", "web_cert", "web_key")


def make_config(args: argparse.Namespace, *, demo: bool = True) -> Config:
    """Return the Config that the options describe. Raises ConfigError and SourceError.

    demo: where no source is given, the rendered scene is watched.
    """
    values: dict[str, Any] = {}
    if args.run_dir:
        folder: Path = args.run_dir
        values = {
            "events": folder / "events.jsonl",
            "scores": folder / "scores.csv",
            "evidence": {"directory": folder / "evidence"},
            "publish": {"ledger": folder / "ledger.sqlite3"},
        }
    for name, path in _MAP.items():
        value = getattr(args, name)
        if value is not None:
            values = merge(values, _nested(path, value))
    if args.no_dashboard:
        values = merge(values, {"telemetry": {"dashboard": False}})
    if args.no_evidence:
        values = merge(values, {"evidence": {"enabled": False}})
    if args.ledger:
        values = merge(values, {"publish": {"ledger": None if args.ledger == "none" else args.ledger}})
    for setting in args.set:
        values = merge(values, _setting(setting))
    options = {
        ".".join(path): f"--{name.replace('_', '-')}" for name, path in _MAP.items() if getattr(args, name) is not None
    }
    config = load_config(args.config, values, options) if args.config else build_config(values, options=options)
    given = parse_sources(args.sources)
    cameras = (*expand_cameras(config.cameras), *given)
    without_page = [f"--{name.replace('_', '-')}" for name in _OF_THE_PAGE if getattr(args, name, None) is not None]
    if without_page and config.web.bind == "none":
        raise UsageError(f"{without_page[0]} needs the page; add --web HOST:PORT, or leave it out")
    if not cameras and demo:
        if args.config:
            raise UsageError(f"{str(args.config)!r} has no camera; write [cameras.NAME] into it, or give a source")
        cameras = parse_sources(["demo"])
    fields = {name: getattr(config, name) for name in Config.model_fields}
    return build_config(fields | {"cameras": cameras})


def _nested(path: tuple[str, ...], value: Any) -> dict[str, Any]:
    for key in reversed(path):
        value = {key: value}
    return dict(value)


def _setting(text: str) -> dict[str, Any]:
    key, equals, value = text.partition("=")
    if not equals:
        shown = f" {text}" if re.fullmatch(r"[a-z_.]+", text) else ""
        raise UsageError(f"--set{shown} has no value; write SECTION.KEY=VALUE, for instance alarm.cooldown_s=10")
    if not re.fullmatch(r"[\w-]+(\.[\w-]+)*", key.strip(), re.ASCII):
        raise UsageError("--set has an invalid key; write SECTION.KEY=VALUE, for instance alarm.cooldown_s=10")
    try:
        parsed = tomllib.loads(f"value = {value}")["value"]
    except (tomllib.TOMLDecodeError, RecursionError):
        parsed = value
    except ValueError:  # Python's limit for the digits of an integer
        raise UsageError(f"--set {key.strip()}: the number has too many digits; give a smaller one") from None
    return _nested(tuple(key.strip().split(".")), parsed)


def main(args: argparse.Namespace) -> int:
    """Run until the sources end or a signal arrives."""
    with signals.phase("start"):  # nothing is open yet, and PyTorch takes seconds
        import stream_detector.runtime.build  # noqa: F401
    with signals.phase("opening"):
        return _run(args)


def _run(args: argparse.Namespace) -> int:
    from stream_detector.cli.outcome import print_outcome
    from stream_detector.runtime.build import build_run

    config = make_config(args)
    _check_bridges(args, config)
    live_view = config.telemetry.dashboard and not args.json and drawable()
    telemetry = config.telemetry
    level = logging.WARNING if live_view and telemetry.log_file is None else logging.INFO
    with (
        run_log(telemetry.log_format, level=level, path=telemetry.log_file) as lines,
        signals.on_reopen(lines.reopen),
    ):
        if config.web.bind == "none":
            with build_run(config, reload=_reloading(args)) as run, _bridges(args, run):
                result = _watch(run, live_view)
        else:
            run, result = _watch_with_page(config, args, live_view)
    return print_outcome(run, result, args)


def _reloading(args: argparse.Namespace) -> Callable[[], Config] | None:
    """Reads the configuration again, with the options of this run; None where there is no file."""
    return (lambda: _watched(make_config(args, demo=False))) if args.config else None


def _watched(config: Config) -> Config:
    if not config.cameras:
        raise ConfigError("no camera is left in the configuration; stop the detector, or leave one in")
    return config


def _check_bridges(args: argparse.Namespace, config: Config) -> None:
    """Refuse bridges that cannot work before anything is opened. Raises ConfigError, MissingExtraError, UsageError."""
    if not args.bridge:
        return
    if config.publish.bind == "none":
        raise UsageError("--bridge needs the event socket; leave --bind none out")
    if config.publish.curve_secret is not None:
        log.warning("the bridges need CURVE keys of their own: key and server_key in [detector] of the bridges file")
    from stream_detector.bridges.process import check_targets
    from stream_detector.bridges.settings import load_bridges

    bridges = load_bridges(args.bridge_config)
    for kind in args.bridge:
        check_targets(kind, bridges)


def _bridges(args: argparse.Namespace, run: Run) -> contextlib.AbstractContextManager[object]:
    if not args.bridge:
        return contextlib.nullcontext()
    from stream_detector.bridges.supervisor import BridgeSupervisor

    return BridgeSupervisor(args.bridge, args.bridge_config, run.publisher.endpoint)


def _watch_with_page(config: Config, args: argparse.Namespace, live_view: bool) -> tuple[Run, RunResult]:
    from stream_detector.runtime.build import build_run

    try:
        from stream_detector.web.auth import parse_bind
        from stream_detector.web.live_state import LiveState
        from stream_detector.web.server import serve_web
    except ModuleNotFoundError as error:
        raise MissingExtraError("--web", error.name or "starlette", "web") from None
    parse_bind(config.web)  # refused before a model is loaded
    live_state = LiveState(len(config.cameras))
    with (
        build_run(
            config,
            on_event=live_state.event,
            on_decision=live_state.decision,
            on_preview=live_state.preview,
            on_camera=live_state.camera,
            reload=_reloading(args),
        ) as run,
        serve_web(config.web, run, live_state, config_path=args.config) as server,
        _bridges(args, run),
    ):
        log.warning("the page is at %s", server.url)
        result = _watch(run, live_view)
        if args.web_stay and not result.stopped and result.error is None:
            log.warning("the sources have ended; the page stays at %s until you press Ctrl-C", server.url)
            over = threading.Event()
            with signals.on_stop(over.set):
                while not over.wait(0.5):
                    pass  # on some systems a wait without a time-out would not let a signal through
    return run, result


def _watch(run: Run, live_view: bool) -> RunResult:
    over = threading.Event()
    rendered = any(camera.source.kind == "demo" for camera in run.config.cameras)
    # the log lines are also written beside a live view, because they may go to a file
    narrator = RunLogger(run.telemetry)
    viewers = [threading.Thread(target=narrator.run, args=(over,), name="narrator", daemon=True)]
    if live_view:
        engine = run.engine
        info = ViewHeader(
            engine=f"{engine.name} · {engine.device} · {engine.precision} ({engine.reason})",
            bundle=f"{run.bundle.name} {run.bundle.fingerprint}",
            endpoint=run.publisher.endpoint or "no socket",
            rendered=rendered,
        )
        dashboard = TerminalView(run.telemetry, info)
        viewers.append(threading.Thread(target=dashboard.run, args=(over,), name="dashboard", daemon=True))
    elif rendered:
        log.warning("RENDERED FOOTAGE: drawn by a program, not filmed by a camera", extra=fields(event="rendered"))
    for viewer in viewers:
        viewer.start()
    notifier = Notifier()
    if notifier.active:
        threading.Thread(target=_notify_systemd, args=(notifier, run, over), name="notify", daemon=True).start()
    try:
        _log_start(run)
        with signals.on_stop(run.pipeline.stop), signals.on_reopen(lambda: _reopen(run)):
            result = run.pipeline.run()
    finally:
        notifier.stopping()
        over.set()
        for viewer in viewers:
            viewer.join(1.0)
    _log_end(run, result)
    return result


def _reopen(run: Run) -> None:
    """Reopen the event file after a rename (logrotate); it belongs to the decision thread."""
    with contextlib.suppress(StageError):
        run.pipeline.decision_queue.submit(run.publisher.reopen_events)


def _log_start(run: Run) -> None:
    names, endpoint = [plan.name for plan in run.plans], run.publisher.endpoint
    bundle = f"{run.bundle.name} {run.bundle.fingerprint}"
    log.info(
        "watching %s; bundle %s; events at %s",
        count_text(len(names), "camera"),
        bundle,
        endpoint or "no socket",
        extra=fields(event="run_start", cameras=names, bundle=bundle, endpoint=endpoint or None),
    )


def _log_end(run: Run, result: RunResult) -> None:
    from stream_detector.cli.outcome import exit_code_of

    drops = run.telemetry.snapshot().drops
    counted = {"windows": result.windows, "alarms": result.alarms, "drops": drops, "stopped": result.stopped}
    log.info(
        "%s: %s scored, %s, %s",
        "stopped" if result.stopped else "done",
        count_text(result.windows, "window"),
        count_text(drops, "drop"),
        count_text(result.alarms, "alarm"),
        extra=fields(event="run_end", exit_code=exit_code_of(result), **counted),
    )


def _notify_systemd(notifier: Notifier, run: Run, over: threading.Event) -> None:
    """Report ready, then send signs of life. The decision thread sends them, because its hang is the one to detect."""
    notifier.ready(f"{len(run.plans)} cameras, events at {run.publisher.endpoint}")
    while notifier.watchdog_s and not over.wait(notifier.watchdog_s):
        with contextlib.suppress(StageError):  # the decision thread hangs: the missing sign of life reports it
            run.pipeline.decision_queue.submit(notifier.alive)
