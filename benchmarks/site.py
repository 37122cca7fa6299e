"""site: how do false alarms and recall of simulated cameras change by learning from verdicts, and what does the gate
refuse?

    python -m benchmarks site --data DIR [--cache /tmp/site] [--seeds 0 1 … 19] [--rounds 3]

Each seed is a site: ordinary clips of one kind of place play between stretches of an empty scene, incidents are cut in,
and an oracle judges every alarm with 5 % mistakes. Days for fitting, days of the gate and test hours never share a
group of clips. After every round the candidate goes through the gate; an accepted candidate is in service in the next
round. False alarms per hour and recall are measured on the test hours, against the truth.

The gate also gets candidates that it must refuse: a head with shuffled weights, a threshold of 0, an overlay fitted to
verdicts of which 40 % are flipped, and one that is better on calm and worse on recall. Seeds whose test hours have
fewer than 2 or more than 20 false alarms per hour before are reported and not counted.
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from benchmarks.options import parse
from benchmarks.results import load_before, write_results
from benchmarks.sitelib.footage import extract, load, read_clips
from benchmarks.sitelib.simulate import BASELINE, Site, judge, make_day, make_site, worth
from stream_detector.adaptation.adapt import adapt, split_days
from stream_detector.adaptation.anchors import Anchors, anchors_of
from stream_detector.adaptation.gate import run_gate
from stream_detector.adaptation.overlay import Correction, Overlay
from stream_detector.adaptation.site_data import FALSE, TRUE, Stretch
from stream_detector.errors import DataError
from stream_detector.models.bundle import Bundle

DAYS_A_ROUND = 8  # half of them the gate's
TEST_DAYS = 8
TOLD = "a candidate was accepted"


def live(site: Site, round_: int, service: Overlay, before: Sequence[Stretch]) -> list[Stretch]:
    """The days up to this round: those of before, and new ones, judged while `service` decides."""
    days = list(before)
    first = len(days)
    for number in range(first, first + DAYS_A_ROUND):
        part = ("fit", "gate")[number % 2]
        place = ((number // 2) % (DAYS_A_ROUND // 2), DAYS_A_ROUND // 2)
        days.append(judge(site, make_day(site, part, f"day-{number:03d}", place), service))
    return days


def flipped(stretches: Sequence[Stretch], share: float, seed: int) -> list[Stretch]:
    """The stretches with so many of their verdicts turned round."""
    dice = np.random.default_rng(seed)

    def turned(verdict: str) -> str:
        if verdict == "missed" or dice.random() >= share:
            return verdict
        return "false" if verdict in TRUE else "true" if verdict in FALSE else verdict

    return [replace(s, incidents=tuple(replace(i, verdict=turned(i.verdict)) for i in s.incidents)) for s in stretches]


def bad_candidates(
    fit: Sequence[Stretch], service: Overlay, anchors: Anchors, winner: Overlay | None, seed: int
) -> dict[str, Overlay | None]:
    """What the gate must refuse. None where the fit itself found that nothing can be kept."""
    dice = np.random.default_rng(seed)
    dim = anchors.features.shape[1]
    if winner is not None and winner.correction is not None:
        part = winner.correction
        columns = dice.permutation(dim)
        shuffled = Correction(part.inward[:, columns], part.level, -part.outward, part.bias)
    else:
        inward = (dice.normal(size=(8, dim)) / anchors.features.std(axis=0).clip(1e-3)).astype(np.float32) / dim**0.5
        shuffled = Correction(inward, np.zeros(8, np.float32), dice.normal(size=8).astype(np.float32) * 2, 0.0)
    found: dict[str, Overlay | None] = {
        "shuffled weights": replace(service, correction=shuffled),
        "threshold 0": replace(service, threshold=0.0),
        "better on calm, worse on recall": replace(service, threshold=min(0.99, service.threshold * 2.2)),
    }
    try:
        found["40 % of verdicts flipped"] = adapt(flipped(fit, 0.4, seed), service, anchors).overlay
    except DataError:
        found["40 % of verdicts flipped"] = None
    return found


def run_seed(pieces: Any, seed: int, rounds: int, service: Overlay, anchors: Anchors) -> dict[str, Any]:
    """One simulated site."""
    begun_s = time.monotonic()
    site = make_site(pieces, seed, service)
    test = [make_day(site, "test", f"test-{k}") for k in range(TEST_DAYS)]
    before = worth(site, test, service)
    row: dict[str, Any] = {
        "seed": seed,
        "kind": site.kind,
        "hours": round(before.hours, 2),
        "before": _figures(before),
        "counted": BASELINE[0] <= before.false_per_hour <= BASELINE[1],
        "rounds": [],
    }
    days: list[Stretch] = []
    now = service
    for round_ in range(rounds):
        days = live(site, round_, now, days)
        fit, gate = split_days(days)
        told: dict[str, Any] = {"round": round_ + 1}
        candidate = None
        fitted_s = time.monotonic()
        try:
            adapted = adapt(fit, now, anchors)
            candidate = adapted.overlay
            verdict = run_gate(gate, now, candidate, anchors)
            alone = worth(site, test, candidate)
            better = alone.false < before.false and alone.found >= before.found
            told |= {"candidate": _figures(alone), "truly_better": better}
            told |= {"accepted": verdict.accepted, "rule": verdict.rule, "why": verdict.sentence}
            now = candidate if verdict.accepted else now
        except DataError as error:
            told |= {"accepted": False, "rule": "fit", "why": str(error)}
        told["seconds"] = round(time.monotonic() - fitted_s, 1)
        after = worth(site, test, now)
        told |= {"after": _figures(after), "anchors_auc": round(anchors.auc(now), 4)}
        row["rounds"].append(told)
        if round_ == 0:
            bad = bad_candidates(fit, service, anchors, candidate, seed)
            row["refused"] = {
                name: True if model is None else not run_gate(gate, service, model, anchors).accepted
                for name, model in bad.items()
            }
    row["seconds"] = round(time.monotonic() - begun_s, 1)
    return row


def _figures(found: Any) -> dict[str, Any]:
    rates = {"false_per_hour": round(found.false_per_hour, 3), "recall": round(found.recall, 4)}
    return {"false": found.false, "found": found.found, "of": found.of, **rates}


def summary(rows: Sequence[dict[str, Any]], base_auc: float) -> dict[str, Any]:
    """Medians over the counted seeds, and how often the gate was right."""
    counted = [row for row in rows if row["counted"]]
    found: dict[str, Any] = {"seeds": len(rows), "counted": len(counted), "anchors_auc_before": round(base_auc, 4)}
    for number in range(max((len(row["rounds"]) for row in rows), default=0)):
        mine = [(row["before"], row["rounds"][number]) for row in counted if len(row["rounds"]) > number]
        if mine:
            ratios = [r["after"]["false_per_hour"] / b["false_per_hour"] for b, r in mine]
            recalls = [r["after"]["recall"] - b["recall"] for b, r in mine]
            worst = min(r["anchors_auc"] for _, r in mine)
            found[f"after_{number + 1}"] = {
                "false_ratio_median": round(float(np.median(ratios)), 3),
                "recall_change_median": round(float(np.median(recalls)), 4),
                "halved": sum(ratio <= 0.5 for ratio in ratios),
                "accepted": sum(bool(r["accepted"]) for _, r in mine),
                "anchors_auc_worst": worst,
                "longest_s": max(r["seconds"] for _, r in mine),
            }
    better = [row["rounds"][0] for row in rows if row["rounds"] and row["rounds"][0].get("truly_better")]
    found["true_winners"] = {"of": len(better), "accepted": sum(bool(r["accepted"]) for r in better)}
    names = sorted({name for row in rows for name in row.get("refused", {})})
    found["refused"] = {name: sum(row["refused"][name] for row in rows if "refused" in row) for name in names}
    return found


def main(argv: list[str]) -> int:
    """Command line."""
    args = parse("site", argv)
    load_1, console = load_before(), Console(stderr=True)
    clips = read_clips(args.data)
    for done, of in extract(clips, args.bundle, args.cache):
        console.print(f"features of {done} of {of} clips", end="\r")
    if args.extract_only:
        return 0
    pieces = load(clips, args.bundle, args.cache)
    bundle = Bundle.load(args.bundle)
    anchors = anchors_of(bundle)
    service = Overlay(bundle.fingerprint, "", bundle.threshold, bundle.smoothing.time_constant_s)
    rows = []
    for seed in args.seeds:
        rows.append(run_seed(pieces, seed, args.rounds, service, anchors))
        console.print(f"seed {seed}: {json.dumps(rows[-1]['rounds'][-1])[:200]} ({rows[-1]['seconds']} s)")
    found = {"bundle": bundle.fingerprint, "summary": summary(rows, anchors.auc(service)), "rows": rows}
    settings = {"load_before": load_1, "rounds": args.rounds, "seeds": args.seeds, "days_a_round": DAYS_A_ROUND}
    if not args.no_save:
        write_results("site", found, settings)
    if args.json:
        print(json.dumps(found, indent=2))
    else:
        show(found)
    return 0


def show(found: dict[str, Any]) -> None:
    """One table of the seeds, and the summary."""
    table = Table(title="simulated sites")
    for column in ("seed", "kind", "false/h before", "recall", "round 1", "last round", "gate"):
        table.add_column(column)
    for row in found["rows"]:
        first, last = row["rounds"][0], row["rounds"][-1]
        cells = [f"{r['after']['false_per_hour']:.1f}/h, {r['after']['recall']:.2f}" for r in (first, last)]
        counted = "" if row["counted"] else " (not counted)"
        base = row["before"]
        table.add_row(
            str(row["seed"]), row["kind"], f"{base['false_per_hour']:.1f}{counted}", f"{base['recall']:.2f}", *cells,
            "accepted" if first["accepted"] else f"{first['rule']}: {first['why'][:60]}",
        )  # fmt: skip
    Console().print(table)
    Console().print_json(json.dumps(found["summary"]))
