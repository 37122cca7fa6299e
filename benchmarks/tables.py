"""The tables of the detector's results: one function per results file, from its record to Markdown."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

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


def cameras(record: Record) -> str:
    """Cameras kept up with as a share of the budget, and goodput in an overload."""
    results = record["results"]
    head = ["", "kept up", "windows/s", "windows dropped", "passed over", "p50, ms", "p95, ms", "cores busy", "hosts"]
    blocks = []
    for size, found in results["sizes"].items():
        costs, shown, rows = results["costs"][size], size.replace("x", "×"), []
        kept, over = found.get("kept", {}), found.get("overload", {})
        for row in [*kept.get("rows", []), *over.get("rows", [])]:
            delay, drops = row.get("delay_ms", {}), row.get("drops", {})
            figures = [row.get("windows_per_s"), drops.get("overload", 0), drops.get("skipped", 0)]
            figures += [delay.get("p50"), delay.get("p95"), row.get("cores_busy"), row.get("hosts")]
            rows.append([f"{row['cameras']} × {shown}", row["kept_up"], *figures])
        note = (
            f"A picture of {shown} costs {cell(costs['bare_picture_ms'])} ms of CPU in a bare loop and "
            f"{cell(costs['product_picture_ms'])} ms here ({cell(costs['product_to_bare'])} ×), a window "
            f"{cell(costs['window_ms'])} ms: a budget of {cell(costs['budget'])} cameras on {costs['cores']} cores, of "
            f"which {kept.get('share_of_budget', 0.0):.0%} are kept up with. Bottleneck: {kept.get('bottleneck')}."
        )
        if over.get("rows"):
            worst = min(row["of_best"] for row in over["rows"])
            note += f" In an overload at least {worst:.0%} of the best goodput."
        blocks.append(f"{table(head, rows)}\n\n{note}")
    return "\n\n".join([*blocks, _of_bundle(record)])


def evidence(record: Record) -> str:
    """CPU of clips and recordings."""
    results = record["results"]
    shown = {
        "plain": "cameras alone",
        "kept": "packets kept in memory",
        "alarm": "all in alarm at once",
        "main": "main streams read beside them",
        "record": "main streams recorded",
    }
    head = ["", "cores", "more than the cameras alone", "of it the writing thread", "files", "MB", "packets lost"]
    keys = ("cores", "more_cores", "writer_cores", "files", "mb", "packets_lost")
    rows = [[shown[row["mode"]], *(row[key] for key in keys)] for row in results["rows"]]
    note = (
        f"{record['settings']['cameras']} cameras of 320×240 ({cell(results['sub_kbit_s'])} kbit/s), main streams of "
        f"1920×1080 ({cell(results['main_kbit_s'])} kbit/s), 25 fps; nobody scores them."
    )
    return f"{table(head, rows)}\n\n{note}"


def cameras_isolation(record: Record) -> str:
    """What healthy cameras notice of bad ones beside them."""
    head = ["4 healthy cameras beside", "others", "first window later, s", "window rate", "p95, ms", "MB more"]
    head.append("hosts replaced")
    keys = ("others", "first_window_later_s", "rate_of_alone", "p95_ms", "memory_more_mb", "restarts")
    found = record["results"].get("isolation", [])
    return table(head, [[row["beside"], *(row[key] for key in keys)] for row in found])


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
    rows = [
        [f"{name.replace('_', ' ')} a hour".replace("a hour", "an hour"), value]
        for name, value in found["slopes_per_hour"].items()
    ]
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
    apart = {"disks": "disk", "memory": "memory"}
    cases = {k: v for k, v in found.items() if k not in apart}
    for name, label in apart.items():
        cases |= {f"{label}: {k}": v for k, v in found.get(name, {}).items() if isinstance(v, dict)}
    head = ["fault", "times", "events", "missing", "twice", "alarms without end", "passed", "commit"]
    rows = []
    for name, case in cases.items():
        sent = case.get("sent")
        times = (
            sum(sent.values())
            if sent
            else next((case[k] for k in ("kills", "stops", "flips", "steps", "starts", "seconds") if k in case), None)
        )
        if name == "fuzz":
            times = case["random"] + case["mutated"]
        whole = next((found[k] for k, label in apart.items() if name.startswith(f"{label}:")), case)
        counts = (case.get(k) for k in ("events", "missing", "twice", "unended"))
        rows.append([name.replace("_", " "), times, *counts, case["passed"], whole.get("commit")])
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


def roofline(record: Record) -> str:
    """Windows a second of every way to run a network, and as a ratio to PyTorch one clip at a time."""
    rows, first = [], {}
    for row in record["results"]:
        first.setdefault(row["model"], row["windows_per_s"])
        ratio, share = row["windows_per_s"] / first[row["model"]], row.get("share_of_bf16_product")
        figures = [row["windows_per_s"], row["p50_ms"], row["cpu_ms_a_window"], f"{ratio:.1f}×"]
        rows.append([f"{row['model']}: {row['way']}", *figures, None if share is None else f"{share:.0%}"])
    head = ["", "windows/s", "p50, ms a call", "CPU ms a window", "against the first", "of the bf16 product"]
    return table(head, rows)


def engines(record: Record) -> str:
    """Every engine against PyTorch in float32, on real clips."""
    keys = ("relative_feature_error_mean", "score_change_max", "clip_auc_change")
    rows = [[f"{row['engine']} {row['precision']}", *(f"{row[key]:.4f}" for key in keys)] for row in record["results"]]
    head = [f"{record['settings']['clips']} val clips", "mean error of features", "largest change of a score"]
    return table([*head, "change of clip AUC"], rows)


def composite(record: Record) -> str:
    """What an operator would see."""
    head = ["threshold", "seed", "incidents found", "false alarms an hour", "false alarms", "in normal clips"]
    rows = [
        [
            f"{row['threshold']:g}",
            row["seed"],
            f"{row['found']} of {row['incidents']}",
            row["false_alarms_per_hour"],
            row["false_alarms"],
            row["of_these_in_normal_clips"],
            row["delay_s"]["median"],
            row["delay_s"]["p90"],
        ]
        for row in record["results"]["rows"]
    ]
    return f"{table([*head, 'median delay, s', 'p90, s'], rows)}\n\n{_of_bundle(record)}"


def _of_bundle(record: Record) -> str:
    """Which model the figures are of: the shipped one may be newer."""
    return f"Of the bundle with the fingerprint `{record['results']['bundle']}`."


def quiet(record: Record) -> str:
    """False alarms in quiet hours, and what calibration promised and kept."""
    found = record["results"]
    keys = ("hours", "threshold", "alarms", "per_hour", "upper_95_per_hour", "highest_smoothed", "times_real_time")
    head = ["quiet hours", "threshold", "alarms", "an hour", "at most (95 %)", "highest score", "× real time"]
    first = table(head, [[found[key] for key in keys]])
    rows = []
    for promise in found["calibration"]:
        told = promise["groups"]["all"]
        seen = told["check"]
        chosen = [promise["asked_per_hour"], told["hours"], f"{told['threshold']:.4f}", told["upper_per_hour"]]
        rows.append([*chosen, seen["hours"], seen["rate_per_hour"], seen["kept"]])
    head = ["asked, an hour", "hours to choose on", "threshold", "bound stated", "other hours", "seen there", "kept"]
    return f"{first}\n\n{table(head, rows)}\n\n{_of_bundle(record)}"


def viewers(record: Record) -> str:
    """Alone and with viewers."""
    found, settings = record["results"], record["settings"]
    names = {"windows_per_s": "windows/s", "score_p95": "captured → score p95, ms", "cores_busy": "cores busy"}
    names["event_p95"] = "captured → event p95, ms"
    rows = []
    for key, text in names.items():
        pair = found["figures"][key]
        rows.append([text, pair["alone"], pair["viewed"], pair["ratio"], f"{pair['low']:.3f} to {pair['high']:.3f}"])
    first = [row["first_picture_ms"] for row in found["runs"] if row.get("first_picture_ms")]
    worst = max((each["worst"] for each in first), default=None)
    note = f"First picture after {cell(worst)} ms at worst; the page has {found['page_bytes']['plain'] / 1e3:.0f} KB."
    head = [f"{settings['cameras']} cameras", "no viewer", f"{settings['viewers']} viewers", "ratio", "95 % interval"]
    return table(head, rows) + f"\n\n{note}"


def startup(record: Record) -> str:
    """Seconds until a fresh process can use the library."""
    rows = [
        [name, row["median_s"], row["fastest_s"], row["slowest_s"], ", ".join(row["loaded"]) or "none"]
        for name, row in record["results"].items()
    ]
    return table(["in a fresh process", "median, s", "fastest", "slowest", "loads"], rows)


TABLES: dict[str, tuple[str, Callable[[Record], str]]] = {
    "latency": ("latency", latency),
    "latency-stages": ("latency", latency_stages),
    "cameras": ("cameras", cameras),
    "cameras-int8": ("cameras_int8", cameras),
    "cameras-isolation": ("cameras", cameras_isolation),
    "evidence": ("evidence", evidence),
    "fanout": ("fanout", fanout),
    "peers": ("peers", peers),
    "soak": ("soak", soak),
    "rtsp_run": ("rtsp_run", rtsp_run),
    "faults": ("faults", faults),
    "roofline": ("roofline", roofline),
    "engines": ("engines", engines),
    "composite": ("composite", composite),
    "quiet": ("quiet", quiet),
    "viewers": ("viewers", viewers),
    "startup": ("startup", startup),
}
