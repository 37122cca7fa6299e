"""The report of an evaluation: tables on the terminal and one self-contained HTML page."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import Any

import jinja2
from rich.console import Console
from rich.table import Table

from trainer.data.timeline import Timeline, all_pieces
from trainer.evaluation.metrics import Figure
from trainer.evaluation.plots import plot_roc_pr, plot_scores
from trainer.mil.training_overlap import warning

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


def rows_of(found: dict[str, Any]) -> list[tuple[str, str, str]]:
    """Return (figure, at content time, at emission time)."""
    return [(title, str(found["content"][key]), str(found["emission"][key])) for key, title in TITLES.items()]


def event_rows(found: dict[str, Any]) -> list[tuple[str, ...]]:
    """Return (allowed rate, recall, detected, median delay, 90 % delay)."""
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
    """Return (oracle, its figures)."""
    return [(name, *(_short(line[k]) for k in ORACLE_KEYS)) for name, line in found.get("oracles", {}).items()]


def _short(figure: Figure) -> str:
    return str(figure)


def summary_line(found: dict[str, Any]) -> str:
    """Return what was scored, and whether the head was trained on it."""
    known = found.get("seen_in_training")
    words = warning(known, found["videos"]) if known else ""
    return (
        f"{found['videos']} videos ({found['abnormal_videos']} abnormal), {found['hours']:.2f} h, "
        f"{found['events']} events, {100 * found['prevalence']:.2f} % of frames abnormal; "
        "95 % intervals over resampled videos"
    ) + (f". Warning: {words}" if words else "")


def print_figures(found: dict[str, Any]) -> None:
    """Print the tables on standard output."""
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
    """Write plots as PNG and `report.html`, which embeds them; return its path."""
    plot_roc_pr(all_pieces(timelines, "content"), out / "curves.png")
    abnormal = [t for t in timelines if t.label][: SHOWN_VIDEOS * 2 // 3]
    normal = sorted((t for t in timelines if not t.label), key=lambda t: -float(t.scores.max()))
    plot_scores([*abnormal, *normal[: SHOWN_VIDEOS - len(abnormal)]], out / "scores.png")
    template = resources.files("trainer").joinpath("assets", "report.html.j2").read_text(encoding="utf-8")
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, keep_trailing_newline=True)
    page = environment.from_string(template).render(
        summary=summary_line(found),
        figures=rows_of(found),
        event_titles=EVENT_TITLES,
        events=event_rows(found),
        oracle_titles=("oracle", *(TITLES[key] for key in ORACLE_KEYS)),
        oracles=oracle_rows(found),
        curves=_base64(out / "curves.png"),
        scores=_base64(out / "scores.png"),
        settings=_settings(about),
    )
    path = out / "report.html"
    path.write_text(page, encoding="utf-8")
    return path


def _settings(about: dict[str, Any]) -> list[tuple[str, str]]:
    return [(k, str(v)) for k, v in {**about, **about.get("hyper", {})}.items() if k != "hyper"]


def _base64(path: Path) -> str:
    return base64.b64encode(path.read_bytes()).decode()
