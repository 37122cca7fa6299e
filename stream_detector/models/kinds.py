"""What kind of incident an alarm is: a multinomial logistic regression on the mean of the features of its windows.

It answers "if this alarm is right, is it a fight, a crash, or something else?", and says nothing of whether it is
right. The trainer fits it, and ships it only where grouped folds show that it knows (`trainer.evaluation.kinds`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor

from stream_detector.types import Float32Array


@dataclass(frozen=True, slots=True, eq=False)
class KindModel:
    """names: of K kinds.  weight: float32 (K, D).  bias: float32 (K,)."""

    names: tuple[str, ...]
    weight: Float32Array
    bias: Float32Array

    @classmethod
    def of(cls, names: tuple[str, ...], state: Mapping[str, Tensor]) -> KindModel:
        """Make it from the tensors of `kind.safetensors`."""
        return cls(names, state["weight"].numpy(), state["bias"].numpy())

    def likeliest(self, features: Float32Array) -> tuple[str, float]:
        """The likeliest kind and its probability, rounded. features: (D,), mean over windows."""
        # summed in a fixed order, so that a replay gives the same bytes on any number of threads
        logits = (self.weight.astype(np.float64) * features).sum(axis=1) + self.bias
        odds = np.exp(logits - logits.max())
        best = int(odds.argmax())
        return self.names[best], round(float(odds[best] / odds.sum()), 3)


class AlarmKind:
    """The kind of one camera's open alarm, by the windows so far."""

    def __init__(self, model: KindModel) -> None:
        self._model = model
        self._sum = np.zeros(model.weight.shape[1])
        self._count = 0

    def see(self, features: Float32Array | None) -> None:
        """Take a window of an alarm. features: (D,)."""
        if features is not None:
            self._sum += features
            self._count += 1

    def told(self) -> tuple[str, float]:
        """The kind and its probability; ("", 0.0) before the first window."""
        return self._model.likeliest((self._sum / self._count).astype(np.float32)) if self._count else ("", 0.0)

    def forget(self) -> None:
        """The alarm is over."""
        self._sum[:], self._count = 0.0, 0

    def state(self) -> dict[str, Any]:
        """What decides the next event, as JSON."""
        return {"sum": self._sum.tolist(), "count": self._count}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Continue from a `state`."""
        self._sum, self._count = np.array(state["sum"], np.float64), int(state["count"])
