"""Severity of an alarm by rule: score, length, kind, schedule.

    share of the way from the threshold to 1    level
    below medium_from (1/3)                     low
    below high_from (2/3)                       medium
    above                                       high

    one level higher  once the alarm lasts long_s (20 s)
    some levels higher or lower  by its kind, where `kinds` says so
    at least          what the schedule asks for at that time (`severity` of a rule)

It is a pure function of what the event tells, so a replay gives the same.
"""

from __future__ import annotations

from stream_detector.config.schedule import SeverityConfig

SEVERITIES = ("low", "medium", "high")
USUAL = SeverityConfig()


def severity(
    peak: float, threshold: float, duration_s: float, kind: str = "", least: str = "low", config: SeverityConfig = USUAL
) -> str:
    """One of SEVERITIES.

    peak: highest smoothed score so far.  duration_s: media time since the start.  kind: of the alarm, "" if it is not
    known.  least: one of SEVERITIES, from the schedule.
    """
    share = (peak - threshold) / (1.0 - threshold) if threshold < 1.0 else 1.0
    level = 0 if share < config.medium_from else 1 if share < config.high_from else 2
    level += duration_s >= config.long_s
    level += config.kinds.get(kind, 0)
    return SEVERITIES[max(SEVERITIES.index(least), min(2, max(0, level)))]
