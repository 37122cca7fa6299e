"""A plot of a run: scores over media time, one panel per camera, alarms shaded.

Raw scores are thin, smoothed ones thick, the threshold dashed, alarms shaded and hatched at the top, degraded windows
marked below the axis, known incidents bracketed. The colours are those of Okabe and Ito (2008), which colour-blind
people can distinguish; every mark also differs in shape or position. Drawn without pyplot, so that any thread may draw.
"""

from __future__ import annotations

import io
import itertools
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from stream_detector.errors import DataError, UsageError
from stream_detector.reports.read_back import (
    AlarmRecord,
    by_camera,
    gather_alarms,
    read_events,
    spans_of,
)
from stream_detector.reports.scores_file import ScoreRow, read_scores
from stream_detector.system.outputs import SOFTWARE, replace_file

BLUE, SKY, VERMILION, ORANGE, GREEN, INK, PALE = (
    "#0072B2",
    "#56B4E9",
    "#D55E00",
    "#E69F00",
    "#009E73",
    "#333333",
    "#D9D9D9",
)
SINGLE_COLUMN = 16  # at most this many cameras get a panel of full width
SMALL_COLUMNS = 4
MAX_PANELS = 64
MAX_POINTS = 4000  # points per line; more would only overlap

Incidents = Mapping[str, Sequence[tuple[float, float]] | tuple[float, float]]


def plot_scores(
    scores: Sequence[ScoreRow] | Path,
    events: Sequence[dict[str, Any]] | Path | None,
    out: Path,
    incidents: Incidents | None = None,
    *,
    threshold: float | None = None,
    title: str = "",
) -> Path:
    """Draw a run into the PNG `out` (its folders are created) and return `out`.

    scores: rows, or a scores.csv.  events: alarm events (dicts as published), an events.jsonl, or None. incidents:
    known incidents by camera, one or several pairs (start, end) in media seconds. threshold: for cameras without an
    alarm event.  Raises DataError if a file is malformed, there is nothing to draw, or `out` cannot be written.
    """
    rows = read_scores(scores) if isinstance(scores, Path) else list(scores)
    alarms = gather_alarms(read_events(events) if isinstance(events, Path) else list(events or ()))
    if not rows:
        raise DataError("there is no score to draw; give the scores of a run in which at least one window was scored")
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    cameras = by_camera(rows)
    names = list(cameras)[:MAX_PANELS]
    columns = 1 if len(names) <= SINGLE_COLUMN else SMALL_COLUMNS
    lines = math.ceil(len(names) / columns)
    small = columns > 1
    # Positions are computed here, in inches: matplotlib's own layout takes ten seconds for 64 panels.
    width, top, bottom = (16.0, 0.75, 0.55) if small else (11.0, 0.75, 0.6)
    panel_in = 1.45 if small else 3.0 if lines == 1 else 1.95
    height = lines * panel_in + top + bottom
    figure = Figure(figsize=(width, height), dpi=110, facecolor="white")
    figure.subplots_adjust(
        left=0.35 / width,
        right=1 - (0.2 if small else 0.5) / width,
        top=1 - top / height,
        bottom=bottom / height,
        hspace=0.55 if small else 0.42,
        wspace=0.1,
    )
    FigureCanvasAgg(figure)
    panels = list(figure.subplots(lines, columns, squeeze=False).ravel())
    for panel, name in zip(panels, names, strict=False):
        own = [alarm for alarm in alarms if alarm.camera == name]
        known = _spans((incidents or {}).get(name, ()))
        _draw(panel, name, cameras[name], own, known, threshold, small)
    for panel in panels[len(names) :]:
        panel.set_visible(False)
    handles, labels = _legend(panels[: len(names)])
    figure.legend(
        handles,
        labels,
        loc="upper right",
        bbox_to_anchor=(1.0, 1 - 0.05 / height),
        ncols=len(labels),
        frameon=False,
        fontsize=9,
        handlelength=1.6,
    )
    left_out = f"  ({len(cameras) - len(names)} more cameras not shown)" if len(cameras) > len(names) else ""
    heading = (_literal(title) or "Anomaly score") + left_out
    figure.text(0.1 / width, 1 - 0.14 / height, heading, va="top", fontsize=12, fontweight="bold")
    figure.text(0.5, 0.12 / height, "media time", ha="center", fontsize=9, color=INK)
    drawn = io.BytesIO()
    figure.savefig(drawn, format="png", metadata={"Software": SOFTWARE})
    try:
        replace_file(out, drawn.getvalue(), "plot")
    except UsageError as error:
        raise DataError(str(error)) from None
    return out


def _spans(given: Any) -> list[tuple[float, float]]:
    """Return one pair or several as a list of pairs."""
    single = len(given) == 2 and not isinstance(given[0], tuple | list)
    return [(float(first), float(last)) for first, last in ([given] if single else given)]


def _draw(
    panel: Any,
    name: str,
    rows: list[ScoreRow],
    alarms: list[AlarmRecord],
    incidents: list[tuple[float, float]],
    threshold: float | None,
    small: bool,
) -> None:
    from matplotlib.ticker import MultipleLocator

    end_s = max([row.end_s for row in rows] + [end for _, end in incidents])
    start_s = min([row.start_s for row in rows] + [start for start, _ in incidents])
    own = alarms[-1].threshold if alarms else threshold
    for index, alarm in enumerate(alarms):
        until = end_s if alarm.end_s is None else alarm.end_s
        label = "alarm" if index == 0 else None
        panel.axvspan(alarm.start_s, until, color=VERMILION, alpha=0.16, lw=0, label=label, zorder=1)
        panel.axvspan(alarm.start_s, until, ymin=0.955, color=VERMILION, lw=0, zorder=2)
    for index, (first, last) in enumerate(incidents):
        label = "known incident" if index == 0 else None
        panel.axvspan(first, last, ymin=0.895, ymax=0.94, color=GREEN, lw=0, label=label, zorder=2)
        for edge in (first, last):
            panel.axvline(edge, color=GREEN, lw=0.9, ls=":", zorder=2)
    for index, (first, last, _causes) in enumerate(spans_of(rows)):
        label = "degraded" if index == 0 else None
        panel.axvspan(
            first, last, ymax=0.05, facecolor=ORANGE, edgecolor="white", hatch="////", lw=0, label=label, zorder=2
        )
    times, raw, smoothed = _lines(rows)
    panel.plot(times, raw, color=SKY, lw=0.7 if small else 0.9, label="raw", zorder=3)
    panel.plot(times, smoothed, color=BLUE, lw=1.4 if small else 2.0, label="smoothed", zorder=4)
    if own is not None:
        panel.axhline(own, color=INK, lw=1.0, ls=(0, (5, 3)), label="threshold", zorder=3)
        if not small:
            panel.annotate(
                f"{own:.2f}",
                (1.0, own),
                xycoords=("axes fraction", "data"),
                xytext=(3, 0),
                textcoords="offset points",
                fontsize=8,
                va="center",
                color=INK,
            )
    panel.set_title(_literal(name), loc="left", fontsize=8 if small else 10, color=INK, pad=3)
    panel.set_ylim(0.0, 1.17)
    panel.set_xlim(start_s, max(end_s, start_s + 1e-3))
    panel.set_yticks([0.0, 0.5, 1.0])
    panel.grid(axis="y", color=PALE, lw=0.6, zorder=0)
    panel.tick_params(labelsize=7 if small else 8.5, color=PALE, labelcolor=INK, length=3)
    panel.xaxis.set_major_formatter(lambda value, _position: clock_label(value, end_s))
    panel.xaxis.set_major_locator(MultipleLocator(step_s(end_s - start_s, 4 if small else 10)))
    for side in ("top", "right", "left"):
        panel.spines[side].set_visible(False)
    panel.spines["bottom"].set_color(PALE)


def _lines(rows: list[ScoreRow]) -> tuple[list[float], list[float], list[float]]:
    """Return the points of the two lines at the ends of the windows; a NaN where windows are missing.

    Reduced to MAX_POINTS by keeping the highest of each group, so that no peak is lost.
    """
    steps = sorted(later.end_s - row.end_s for row, later in itertools.pairwise(rows))
    usual_s = steps[len(steps) // 2] if steps else 0.0
    group = math.ceil(len(rows) / MAX_POINTS)
    times: list[float] = []
    raw: list[float] = []
    smoothed: list[float] = []
    before_s: float | None = None
    for index in range(0, len(rows), group):
        part = rows[index : index + group]
        gap = before_s is not None and not -1e-9 <= part[0].end_s - before_s <= max(3 * usual_s, 1e-9)
        if gap:
            times.append(part[0].end_s)
            raw.append(math.nan)
            smoothed.append(math.nan)
        times.append(part[-1].end_s)
        raw.append(max(row.raw for row in part))
        smoothed.append(max(row.smoothed for row in part))
        before_s = part[-1].end_s
    return times, raw, smoothed


def _legend(panels: Sequence[Any]) -> tuple[list[Any], list[str]]:
    """Return every mark once, in a fixed order."""
    found: dict[str, Any] = {}
    for panel in panels:
        for handle, label in zip(*panel.get_legend_handles_labels(), strict=True):
            found.setdefault(label, handle)
    order = ("raw", "smoothed", "threshold", "alarm", "known incident", "degraded")
    labels = [label for label in order if label in found]
    return [found[label] for label in labels], labels


def step_s(span_s: float, most: int) -> float:
    """Return the smallest round step, in seconds, that divides `span_s` into at most `most` parts."""
    for step in (0.1, 0.2, 0.5, 1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 10800, 21600, 43200):
        if span_s <= step * most:
            return float(step)
    return 86400.0 * max(1, math.ceil(span_s / 86400 / most))


def _literal(text: str) -> str:
    """Return `text` without control characters and without matplotlib's mathematics."""
    return "".join(char if char.isprintable() else "?" for char in text).replace("$", r"\$")


def clock_label(seconds: float, longest_s: float) -> str:
    """Format media time for an axis: '12 s', '3:05' or '1:03:05', depending on the longest time on that axis."""
    if longest_s < 120:
        return f"{seconds:g} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02d}:{rest:02d}" if longest_s >= 3600 else f"{minutes}:{rest:02d}"
