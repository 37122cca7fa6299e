"""cluster: the same events on 1, 2 and 3 Ray nodes, nodes killed during alarms, and what Ray costs.

    python -m benchmarks cluster same     --clips DIR    30 clips on the single machine and on 1, 2, 3 logical nodes
    python -m benchmarks cluster kills    --clips DIR    nodes killed at random while alarms are open; --add: once more
    python -m benchmarks cluster driver   --clips DIR    the driver killed during an alarm, and started again
    python -m benchmarks cluster overhead --clips DIR    windows/s and latency against the single process, same cores
    python -m benchmarks cluster archive  --clips DIR    `score` against `score --ray` with 2 workers

Logical nodes (`ray.cluster_utils.Cluster`) are real raylets with real workers, all on this machine. Each part writes
its own entry of results/cluster.json and leaves the others.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.clustercost import archive, overhead
from benchmarks.clusterkills import kill_driver, kill_nodes
from benchmarks.clusterlib import Run, choose_clips, compare, config_for, make_film, nodes, single
from benchmarks.options import parse
from benchmarks.results import load_before, read_results, write_results

TOLERANCE = 1e-4
RECOVERY_S = 10.0


def same(clips: Path, folder: Path, count: int, precision: str) -> dict[str, Any]:
    """The single machine and 1, 2 and 3 nodes, on the same clips as file sources."""
    sources = [(f"cam{number:02d}", path) for number, path in enumerate(choose_clips(clips, count))]
    settings: dict[str, Any] = {"engine": {"precision": precision}, "alarm": {"threshold": 0.4}}
    (folder / "single").mkdir()
    single(config_for(folder / "single", sources, **settings))
    found: dict[str, Any] = {"clips": len(sources), "precision": precision, "nodes": {}}
    (folder / "again").mkdir()
    single(config_for(folder / "again", sources, **settings))
    found["single_machine_twice"] = compare(folder / "single", folder / "again")
    for number in (1, 2, 3):
        place = folder / f"nodes-{number}"
        place.mkdir()
        with nodes(number) as held:
            result = Run(held.ray, config_for(place, sources, **settings)).join(150.0)
        told = compare(folder / "single", place)
        told["alarms"] = result.alarms
        found["nodes"][str(number)] = told
        print(number, "nodes:", json.dumps(told), flush=True)
    found["passed"] = all(
        not told["windows_missing_or_extra"]
        and told["largest_score_difference"] <= TOLERANCE
        and not told["cameras_whose_events_differ"]
        for told in found["nodes"].values()
    )
    return found


def kills(clips: Path, folder: Path, args: argparse.Namespace) -> dict[str, Any]:
    """Nodes killed during alarms, over several runs if asked to."""
    film = make_film(choose_clips(clips, 24), folder / "film.mp4", args.seconds)
    found = kill_nodes(folder, film, args.kills, args.seed, args.target)
    if args.add:
        before = _former("kills" if args.target == "node" else "kills_of_shards")
        if before:
            found["runs"] = before["runs"] + found["runs"]
    runs = found["runs"]
    times = [second for run in runs for second in run["recovery_s"]]
    totals = {name: sum(run[name] for run in runs) for name in ("kills", "lost", "doubled", "unended", "windows_wrong")}
    found |= {
        **totals,
        "recovery_median_s": round(statistics.median(times), 2) if times else None,
        "recovery_max_s": max(times, default=None),
        "story_differs": sorted({name for run in runs for name in run["cameras_whose_events_differ"]}),
    }
    wrong = totals["lost"] + totals["doubled"] + totals["unended"] + totals["windows_wrong"]
    found["passed"] = not wrong and not found["story_differs"] and bool(times) and max(times) <= RECOVERY_S
    return found


def _former(name: str) -> Any:
    try:
        return read_results("cluster")["results"].get(name)
    except FileNotFoundError:
        return None


def main(argv: list[str]) -> int:
    """Command line."""
    args = parse("cluster", argv)
    load = load_before()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if args.part == "same":
            found = same(args.clips, folder, args.count, args.precision)
        elif args.part == "kills":
            found = kills(args.clips, folder, args)
        elif args.part == "driver":
            found = kill_driver(folder, make_film(choose_clips(args.clips, 24), folder / "film.mp4", 30.0), args.seed)
        elif args.part == "overhead":
            found = overhead(args.clips, folder, args.seconds)
        else:
            found = archive(args.clips, folder, args.count)
    key = "kills_of_shards" if args.part == "kills" and args.target == "shard" else args.part
    try:
        record = read_results("cluster")
        results, settings = record["results"], record["settings"]
    except FileNotFoundError:
        results, settings = {}, {}
    found["load_before"] = load
    write_results("cluster", {**results, key: found}, settings)
    print(json.dumps(found, indent=2))
    return 0 if found.get("passed", True) else 1
