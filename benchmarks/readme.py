"""readme: the tables of README.md and docs/, generated from benchmarks/results/*.json.

    python -m benchmarks readme            # write them
    python -m benchmarks readme --check    # exit 1 and name the tables that differ

A table stands between `<!-- benchmark:NAME -->` and `<!-- /benchmark -->`; NAME is a key of TABLES, or the name of a
results file whose results are a flat object or a list of flat objects. Under each table: when, where, which commit.
"""

from __future__ import annotations

import argparse
import difflib
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.results import read_results

ROOT = Path(__file__).parents[1]
MARKED = re.compile(r"(<!-- benchmark:([a-z0-9_-]+) -->\n).*?(<!-- /benchmark -->)", re.DOTALL)
Record = dict[str, Any]


def cell(value: Any) -> str:
    """A value for people."""
    if value is None:
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int) or (isinstance(value, float) and value.is_integer() and abs(value) >= 1000):
        return f"{value:,.0f}"
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"
    return str(value).replace("|", "\\|")


def table(head: list[str], rows: list[list[Any]]) -> str:
    """A Markdown table; the first column is left-aligned, the others right."""
    lines = [f"| {' | '.join(head)} |", f"|{'|'.join([':--', *['--:'] * (len(head) - 1)])}|"]
    lines += [f"| {' | '.join(cell(value) for value in row)} |" for row in rows]
    return "\n".join(lines)


def source_line(record: Record) -> str:
    """Where the figures come from."""
    machine, vector = record["machine"], ", ".join(record["machine"].get("vector", [])) or "no vector extension"
    commit = f", commit {record['commit']}" if record["commit"] else ""
    load = record.get("settings", {}).get("load_before", 0.0)
    busy = f", **busy with other work before: load average {load:g}**" if load > 0.75 * machine["cores"] else ""
    return (
        f"*{record['date'][:10]}{commit}; {machine['processor']}, {machine['cores']} cores ({vector}), "
        f"{machine['memory_gib']} GiB{busy}; `python -m benchmarks {record['name']}`*"
    )


def latency(record: Record) -> str:
    """The way as a whole."""
    head = ["cameras", "captured → score p50, ms", "p95", "p99", "captured → event p95"]
    head += ["light → score p50", "light p95", "windows dropped", "cores busy"]
    rows = []
    for row in record["results"]["runs"]:
        score, light, event = row["captured_to_score"], row["light_to_score"], row["captured_to_event"]
        figures = [score.get("p50"), score.get("p95"), score.get("p99"), event.get("p95")]
        figures += [light.get("p50"), light.get("p95"), row["dropped"], row["cores_busy"]]
        rows.append([f"{row['cameras']}, {row['source'].replace('rtsp', 'RTSP')}", *figures])
    fixed = record["results"]["unavoidable"]
    checked = [row["account"] for row in record["results"]["runs"]]
    worst = max((told["worst_ms"] or 0.0 for told in checked), default=0.0)
    note = (
        f"Not in the table, for no program can avoid it: a window is full after {fixed['window_fill_s']} s; what "
        f"happens at any moment waits {fixed['wait_for_a_window_mean_s']} s on average for the next window to begin; "
        f"smoothing and hysteresis take {cell(fixed['smoothing_and_hysteresis_s'])} s at the embedded threshold. The "
        f"parts that a message tells add up to its whole within {worst} ms "
        f"({sum(told['checked'] for told in checked):,} messages)."
    )
    return f"{table(head, rows)}\n\n{note}"


def latency_stages(record: Record) -> str:
    """Stage by stage."""
    runs = record["results"]["runs"]
    names = list(runs[0]["stages"]) if runs else []
    rows = []
    for row in runs:
        parts = [row["stages"][name] for name in names]
        label = f"{row['cameras']}, {row['source'].replace('rtsp', 'RTSP')}"
        rows.append([label, *(f"{cell(p.get('p50'))} / {cell(p.get('p95'))}" for p in parts)])
    return table(["cameras; ms, p50 / p95", *names], rows)


def throughput(record: Record) -> str:
    """Cameras in real time and what one costs."""
    head = ["", "kept up", "windows/s", "dropped", "p95, ms", "cores busy", "CPU s a camera-minute", "memory, MB"]
    blocks = []
    for size in record["results"]["sizes"]:
        rows = [
            [
                f"{row['cameras']} × {size['size'].replace('x', '×')}",
                row["kept_up"],
                row.get("windows_per_s"),
                row.get("dropped"),
                row.get("captured_to_score", {}).get("p95"),
                row.get("cores_busy"),
                row.get("cpu_s_per_camera_minute"),
                row.get("rss_mb"),
            ]
            for row in size["rows"]
        ]
        last = next((row for row in reversed(size["rows"]) if "bottleneck" in row), {})
        blocks.append(
            f"{table(head, rows)}\n\n{size['cameras_in_real_time']} cameras of {size['size'].replace('x', '×')} run in "
            f"real time; a further one takes {cell(size['memory_mb_per_camera'])} MB. Bottleneck: "
            f"{last.get('bottleneck', 'not reached')}."
        )
    return "\n\n".join(blocks)


def throughput_pictures(record: Record) -> str:
    """One picture's way."""
    found = record["results"]["cpu_ms_per_picture"]
    names = list(next(iter(found.values()), {}))
    head = ["CPU ms a picture", *(name.replace("_", " ") for name in names)]
    return table(head, [[size.replace("x", "×"), *(costs[n] for n in names)] for size, costs in found.items()])


def fanout(record: Record) -> str:
    """Highest clean rates."""
    head = ["subscribers", "what", "events/s sent", "events/s delivered", "late p50, ms", "late p99, ms"]
    keys = ("subscribers", "kind", "rate", "delivered_per_s", "late_p50_ms", "late_p99_ms")
    return table(head, [[row.get(key) for key in keys] for row in record["results"]["best"]])


PEERS = {
    "seed-own": "the ancestor's way, its own network (ResNet3D-34)",
    "seed": "the ancestor's way, our network",
    "plain": "plain PyTorch and OpenCV loop, our network",
    "ours": "stream-detector score",
}


def peers(record: Record) -> str:
    """Side by side."""
    found = record["results"]
    head = ["", "windows", "wall, s", "CPU, s", "peak memory, MB", "windows a CPU second", "ours: wall", "ours: CPU"]
    keys = ("windows", "wall_s", "cpu_s", "peak_mb", "windows_per_cpu_s")
    rows = []
    for row in found["rows"]:
        ratio = found.get("ratios", {}).get(row["way"], {})
        times = [f"{ratio[key]}×" if key in ratio else "" for key in ("wall", "cpu")]
        rows.append([PEERS[row["way"]], *(row[key] for key in keys), *times])
    same = found.get("same_scores")
    note = (
        f"\n\nLargest difference of a score between the loop and ours, {same['windows']:,} windows: {same['largest']}."
    )
    return table(head, rows) + (note if same else "")


def soak(record: Record) -> str:
    """Slopes."""
    found, settings = record["results"], record["settings"]
    rows = [[f"{name.replace('_', ' ')} a hour".replace("a hour", "an hour"), value]
            for name, value in found["slopes_per_hour"].items()]  # fmt: skip
    rows += [[name.replace("_", " "), found[name]] for name in ("peak_rss_mb", "windows_per_s", "dropped", "exit_code")]
    return table([f"{settings['cameras']} cameras, {settings['minutes']:g} minutes", ""], rows)


def rtsp_run(record: Record) -> str:
    """Seconds, median and worst; the second camera's rate against its own before."""
    found, settings = record["results"], record["settings"]
    keys = {
        "stall_reported_s": "server stopped → stall reported, s",
        "frames_after_resume_s": "server goes on → windows again, s",
        "loss_reported_s": "server killed → loss reported, s",
        "frames_after_restart_s": "new server → windows again, s",
    }
    rows: list[list[Any]] = [[text, found[key]["median"], found[key]["worst"]] for key, text in keys.items()]
    ratio, before, after = found["steady_ratio"], found["before"], found["after"]
    rows.append(["second camera's window rate against before: lowest, highest", ratio["lowest"], ratio["highest"]])
    rows += [[f"{name} before, after", before[name], after[name]] for name in ("threads", "descriptors")]
    return table([f"{settings['cycles']} cycles of stop, go on, kill, restart", "median", "worst"], rows)


def faults(record: Record) -> str:
    """One row a fault of the campaign; the disks' faults one by one."""
    found = dict(record["results"])
    cases = {**{k: v for k, v in found.items() if k != "disks"}, **{f"disk: {k}": v for k, v in found["disks"].items()
             if isinstance(v, dict)}}  # fmt: skip
    head = ["fault", "times", "events", "missing", "twice", "alarms without end", "passed"]
    rows = []
    for name, case in cases.items():
        sent = case.get("sent")
        times = (
            sum(sent.values())
            if sent
            else next((case[k] for k in ("kills", "stalls", "flips", "steps") if k in case), None)
        )
        if name == "fuzz":
            times = case["random"] + case["mutated"]
        rows.append([name.replace("_", " "), times, *(case.get(k) for k in ("events", "missing", "twice", "unended")),
                     case["passed"]])  # fmt: skip
    return table(head, rows)


def plain(record: Record) -> str:
    """Any flat results: an object, an object of objects, or a list of objects. Nested values are left out."""
    found = record["results"]
    if isinstance(found, dict) and found and all(isinstance(value, dict) for value in found.values()):
        found = [{"": name, **value} for name, value in found.items()]
    if isinstance(found, dict):
        flat = {key: value for key, value in found.items() if not isinstance(value, dict | list)}
        return table(["", ""], [[key.replace("_", " "), value] for key, value in flat.items()])
    names = list(dict.fromkeys(k for row in found for k, v in row.items() if not isinstance(v, dict | list)))
    return table([name.replace("_", " ") for name in names], [[row.get(name) for name in names] for row in found])


TABLES: dict[str, tuple[str, Callable[[Record], str]]] = {
    "latency": ("latency", latency),
    "latency-stages": ("latency", latency_stages),
    "throughput": ("throughput", throughput),
    "throughput-pictures": ("throughput", throughput_pictures),
    "fanout": ("fanout", fanout),
    "peers": ("peers", peers),
    "soak": ("soak", soak),
    "rtsp_run": ("rtsp_run", rtsp_run),
    "faults": ("faults", faults),
}


def rendered(name: str) -> str:
    """The text between the markers of NAME; says so where the benchmark has not been run."""
    file, render = TABLES.get(name, (name, plain))
    try:
        record = read_results(file)
    except FileNotFoundError:
        return f"Not measured yet: `python -m benchmarks {file}`.\n"
    return f"{render(record)}\n\n{source_line(record)}\n"


def generated(text: str) -> str:
    """A page with every table made anew."""
    return MARKED.sub(lambda found: f"{found[1]}{rendered(found[2])}{found[3]}", text)


def pages() -> list[Path]:
    """Where tables may stand."""
    return [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


def main(argv: list[str]) -> int:
    """Command line; with --check 1 when a page differs from the results."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks readme", description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 when a table differs")
    args = parser.parse_args(argv)
    differing = 0
    for page in pages():
        old = page.read_text(encoding="utf-8")
        new = generated(old)
        if new == old:
            continue
        differing += 1
        name = str(page.relative_to(ROOT)) if page.is_relative_to(ROOT) else page.name
        if args.check:
            print("\n".join(difflib.unified_diff(old.splitlines(), new.splitlines(), name, "results", "", "", 0, "")))
            print(f"{name} differs from benchmarks/results; run `python -m benchmarks readme`")
        else:
            page.write_text(new, encoding="utf-8")
            print(f"wrote {name}")
    return 1 if args.check and differing else 0
