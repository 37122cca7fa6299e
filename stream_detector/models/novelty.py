"""How far a window's features lie from all that a bundle has learned from: pictures of a kind that it does not know.

A score says little about a false-colour thermal picture if every training clip was an ordinary one. The features tell:
those of known kinds lie near a plane through their mean (the leading principal axes); what is left outside that plane
is large for unknown kinds. This is the Q statistic of principal component analysis (Jackson and Mudholkar: Control
procedures for residuals associated with principal component analysis, Technometrics 1979), as a multiple of its mean
over the training windows. `trainer familiar` fits it; the limit is a quantile of clips that were not fitted.

It is told as the cause `unfamiliar`, once every window has been beyond the limit for `TroubleConfig.hold_s`. It does
not change a score. Cost: 12 microseconds a window on a core of a 2-core AMD EPYC, in the thread that decides.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from stream_detector.config import TroubleConfig
from stream_detector.types import Float32Array, Score, WindowRef

CAUSE = "unfamiliar"


class Familiar(nn.Module):
    """What is known: buffers mean (D,), axes (D, k) orthonormal, spread () = mean residual of training windows."""

    mean: Tensor
    axes: Tensor
    spread: Tensor

    def __init__(self, dim: int, axes: int, limit: float = float("inf")) -> None:
        """limit: distances beyond it are of unknown kinds."""
        super().__init__()
        self.limit = limit
        self.register_buffer("mean", torch.zeros(dim))
        self.register_buffer("axes", torch.zeros(dim, axes))
        self.register_buffer("spread", torch.ones(()))

    def distance(self, features: Float32Array) -> Float32Array:
        """float32 (n, D) → (n,): squared distance from the plane; 1.0 is the mean of the training windows."""
        centred = features - self.mean.numpy()
        inside = centred @ self.axes.numpy()
        outside = np.maximum((centred**2).sum(axis=-1) - (inside**2).sum(axis=-1), 0.0)
        result: Float32Array = (outside / float(self.spread)).astype(np.float32)
        return result


class FamiliarWatch:
    """One camera's windows, in order; used by the decision thread. hold_s: media time that it must have lasted."""

    def __init__(self, familiar: Familiar, hold_s: float) -> None:
        self._familiar, self._hold_s = familiar, hold_s
        self._since_s: float | None = None
        self._last_s = float("-inf")

    def check(self, ref: WindowRef, features: Float32Array) -> bool:
        """Whether the pictures have been of an unknown kind for `hold_s`. features: float32 (D,)."""
        if ref.end_s < self._last_s:  # the source began anew
            self._since_s = None
        self._last_s = ref.end_s
        if float(self._familiar.distance(features[None])[0]) <= self._familiar.limit:
            self._since_s = None
            return False
        if self._since_s is None:
            self._since_s = ref.start_s
        return ref.end_s - self._since_s >= self._hold_s

    def state(self) -> dict[str, Any]:
        """Since when the pictures have been unknown, as JSON; `restore` in another process goes on from it."""
        return {"since_s": self._since_s, "last_s": self._last_s}

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from a `state`."""
        self._since_s, self._last_s = state["since_s"], state["last_s"]

    def told(self, ref: WindowRef, features: Float32Array) -> WindowRef:
        """The window, with `unfamiliar` among its causes if `check` says so."""
        if not self.check(ref, features):
            return ref
        return dataclasses.replace(ref, degraded=tuple(sorted({*ref.degraded, CAUSE})))

    def marked(self, score: Score) -> Score:
        """The same for a score; one without features stays as it is."""
        return score if score.features is None else dataclasses.replace(score, ref=self.told(score.ref, score.features))


def watches(familiar: Familiar | None, config: TroubleConfig) -> Callable[[], FamiliarWatch] | None:
    """What makes one camera's watch; None where the bundle knows nothing of it, or trouble is not to be told."""
    if familiar is None or not config.enabled:
        return None
    return lambda: FamiliarWatch(familiar, config.hold_s)
