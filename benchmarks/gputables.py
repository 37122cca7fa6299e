"""The tables of the results of `gpu`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from benchmarks.tables import Record, cell, table

SHOWN_BATCHES = (1, 8, 32, 128)
NO_GPU = "**The GPU rows were not measured**: no GPU was at hand; these rows are the same code on a CPU, in small."


def gpu(record: Record) -> str:
    """Rates by model, precision and batch; the first layer; parity; the whole product."""
    found = record["results"]
    blocks = [] if record["settings"]["device"]["kind"] != "cpu" else [NO_GPU]
    blocks += [_device(record), _rates(found["rows"]), _first_layer(found["rows"]), _parity(found["parity"])]
    blocks += [_capacity(found["capacity"]), _profile(found["profile"])]
    if found["left_out"]:
        blocks.append(f"Left out: {'; '.join(found['left_out'])}.")
    return "\n\n".join(block for block in blocks if block)


def _device(record: Record) -> str:
    device, products = record["settings"]["device"], record["results"]["products"]
    told = ", ".join(f"{name} {value:.3g}" for name, value in products.items())
    return f"{device['name']}, torch {device['torch']}. TFLOP/s of a large matrix product in the same run: {told}."


def label(row: dict[str, Any]) -> str:
    """The model, the precision that was asked for, the one that was used, and what is random."""
    asked, used = row.get("asked", row["precision"]), row["precision"]
    weights = " (random weights)" if row.get("weights") == "random" else ""
    return f"{row['model']} {used if asked == used else f'{asked}→{used}'}{weights}"


def _grouped(rows: list[dict[str, Any]]) -> dict[tuple[str, str], dict[int, dict[str, Any]]]:
    """Rows by batch size, for each label and form of the first layer."""
    groups: dict[tuple[str, str], dict[int, dict[str, Any]]] = {}
    for row in rows:
        groups.setdefault((label(row), row["first_layer"]), {})[row["batch"]] = row
    return groups


def _rates(rows: list[dict[str, Any]]) -> str:
    if not rows:
        return ""
    measured = sorted({row["batch"] for row in rows})
    batches = [batch for batch in SHOWN_BATCHES if batch in measured] or measured
    head = ["windows/s", *(f"batch {batch}" for batch in batches), "p95 of batch 1, ms"]
    head += ["TFLOP/s, best", "of the product", "memory, MB", "load, s"]
    lines = []
    for (name, layer), by_batch in _grouped(rows).items():
        if layer == "3D":
            continue
        best = max(by_batch.values(), key=lambda row: row["tflops"])
        first = by_batch[min(by_batch)]
        rates = [by_batch[batch]["windows_per_s"] if batch in by_batch else None for batch in batches]
        figures = [best["tflops"], f"{best['share_of_product']:.0%}", best["memory_mb"], best["load_s"]]
        lines.append([name, *rates, first["p95_ms"], *figures])
    return table(head, lines)


def _first_layer(rows: list[dict[str, Any]]) -> str:
    groups = _grouped(rows)
    lines = []
    for (name, layer), by_batch in groups.items():
        other = groups.get((name, "2D"), {})
        shared = sorted(set(by_batch) & set(other))
        if layer == "3D" and shared:
            batch = shared[-1]
            before, after = by_batch[batch]["windows_per_s"], other[batch]["windows_per_s"]
            lines.append([f"{name}, batch {batch}", before, after, f"{after / before:.2f}×"])
    return table(["first layer; windows/s", "3D", "as a 2D convolution", "gain"], lines) if lines else ""


def _parity(rows: list[dict[str, Any]]) -> str:
    head = ["against fp32 on the CPU", "largest change of a score", "error of features", "with another batch"]
    keys = ("score_change_max", "feature_error_max", "batch_dependence")
    lines = [[label(row), *(f"{row[key]:.1e}" for key in keys)] for row in rows]
    return table(head, lines) if lines else ""


def _capacity(rows: list[dict[str, Any]]) -> str:
    head = ["whole product", "kept up", "windows/s", "dropped", "p50, ms", "p95, ms", "cores busy"]
    keys = ("kept_up", "windows_per_s", "dropped", "p50_ms", "p95_ms", "cores_busy")
    lines = []
    for row in rows:
        bundle = f", {row['bundle_name']}" if row.get("bundle_name") else ""
        lines.append([f"{row['cameras']} × {row['size'].replace('x', '×')}{bundle}", *(row.get(key) for key in keys)])
    return table(head, lines) if lines else ""


def _profile(rows: list[dict[str, Any]]) -> str:
    lines = []
    for row in rows:
        for kernel in row["kernels"][:3]:
            where = f"{row['model']}, first layer {row['first_layer']}"
            lines.append([where, f"`{kernel['name'][:48]}`", f"{kernel['share']:.0%}", cell(kernel["ms_a_batch"])])
    return table(["where the time goes", "kernel", "share", "ms a batch"], lines) if lines else ""


TABLES: dict[str, tuple[str, Callable[[Record], str]]] = {"gpu": ("gpu", gpu)}
