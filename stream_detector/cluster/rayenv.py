"""Ray, if it is there, and the few things that are asked of it before anything runs. The extra is `ray`."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from typing import Any

from stream_detector.cluster.placement import Node
from stream_detector.errors import MissingExtraError, UsageError

# Beside its CPUs, GPUs and memory Ray lists these for itself; they are no tags of a node.
_RAYS_OWN = ("CPU", "GPU", "memory", "object_store_memory", "node:", "accelerator_type:")


def import_ray(what: str) -> Any:
    """The package. what: who needs it, for the sentence. Raises MissingExtraError."""
    # Nobody is told that Ray runs here; and a worker without a GPU keeps CUDA_VISIBLE_DEVICES as it is.
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    try:
        import ray
    except ModuleNotFoundError:
        raise MissingExtraError(what, "ray", "ray") from None
    return ray


@contextlib.contextmanager
def connected(what: str, address: str | None, cpus: int | None = None) -> Iterator[Any]:
    """Ray, connected: to the cluster at `address` ("auto": the one of this machine), or one started for this run.

    A connection that is there already is used, and left. cpus: of the one started.
    Raises MissingExtraError, and UsageError where there is no cluster to join.
    """
    ray = import_ray(what)
    if ray.is_initialized():
        yield ray
        return
    quiet = {"log_to_driver": True, "logging_level": "error"}
    try:
        if address is None:
            ray.init(num_cpus=cpus, include_dashboard=False, **quiet)
        else:
            ray.init(address=address, **quiet)
    except ConnectionError as error:
        reason = str(error).splitlines()[0]
        raise UsageError(
            f"no Ray cluster was found at {address!r} ({reason}); start one with 'ray start --head', "
            "or leave --address out"
        ) from None
    try:
        yield ray
    finally:
        ray.shutdown()


def living_nodes(ray: Any) -> list[Node]:
    """The nodes that are up, by id."""
    found = []
    for entry in ray.nodes():
        if not entry.get("Alive"):
            continue
        resources = entry.get("Resources", {})
        own = {name for name in resources if not name.startswith(_RAYS_OWN)}
        labels = {str(value) for name, value in entry.get("Labels", {}).items() if not name.startswith("ray.io/")}
        found.append(
            Node(
                entry["NodeID"],
                float(resources.get("CPU", 0.0)),
                float(resources.get("GPU", 0.0)),
                frozenset(own | labels),
            )
        )
    return sorted(found, key=lambda node: node.id)
