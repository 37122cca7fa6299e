"""`stream-detector bridge`: delivers alarms and states of a detector to another system, at least once and in order."""

from __future__ import annotations

import argparse
import dataclasses
import logging
import os
import sys
import threading
from pathlib import Path
from typing import Any

from stream_detector.bridges.kinds import BRIDGES
from stream_detector.bridges.process import BridgeProcess, check_targets
from stream_detector.bridges.settings import BridgesConfig, load_bridges
from stream_detector.system import signals
from stream_detector.system.logging_setup import fields, run_log

log = logging.getLogger("stream_detector.bridge")

_ORPHAN_S = 60.0


def add_parser(subparsers: Any) -> None:
    """Declare the options."""
    parser = subparsers.add_parser(
        "bridge",
        help="deliver alarms to a webhook, MQTT, people or a program",
        description="Deliver alarms and states of a detector to another system, at least once and in order.",
    )
    parser.add_argument("kind", metavar="KIND", help="webhook, mqtt, notify, command, or a registered kind")
    parser.add_argument(
        "--config", type=Path, default=Path("bridges.toml"), metavar="FILE.toml", help="targets (default bridges.toml)"
    )
    parser.add_argument("--endpoint", metavar="ENDPOINT", help="endpoint of the detector, in place of the file's")
    parser.add_argument("--check", action="store_true", help="check the file and end; nothing is sent")
    parser.add_argument("--log-format", choices=("text", "json"), default="text", help="format of log lines")
    parser.add_argument("--log-file", type=Path, metavar="FILE", help="append log lines to this file")
    parser.add_argument("--with-detector", action="store_true", help=argparse.SUPPRESS)  # started by `run --bridge`


def main(args: argparse.Namespace) -> int:
    """Carry events until a signal comes."""
    config = load_bridges(args.config)
    if args.endpoint:
        config = BridgesConfig(config.detector.model_copy(update={"endpoint": args.endpoint}), config.kinds)
    BRIDGES.get(args.kind)
    check_targets(args.kind, config)
    if args.check:
        names = ", ".join(config.kinds[args.kind])
        print(f"{args.config}: {args.kind} is usable, targets: {names}")
        return 0
    with run_log(args.log_format, level=logging.INFO, path=args.log_file) as lines, signals.on_reopen(lines.reopen):
        return _run(args, config)


def _run(args: argparse.Namespace, config: BridgesConfig) -> int:
    with BridgeProcess(args.kind, config) as bridge, signals.on_stop(bridge.stop):
        names = list(bridge.deliveries)
        log.info(
            "bridge %s: %s → %s; %d notices wait",
            args.kind,
            config.detector.endpoint,
            ", ".join(names),
            bridge.outbox.waiting(),
            extra=fields(event="bridge_start", kind=args.kind, targets=names),
        )
        if args.with_detector:
            orphan = threading.Thread(target=_end_with_detector, args=(bridge, config), name="orphan", daemon=True)
            orphan.start()
        bridge.run()
        counts = {name: dataclasses.asdict(delivery.counts) for name, delivery in bridge.deliveries.items()}
        log.info(
            "bridge %s: stopped; delivered %s; %d notices wait",
            args.kind,
            ", ".join(f"{name} {count['delivered']}" for name, count in counts.items()),
            bridge.outbox.waiting(),
            extra=fields(event="bridge_end", kind=args.kind, counts=counts),
        )
    return 0


def _end_with_detector(bridge: BridgeProcess, config: BridgesConfig) -> None:
    """The pipe from the run that started this closes with it. If it was killed, that is told before this ends too."""
    try:
        while os.read(sys.stdin.fileno(), 64):
            pass
    except OSError:
        pass
    begun = bridge.detector
    step = threading.Event()
    waited_s = 0.0
    while waited_s < config.detector.dead_s + _ORPHAN_S:
        state, epoch = bridge.detector
        if state in ("silent", "stopped") and not bridge.outbox.waiting():
            break
        if epoch != begun[1]:  # another run is there, and wants this place
            break
        step.wait(0.2)
        waited_s += 0.2
    bridge.stop()
