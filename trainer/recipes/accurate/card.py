"""The model card of the accurate bundle, from its manifest; `benchmarks readme` fills in the tables at the marks."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

GOALS = (("cctv_fights", 0.80), ("cctv_crashes", 0.82), ("hockey_fights", 0.97), ("pooled", 0.93))
LEFT_OUT_GOAL = 0.75


def card(manifest: Mapping[str, Any]) -> str:
    """Markdown. manifest: as in bundle.json."""
    training, threshold, results = manifest["training"], manifest["threshold"], manifest["results"]
    decision, head = training["decision"], training["head"]
    name = manifest["name"]
    lines = [
        f"# Model card: {name}",
        "",
        "Written by `python -m trainer recipe accurate` from `bundle.json`; do not edit.",
        "",
        "## What it is",
        "",
        *_network(manifest),
        f"    python run_stream.py SOURCE --bundle {name}",
        "",
        "On a machine with a CUDA device `--bundle auto` takes it, and says so.",
        "",
        "## How it was made",
        "",
        "The network saw no label of these clips. The head is a logistic regression on the mean of a clip's windows "
        f"(L2 {head['l2']}, weights by {head['weights']}, {head['clips']} clips): the very one that judged the fifth "
        "of the groups that is kept out for good. Its L2, weights and calibration were chosen inside the other folds.",
        "",
        *_decision(decision),
        "",
        "## What it is worth",
        "",
        "AUC of clips; a clip's score is the highest of its windows; 0.5 is chance. Outer folds are five heads made "
        "alike, each of which saw no clip of its fold; the figures of the fold kept for good are this bundle's own.",
        "",
        "<!-- benchmark:standard -->",
        "<!-- /benchmark -->",
        "",
        "## Goals that were set beforehand",
        "",
        "| figure | goal | measured | |",
        "|:--|--:|--:|:--|",
        *_goals(results),
        "",
        "## Pictures of an unknown kind",
        "",
        *_novelty(results),
        "",
        "## Threshold",
        "",
        f"{threshold['value']} on the smoothed score (time constant {manifest['smoothing']['time_constant_s']} s): "
        f"{threshold['calibrated']}. Calibrate it on quiet hours of your own.",
        "",
        "## Data",
        "",
        "| set | clips judged | licence, as stated by its source |",
        "|:--|--:|:--|",
        *(f"| {key} | {training['sets'].get(key, '')} | {licence} |" for key, licence in manifest["licences"].items()),
        "",
        "It is not better than the embedded model at everything: compare the tables of [measured.md](../measured.md), "
        "and try both on footage of your own. What the embedded model cannot see, this one cannot see either: see "
        "[its card](embedded.md).",
        "",
        "## Make it again",
        "",
        "    python -m trainer recipe accurate --data DATA",
        "",
        "`DATA` holds `clips/` and `more_clips/` (each with an `index.csv`) and `long_normal/`. Every number is in "
        "`trainer/recipes/accurate/recipe.toml`.",
    ]
    return "\n".join(lines) + "\n"


def _network(manifest: Mapping[str, Any]) -> list[str]:
    training, (rows, columns) = manifest["training"], manifest["preprocess"]["size"]
    names = manifest["backbone"]["reference"].split("+")
    what = "The Kinetics-400 I3D (RGB; Carreira and Zisserman 2017) as published"
    if len(names) > 1:
        what += (
            " and a MC3-18 (Tran et al. 2018) that was tuned on surveillance fights, side by side"
            f" (the head has weights on: {training['head']['part']})"
        )
    return [
        f"{what}, on 16 frames of {rows}×{columns} pixels, with a linear head on "
        f"{manifest['backbone']['feature_dim']} features that gives the probability that something violent or sudden "
        "happens. The weights are not in the bundle; it names them by checksum:",
        "",
        *(f"    stream-detector models fetch {name}" for name in names),
    ]


def _decision(row: Mapping[str, Any]) -> list[str]:
    if "difference" not in row:
        return [f"No other network stood for choice ({row['why']})."]
    return [
        "Two candidates stood for choice, by a rule written down before anybody looked: the I3D alone, and a head that "
        "chooses the I3D, the MC3-18 tuned on fights, or both, inside its training folds. The second one must lead in "
        f"mean AUC over {', '.join(row['sets'])} in the folds that take turns (`cctv_fights` left out, for the MC3-18 "
        "saw labels of that collection), and a 95 % bootstrap interval of its lead must lie above 0. "
        f"I3D {row['first']:.3f}, second {row['second']:.3f}: lead {row['difference']:+.3f} "
        f"[{row['low']:+.3f}, {row['high']:+.3f}]. So: {row['why']}. The fold kept for good had no say.",
    ]


def _goals(results: Mapping[str, Any]) -> list[str]:
    rows = []
    for name, goal in GOALS:
        rows.append(_goal(f"{name}, outer folds", goal, results["outer"].get(name)))
    for name, row in results["left_out"]["sources"].items():
        rows.append(_goal(f"{name} left out, among themselves", LEFT_OUT_GOAL, row["own"]))
    return rows


def _goal(name: str, goal: float, row: Mapping[str, Any] | None) -> str:
    if row is None or row["value"] is None:
        return f"| {name} | {goal:.2f} | – | not measured |"
    return f"| {name} | {goal:.2f} | {row['value']:.3f} | {'reached' if row['value'] >= goal else '**missed**'} |"


def _novelty(results: Mapping[str, Any]) -> list[str]:
    rows = [
        f"| {name} | {row['novelty']['marked']} of {row['novelty']['of']} | {_auc(row['own'])} "
        f"| {_auc(row['novelty']['not_marked'])} | {_auc(row['novelty']['near'])} |"
        for name, row in results["left_out"]["sources"].items()
        if "novelty" in row
    ]
    return [
        "Does AUC rise on a source that nothing learned from, when the clips that are marked as novel are set aside? "
        "And when the quarter of its clips is that lies farthest?",
        "",
        "| source left out | clips marked | AUC of all | without those marked | without the farthest quarter |",
        "|:--|--:|--:|--:|--:|",
        *rows,
    ]


def _auc(row: Mapping[str, Any]) -> str:
    return "–" if row["value"] is None else f"{row['value']:.3f}"
