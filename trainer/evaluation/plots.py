"""Pictures of training and evaluation, as PNG files. Matplotlib's Agg: no display is needed."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from trainer.data.timeline import Pieces, Timeline
from trainer.evaluation.metrics import precision_recall, reliability, roc_curve

EVENT = "#f4b9a7"
LINE = "#1f5f8b"


def new_figure(columns: int, rows: int = 1, height: float = 3.2) -> tuple[Any, Any]:
    """A matplotlib figure and its axes, (rows, columns), without a display."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    return pyplot.subplots(rows, columns, figsize=(5.2 * columns, height * rows), squeeze=False, layout="constrained")


def save_figure(figure: Any, path: Path) -> None:
    """Write it as PNG and release it."""
    from matplotlib import pyplot

    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110, metadata={"Software": None})
    pyplot.close(figure)


def plot_roc_pr(pieces: Pieces, path: Path) -> None:
    """Frame ROC and precision-recall, with the reliability diagram."""
    figure, axes = new_figure(3)
    axes[0, 0].plot(*roc_curve(pieces), color=LINE)
    axes[0, 0].plot([0, 1], [0, 1], ":", color="grey")
    axes[0, 0].set(title="frame ROC", xlabel="false positive rate", ylabel="true positive rate")
    precision, recall = precision_recall(pieces)
    axes[0, 1].plot(recall, precision, color=LINE)
    prevalence = pieces.positive.sum() / (pieces.positive + pieces.negative).sum()
    axes[0, 1].axhline(prevalence, ls=":", color="grey")
    axes[0, 1].set(title="frame precision-recall", xlabel="recall", ylabel="precision", ylim=(0, 1.02))
    mean, observed, _ = reliability(pieces.score, pieces.positive, pieces.negative)
    axes[0, 2].plot([0, 1], [0, 1], ":", color="grey")
    axes[0, 2].plot(mean, observed, "o-", color=LINE)
    axes[0, 2].set(title="calibration", xlabel="score", ylabel="share of abnormal frames", ylim=(-0.02, 1.02))
    save_figure(figure, path)


def plot_scores(timelines: Sequence[Timeline], path: Path, columns: int = 3) -> None:
    """Score over time of each video, at content time, with the true events shaded."""
    rows = -(-len(timelines) // columns)
    figure, axes = new_figure(columns, rows, 1.7)
    for axis in axes.ravel()[len(timelines) :]:
        axis.axis("off")
    for axis, t in zip(axes.ravel(), timelines, strict=False):
        for a, b in t.events:
            axis.axvspan(a / t.fps, b / t.fps, color=EVENT, lw=0)
        edges = np.append(t.starts, t.ends[-1]) / t.fps
        axis.stairs(t.scores, edges, color=LINE, baseline=None)
        axis.set_title(t.name, fontsize=8)
        axis.set(ylim=(-0.02, 1.02), xlim=(0, t.frames / t.fps))
        axis.tick_params(labelsize=7)
    save_figure(figure, path)
