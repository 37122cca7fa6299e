"""Assigns cameras to nodes: a pure function, so that it can be tested and predicted.

Load is cameras per CPU. A camera stays where it is unless its node is gone or no longer allowed, or carries so much
more than another node that moving is worth the gap (a camera that moves misses about a second).

A camera may be bound to a place: with `--near gate=site_a` the camera `gate` runs only on nodes that were started with
the Ray resource or the label `site_a` (`ray start --resources '{"site_a": 1}'`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Node:
    """A live node. cpus, gpus: number by Ray's count.  tags: names of its custom resources, and values of its
    labels.
    """

    id: str
    cpus: float
    gpus: float = 0.0
    tags: frozenset[str] = frozenset()

    @property
    def weight(self) -> float:
        """The capacity relative to other nodes; a node without CPUs still reads cameras if there is no other node."""
        return max(self.cpus, 0.01)


def place(
    cameras: Sequence[str],
    nodes: Sequence[Node],
    now: Mapping[str, str],
    near: Mapping[str, str] | None = None,
    slack: float = 1.25,
) -> dict[str, str]:
    """Return camera → node id. A camera that no live node may run is left out.

    now: the nodes that run the cameras at present.  near: camera → tag that its node must have.  slack: nothing moves
    as long as no node carries more than this multiple of its share.
    """
    near = near or {}
    allowed = {c: [n for n in nodes if c not in near or near[c] in n.tags] for c in cameras}
    load = {node.id: 0 for node in nodes}
    placed: dict[str, str] = {}
    for camera in cameras:
        before = now.get(camera)
        if before is not None and any(node.id == before for node in allowed[camera]):
            placed[camera] = before
            load[before] += 1
    for camera in cameras:
        if camera not in placed and allowed[camera]:
            best = _least_loaded(allowed[camera], load)
            placed[camera] = best.id
            load[best.id] += 1
    share = len(placed) / sum(node.weight for node in nodes) if nodes else 0.0
    if not any(load[node.id] > share * node.weight * slack for node in nodes):
        return placed
    for camera in reversed(cameras):
        if camera not in placed or camera not in now:
            continue
        at = next(node for node in nodes if node.id == placed[camera])
        best = _least_loaded(allowed[camera], load)
        if load[at.id] > share * at.weight + 0.5 and (load[best.id] + 1) / best.weight < load[at.id] / at.weight:
            load[at.id] -= 1
            load[best.id] += 1
            placed[camera] = best.id
    return placed


def _least_loaded(nodes: Sequence[Node], load: Mapping[str, int]) -> Node:
    return min(nodes, key=lambda node: ((load[node.id] + 1) / node.weight, node.id))


def parse_near(pairs: Sequence[str]) -> dict[str, str]:
    """Parse `CAMERA=TAG` texts; a text without `=` gets an empty tag, which the caller rejects."""
    return {camera: tag for camera, _, tag in (pair.partition("=") for pair in pairs)}
