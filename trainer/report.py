"""What an evaluation is worth, for people: a table on the terminal and one self-contained HTML page."""

from __future__ import annotations

import base64
import html
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from trainer.metrics import Figure
from trainer.plots import plot_roc_pr, plot_scores
from trainer.timeline import Timeline, all_pieces

TITLES = {
    "auc": "frame ROC AUC (all frames pooled)",
    "ap": "frame average precision",
    "auc_abnormal": "frame AUC, abnormal videos only",
    "auc_macro": "mean per-video AUC",
    "far_at_half": "false alarm rate at 0.5, normal videos",
    "brier": "Brier score",
    "ece": "expected calibration error",
}
SHOWN_VIDEOS = 60
STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 70rem; margin: 2rem auto; padding: 0 1rem; color: #222 }
table { border-collapse: collapse; margin: 1rem 0 } td, th { padding: .2rem .9rem; border-bottom: 1px solid #ddd }
td { text-align: right; font-variant-numeric: tabular-nums } td:first-child, th { text-align: left }
img { max-width: 100% } p { color: #555 }
"""


def rows_of(found: dict[str, Any]) -> list[tuple[str, str, str]]:
    """(figure, at content time, at emission time)."""
    return [(title, str(found["content"][key]), str(found["emission"][key])) for key, title in TITLES.items()]


def event_rows(found: dict[str, Any]) -> list[tuple[str, ...]]:
    """(allowed rate, recall, detected, median delay, 90 % delay)."""
    return [
        (
            f"{rate} / h",
            str(at["recall"]),
            f"{at['detected']} of {at['events']}",
            f"{at['delay_median_s']:.1f} s",
            f"{at['delay_p90_s']:.1f} s",
            f"{at['threshold']:.4f}",
        )
        for rate, at in found["events_at"].items()
    ]


EVENT_TITLES = ("false alarms", "event recall", "detected", "delay, median", "delay, 90 %", "threshold")
ORACLE_KEYS = ("auc", "ap", "auc_abnormal", "auc_macro")


def oracle_rows(found: dict[str, Any]) -> list[tuple[str, ...]]:
    """(oracle, its figures)."""
    return [(name, *(_short(line[k]) for k in ORACLE_KEYS)) for name, line in found.get("oracles", {}).items()]


def _short(figure: Figure) -> str:
    return str(figure)


def summary_line(found: dict[str, Any]) -> str:
    """What was scored."""
    return (
        f"{found['videos']} videos ({found['abnormal_videos']} abnormal), {found['hours']:.2f} h, "
        f"{found['events']} events, {100 * found['prevalence']:.2f} % of frames abnormal; "
        "95 % intervals over resampled videos"
    )


def print_figures(found: dict[str, Any]) -> None:
    """Tables on stdout."""
    console = Console()
    console.print(summary_line(found))
    tables = (
        (("figure", "content time", "emission time"), rows_of(found)),
        (EVENT_TITLES, event_rows(found)),
        (("oracle", *(TITLES[k] for k in ORACLE_KEYS)), oracle_rows(found)),
    )
    for titles, rows in tables:
        table = Table(*titles)
        for row in rows:
            table.add_row(*row)
        console.print(table)


def write_report(timelines: Sequence[Timeline], found: dict[str, Any], about: dict[str, Any], out: Path) -> Path:
    """Plots as PNG and `report.html`, which embeds them; returns its path."""
    plot_roc_pr(all_pieces(timelines, "content"), out / "curves.png")
    abnormal = [t for t in timelines if t.label][: SHOWN_VIDEOS * 2 // 3]
    normal = sorted((t for t in timelines if not t.label), key=lambda t: -float(t.scores.max()))
    plot_scores([*abnormal, *normal[: SHOWN_VIDEOS - len(abnormal)]], out / "scores.png")
    parts = [
        "<h1>Evaluation</h1>",
        f"<p>{html.escape(summary_line(found))}</p>",
        _table(("figure", "content time", "emission time"), rows_of(found)),
        "<p>Content time: a score counts on the frames of its own window. Emission time: from when it is known.</p>",
        "<h2>Events</h2>",
        _table(EVENT_TITLES, event_rows(found)),
        "<p>Alarms at emission time; the best threshold for each rate, found on these very videos.</p>",
        "<h2>What detectors that know the truth get on the same videos</h2>",
        _table(("oracle", *(TITLES[k] for k in ORACLE_KEYS)), oracle_rows(found)),
        "<h2>Curves</h2>",
        _image(out / "curves.png"),
        "<h2>Scores</h2><p>True events shaded; the normal videos with the highest scores come last.</p>",
        _image(out / "scores.png"),
        "<h2>Made with</h2>",
        _table(("setting", "value"), _settings(about)),
    ]
    page = f'<!doctype html><html lang="en"><meta charset="utf-8"><title>Evaluation</title><style>{STYLE}</style>'
    path = out / "report.html"
    path.write_text(page + "\n".join(parts) + "</html>\n", encoding="utf-8")
    return path


def _settings(about: dict[str, Any]) -> list[tuple[str, str]]:
    return [(k, str(v)) for k, v in {**about, **about.get("hyper", {})}.items() if k != "hyper"]


def _table(titles: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    head = "".join(f"<th>{html.escape(t)}</th>" for t in titles)
    body = "".join("<tr>" + "".join(f"<td>{html.escape(c)}</td>" for c in row) + "</tr>" for row in rows)
    return f"<table><tr>{head}</tr>{body}</table>"


def _image(path: Path) -> str:
    return f'<img alt="{path.stem}" src="data:image/png;base64,{base64.b64encode(path.read_bytes()).decode()}">'
