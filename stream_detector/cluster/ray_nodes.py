"""Queries to Ray about its nodes."""

from __future__ import annotations

from typing import Any

from stream_detector.cluster.placement import Node

# Ray lists these resources for itself, besides CPUs, GPUs and memory; they are no tags of a node.
_RAYS_OWN = ("CPU", "GPU", "memory", "object_store_memory", "node:", "accelerator_type:")


def living_nodes(ray: Any) -> list[Node]:
    """Return the live nodes, by id."""
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
