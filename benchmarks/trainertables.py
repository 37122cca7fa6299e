"""Tables of what the trainer was measured at: heads on real features, losses, speed, extraction, the whole way."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from benchmarks.tables import Record, cell, table

FIGURES = {
    "auc": "frame AUC",
    "ap": "AP",
    "auc_abnormal": "AUC, abnormal videos only",
    "auc_macro": "mean AUC of a video",
}


def mil(record: Record) -> str:
    """Every method with its range over the seeds, then the oracle lines."""
    found = record["results"]

    def told(figures: dict[str, Any]) -> str:
        return f"{figures['median']:.3f} [{figures['range'][0]:.3f}, {figures['range'][1]:.3f}]"

    rows: list[list[Any]] = [
        [name, *(told(each["content"][key]) for key in FIGURES)] for name, each in found["methods"].items()
    ]
    for name, figures in found["oracles"].items():
        values = [figures[key]["value"] for key in FIGURES]
        rows.append([f"*oracle: {name}*", *("–" if value is None else f"{value:.3f}" for value in values)])
    head = [f"median [range] of {record['settings']['seeds']} seeds", *FIGURES.values()]
    return table(head, rows)


def losses(record: Record) -> str:
    """Largest differences of a backend over all losses, bags and types."""
    rows = []
    for backend, found in record["results"].items():
        for kind in dict.fromkeys(row["dtype"] for row in found):
            mine = [row for row in found if row["dtype"] == kind]
            gradients = [row["gradient_difference"] for row in mine if row["gradient_difference"] is not None]
            worst = max(row["value_difference"] for row in mine)
            rows.append([f"{backend}, {kind}", len(mine), f"{worst:.1e}", f"{max(gradients):.1e}"])
    return table(["against the specification", "cases", "largest difference, value", "gradient"], rows)


def training(record: Record) -> str:
    """A step of each."""
    rows = [
        [name, row["ms_per_step"], f"{row['times_faster_than_the_seed']:g}×"] for name, row in record["results"].items()
    ]
    return table(["a step of 30 + 30 bags of 32 × 512", "ms", "against the ancestor's way"], rows)


def extraction(record: Record) -> str:
    """How fast, and whether kills leave a trace."""
    found = record["results"]
    keys = {"video_hours": "hours of video", "video_hours_per_hour": "hours of video an hour", "kills": "kills"}
    keys["byte_identical"] = "the same bytes as a run left alone"
    return table(list(keys.values()), [[found[key] for key in keys]])


def endtoend(record: Record) -> str:
    """From clips to a deployed bundle."""
    found = record["results"]
    rows = []
    for name, head in found["heads"].items():
        auc = head["validation"]["auc"]
        interval = f"{auc['value']:.3f} [{auc['low']:.3f}, {auc['high']:.3f}]"
        rows.append([name, head["windows"], f"{head['max_difference']:.0e}", interval])
    note = f"{found['wall_s_total']:.0f} s for everything: " + ", ".join(
        f"{stage} {cell(seconds)}" for stage, seconds in found["wall_s"].items()
    )
    head = ["head", "windows of val", "largest difference of a score, evaluate and stream", "AUC on val"]
    return f"{table(head, rows)}\n\n{note}."


TABLES: dict[str, tuple[str, Callable[[Record], str]]] = {
    "mil": ("trainer_mil", mil),
    "losses": ("trainer_losses", losses),
    "training": ("trainer_training", training),
    "extraction": ("trainer_extraction", extraction),
    "endtoend": ("endtoend", endtoend),
}
