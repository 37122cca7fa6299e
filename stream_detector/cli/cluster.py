"""`stream-detector cluster`: what `run` does, on the nodes of a Ray cluster (extra `ray`)."""

from __future__ import annotations

import argparse
import logging
import sys
from pathlib import Path
from typing import Any

from stream_detector.cli.run import add_options, make_config
from stream_detector.cluster.merge import MAX_SHARDS
from stream_detector.cluster.placement import parse_near
from stream_detector.config import Config, build_config
from stream_detector.config.source import Source
from stream_detector.errors import ConfigError
from stream_detector.system import signals
from stream_detector.system.actor_pool import connected, import_ray
from stream_detector.system.logging_setup import set_up_logging
from stream_detector.system.stdio import json_text


def add_parser(subparsers: Any) -> None:
    """The options of `run`, and those of the cluster."""
    parser = subparsers.add_parser(
        "cluster",
        help="run on the machines of a Ray cluster",
        description="Watch cameras and recordings on the machines of a Ray cluster, publish alarms (extra `ray`).",
    )
    add_options(parser)
    group = parser.add_argument_group("cluster")
    group.add_argument("--address", metavar="ADDRESS", help="'auto' or HOST:PORT of a running cluster (default: start)")
    group.add_argument(
        "--shards", type=int, default=1, metavar="N", help="number of processes that decide, journal and publish"
    )
    group.add_argument("--cpus", type=int, metavar="N", help="number of CPUs of the cluster that is started here")
    group.add_argument(
        "--near", action="append", default=[], metavar="CAMERA=TAG", help="run it on nodes with this resource or label"
    )


def main(args: argparse.Namespace) -> int:
    """Run until the sources end or a signal comes."""
    from stream_detector.engines.bundle_choice import with_bundle
    from stream_detector.models.bundle import Bundle
    from stream_detector.runtime.stages import plan_camera

    import_ray("the cluster")  # the sentence about the package comes before any other
    config = cluster_config(make_config(args), args)
    set_up_logging(config.telemetry.log_format, level=logging.WARNING)
    config = with_bundle(config)
    bundle = Bundle.load(config.bundle)
    plans = tuple(plan_camera(camera, config, bundle) for camera in config.cameras)
    near = parse_near(args.near)
    with connected("the cluster", args.address, args.cpus) as ray:
        from stream_detector.cluster.supervisor import Supervisor

        def ready(endpoint: str) -> None:
            print(f"{len(plans)} cameras, events at {endpoint}", file=sys.stderr, flush=True)

        supervisor = Supervisor(ray, config, plans, bundle, args.shards, near, ready)
        with signals.on_stop(supervisor.stop):
            result = supervisor.run()
    failed = dict(result.failed)
    for name, reason in failed.items():
        print(f"stream-detector: {name}: {reason}", file=sys.stderr)
    if result.error is not None:
        print(f"stream-detector: {result.error}", file=sys.stderr)
    if args.json:
        body = {"windows": result.windows, "alarms": result.alarms, "failed": failed, "stopped": result.stopped}
        print(json_text({**body, "deaths": [kind for kind, _ in result.deaths]}))
    else:
        print(f"{result.windows} windows, {result.alarms} alarms, {len(result.deaths)} actors replaced")
    return signals.final_code(result.exit_code)


def cluster_config(config: Config, args: argparse.Namespace) -> Config:
    """The configuration as actors need it: absolute paths, and without what does not work across machines.

    Raises ConfigError for settings that have no meaning there.
    """
    if not 1 <= args.shards <= MAX_SHARDS:
        raise ConfigError(f"--shards {args.shards} is not possible; give 1 to {MAX_SHARDS}")
    if config.publish.ledger is None:
        raise ConfigError(
            "a cluster needs an event journal on disk, or a restart would lose events; give --ledger FILE"
        )
    if config.web.bind != "none" or config.telemetry.metrics_port:
        raise ConfigError(
            "--web and --metrics-port belong to a single machine; Ray's dashboard shows a cluster's metrics"
        )
    recorded = [camera.name for camera in config.cameras if camera.record == "always"]
    if recorded:
        raise ConfigError(
            f'camera {recorded[0]}: record = "always" belongs to a single machine; leave it out in a cluster'
        )
    names = {camera.name for camera in config.cameras}
    for camera, tag in parse_near(args.near).items():
        if camera not in names or not tag:
            raise ConfigError(f"--near {camera}={tag} names no camera or no tag; write CAMERA=TAG, cameras are {names}")
    fields = {name: getattr(config, name) for name in Config.model_fields}
    fields["cameras"] = tuple(
        camera.model_copy(update={"source": _anywhere(camera.source), "evidence": False}) for camera in config.cameras
    )
    fields["evidence"] = config.evidence.model_copy(update={"enabled": False})
    fields["publish"] = config.publish.model_copy(update={"ledger": config.publish.ledger.absolute()})
    for name in ("events", "scores"):
        path: Path | None = fields[name]
        fields[name] = path.absolute() if path else None
    if Path(config.bundle).is_dir():
        fields["bundle"] = str(Path(config.bundle).absolute())
    return build_config(fields)


def _anywhere(source: Source) -> Source:
    """The same for a process with another working directory."""
    return Source.of_file(source.path.absolute()) if source.kind == "file" else source
