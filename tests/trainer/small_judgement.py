"""The judgement that ends a recipe, in small: every part runs, few times."""

from __future__ import annotations

import functools
from types import ModuleType

import pytest

from trainer.evaluation import figures, standard
from trainer.evaluation.logistic import Logistic

CHOICES = ((1.0, "clips"), (0.1, "sets"))
PLAN = standard.StreamPlan(1, 200.0, 1)
ROUNDS = 50


def judge_little(patch: pytest.MonkeyPatch, recipe: ModuleType) -> None:
    """Let a recipe choose between two heads, in short streams drawn once, with intervals from few draws."""
    patch.setattr(recipe, "Logistic", functools.partial(Logistic, choices=CHOICES))
    patch.setattr(recipe, "evaluate_network", functools.partial(standard.evaluate_network, plan=PLAN))
    patch.setattr(standard, "SEEDS", (0,))
    patch.setattr(figures, "auc_figure", functools.partial(figures.auc_figure, rounds=ROUNDS))
    patch.setattr(figures, "ROUNDS", ROUNDS)
