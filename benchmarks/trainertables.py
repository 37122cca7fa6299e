"""The tables of the trainer's results: heads on real features, losses, speed, extraction, the whole way."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from benchmarks.tables import Record, table

FIGURES = {
    "auc": "frame AUC",
    "ap": "AP",
    "auc_abnormal": "AUC, abnormal videos only",
    "auc_macro": "mean AUC of a video",
}
SHOWN_STEPS = (100, 300, 500, 1000, 2000, 3000, 5000, 7000, 10_000)


def mil(record: Record) -> str:
    """Every method with its range over the seeds, then the oracle lines."""
    found = record["results"]

    def told(figures: dict[str, Any]) -> str:
        return f"{figures['median']:.3f} [{figures['range'][0]:.3f}, {figures['range'][1]:.3f}]"

    rows: list[list[Any]] = [
        [
            name + (f" of {each['measured']}" if "measured" in each else ""),
            steps_of(each),
            *(told(each["content"][key]) for key in FIGURES),
        ]
        for name, each in found["methods"].items()
        if ", " not in name
    ]
    for name, figures in found["oracles"].items():
        values = [figures[key]["value"] for key in FIGURES]
        rows.append(
            [
                f"*{name if name.startswith('oracle') else f'oracle: {name}'}*",
                "",
                *("–" if value is None else f"{value:.3f}" for value in values),
            ]
        )
    head = [f"median [range] of {record['settings']['seeds']} seeds", "steps", *FIGURES.values()]
    return table(head, rows)


def steps_of(each: dict[str, Any]) -> str:
    """The step that a row's figures are of."""
    return f"{each.get('steps', each['hyper']['steps']):,}"


def milcurves(record: Record) -> str:
    """Median and range of the frame AUC on the way, where a method was looked at on it."""
    found = {n: each for n, each in record["results"]["methods"].items() if ", " not in n and each.get("curve")}
    steps = [s for s in SHOWN_STEPS if any(point["step"] == s for each in found.values() for point in each["curve"])]
    rows = []
    for name, each in found.items():
        at = {point["step"]: point for point in each["curve"]}
        cells = (
            f"{at[s]['median']:.3f} [{at[s]['range'][0]:.3f}, {at[s]['range'][1]:.3f}]" if s in at else ""
            for s in steps
        )
        rows.append([name, *cells])
    return table(["frame AUC after so many steps", *(f"{s:,}" for s in steps)], rows)


def milvariants(record: Record) -> str:
    """What one difference from the sources is worth, at the steps that all variants of a loss have."""
    methods = record["results"]["methods"]
    rows = []
    for name, each in methods.items():
        method, comma, change = name.removesuffix(" (torch)").partition(", ")
        base = methods.get(f"{method} (torch)")
        if not comma or base is None:
            continue
        plain = next((p for p in base["curve"] if p["step"] == each["steps"]), None)
        shown = [
            f"{x['median']:.3f} [{x['range'][0]:.3f}, {x['range'][1]:.3f}]"
            for x in (each["content"]["auc"], plain)
            if x
        ]
        rows.append([method, change, steps_of(each), *shown, *[""] * (2 - len(shown))])
    return table(["loss", "changed", "steps", "frame AUC", "unchanged"], rows)


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


def extraction(record: Record) -> str:
    """How fast, and whether kills leave a trace."""
    found = record["results"]
    keys = {"video_hours": "hours of video", "video_hours_per_hour": "hours of video an hour", "kills": "kills"}
    keys["byte_identical"] = "the same bytes as a run left alone"
    return table(list(keys.values()), [[found[key] for key in keys]])


TABLES: dict[str, tuple[str, Callable[[Record], str]]] = {
    "mil": ("trainer_mil", mil),
    "milcurves": ("trainer_mil", milcurves),
    "milvariants": ("trainer_mil", milvariants),
    "losses": ("trainer_losses", losses),
    "extraction": ("trainer_extraction", extraction),
}
