"""The settings of a fit; apart from `fitting`, so that a command line has its defaults without PyTorch."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class FitConfig:
    """Weights of the losses and their bounds.

    keep: weight of the known logits' mean squared change.  calm, loud: weights of normal pieces and of incidents.
    calm_below, loud_above: logits that these should have.  calm_share, loud_share: the share of a piece's windows that
    counts, the highest first; at least one.  sharpness: of the hinge.  hidden: number of added units.  decay: L2 on
    their weights.  seed: of their first weights.
    """

    keep: float = 15.0
    calm: float = 5.0
    loud: float = 10.0
    calm_below: float = -1.0
    loud_above: float = 1.2
    calm_share: float = 0.03
    loud_share: float = 0.34
    sharpness: float = 4.0
    hidden: int = 8
    decay: float = 0.01
    steps: int = 300
    seed: int = 0
