"""Collision avoidance: people whose courses would meet step aside along Z, each a little.

    planned courses ──every ASIDE_STEP_S: who will be close to whom within the next 1.2 s?──▶ Actor.asides ──▶ Actor.at

It is computed once per scene, before the first frame, so that a frame is a pure function of its number. People walk
around those who stand; groups, people in the incident and cyclists keep their courses.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from stream_detector.demo.camera import Floats
from stream_detector.demo.cast import ASIDE_FROM_S, ASIDE_STEP_S, Actor
from stream_detector.demo.street import FAR_Z, KERB_Z, WALL_Z

ROOM_M = 0.8  # metres; distance that two people keep
AHEAD_S = (0.0, 0.4, 0.8, 1.2)  # seconds that people look ahead
HURRY = 5.0  # metres per second for each metre of missing room …
FASTEST_M_S = 0.9  # … but no faster than this
BACK_S = 1.5  # seconds; time constant of the return to the planned course
WALKS_M_S = 0.25  # metres per second; slower is standing
_EDGE_M = 0.3  # metres; distance to the edges of a pavement
_NEAREST_Z = 6.4


def walk_round(actors: Sequence[Actor], duration_s: float) -> None:
    """Set the steps aside of every actor, from before the first frame to `duration_s`."""
    steps = int(np.ceil((duration_s - ASIDE_FROM_S) / ASIDE_STEP_S)) + 1
    ahead = [round(s / ASIDE_STEP_S) for s in AHEAD_S]
    if not actors:
        return
    x, z = _planned(actors, steps + max(ahead))
    companies = np.array([-1 - n if actor.company is None else actor.company for n, actor in enumerate(actors)])
    strangers = companies[:, None] != companies[None, :]
    first = np.arange(len(actors))
    turn = np.where(first[:, None] > first[None, :], 1.0, -1.0)  # decides who goes which way if both are on one line
    speed = np.hypot(np.diff(x, axis=1), np.diff(z, axis=1)) / ASIDE_STEP_S
    yields = (np.nan_to_num(speed) > WALKS_M_S) & ~np.array([actor.firm for actor in actors])[:, None]
    low, high = _pavement(z)
    aside = np.zeros((len(actors), steps))
    for n in range(1, steps):
        now = aside[:, n - 1]
        push = np.zeros(len(actors))
        for later in ahead:
            here = z[:, n + later] + now
            dz = here[:, None] - here[None, :]
            apart = np.hypot(x[:, n + later][:, None] - x[:, n + later][None, :], dz)
            missing = np.where(strangers, np.clip(ROOM_M - apart, 0, None), 0.0)
            side = np.where(np.abs(dz) > 0.02, np.sign(dz), turn)
            found = np.nansum(HURRY * missing * side, axis=1)
            push = np.where(np.abs(found) > np.abs(push), found, push)
        speed_aside = np.where(yields[:, n], push, 0.0) - now / BACK_S
        moved = now + ASIDE_STEP_S * np.clip(speed_aside, -FASTEST_M_S, FASTEST_M_S)
        free = np.clip(moved, low[:, n] - z[:, n], high[:, n] - z[:, n])
        aside[:, n] = np.where(np.isfinite(free), free, moved)
    for actor, row in zip(actors, aside, strict=True):
        actor.asides = row.tolist() if np.abs(row).max() > 1e-3 else []


def _planned(actors: Sequence[Actor], steps: int) -> tuple[Floats, Floats]:
    """Return X and Z of all actors at each step of their courses; NaN while an actor is off stage."""
    x, z = np.full((len(actors), steps), np.nan), np.full((len(actors), steps), np.nan)
    times = (ASIDE_FROM_S + ASIDE_STEP_S * np.arange(steps)).tolist()
    for k, actor in enumerate(actors):
        begin, end = actor.knots[0][0], actor.knots[-1][0]
        for n, t in enumerate(times):
            if begin <= t <= end:
                x[k, n], z[k, n] = actor.place(t)
    return x, z


def _pavement(z: Floats) -> tuple[Floats, Floats]:
    """Return the range of Z for steps aside at each planned place: the width of the pavement, elsewhere none."""
    near, far = z <= KERB_Z - _EDGE_M, z >= FAR_Z + _EDGE_M
    low = np.where(near, np.minimum(z, _NEAREST_Z), np.where(far, FAR_Z + _EDGE_M, z))
    high = np.where(near, KERB_Z - _EDGE_M, np.where(far, np.maximum(z, WALL_Z - _EDGE_M), z))
    return low, high
