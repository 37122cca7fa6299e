"""Causal smoothing of raw scores, one filter per camera. Nothing here looks ahead, and time is media time only.

A smoother of another kind is a factory in `SMOOTHERS` (see `registry`): `SmoothingConfig` → `Smoother`.
"""

from __future__ import annotations

import math
import statistics
from collections import deque
from collections.abc import Collection
from typing import Protocol

from stream_detector.config import SmoothingConfig
from stream_detector.config.kinds import SMOOTHERS as SMOOTHERS


class Smoother(Protocol):
    """A causal filter."""

    def update(self, start_s: float, end_s: float, raw: float) -> float:
        """Take the raw score of the window [start_s, end_s] (media time), return the smoothed one, both in [0, 1]."""
        ...

    def reset(self) -> None:
        """Forget: the next window shows another scene (`cut`)."""
        ...

    def state(self) -> list[float | None]:
        """What it remembers, as JSON holds it exactly; `restore` of a new filter of the same kind goes on from it."""
        ...

    def restore(self, state: list[float | None]) -> None:
        """Go on from a `state`."""
        ...


class Ema:
    """Exponential moving average with a time constant, so that stride and frame rate do not change its delay.

    The filter starts from 0 ("nothing abnormal"), and a window counts for at most the longer of its own length and the
    time constant: neither the first window nor the first one after a long gap can raise an alarm on its own.
    """

    def __init__(self, time_constant_s: float) -> None:
        self.time_constant_s = time_constant_s
        self._value = 0.0
        self._last_end_s: float | None = None

    def update(self, start_s: float, end_s: float, raw: float) -> float:
        """value += (1 - exp(-dt / time constant)) * (raw - value)."""
        if self.time_constant_s <= 0:
            return raw
        longest_s = max(self.time_constant_s, end_s - start_s)
        step_s = longest_s if self._last_end_s is None else end_s - self._last_end_s
        self._last_end_s = end_s
        weight = 1.0 - math.exp(-min(max(step_s, 0.0), longest_s) / self.time_constant_s)
        self._value += weight * (raw - self._value)
        return self._value

    def reset(self) -> None:
        """From 0 again."""
        self._value, self._last_end_s = 0.0, None

    def state(self) -> list[float | None]:
        """[value, end of the last window]."""
        return [self._value, self._last_end_s]

    def restore(self, state: list[float | None]) -> None:
        """Go on from a `state`."""
        self._value, self._last_end_s = state[0] or 0.0, state[1]


class Median:
    """Median of the last `span` raw scores; missing ones count as 0 at the start."""

    def __init__(self, span: int) -> None:
        self._scores = deque([0.0] * span, maxlen=span)

    def update(self, start_s: float, end_s: float, raw: float) -> float:
        """The median after `raw` has entered."""
        self._scores.append(raw)
        return statistics.median(self._scores)

    def reset(self) -> None:
        """From zeros again."""
        self._scores.extend([0.0] * len(self._scores))

    def state(self) -> list[float | None]:
        """The scores of the span."""
        return list(self._scores)

    def restore(self, state: list[float | None]) -> None:
        """Go on from a `state`."""
        self._scores.extend(value or 0.0 for value in state)


class Identity:
    """No smoothing."""

    def update(self, start_s: float, end_s: float, raw: float) -> float:
        """raw itself."""
        return raw

    def reset(self) -> None:
        """Nothing to forget."""

    def state(self) -> list[float | None]:
        """Nothing is remembered."""
        return []

    def restore(self, state: list[float | None]) -> None:
        """Nothing to go on from."""


def smooth_on(smoother: Smoother, start_s: float, end_s: float, raw: float, degraded: Collection[str]) -> float:
    """The smoothed score of the next window; where another scene begins with it, the past is forgotten first."""
    if "cut" in degraded:
        smoother.reset()
    return smoother.update(start_s, end_s, raw)


def make_ema(config: SmoothingConfig) -> Smoother:
    """kind "ema": uses `time_constant_s`."""
    return Ema(config.time_constant_s)


def make_median(config: SmoothingConfig) -> Smoother:
    """kind "median": uses `span`."""
    return Median(config.span)


def make_identity(config: SmoothingConfig) -> Smoother:
    """kind "none"."""
    return Identity()


def make_smoother(config: SmoothingConfig) -> Smoother:
    """The filter that `config` describes. Raises ConfigError for a kind that is not registered."""
    smoother: Smoother = SMOOTHERS.get(config.kind)(config)
    return smoother
