"""Reads the memory of a site as stretches: consecutive windows without a gap, with their alarms and misses."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime

import numpy as np

from stream_detector.adaptation.keeper import CUT
from stream_detector.adaptation.memory import Block, KeptAlarm, Memory, Miss
from stream_detector.adaptation.overlay import Overlay
from stream_detector.adaptation.site_data import Incident, Stretch
from stream_detector.errors import DataError

GAP_S = 2.0  # a gap in media time that ends a stretch


def stretches_of(memory: Memory, bundle: str, camera: str = "") -> list[Stretch]:
    """Return all remembered windows of a bundle. camera: "" for all. Raises DataError if there are none."""
    alarms = _by_camera(memory.alarms(camera))
    misses: dict[str, list[Miss]] = {}
    for miss in memory.misses(camera):
        misses.setdefault(miss.camera, []).append(miss)
    found: list[Stretch] = []
    waiting: list[Block] = []
    for block in memory.blocks(camera, bundle):
        if waiting and not _follows(waiting[-1], block):
            found.append(_stretch(waiting, alarms, misses))
            waiting = []
        waiting.append(block)
    if waiting:
        found.append(_stretch(waiting, alarms, misses))
    if not found:
        whose = f"camera {camera!r}" if camera else "this site"
        raise DataError(
            f"nothing of {whose} is remembered for bundle {bundle}; set site.keep = true, let it run and judge alarms"
        )
    return with_days(found)


def service_model(
    overlay: Overlay | None, bundle: str, camera: str, threshold: float, time_constant_s: float
) -> Overlay:
    """Return the model in service: its overlay, or the bundle at a threshold."""
    return overlay if overlay is not None else Overlay(bundle, camera, threshold, time_constant_s)


def with_days(stretches: Sequence[Stretch]) -> list[Stretch]:
    """Split a camera with only one remembered day by hours of its media time, then by sixths of an hour."""
    days: dict[str, set[str]] = {}
    for stretch in stretches:
        days.setdefault(stretch.camera, set()).add(stretch.day)
    result: list[Stretch] = []
    for stretch in stretches:
        if len(days[stretch.camera]) > 1:
            result.append(stretch)
        else:
            result += _parts(stretch, 3600.0 if stretch.ends_s[-1] - stretch.starts_s[0] > 7200 else 600.0)
    return result


def _parts(stretch: Stretch, seconds: float) -> list[Stretch]:
    number = (stretch.ends_s // seconds).astype(int)
    found = []
    for part in np.unique(number):
        rows = np.flatnonzero(number == part)
        first, last = int(rows[0]), int(rows[-1]) + 1
        begin, end = float(stretch.starts_s[first]), float(stretch.ends_s[last - 1])
        found.append(
            replace(
                stretch,
                day=f"{stretch.day}+{int(part * seconds // 60):04d}min",
                starts_s=stretch.starts_s[first:last],
                ends_s=stretch.ends_s[first:last],
                raw=stretch.raw[first:last],
                features=stretch.features[first:last],
                incidents=tuple(i for i in stretch.incidents if begin <= i.start_s <= end),
                cuts=frozenset(c - first for c in stretch.cuts if first <= c < last),
            )
        )
    return found


def _by_camera(alarms: Sequence[KeptAlarm]) -> dict[str, list[KeptAlarm]]:
    found: dict[str, list[KeptAlarm]] = {}
    for alarm in alarms:
        found.setdefault(alarm.camera, []).append(alarm)
    return found


def _follows(before: Block, block: Block) -> bool:
    same = (before.camera, before.epoch, before.thin) == (block.camera, block.epoch, block.thin)
    return same and -0.001 <= block.starts_s[0] - before.ends_s[-1] <= GAP_S and _day(before) == _day(block)


def _day(block: Block) -> str:
    return datetime.fromtimestamp(float(block.utc[0]), tz=UTC).date().isoformat()


def _stretch(blocks: Sequence[Block], alarms: dict[str, list[KeptAlarm]], misses: dict[str, list[Miss]]) -> Stretch:
    first = blocks[0]
    starts, ends = np.concatenate([b.starts_s for b in blocks]), np.concatenate([b.ends_s for b in blocks])
    utc = np.concatenate([b.utc for b in blocks])
    flags = np.concatenate([b.flags for b in blocks])
    incidents = [
        Incident(f"{a.id}-{a.epoch}", a.start_s, a.end_s, a.verdict, a.snapshot)
        for a in alarms.get(first.camera, ())
        if a.epoch == first.epoch and a.end_s >= starts[0] and a.start_s <= ends[-1]
    ]
    for miss in misses.get(first.camera, ()):
        at_s = miss.at_s
        if miss.at_utc is not None and utc[0] <= miss.at_utc <= utc[-1]:
            at_s = float(np.interp(miss.at_utc, utc, ends))
        elif miss.at_utc is not None:
            continue
        if at_s is not None and starts[0] <= at_s <= ends[-1]:
            incidents.append(Incident(miss.id, at_s, at_s + miss.lasting_s, "missed"))
    return Stretch(
        first.camera,
        _day(first),
        starts.astype(np.float64),
        ends.astype(np.float64),
        np.concatenate([b.raw for b in blocks]).astype(np.float64),
        np.concatenate([b.features for b in blocks]).astype(np.float32),
        tuple(sorted(incidents, key=lambda i: i.start_s)),
        frozenset(int(k) for k in np.flatnonzero(flags & CUT)),
        not first.thin,
    )
