"""Chooses the head: all candidates are fitted, and the one with the best mean AUC on `val` is taken."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from stream_detector.models.heads import Head
from trainer.recipes.embedded.clip_metrics import clip_aucs
from trainer.recipes.embedded.fit_head import Bag, HeadConfig, clip_scores
from trainer.recipes.embedded.spaces import Maps, fit_in_space
from trainer.recipes.embedded.view_pool import SHARES

HEADS = (
    *(HeadConfig(decay=decay) for decay in (0.03, 0.3, 1.0)),
    *(HeadConfig(decay=decay, space="teacher") for decay in (0.3, 1.0, 3.0)),
    *(HeadConfig(decay=decay, space="classes") for decay in (0.3, 0.5, 1.0)),
    *(HeadConfig(decay=decay, space="mean") for decay in (0.3, 1.0)),
    HeadConfig((32,), 0.3),
)
LONG = {"quiet_scenes": 0.2, "quiet_hours": 0.1}  # shares of the footage that the head trains on in full length
# Small shares of the fights: the features were trained on these clips, so the head would learn their picture style.
FITTED_SHARES = {
    **SHARES,
    "cctv_fights": 0.05,
    "cctv_crashes": 0.3,
    "hockey_fights": 0.3,
    "rendered": 0.2,
    **LONG,
}
MEASURED_SHARES = {**SHARES, "cctv_fights": 0.3, "cctv_crashes": 0.3, "hockey_fights": 0.2}  # for calibration on val


def choose_head(
    train: Sequence[Bag], val: Sequence[Bag], maps: Maps, shares: Mapping[str, float] = FITTED_SHARES
) -> tuple[Head, HeadConfig, list[dict[str, Any]]]:
    """Return the head with the best mean of the per-set and pooled AUC on `val`; also the table of all candidates."""
    tried: list[tuple[float, Head, HeadConfig]] = []
    for config in HEADS:
        head = fit_in_space(train, config, shares, maps)
        table = clip_aucs(clip_scores(head, val), [b.set for b in val], [b.abnormal for b in val])
        tried.append((float(np.mean([row["value"] for row in table.values()])), head, config))
    best = max(tried, key=lambda entry: entry[0])
    report = [
        {"hidden": list(c.hidden), "decay": c.decay, "space": c.space, "mean_auc": round(score, 4)}
        for score, _, c in tried
    ]
    return best[1], best[2], report
