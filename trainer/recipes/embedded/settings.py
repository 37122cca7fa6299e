"""The settings of the distillation; apart from `distill`, so that a command line has its defaults without PyTorch."""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class TrainConfig:
    """How the student is trained. sizes: (pixels, share of the steps), small first: early steps need no detail.

    memory: of the averaged weights, which are the ones that count, as a share of the steps.  start_from: a bundle whose
    backbone is taken as the beginning, or another run's student.pt; empty: random, but for the stem.
    """

    arch: str = "resnet3d-18-b-w0.5"
    recipe: str = "stream-112"
    steps: int = 6000
    batch: int = 16
    rate: float = 1.5e-3
    decay: float = 0.03
    warmup: int = 100
    clip_norm: float = 5.0
    sizes: tuple[tuple[int, float], ...] = ((64, 0.5), (80, 0.35), (112, 0.15))
    memory: float = 0.05
    train_stem: bool = False
    seed: int = 0
    start_from: str = ""
    label_weight: float = 1.0

    def size_at(self, step: int) -> int:
        """Pixels a side at a step."""
        share = 0.0
        for size, part in self.sizes:
            share += part
            if step < share * self.steps:
                return size
        return self.sizes[-1][0]

    def rate_at(self, step: int) -> float:
        """Learning rate: linear warm-up, then a half cosine down to a hundredth."""
        if step < self.warmup:
            return self.rate * (step + 1) / self.warmup
        progress = (step - self.warmup) / max(1, self.steps - self.warmup)
        return self.rate * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * min(1.0, progress))))
