"""People do not walk through one another: where two would meet, they step aside along Z, each a little.

    courses as planned ──every ASIDE_STEP_S: who will be near whom within the next 1.2 s?──▶ Actor.asides ──▶ Actor.at

Worked out once a scene, before the first frame, so that a frame stays a pure function of its number. Who stands is
walked round; a company, who is in the incident, and who rides are left as they are.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from stream_detector.demo.camera import Floats
from stream_detector.demo.cast import ASIDE_FROM_S, ASIDE_STEP_S, Actor
from stream_detector.demo.street import FAR_Z, KERB_Z, WALL_Z

ROOM_M = 0.8  # that two people want between them
AHEAD_S = (0.0, 0.4, 0.8, 1.2)  # how far ahead they look
HURRY = 5.0  # metres a second for each metre of room that is missing …
FASTEST_M_S = 0.9  # … but no faster than this
BACK_S = 1.5  # time constant of the way back to the planned course
WALKS_M_S = 0.25  # slower than this is standing
_EDGE_M = 0.3  # that a pavement's users keep from its edges
_NEAREST_Z = 6.4


def walk_round(actors: Sequence[Actor], duration_s: float) -> None:
    """Give every actor their steps aside, from before the first frame to `duration_s`."""
    steps = int(np.ceil((duration_s - ASIDE_FROM_S) / ASIDE_STEP_S)) + 1
    ahead = [round(s / ASIDE_STEP_S) for s in AHEAD_S]
    if not actors:
        return
    x, z = _planned(actors, steps + max(ahead))
    companies = np.array([-1 - n if actor.company is None else actor.company for n, actor in enumerate(actors)])
    strangers = companies[:, None] != companies[None, :]
    first = np.arange(len(actors))
    turn = np.where(first[:, None] > first[None, :], 1.0, -1.0)  # who goes which way where both are on one line
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
    """X and Z of everybody at each step, as the courses have it; NaN where somebody is not on stage."""
    x, z = np.full((len(actors), steps), np.nan), np.full((len(actors), steps), np.nan)
    times = (ASIDE_FROM_S + ASIDE_STEP_S * np.arange(steps)).tolist()
    for k, actor in enumerate(actors):
        begin, end = actor.knots[0][0], actor.knots[-1][0]
        for n, t in enumerate(times):
            if begin <= t <= end:
                x[k, n], z[k, n] = actor.place(t)
    return x, z


def _pavement(z: Floats) -> tuple[Floats, Floats]:
    """From which Z to which one may step aside at each planned place: as far as the pavement goes, elsewhere not."""
    near, far = z <= KERB_Z - _EDGE_M, z >= FAR_Z + _EDGE_M
    low = np.where(near, np.minimum(z, _NEAREST_Z), np.where(far, FAR_Z + _EDGE_M, z))
    high = np.where(near, KERB_Z - _EDGE_M, np.where(far, np.maximum(z, WALL_Z - _EDGE_M), z))
    return low, high
