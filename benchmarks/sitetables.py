"""Table of simulated sites that adapt: false alarms and recall before and after, and what the gate did."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from benchmarks.tables import Record, table


def _cell(figures: dict[str, Any]) -> str:
    return f"{figures['false_per_hour']:.1f}/h, {figures['found']}"


def _gate(rounds: list[dict[str, Any]]) -> str:
    """The first round that was accepted, or the rules that refused."""
    accepted = [str(told["round"]) for told in rounds if told["accepted"]]
    if accepted:
        return f"accepted (round {', '.join(accepted)})"
    return "refused: " + ", ".join(dict.fromkeys(told["rule"] for told in rounds))


def site(record: Record) -> str:
    """One row a site, counted ones first, then medians and the gate's errors."""
    found = record["results"]
    rows = []
    for row in sorted(found["rows"], key=lambda row: (not row["counted"], row["seed"])):
        first, last = row["rounds"][0], row["rounds"][-1]
        told = "" if row["counted"] else " (not counted)"
        rows.append(
            [
                f"{row['seed']} {row['kind']}{told}",
                f"{_cell(row['before'])} of {row['before']['of']}",
                _cell(first["after"]),
                _cell(last["after"]),
                _gate(row["rounds"]),
            ]
        )
    head = ["site", "before: false alarms, found", "after 1 round", f"after {len(found['rows'][0]['rounds'])} rounds"]
    summary = found["summary"]
    parts = []
    for key in sorted(key for key in summary if key.startswith("after_")):
        told = summary[key]
        parts.append(
            f"round {key.removeprefix('after_')}: median ratio of false alarms {told['false_ratio_median']:g}, median "
            f"change of recall {told['recall_change_median']:+g}, halved at {told['halved']} of {summary['counted']}"
        )
    longest_s = max(summary[key]["longest_s"] for key in summary if key.startswith("after_"))
    auc = min(summary[key]["anchors_auc_worst"] for key in summary if key.startswith("after_"))
    winners = summary["true_winners"]
    refused = ", ".join(f"{name} {count}" for name, count in sorted(summary["refused"].items()))
    note = (
        f"{'; '.join(parts)}. The anchors' AUC was {summary['anchors_auc_before']:g} before and {auc:g} or more after. "
        f"Of {winners['of']} candidates of the first round that were better on the test hours, the gate accepted "
        f"{winners['accepted']}. Refused of {summary['seeds']} each: {refused}. Longest fit and gate: {longest_s:g} s."
    )
    return f"{table([*head, 'the gate'], rows)}\n\n{note}"


TABLES: dict[str, tuple[str, Callable[[Record], str]]] = {"site": ("site", site)}
