"""A plot of a training: loss and validation figure over steps."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from trainer.evaluation.plots import new_figure, save_figure
from trainer.mil.checkpoint import Curve


def plot_curves(curves: Sequence[Curve], path: Path) -> None:
    """Training loss and validation figure over steps, one line a network."""
    figure, axes = new_figure(2)
    for curve in curves:
        axes[0, 0].plot(curve.step, curve.loss, label=f"{curve.view} #{curve.seed}")
        axes[0, 1].plot(curve.step, curve.validation)
    axes[0, 0].set(title="training loss", xlabel="step")
    axes[0, 1].set(title="validation figure (held-out training videos)", xlabel="step")
    axes[0, 0].legend(fontsize=7)
    save_figure(figure, path)
