"""Folds of whole groups: fold 0 is never used to train a network; heads rotate over all folds.

    groups of each set ──a fifth, by a hash of the name──▶ fold 0 (never used for distillation)
                       └─the rest, evenly by clips──────▶ folds 1 … n-1

The hash depends on names only, so a group stays in fold 0 when other groups are added.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from stream_detector.errors import DataError

Ints = NDArray[np.int64]
FOLDS = 5
KEPT = 0  # number of the fold that no network is trained on, distillation included


class LeakError(DataError):
    """Clips of one group are on both sides of a fold."""


def _hash(name: str) -> str:
    return hashlib.sha256(f"stream-detector/kept/{name}".encode()).hexdigest()


def fold_of(groups: Sequence[str], sets: Sequence[str], abnormal: Sequence[bool], count: int = FOLDS) -> Ints:
    """Return the fold of each clip, (n,), 0 … count-1; a group is never divided.

    groups, sets, abnormal: one per clip. The groups of each set are distributed separately, and groups with an abnormal
    clip separately from groups without one, so that each fold has both labels where there are enough groups. Raises
    DataError for fewer than two folds.
    """
    if count < 2:
        raise DataError(f"{count} folds were asked for; give at least 2")
    members: dict[str, list[int]] = {}
    for place, group in enumerate(groups):
        members.setdefault(group, []).append(place)
    strata: dict[tuple[str, bool], list[str]] = {}
    for group, places in members.items():
        home = sets[places[0]]
        strata.setdefault((home, any(abnormal[p] for p in places)), []).append(group)
    result = np.full(len(groups), -1, dtype=np.int64)
    for _, names in sorted(strata.items()):
        ordered = sorted(names, key=_hash)
        kept = max(1, round(len(ordered) / count)) if len(ordered) >= 3 else 0
        for group in ordered[:kept]:
            result[members[group]] = KEPT
        room = np.zeros(count - 1)
        for group in sorted(ordered[kept:], key=lambda g: (-len(members[g]), _hash(g))):
            fold = int(room.argmin())
            room[fold] += len(members[group])
            result[members[group]] = fold + 1
    return result


def require_apart(groups: Sequence[str], learned: Iterable[int], judged: Iterable[int]) -> None:
    """Raise LeakError if a group has clips in `learned` and in `judged`; both are indices of clips."""
    known = {groups[place] for place in learned}
    shared = sorted(known & {groups[place] for place in judged})
    if shared:
        raise LeakError(
            f"{len(shared)} groups have clips on both sides of a fold, {shared[0]!r} for instance; fold by whole groups"
        )


def group_counts(groups: Sequence[str], sets: Sequence[str], abnormal: Sequence[bool]) -> dict[str, dict[str, int]]:
    """Return {set: {"abnormal": groups, "normal": groups, "abnormal_clips": n, "normal_clips": n}}; a group counts in
    each set that it has clips of.
    """
    result: dict[str, dict[str, int]] = {}
    for name in sorted(set(sets)):
        row: dict[str, int] = {}
        for word, label in (("abnormal", True), ("normal", False)):
            mine = [g for g, s, a in zip(groups, sets, abnormal, strict=True) if s == name and bool(a) == label]
            row[word], row[f"{word}_clips"] = len(set(mine)), len(mine)
        result[name] = row
    return result
