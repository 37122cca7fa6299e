"""scaling: does a simulation reproduce the measured curve of cameras, and what does it predict for 1,000 and 100,000
cameras?

    python -m benchmarks scaling [--cameras FILE] [--size 320x240]

The benchmark reads results/cameras.json (service times, and the curve over numbers of cameras), measures here what one
shard can decide, and writes results/scaling.json. The simulation's service times are those of single parts measured
alone; one number is fitted (`Machine.held_cores`). Its curve must agree within 15 % with the whole machine's, in
windows/s and in busy cores. If it does not, the result says so and nothing is extrapolated. A cluster makes no evidence
clips yet, so their cost is left out of the extrapolation.
"""

from __future__ import annotations

import dataclasses
import json
import math
import tempfile
import time
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks.options import parse
from benchmarks.queueing import FPS, WINDOW_S, Machine, Shards, capacity, simulate
from benchmarks.results import load_before, write_results
from stream_detector.cluster.merge import MAX_SHARDS
from stream_detector.cluster.messages import ScoredWindow, ShardItem
from stream_detector.cluster.shard import Shard
from stream_detector.config import AlarmConfig, Config, PublishConfig, SmoothingConfig
from stream_detector.runtime.decider import CameraPlan
from stream_detector.runtime.stages import DecisionModel
from stream_detector.types import Timing, WindowRef

WITHIN = 0.15
WINDOW_BYTES = 16 * 112 * 112 * 3
VIDEO_BITS = {"320x240": 600e3, "1280x720": 2.5e6}
NODE_ACTORS = 2


def machine_from(record: dict[str, Any], size: str) -> Machine:
    """Service times out of cameras.json: pictures by themselves and the engine by itself (a full machine), the run with
    the fewest cameras (an idle one). One number is taken from the curve's own end: what other programs still hold
    there. Raises KeyError where the record lacks them."""
    results = record["results"]
    rows = [row for row in results["sizes"][size]["kept"]["rows"] if "error" not in row]
    engine = results["engine"]["batches"]
    best = engine[max(engine, key=int)]
    few, last = rows[0], rows[-1]
    hot_ms = results["costs"][size]["product_picture_ms"]
    cores = float(results["costs"][size]["cores"])
    cold_ms = few["cores_busy"] * few["cpu_share"]["capture"] * 1e3 / (FPS * few["cameras"])
    window_ms = few["cores_busy"] * few["cpu_share"]["inference"] * 1e3 / max(few["windows_per_s"], 1e-9)
    return Machine(
        cores=cores,
        frame_ms=hot_ms,
        engine_ms={int(batch): entry["ms_per_window"] * int(batch) for batch, entry in engine.items()},
        engine_cores=best["cpu_ms_per_window"] / best["ms_per_window"],
        frame_cold=cold_ms / hot_ms,
        engine_cold=window_ms / engine["1"]["cpu_ms_per_window"],
        base_cores=few["cores_busy"] * sum(few["cpu_share"][name] for name in ("decide", "other")),
        held_cores=0.0 if last["kept_up"] else max(0.0, cores - last["cores_busy"]),
    )


def check(record: dict[str, Any], size: str, machine: Machine) -> list[dict[str, Any]]:
    """The measured curve and the simulated one, row by row."""
    rows = []
    for row in record["results"]["sizes"][size]["kept"]["rows"]:
        if "error" in row:
            continue
        told = simulate(machine, row["cameras"])
        off = max(_off(row["windows_per_s"], told.windows_per_s), _off(row["cores_busy"], told.cores_busy))
        rows.append(
            {
                "cameras": row["cameras"],
                "windows_per_s": [row["windows_per_s"], told.windows_per_s],
                "cores_busy": [row["cores_busy"], told.cores_busy],
                "p95_ms": [row["delay_ms"].get("p95"), told.p95_ms],
                "kept_up": [row["kept_up"], told.kept_up],
                "error": round(off, 3),
            }
        )
    return rows


def _off(measured: float, simulated: float) -> float:
    return abs(simulated - measured) / measured if measured else math.inf


def shard_costs(windows: int = 4000, cameras: int = 100) -> Shards:
    """One real shard fed in this process: batches of 1 and of 16 tell the cost of a window from that of a commit."""
    smooth, alarm = SmoothingConfig(), AlarmConfig(threshold=0.5)
    plans = [CameraPlan(f"cam{n}", f"cam{n}.mp4", False, 16, smooth, alarm, 0.5, False) for n in range(cameras)]
    took = {}
    for size in (1, 16):
        with tempfile.TemporaryDirectory() as name:
            config = Config(publish=PublishConfig(ledger=Path(name) / "ledger.sqlite3"))
            shard = Shard(0, config, plans, DecisionModel("f00d"), "ab" * 8)
            for plan in plans:
                shard.adopt(plan.name).result(10.0)
            begun_s = time.monotonic()
            for start in range(0, windows, size):
                items = []
                for count in range(start, start + size):
                    index, camera = count // cameras, plans[count % cameras].name
                    start_s = index * WINDOW_S
                    ref = WindowRef(
                        camera,
                        f"{camera}.mp4",
                        index,
                        index * 16,
                        index * 16 + 15,
                        start_s,
                        start_s + 0.6,
                        0.0,
                        time.time(),
                        0.0,
                    )
                    raw = 0.9 if index % 10 > 7 else 0.1
                    items.append(ShardItem(camera, 1, index, ScoredWindow(ref, raw, Timing(0, 0, 0, 0))))
                shard.submit(items).result(10.0)
            took[size] = (time.monotonic() - begun_s) / windows
            shard.finish("shutdown").result(10.0)
    commit_s = (took[1] - took[16]) / (1 - 1 / 16)
    return Shards(round((took[1] - commit_s) * 1e6, 1), round(commit_s * 1e6, 1))


def extrapolate(machine: Machine, shards: Shards, cameras: int, size: str) -> dict[str, Any]:
    """A cluster of such machines for so many cameras: how much of everything, and what breaks first."""
    machine = dataclasses.replace(machine, held_cores=0.0)
    a_node = capacity(machine)
    told = simulate(machine, a_node)
    windows_bits = WINDOW_BYTES * 8 / WINDOW_S
    by_load, by_protocol = shards.cameras(), shards.cameras_by_protocol
    needed = math.ceil(cameras / min(by_load, by_protocol))
    nodes = math.ceil(cameras / a_node) if a_node else 0
    limits = {
        "one heartbeat names the topics of so many cameras a shard": by_protocol * MAX_SHARDS,
        "shards behind one endpoint decide so many": by_load * MAX_SHARDS,
        "one forwarder thread passes on so many (20,000 messages/s assumed)": int(20_000 * WINDOW_S),
    }
    return {
        "cameras": cameras,
        "nodes": nodes,
        "cameras_a_node": a_node,
        "node_p95_ms": told.p95_ms,
        "windows_per_s": round(cameras / WINDOW_S),
        "shards": needed,
        "actors": nodes * NODE_ACTORS + needed,
        "video_gbit_s": round(cameras * VIDEO_BITS.get(size, 1e6) / 1e9, 2),
        "cameras_on_a_10_gbit_link_as_windows": int(10e9 / windows_bits),
        "windows_gbit_s_if_sent": round(cameras * windows_bits / 1e9, 2),
        "limits": limits,
        "breaks_first": min(limits, key=lambda name: limits[name]),
    }


def main(argv: list[str]) -> int:
    """Command line."""
    args = parse("scaling", argv)
    console = Console()
    load = load_before()
    shards = shard_costs()
    results: dict[str, Any] = {
        "shard": {"window_us": shards.window_us, "commit_us": shards.commit_us, "cameras": shards.cameras()}
    }
    console.print(
        f"one shard: {shards.window_us} µs a window, {shards.commit_us} µs a commit: {shards.cameras()} cameras"
    )
    passed = False
    if args.cameras.is_file():
        record = json.loads(args.cameras.read_text(encoding="utf-8"))
        machine = machine_from(record, args.size)
        rows = check(record, args.size, machine)
        passed = all(row["error"] <= WITHIN for row in rows)
        results |= {"size": args.size, "cameras_of": record["commit"], "curve": rows, "passed": passed}
        table = Table(title=f"{args.size}: measured and simulated")
        for column in ("cameras", "windows/s", "cores", "p95 ms", "off by"):
            table.add_column(column, justify="right")
        for row in rows:
            pairs = (" / ".join(map(str, row[key])) for key in ("windows_per_s", "cores_busy", "p95_ms"))
            table.add_row(str(row["cameras"]), *pairs, f"{row['error']:.0%}")
        console.print(table)
        if passed:
            results["extrapolated"] = [extrapolate(machine, shards, n, args.size) for n in (1_000, 100_000)]
            console.print(results["extrapolated"])
        else:
            console.print(f"the simulation is off by more than {WITHIN:.0%}: nothing is extrapolated")
    else:
        console.print(f"{args.cameras} does not exist: run 'python -m benchmarks cameras' first")
    if not args.no_save:
        write_results("scaling", results, {"load_before": load, "fps": FPS, "within": WITHIN})
    return 0 if passed else 1
