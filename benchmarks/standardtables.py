"""Tables of the standard protocol, side by side: bundles on clips that were used for no choice, and nested networks.

The records of `python -m trainer evaluate --standard` are in `benchmarks/results/standard_*.json`.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from benchmarks import results
from benchmarks.tables import Record, table
from stream_detector.alarms.calibration import poisson_lower, poisson_upper

FEW = 5  # clips of a label; no figure for fewer


NOTE = """In brackets 95 % intervals; \\* drawn over clips (fewer than ten groups of a label, or pairs across sources):
no coverage is claimed. Streams last 10 minutes and hold five incidents and five normal clips, every set as likely as
another; their quiet footage is of one camera, whose hours were looked at before."""


def records(bundles: bool) -> dict[str, Record]:
    """Records of bundles judged as they are, or of networks with a nested head; by name without "standard_"."""
    found = {}
    for path in sorted(results.RESULTS.glob("standard_*.json")):
        record: Record = json.loads(path.read_text(encoding="utf-8"))
        if ("unseen" in record["results"]) == bundles:
            found[path.stem.removeprefix("standard_")] = record
    return found


def _auc(row: dict[str, Any] | None) -> str:
    if row is None or row["value"] is None:
        return "–"
    if row.get("abnormal", FEW) < FEW or row.get("normal", FEW) < FEW:
        return f"too few clips ({row['abnormal']} and {row['normal']})"
    low = "" if row.get("low") is None else f" [{row['low']:.3f}, {row['high']:.3f}]"
    few = "*" if row.get("over", "clips") == "clips" else ""
    return f"{row['value']:.3f}{low}{few}"


def _share(row: dict[str, Any] | None) -> str:
    if row is None or row["value"] is None:
        return "–"
    return f"{row['value']:.2f} [{row['low']:.2f}, {row['high']:.2f}] of {row['of']}"


def _rate(row: dict[str, Any]) -> str:
    return f"{row['count']} in {row['hours']:.1f} h: {row['rate']:.2f} [{row['low']:.2f}, {row['high']:.2f}] an hour"


def heldout(record: Record) -> str:
    """The shipped bundles on clips that nobody chose on, and on sets that they never saw."""
    found = record["results"]["bundles"]
    unseen = records(bundles=True)
    names = list(found)
    rows: list[list[Any]] = [["fingerprint", *(f"`{found[n]['fingerprint']}`" for n in names)]]
    keys = list(dict.fromkeys(key for n in names for key in found[n]["auc"]))
    for key in keys:
        values = (found[n]["auc"].get(key) for n in names)
        rows.append([f"AUC, {key}", *("–" if v is None else f"{v:.3f}" for v in values)])
    for label, part in (("outer", "unseen"), ("kind", "kinds")):
        cells = {n: unseen[n]["results"][part] for n in names if n in unseen}
        for key in sorted({k for rows_of in cells.values() for k in rows_of} - {"pooled"}):
            about = f"AUC, {key}" if label == "outer" else f"AUC, {key}, wild_clips"
            rows.append([about, *(_auc(cells.get(n, {}).get(key)) for n in names)])
    errors = [unseen[n]["results"]["calibration_error"]["all"] if n in unseen else None for n in names]
    rows.append(["calibration error, wild_clips", *("–" if e is None else f"{e:.3f}" for e in errors)])
    rows.append(["composite streams", *(_composite(found[n].get("composite")) for n in names)])
    rows.append(["quiet hours", *(_quiet(found[n].get("quiet")) for n in names)])
    lines = table(["clips that nothing was chosen on", *names], rows)
    stamps = [_stamp(n, r) for n, r in unseen.items()]
    return "\n\n".join([lines, *([f"wild_clips: {'; '.join(stamps)}."] if stamps else [])])


def _composite(row: dict[str, Any] | None) -> str:
    if row is None:
        return "not measured"
    low, high = (f(row["false_alarms"], 0.975) / row["hours"] for f in (poisson_lower, poisson_upper))
    return (
        f"{row['found']} of {row['incidents']} incidents (fights {row['recall_of_fights']:.2f}), "
        f"{row['false_alarms'] / row['hours']:.1f} [{low:.1f}, {high:.1f}] false alarms an hour"
    )


def _quiet(row: dict[str, Any] | None) -> str:
    if row is None:
        return "not measured"
    bound = poisson_upper(row["alarms"], 0.95) / row["hours"]
    return f"{row['alarms']} alarms in {row['hours']:g} h (below {bound:.2f} an hour)"


def standard(_: Record) -> str:
    """All nested networks side by side, with their groups."""
    found = records(bundles=False)
    names = list(found)
    of: Callable[[str], Any] = lambda n: found[n]["results"]  # noqa: E731
    rows: list[list[Any]] = []

    def add(title: str, value: Callable[[Any], str]) -> None:
        rows.append([title, *(value(of(n)) for n in names)])

    sources = list(dict.fromkeys(key for n in names for key in of(n)["outer"]))
    for key in sources:
        add(f"AUC, {key}", lambda r, k=key: _auc(r["outer"].get(k)))  # type: ignore[misc]
    for key in sources:
        add(f"AUC, {key}, fold kept for good", lambda r, k=key: _auc(r["kept"].get(k)))  # type: ignore[misc]
    for key in sorted({k for n in names for k in of(n)["kinds"]}):
        add(f"AUC, {key} against all normal clips", lambda r, k=key: _auc(r["kinds"].get(k)))  # type: ignore[misc]
    for key in list(dict.fromkeys(k for n in names for k in of(n)["left_out"]["sources"])):
        for part, words in (("own", "among themselves"), ("against_others", "against others")):
            add(
                f"AUC, {key} left out, {words}",
                lambda r, k=key, p=part: _auc(r["left_out"]["sources"].get(k, {}).get(p)),  # type: ignore[misc]
            )
        add(f"AUC, {key} left out, without clips marked as novel", lambda r, k=key: _novelty(r, k))  # type: ignore[misc]
    for part, words in (("own", "among themselves"), ("against_others", "against others")):
        add(f"spread over sources left out, {words}", lambda r, p=part: _spread(r["left_out"]["spread"][p]))  # type: ignore[misc]
    add("calibration error", lambda r: f"{r['calibration_error']['all']:.3f}")
    budgets = list(dict.fromkeys(b for n in names for b in of(n).get("streams", {}).get("budgets", {})))
    for budget in budgets:
        for title, value in _stream_rows():
            add(
                f"streams, asked {budget} an hour: {title}",
                lambda r, b=budget, v=value: v(r["streams"]["budgets"][b]) if "streams" in r else "–",  # type: ignore[misc]
            )
    groups = max((of(n)["groups"] for n in names), key=len)
    counted = [
        [name, *(f"{row[word]} ({row[f'{word}_clips']} clips)" for word in ("abnormal", "normal"))]
        for name, row in groups.items()
    ]
    stamps = "; ".join(_stamp(n, r) for n, r in found.items())
    return "\n\n".join(
        [
            table(["outer folds", *names], rows),
            NOTE,
            table(["set", "groups with abnormal clips", "groups with normal clips"], counted),
            f"{stamps}.",
        ]
    )


def _novelty(found: dict[str, Any], key: str) -> str:
    row = found["left_out"]["sources"].get(key, {}).get("novelty")
    return "–" if row is None else f"{_auc(row['not_marked'])}, {row['marked']} of {row['of']} marked"


def _stream_rows() -> list[tuple[str, Callable[[Any], str]]]:
    def kinds(row: Any) -> str:
        return ", ".join(f"{name} {part['value']:.2f}" for name, part in row["by_kind"].items()) or "–"

    def delay(row: Any) -> str:
        median, p90 = row["delay_s"]["median"], row["delay_s"]["p90"]
        return "–" if median is None else f"{median:.1f} / {p90:.1f}"

    return [
        ("recall", lambda row: _share(row["recall"])),
        ("recall by kind", kinds),
        ("false alarms", lambda row: _rate(row["false_alarms"])),
        ("delay, median / p90, s", delay),
        ("quiet hours", lambda row: _rate(row["quiet"])),
    ]


def _spread(row: dict[str, float | None]) -> str:
    if row["lowest"] is None:
        return "–"
    return f"{row['lowest']:.3f} to {row['highest']:.3f}, deviation {row['deviation']:.3f}"


def _stamp(name: str, record: Record) -> str:
    told = record["settings"]
    what = f"bundle `{told['fingerprint']}`" if "fingerprint" in told else f"`{told['look']}`"
    limits = ", ".join(f"{key} {value}" for key, value in told.get("limits", {}).items())
    few = f", at most so many clips a label: {limits}" if limits else ""
    unfit = told.get("not judged, for labels of it were seen")
    few += f", not judged on {', '.join(unfit)}, of which labels were seen" if unfit else ""
    return f"{name}: {record['date'][:10]}, commit {record['commit']}, {what}, kept fold `{told['kept']}`{few}"


TABLES: dict[str, tuple[str, Callable[[Record], str]]] = {
    "heldout": ("heldout", heldout),
    "standard": ("standard_i3d-160", standard),
}
