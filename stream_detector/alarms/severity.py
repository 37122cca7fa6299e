"""Severity of an alarm by rule: how far the peak lies between the threshold and 1, and how long the alarm lasts."""

from __future__ import annotations

SEVERITIES = ("low", "medium", "high")
LONG_S = 20.0  # an alarm that lasts so long is one level more severe


def severity(peak: float, threshold: float, duration_s: float) -> str:
    """One of SEVERITIES: thirds of the way from the threshold to 1, one level higher from LONG_S on."""
    share = (peak - threshold) / (1.0 - threshold) if threshold < 1.0 else 1.0
    level = 0 if share < 1 / 3 else 1 if share < 2 / 3 else 2
    return SEVERITIES[min(2, level + (duration_s >= LONG_S))]
