"""rendered: does the alarm of a rendered incident cover it, on seeds that were used neither for training nor for
choices?

    python -m benchmarks rendered [--seeds 20] [--first 6000] [--bundle embedded] [--keep FILE.jsonl]

Scenes of 40 s, as many with an incident as without, run through the whole detector with default settings. The alarm
covers the incident if it is the only one, starts between its start and 2 s later, and ends within 2 s of its end.
"""

from __future__ import annotations

import json
import statistics
from typing import Any

import stream_detector as sd
from benchmarks.options import parse
from benchmarks.results import write_results
from stream_detector.demo import DemoScene

LENGTH_S = 40.0
NEAR_S = 2.0  # of the incident's start and end


def alarms_of(seed: int, incident: bool, bundle: str) -> list[list[float]]:
    """[start, end], media time in seconds, of each alarm of one scene."""
    source = f"demo:seed={seed},duration={LENGTH_S:g},incident={int(incident)}"
    ends: dict[str, list[float]] = {}
    for event in sd.watch(source, bundle=bundle, pace="max"):
        ends[event.id] = [event.start_s, LENGTH_S if event.end_s is None else event.end_s]
    return list(ends.values())


def judged(alarms: list[list[float]], start_s: float, end_s: float) -> dict[str, Any]:
    """What the alarms of a scene are worth against its incident."""
    covered = sum(max(0.0, min(b, end_s) - max(a, start_s)) for a, b in alarms)
    one = len(alarms) == 1
    begins = one and start_s <= alarms[0][0] <= start_s + NEAR_S
    ends = one and abs(alarms[0][1] - end_s) <= NEAR_S
    return {"one": one, "begins": begins, "ends": ends, "covered": covered / (end_s - start_s)}


def summary(scenes: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Two rows of the table: scenes with and without an incident."""
    rows = [judged(s["alarms"], *s["incident"]) for s in scenes if s["incident"]]
    quiet = [s for s in scenes if not s["incident"]]
    return [
        {
            "scenes": f"{len(rows)} with an incident",
            "no alarm": sum(not s["alarms"] for s in scenes if s["incident"]),
            "exactly one": sum(row["one"] for row in rows),
            "it starts within 2 s": sum(row["begins"] for row in rows),
            "it ends within 2 s of the end": sum(row["ends"] for row in rows),
            "it covers the incident": sum(row["begins"] and row["ends"] for row in rows),
            "share covered, median": round(statistics.median(row["covered"] for row in rows), 2) if rows else None,
        },
        {
            "scenes": f"{len(quiet)} without",
            "no alarm": sum(not s["alarms"] for s in quiet),
            "exactly one": sum(len(s["alarms"]) == 1 for s in quiet),
            "it starts within 2 s": None,
            "it ends within 2 s of the end": None,
            "it covers the incident": None,
            "share covered, median": None,
        },
    ]


def main(argv: list[str]) -> int:
    """Play all scenes that --keep does not hold yet, print, write results/rendered.json."""
    args = parse("rendered", argv)
    done = {}
    if args.keep is not None and args.keep.exists():
        kept = [json.loads(line) for line in args.keep.read_text(encoding="utf-8").splitlines()]
        done = {(row["seed"], bool(row["incident"])): row for row in kept}
    scenes = []
    for number in range(2 * args.seeds):
        seed, with_incident = args.first + number // 2, number % 2 == 0
        if (seed, with_incident) not in done:
            scene = DemoScene(seed, LENGTH_S, incident=with_incident)
            times = [scene.incident_start_s, scene.incident_end_s] if with_incident else None
            row = {"seed": seed, "incident": times, "alarms": alarms_of(seed, with_incident, args.bundle)}
            done[seed, with_incident] = row
            if args.keep is not None:
                with args.keep.open("a", encoding="utf-8") as out:
                    out.write(json.dumps(row) + "\n")
            print(json.dumps(row), flush=True)
        scenes.append(done[seed, with_incident])
    rows = summary(scenes)
    for row in rows:
        print(row)
    settings = {"first": args.first, "seeds": args.seeds, "bundle": sd.load_bundle(args.bundle).fingerprint}
    write_results("rendered", rows, settings)
    return 0
