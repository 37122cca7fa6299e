"""What people do: functions time → Pose. All are pure; phase and style numbers make them vary."""

from __future__ import annotations

import math
from collections.abc import Callable

from stream_detector.demo.body import Pose, blend, pose

Move = Callable[[float], Pose]
TAU = 2 * math.pi


def ease(x: float) -> float:
    """Map x in 0…1 smoothly to 0 → 1."""
    x = min(max(x, 0.0), 1.0)
    return x * x * (3 - 2 * x)


def stand(t: float, phase: float) -> Pose:
    """Stand at ease and shift weight."""
    sway, slow = math.sin(0.9 * t + phase), math.sin(0.53 * t + 2 * phase)
    return pose(
        lean=0.03 + 0.015 * slow,
        side=0.04 * sway,
        twist=0.08 * slow,
        nod=0.06 + 0.08 * slow,
        l_arm=(0.05 + 0.05 * sway, 0.12, 0.25, 0.1),
        r_arm=(0.05 - 0.05 * sway, 0.12, 0.25, 0.1),
        l_leg=(0.05, 0.07, 0.06 + 0.04 * max(sway, 0)),
        r_leg=(-0.03, 0.07, 0.06 + 0.04 * max(-sway, 0)),
    )


def gait(stepped_m: float, speed: float, leg_m: float, phase: float) -> Pose:
    """Walk or run, by speed (m/s). stepped_m: distance walked so far, so that the feet match the ground."""
    running = ease((speed - 1.9) / 1.0)
    step = (0.72 + 0.55 * running) * leg_m / 0.88 * min(1.0, 0.45 + 0.4 * speed)
    a = TAU * stepped_m / (2 * step) + phase
    swing = math.asin(min(0.95, step / (2 * leg_m)))
    sin_a, cos_a = math.sin(a), math.cos(a)
    knee = 0.85 + 0.75 * running
    arm, elbow = swing * (0.75 + 0.5 * running), 0.28 + 1.25 * running
    return pose(
        lean=0.05 + 0.16 * running,
        twist=0.12 * sin_a,
        nod=0.04,
        side=0.02 * cos_a,
        lift=0.05 * running * abs(cos_a),
        l_leg=(swing * sin_a + 0.12 * running, 0.03, 0.1 + knee * max(0.0, cos_a) ** 1.3),
        r_leg=(-swing * sin_a + 0.12 * running, 0.03, 0.1 + knee * max(0.0, -cos_a) ** 1.3),
        l_arm=(-arm * sin_a, 0.1, elbow + 0.2 * max(0.0, -sin_a), 0.15),
        r_arm=(arm * sin_a, 0.1, elbow + 0.2 * max(0.0, sin_a), 0.15),
    )


def talk(phase: float, liveliness: float = 1.0) -> Move:
    """Stand and talk, with gestures of one or both hands."""

    def move(t: float) -> Pose:
        p = stand(t, phase)
        turn = ease(math.sin(0.45 * t + phase) * 2) * liveliness
        beat = math.sin(3.1 * t + phase) * 0.25 * turn
        p[9:13] = [0.05 + 0.5 * turn + beat, 0.15, 0.3 + 1.2 * turn - beat, 0.2]
        both = ease(math.sin(0.31 * t + 2.1 * phase) * 2 - 0.6) * liveliness
        p[5:9] = [0.05 + 0.5 * both - beat, 0.15, 0.3 + 1.1 * both, 0.2]
        p[19] += 0.1 * math.sin(1.7 * t + phase)
        return p

    return move


def phone(phase: float) -> Move:
    """Stand and look at a telephone."""

    def move(t: float) -> Pose:
        p = stand(t, phase)
        p[9:13] = [0.55, 0.1, 1.45, 0.3]
        p[19] = 0.5
        return p

    return move


def wave(phase: float) -> Move:
    """Wave with one arm."""

    def move(t: float) -> Pose:
        p = stand(t, phase)
        p[9:13] = [2.7, 0.35 + 0.1 * math.sin(9 * t), 0.25, 0.45 * math.sin(9 * t + phase)]
        p[2] = 0.1
        return p

    return move


def hug(phase: float) -> Move:
    """Hug: arms around each other, slow rocking, patting."""

    def move(t: float) -> Pose:
        pat = 0.12 * math.sin(5 * t + phase)
        return pose(
            lean=0.16,
            side=0.05 * math.sin(1.5 * t),
            nod=0.15,
            l_arm=(1.25, 0.45, 0.35, 0.75),
            r_arm=(1.0, 0.5, 0.5 + pat, 0.75),
            l_leg=(0.06, 0.06, 0.08),
            r_leg=(-0.05, 0.06, 0.05),
        )

    return move


def pick_up(phase: float) -> Move:
    """Bend down to something on the ground."""

    def move(t: float) -> Pose:
        reach = 0.12 * math.sin(3 * t + phase)
        return pose(
            lean=1.15,
            nod=-0.3,
            l_arm=(0.75 + reach, 0.1, 0.15, 0.0),
            r_arm=(0.9 - reach, 0.1, 0.1, 0.0),
            l_leg=(0.75, 0.1, 0.95),
            r_leg=(0.35, 0.1, 0.8),
        )

    return move


def ride(phase: float, speed: float) -> Move:
    """Sit on a bicycle and pedal."""

    def move(t: float) -> Pose:
        a = speed * t * 1.5 + phase
        return pose(
            lean=0.62,
            nod=-0.35,
            pinned=1.0,
            lift=0.97,
            l_arm=(0.75, 0.12, 0.25, 0.05),
            r_arm=(0.75, 0.12, 0.25, 0.05),
            l_leg=(0.95 + 0.38 * math.sin(a), 0.04, 1.05 - 0.42 * math.cos(a)),
            r_leg=(0.95 - 0.38 * math.sin(a), 0.04, 1.05 + 0.42 * math.cos(a)),
        )

    return move


def startle(phase: float) -> Move:
    """Stop short with the hands up to the chest."""

    def move(t: float) -> Pose:
        shake = 0.06 * math.sin(7 * t + phase)
        return pose(
            lean=-0.1,
            l_arm=(0.6 + shake, 0.2, 1.9, 0.3),
            r_arm=(0.7 - shake, 0.2, 1.9, 0.3),
            l_leg=(0.15, 0.1, 0.15),
            r_leg=(-0.2, 0.1, 0.25),
        )

    return move


# ── the fight ───────────────────────────────────────────────────────────────────────────────────────────────────────


def _guard(t: float, phase: float) -> Pose:
    bounce = math.sin(11 * t + phase)
    return pose(
        lean=0.2 + 0.05 * bounce,
        nod=0.2,
        lift=0.02 * max(bounce, 0),
        side=0.06 * math.sin(6.1 * t + phase),
        l_arm=(0.75, 0.2, 1.9, 0.3),
        r_arm=(0.6, 0.25, 2.1, 0.35),
        l_leg=(0.45, 0.14, 0.55),
        r_leg=(-0.25, 0.14, 0.45),
    )


def punch(phase: float, rate_hz: float = 1.7) -> Move:
    """Strike with both arms in turn, driven by the shoulders; rate_hz per arm."""

    def move(t: float) -> Pose:
        p = _guard(t, phase)
        s = math.sin(TAU * rate_hz * t + phase)
        left, right = ease(2.0 * s - 0.4), ease(-2.0 * s - 0.4)
        hook = 0.5 + 0.5 * math.sin(1.9 * t + 3 * phase)
        p[5:9] = [0.75 + 0.8 * left, 0.2 + 0.55 * hook * left, 1.9 - 1.8 * left, 0.3 + 0.4 * hook * left]
        p[9:13] = [0.4 + 1.2 * right, 0.25 + 0.7 * hook * right, 2.2 - 2.1 * right, 0.35 + 0.5 * hook * right]
        p[0] += 0.22 * (left + right)
        p[2] = 0.75 * (right - left)
        p[13] += 0.25 * (left + right)
        return p

    return move


def kick(phase: float, rate_hz: float = 1.3, high: float = 1.0) -> Move:
    """Kick with the right leg; high: 0.6 at something on the ground, 1.2 at the hips."""

    def move(t: float) -> Pose:
        s = math.sin(TAU * rate_hz * t + phase)
        back, out = ease(-1.6 * s), ease(1.8 * s)
        p = pose(
            lean=0.12 - 0.3 * out + 0.2 * back,
            side=0.12,
            twist=0.5 * out - 0.4 * back,
            nod=0.35,
            l_arm=(0.9 * out - 0.5 * back, 0.6, 0.6, 0.0),
            r_arm=(-0.8 * out + 0.7 * back, 0.7, 0.6, 0.0),
            l_leg=(0.12, 0.08, 0.3),
            r_leg=(-0.7 * back + 1.15 * high * out, 0.1, 0.3 + 1.2 * back - 0.2 * out),
        )
        return p

    return move


def stomp(phase: float, rate_hz: float = 1.4) -> Move:
    """Stomp on something on the ground."""

    def move(t: float) -> Pose:
        up = ease(1.5 * math.sin(TAU * rate_hz * t + phase))
        return pose(
            lean=0.15 + 0.25 * (1 - up),
            nod=0.5,
            side=0.08,
            l_arm=(0.2 + 0.9 * up, 0.75, 0.5, 0.0),
            r_arm=(-0.2 + 0.8 * up, 0.75, 0.5, 0.0),
            l_leg=(0.1, 0.08, 0.25),
            r_leg=(0.25 + 1.15 * up, 0.1, 0.2 + 1.45 * up),
        )

    return move


def pound(phase: float, rate_hz: float = 1.8) -> Move:
    """Kneel over a person and strike down with both fists in turn."""

    def move(t: float) -> Pose:
        s = math.sin(TAU * rate_hz * t + phase)
        left, right = ease(1.6 * s), ease(-1.6 * s)
        return pose(
            lean=0.55 + 0.25 * abs(s),
            nod=0.3,
            twist=0.5 * (right - left),
            l_arm=(2.5 - 1.5 * left, 0.25, 1.2 - 1.0 * left, 0.2),
            r_arm=(2.5 - 1.5 * right, 0.25, 1.2 - 1.0 * right, 0.2),
            l_leg=(1.25, 0.3, 2.0),
            r_leg=(0.3, 0.35, 1.75),
        )

    return move


def grapple(phase: float) -> Move:
    """Grapple: hold each other and sway."""

    def move(t: float) -> Pose:
        heave, jerk = math.sin(8.2 * t + phase), math.sin(13 * t + 2 * phase)
        return pose(
            lean=0.5 + 0.22 * heave,
            side=0.3 * jerk,
            twist=0.4 * heave,
            nod=0.2,
            l_arm=(1.25 + 0.3 * jerk, 0.35, 0.5 - 0.3 * heave, 0.6),
            r_arm=(1.1 - 0.3 * heave, 0.35, 0.6 + 0.3 * jerk, 0.6),
            l_leg=(0.55 + 0.2 * jerk, 0.2, 0.6),
            r_leg=(-0.4 + 0.25 * heave, 0.2, 0.4),
        )

    return move


def shove(phase: float) -> Move:
    """Push with both arms, again and again."""

    def move(t: float) -> Pose:
        out = ease(1.6 * math.sin(8.5 * t + phase))
        return pose(
            lean=0.1 + 0.35 * out,
            nod=0.1,
            l_arm=(0.7 + 0.8 * out, 0.15, 1.9 - 1.7 * out, 0.1),
            r_arm=(0.7 + 0.8 * out, 0.15, 1.9 - 1.7 * out, 0.1),
            l_leg=(0.5, 0.1, 0.5),
            r_leg=(-0.3 - 0.2 * out, 0.1, 0.3),
        )

    return move


def reel(phase: float) -> Move:
    """Stagger under blows, arms before the head."""

    def move(t: float) -> Pose:
        a, b = math.sin(10.3 * t + phase), math.sin(7.1 * t + 2.3 * phase)
        return pose(
            lean=0.1 + 0.4 * a,
            side=0.32 * b,
            twist=0.45 * a,
            nod=0.35 + 0.3 * b,
            l_arm=(1.6 + 0.4 * b, 0.3, 1.9 + 0.3 * a, 0.4),
            r_arm=(1.5 - 0.4 * a, 0.35, 2.0 - 0.3 * b, 0.4),
            l_leg=(0.35 * b, 0.2, 0.45),
            r_leg=(-0.35 * b + 0.1, 0.2, 0.5 + 0.2 * a),
        )

    return move


def curl_up(phase: float, side: float, beaten: float = 1.0) -> Move:
    """Lie on one side (side ±1), knees drawn up, twitching under kicks (beaten 0: still)."""

    def move(t: float) -> Pose:
        jerk = beaten * math.sin(9.1 * t + phase) * (0.6 + 0.4 * math.sin(3.3 * t))
        breath = 0.03 * math.sin(2.2 * t + phase)
        return pose(
            roll=side * (1.5 + 0.12 * jerk),
            lean=0.45 + 0.22 * jerk + breath,
            nod=0.5,
            l_arm=(1.7 + 0.3 * jerk, 0.1, 2.0, 0.2),
            r_arm=(1.5 - 0.3 * jerk, 0.1, 1.9, 0.2),
            l_leg=(1.15 + 0.3 * jerk, 0.05, 1.5),
            r_leg=(0.85 - 0.35 * jerk, 0.05, 1.3),
        )

    return move


def on_back(phase: float) -> Move:
    """Lie on the back, limbs raised in defence."""

    def move(t: float) -> Pose:
        a, b = math.sin(9 * t + phase), math.sin(6.3 * t + phase)
        return pose(
            tilt=1.5,
            nod=0.4,
            l_arm=(1.4 + 0.5 * a, 0.3, 0.8 + 0.5 * b, 0.2),
            r_arm=(1.3 - 0.5 * b, 0.3, 0.9 + 0.5 * a, 0.2),
            l_leg=(0.7 + 0.5 * a, 0.15, 1.1),
            r_leg=(0.6 - 0.5 * a, 0.15, 1.0),
        )

    return move


def sit_up(phase: float) -> Move:
    """Sit on the ground and hold the head."""

    def move(t: float) -> Pose:
        sway = math.sin(1.1 * t + phase)
        return pose(
            lean=0.25 + 0.05 * sway,
            nod=0.5,
            l_arm=(1.2, 0.2, 1.9, 0.3),
            r_arm=(-0.3, 0.3, 0.2, 0.0),
            l_leg=(1.75, 0.15, 1.1),
            r_leg=(1.55, 0.2, 0.3),
            lift=0.02,
        )

    return move


def mix(a: Move, b: Move, period_s: float, phase: float) -> Move:
    """Alternate quickly between two moves."""

    def move(t: float) -> Pose:
        return blend(a(t), b(t), ease(0.5 + 2.5 * math.sin(TAU * t / period_s + phase)))

    return move
