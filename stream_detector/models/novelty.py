"""Novelty detection: how far the features of a window are from the features of the bundle's training data.

A score means little for a false-colour thermal picture if every training clip was an ordinary one. The features show
the difference: features of known kinds of pictures are near a plane through their mean (the leading principal axes);
the residual outside that plane is large for unknown kinds. This is the Q statistic of principal component analysis
(Jackson and Mudholkar: Control procedures for residuals associated with principal component analysis, Technometrics
1979), as a multiple of its mean over the training windows. The trainer fits the model; the limit is a quantile of the
distances of clips that were not used for the fit.

A window carries the cause `novelty` once every window has been beyond the limit for
`PictureQualityConfig.min_duration_s`. The score does not change. Cost: 12 microseconds per window on a core of a 2-core
AMD EPYC, in the decision thread.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from stream_detector.config import PictureQualityConfig
from stream_detector.types import Float32Array, Score, WindowRef

CAUSES = ("novelty", "unfamiliar")  # the second is the former name; version 0.2 removes it


class NoveltyModel(nn.Module):
    """Principal subspace of training features: buffers mean (D,), axes (D, k) orthonormal, spread () mean residual."""

    mean: Tensor
    axes: Tensor
    spread: Tensor

    def __init__(self, dim: int, axes: int, limit: float = float("inf")) -> None:
        """Create an empty model. limit: a window with a larger distance is novel."""
        super().__init__()
        self.limit = limit
        self.register_buffer("mean", torch.zeros(dim))
        self.register_buffer("axes", torch.zeros(dim, axes))
        self.register_buffer("spread", torch.ones(()))

    def distance(self, features: Float32Array) -> Float32Array:
        """Map float32 (n, D) to (n,): the squared distance from the plane; 1.0 is the mean of the training windows."""
        centred = features - self.mean.numpy()
        inside = centred @ self.axes.numpy()
        outside = np.maximum((centred**2).sum(axis=-1) - (inside**2).sum(axis=-1), 0.0)
        result: Float32Array = (outside / float(self.spread)).astype(np.float32)
        return result


class NoveltyMonitor:
    """Marks the novel windows of one camera, in order; used by the decision thread.

    min_duration_s: seconds of media time for which every window must have been novel.
    """

    def __init__(self, model: NoveltyModel, min_duration_s: float) -> None:
        self._model, self._min_duration_s = model, min_duration_s
        self._since_s: float | None = None
        self._last_s = float("-inf")

    def check(self, ref: WindowRef, features: Float32Array) -> bool:
        """Return whether every window has been novel for `min_duration_s`. features: float32 (D,) of this window."""
        if ref.end_s < self._last_s:  # the source started again
            self._since_s = None
        self._last_s = ref.end_s
        if float(self._model.distance(features[None])[0]) <= self._model.limit:
            self._since_s = None
            return False
        if self._since_s is None:
            self._since_s = ref.start_s
        return ref.end_s - self._since_s >= self._min_duration_s

    def state(self) -> dict[str, Any]:
        """Return the media time since which windows have been novel, as JSON; another process can `restore` it."""
        return {"since_s": self._since_s, "last_s": self._last_s}

    def restore(self, state: dict[str, Any]) -> None:
        """Continue from a `state`."""
        self._since_s, self._last_s = state["since_s"], state["last_s"]

    def mark_window(self, ref: WindowRef, features: Float32Array) -> WindowRef:
        """Return the window, with CAUSES among its causes if `check` returns True. features: float32 (D,)."""
        if not self.check(ref, features):
            return ref
        return dataclasses.replace(ref, degraded=tuple(sorted({*ref.degraded, *CAUSES})))

    def mark_score(self, score: Score) -> Score:
        """Return the score with its window marked as by `mark_window`; unchanged if it has no features."""
        return (
            score
            if score.features is None
            else dataclasses.replace(score, ref=self.mark_window(score.ref, score.features))
        )


def novelty_monitor_factory(
    model: NoveltyModel | None, config: PictureQualityConfig
) -> Callable[[], NoveltyMonitor] | None:
    """Return a function that makes a monitor for one camera; None without a novelty model or with picture checks
    disabled.
    """
    if model is None or not config.enabled:
        return None
    return lambda: NoveltyMonitor(model, config.min_duration_s)
