"""A jointed human figure: pose parameters → joints in the world, for many figures at once.

A pose is a list of N_PARAMS numbers (radians unless said otherwise), so poses blend linearly:
    LEAN forward bend of the torso, SIDE sideways bend, TWIST shoulders against hips, TILT whole body backwards,
    ROLL whole body sideways; per arm SHOULDER (0 hangs, π/2 forward), ABDUCT, ELBOW, INWARD (forearm to the middle);
    per leg HIP (forward), SPREAD, KNEE; NOD head down; LIFT metres; PINNED 1: pelvis LIFT above ground, 0: the lowest
    joint touches the ground LIFT above it.
Lengths are shares of body height (anthropometry after Winter, Biomechanics and Motor Control of Human Movement).
"""

from __future__ import annotations

import numpy as np

from stream_detector.demo.camera import Floats

LEAN, SIDE, TWIST, TILT, ROLL = range(5)
L_ARM, R_ARM, L_LEG, R_LEG = 5, 9, 13, 16  # first index of each limb
NOD, LIFT, PINNED = 19, 20, 21
N_PARAMS = 22

Pose = list[float]

(
    PELVIS,
    NECK,
    HEAD,
    L_HIP,
    L_KNEE,
    L_ANKLE,
    L_TOE,
    R_HIP,
    R_KNEE,
    R_ANKLE,
    R_TOE,
    L_SHOULDER,
    L_ELBOW,
    L_WRIST,
    L_HAND,
    R_SHOULDER,
    R_ELBOW,
    R_WRIST,
    R_HAND,
    FACE,
    CROWN,
    PACK_TOP,
    PACK_LOW,
) = range(23)
N_JOINTS = 23

# Height of a joint above the ground when the figure rests on it, as a fraction of body height.
_CLEARANCE = np.full(N_JOINTS, 0.05)
_CLEARANCE[[L_ANKLE, R_ANKLE]] = 0.035
_CLEARANCE[[L_TOE, R_TOE]] = 0.015
_CLEARANCE[[L_HAND, R_HAND, L_WRIST, R_WRIST]] = 0.0
_CLEARANCE[[PACK_TOP, PACK_LOW]] = -1.0


def pose(**limbs: tuple[float, ...] | float) -> Pose:
    """A pose by names: l_arm, r_arm (4 numbers), l_leg, r_leg (3), lean, side, twist, tilt, roll, nod, lift, pinned."""
    values = [0.0] * N_PARAMS
    starts = {"l_arm": L_ARM, "r_arm": R_ARM, "l_leg": L_LEG, "r_leg": R_LEG}
    singles = {"lean": 0, "side": 1, "twist": 2, "tilt": 3, "roll": 4, "nod": NOD, "lift": LIFT, "pinned": PINNED}
    for name, value in limbs.items():
        if isinstance(value, tuple):
            values[starts[name] : starts[name] + len(value)] = value
        else:
            values[singles[name]] = value
    return values


def blend(a: Pose, b: Pose, weight: float) -> Pose:
    """a + weight·(b − a)."""
    return [p + weight * (q - p) for p, q in zip(a, b, strict=True)]


def joints(params: Floats, place: Floats, heading: Floats, height: Floats) -> Floats:
    """Forward kinematics.

    params: (N, N_PARAMS).  place: (N, 2) metres X, Z.  heading: (N,) radians, 0 looks along +Z, π/2 along +X.
    height: (N,) metres.  Returns (N, N_JOINTS, 3) world metres.
    """
    n = len(params)
    s, c = np.sin(params), np.cos(params)
    forward, up, left = np.zeros((n, 3)), np.zeros((n, 3)), np.zeros((n, 3))
    forward[:, 0], forward[:, 2] = c[:, LEAN], -s[:, LEAN]
    up[:, 0], up[:, 2] = s[:, LEAN], c[:, LEAN]
    left[:, 1] = 1.0
    up, left = (
        up * c[:, SIDE, None] + left * s[:, SIDE, None],
        left * c[:, SIDE, None] - up * s[:, SIDE, None],
    )
    hip_left = np.broadcast_to(np.array([0.0, 1.0, 0.0]), (n, 3))
    forward, left = (
        forward * c[:, TWIST, None] + left * s[:, TWIST, None],
        left * c[:, TWIST, None] - forward * s[:, TWIST, None],
    )

    out = np.zeros((n, N_JOINTS, 3))  # forward, left, up; pelvis at the origin; heights of 1
    neck = 0.295 * up
    out[:, NECK] = neck
    tip, nod_c = s[:, NOD, None], c[:, NOD, None]
    face_way = forward * nod_c - up * tip
    crown_way = up * nod_c + forward * tip
    out[:, HEAD] = neck + 0.03 * up + 0.058 * crown_way
    out[:, FACE] = out[:, HEAD] + 0.024 * face_way - 0.012 * crown_way
    out[:, CROWN] = out[:, HEAD] - 0.008 * face_way + 0.016 * crown_way
    out[:, PACK_TOP] = 0.24 * up - 0.085 * forward
    out[:, PACK_LOW] = 0.08 * up - 0.09 * forward

    for arm, joint, sign in ((L_ARM, L_SHOULDER, 1.0), (R_ARM, R_SHOULDER, -1.0)):
        lower, inner = params[:, arm] + params[:, arm + 2], params[:, arm + 1] - params[:, arm + 3]
        upper_way = _limb(forward, sign * left, up, s[:, arm], c[:, arm], s[:, arm + 1], c[:, arm + 1])
        lower_way = _limb(forward, sign * left, up, np.sin(lower), np.cos(lower), np.sin(inner), np.cos(inner))
        out[:, joint] = neck - 0.03 * up + sign * 0.098 * left
        out[:, joint + 1] = out[:, joint] + 0.172 * upper_way
        out[:, joint + 2] = out[:, joint + 1] + 0.15 * lower_way
        out[:, joint + 3] = out[:, joint + 2] + 0.04 * lower_way

    body = (np.array([1.0, 0, 0]), hip_left, np.array([0, 0, 1.0]))
    for leg, joint, sign in ((L_LEG, L_HIP, 1.0), (R_LEG, R_HIP, -1.0)):
        low = params[:, leg] - params[:, leg + 2]
        low_s, low_c = np.sin(low), np.cos(low)
        out[:, joint] = sign * 0.05 * hip_left
        out[:, joint + 1] = out[:, joint] + 0.245 * _limb(
            body[0], sign * hip_left, body[2], s[:, leg], c[:, leg], s[:, leg + 1], c[:, leg + 1]
        )
        half = 0.5 * params[:, leg + 1]
        out[:, joint + 2] = out[:, joint + 1] + 0.235 * _limb(
            body[0], sign * hip_left, body[2], low_s, low_c, np.sin(half), np.cos(half)
        )
        out[:, joint + 3] = out[:, joint + 2]
        out[:, joint + 3, 0] += 0.085 * low_c + 0.012 * low_s
        out[:, joint + 3, 2] += 0.085 * low_s - 0.025 * low_c

    _turn(out, 0, 2, -params[:, TILT])
    _turn(out, 1, 2, -params[:, ROLL])
    rest = params[:, LIFT] / height - np.min(out[:, :, 2] - _CLEARANCE, axis=1)
    out[:, :, 2] += np.where(params[:, PINNED] > 0.5, params[:, LIFT] / height, rest)[:, None]
    out *= height[:, None, None]
    sin_h, cos_h = np.sin(heading)[:, None], np.cos(heading)[:, None]
    world = np.empty_like(out)
    world[:, :, 0] = place[:, 0, None] + out[:, :, 0] * sin_h - out[:, :, 1] * cos_h
    world[:, :, 2] = place[:, 1, None] + out[:, :, 0] * cos_h + out[:, :, 1] * sin_h
    world[:, :, 1] = out[:, :, 2]
    return world


def _limb(
    forward: Floats, outward: Floats, up: Floats, sin_a: Floats, cos_a: Floats, sin_b: Floats, cos_b: Floats
) -> Floats:
    """Direction of a limb raised forward by a and outward by b."""
    return forward * (sin_a * cos_b)[:, None] + outward * sin_b[:, None] - up * (cos_a * cos_b)[:, None]


def _turn(points: Floats, a: int, b: int, angle: Floats) -> None:
    """Rotate axis a towards axis b, in place."""
    s, c = np.sin(angle)[:, None], np.cos(angle)[:, None]
    first, second = points[:, :, a].copy(), points[:, :, b]
    points[:, :, a], points[:, :, b] = first * c + second * s, second * c - first * s
