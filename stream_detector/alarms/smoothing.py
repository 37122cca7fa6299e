"""Causal smoothing of raw scores, one filter per camera. No filter looks ahead; all times are media time in seconds.

To add a kind of smoother, register a factory in `SMOOTHERS` (see `system.registry`): `SmoothingConfig` → `Smoother`.
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
    """A causal filter for the scores of one camera."""

    def update(self, start_s: float, end_s: float, raw: float) -> float:
        """Take the raw score of the window [start_s, end_s] (media time); return the smoothed score. Both are in [0,
        1].
        """
        ...

    def reset(self) -> None:
        """Forget the past: the next window shows another scene (`cut`)."""
        ...

    def state(self) -> list[float | None]:
        """Return the state as values that JSON holds exactly; a new filter of the same kind can `restore` it."""
        ...

    def restore(self, state: list[float | None]) -> None:
        """Continue from a `state`."""
        ...


class Ema:
    """Exponential moving average with a time constant, so that its delay does not depend on stride and frame rate.

    The filter starts at 0 ("nothing abnormal"). The time step of a window is limited to its own length or the time
    constant, whichever is longer. Therefore neither the first window nor the first one after a long gap can cause an
    alarm alone.
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
        """Start at 0 again."""
        self._value, self._last_end_s = 0.0, None

    def state(self) -> list[float | None]:
        """Return [value, end of the last window]."""
        return [self._value, self._last_end_s]

    def restore(self, state: list[float | None]) -> None:
        """Continue from a `state`."""
        self._value, self._last_end_s = state[0] or 0.0, state[1]


class Median:
    """Median of the last `span` raw scores; missing scores at the start count as 0."""

    def __init__(self, span: int) -> None:
        self._scores = deque([0.0] * span, maxlen=span)

    def update(self, start_s: float, end_s: float, raw: float) -> float:
        """Take a raw score; return the median."""
        self._scores.append(raw)
        return statistics.median(self._scores)

    def reset(self) -> None:
        """Start with zeros again."""
        self._scores.extend([0.0] * len(self._scores))

    def state(self) -> list[float | None]:
        """Return the scores of the span."""
        return list(self._scores)

    def restore(self, state: list[float | None]) -> None:
        """Continue from a `state`."""
        self._scores.extend(value or 0.0 for value in state)


class Identity:
    """No smoothing."""

    def update(self, start_s: float, end_s: float, raw: float) -> float:
        """Return `raw`."""
        return raw

    def reset(self) -> None:
        """Do nothing: this filter has no state."""

    def state(self) -> list[float | None]:
        """Return an empty list: this filter has no state."""
        return []

    def restore(self, state: list[float | None]) -> None:
        """Do nothing: this filter has no state."""


def smooth_on(smoother: Smoother, start_s: float, end_s: float, raw: float, degraded: Collection[str]) -> float:
    """Smooth the score of the next window; reset the filter first if another scene begins with this window."""
    if "cut" in degraded:
        smoother.reset()
    return smoother.update(start_s, end_s, raw)


def make_ema(config: SmoothingConfig) -> Smoother:
    """Make the smoother of kind "ema"; it uses `time_constant_s`."""
    return Ema(config.time_constant_s)


def make_median(config: SmoothingConfig) -> Smoother:
    """Make the smoother of kind "median"; it uses `span`."""
    return Median(config.span)


def make_identity(config: SmoothingConfig) -> Smoother:
    """Make the smoother of kind "none"."""
    return Identity()


def make_smoother(config: SmoothingConfig) -> Smoother:
    """Make the filter that `config` describes. Raises ConfigError for a kind that is not registered."""
    smoother: Smoother = SMOOTHERS.get(config.kind)(config)
    return smoother
