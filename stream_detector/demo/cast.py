"""The people of an ordinary day: where they walk, stand and meet, as pure functions of time."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from stream_detector.demo import moves
from stream_detector.demo.body import blend
from stream_detector.demo.moves import Move, ease
from stream_detector.demo.paint import Car, Colour, Figure, Look

Place = tuple[float, float]
# media time of the first of an actor's steps aside, and the interval between them
ASIDE_FROM_S, ASIDE_STEP_S = -2.0, 0.1
_SKIN: list[Colour] = [(168, 196, 232), (140, 172, 214), (108, 142, 188), (70, 98, 142), (48, 66, 98), (152, 184, 226)]
_HAIR: list[Colour] = [(22, 22, 26), (34, 44, 62), (52, 82, 118), (112, 160, 196), (150, 150, 154), (30, 34, 44)]
_TOPS: list[Colour] = [
    (52, 46, 44),
    (150, 96, 52),
    (58, 58, 168),
    (206, 208, 210),
    (70, 112, 66),
    (60, 150, 200),
    (120, 120, 124),
    (142, 80, 120),
    (84, 62, 40),
    (40, 84, 156),
    (176, 150, 110),
    (40, 40, 42),
]
_BOTTOMS: list[Colour] = [(92, 66, 46), (44, 42, 42), (70, 84, 98), (124, 98, 74), (128, 146, 160), (58, 52, 56)]


@dataclass(frozen=True)
class Stage:
    """The visible part of the street. slant: metres by which the middle of the view shifts along X per metre of Z."""

    slant: float

    def middle(self, z: float) -> float:
        """Return X in the middle of the picture at depth z."""
        return z * self.slant

    def exit(self, z: float) -> float:
        """Return how far from the middle a person at depth z is out of the picture."""
        return 0.62 * z + 1.2

    def across(self, z: float, way: int) -> tuple[float, float]:
        """Return X where a person who walks `way` (±1) at depth z enters the picture, and X where the person leaves
        it.
        """
        return self.middle(z) - way * self.exit(z), self.middle(z) + way * self.exit(z)


@dataclass
class Actor:
    """A person and what the person does.

    knots: (time s, X, Z), ascending; absent before the first and after the last.  acts: (from s, to s, move, ramp s),
    later ones on top.  faces: (from s, to s, point or function of time → point to look at).  company: a number that
    members of one group share.  firm: does not step aside.  asides: metres along Z beside the course, every
    ASIDE_STEP_S from ASIDE_FROM_S on, see `demo.avoid`.
    """

    look: Look
    knots: list[tuple[float, float, float]]
    phase: float = 0.0
    acts: list[tuple[float, float, Move, float]] = field(default_factory=list)
    faces: list[tuple[float, float, Place | Callable[[float], Place]]] = field(default_factory=list)
    on_bike: bool = False
    smooth_s: float = 0.16
    company: int | None = None
    firm: bool = False
    asides: list[float] = field(default_factory=list)

    def settle(self) -> Actor:
        """Compute the tables that figure() uses; call it again after changing knots."""
        self._times = [k[0] for k in self.knots]
        self._made = [0.0]
        for (_, x0, z0), (_, x1, z1) in zip(self.knots, self.knots[1:], strict=False):
            self._made.append(self._made[-1] + math.hypot(x1 - x0, z1 - z0))
        return self

    def at(self, t: float) -> tuple[float, float, float]:
        """Return X, Z and distance walked at t, along the straight legs, including the steps aside."""
        x, z, made = self._on_course(t)
        return x, z + self._aside(t), made

    def _aside(self, t: float) -> float:
        if not self.asides:
            return 0.0
        k = min(max((t - ASIDE_FROM_S) / ASIDE_STEP_S, 0.0), len(self.asides) - 1.0)
        n = min(int(k), len(self.asides) - 2)
        return self.asides[n] + (k - n) * (self.asides[n + 1] - self.asides[n])

    def _on_course(self, t: float) -> tuple[float, float, float]:
        times = self._times
        if t <= times[0]:
            return self.knots[0][1], self.knots[0][2], 0.0
        if t >= times[-1]:
            return self.knots[-1][1], self.knots[-1][2], self._made[-1]
        n = bisect_right(times, t) - 1
        (t0, x0, z0), (t1, x1, z1), made = self.knots[n], self.knots[n + 1], self._made[n]
        s = (t - t0) / (t1 - t0)
        return x0 + s * (x1 - x0), z0 + s * (z1 - z0), made + s * (self._made[n + 1] - made)

    def place(self, t: float) -> Place:
        """X, Z at t, corners rounded."""
        a, b, c = self.at(t - self.smooth_s), self.at(t), self.at(t + self.smooth_s)
        return (a[0] + b[0] + c[0]) / 3, (a[1] + b[1] + c[1]) / 3

    def _course(self, t: float) -> float:
        """Return the heading of the last leg of travel before t (or of the first after it)."""
        n = min(max(bisect_right(self._times, t) - 1, 0), len(self.knots) - 2)
        for m in [*range(n, -1, -1), *range(n + 1, len(self.knots) - 1)]:
            dx, dz = self.knots[m + 1][1] - self.knots[m][1], self.knots[m + 1][2] - self.knots[m][2]
            if math.hypot(dx, dz) > 0.04:
                return math.atan2(dx, dz)
        return 0.0

    def figure(self, t: float) -> Figure | None:
        """Return the figure at t, or None when off stage."""
        if not self._times[0] <= t <= self._times[-1]:
            return None
        now = [self.at(t + d) for d in (-self.smooth_s, 0.0, self.smooth_s)]
        place = (now[0][0] + now[1][0] + now[2][0]) / 3, (now[0][1] + now[1][1] + now[2][1]) / 3
        before, after = self.place(t - 0.12), self.place(t + 0.12)
        dx, dz = after[0] - before[0], after[1] - before[1]
        speed = math.hypot(dx, dz) / 0.24
        moving = ease((speed - 0.12) / 0.4)
        pose = moves.stand(t, self.phase)
        if moving > 0:
            made = (now[0][2] + now[1][2] + now[2][2]) / 3
            pose = blend(pose, moves.gait(made, speed, 0.49 * self.look.height_m, self.phase), moving)
        for begin, end, move, ramp in self.acts:
            if begin < t < end:
                weight = ease((t - begin) / ramp) * ease((end - t) / ramp)
                pose = blend(pose, move(t), weight)
        course = math.atan2(dx, dz) if speed > 0.15 else self._course(t)
        sin_h, cos_h = math.sin(course), math.cos(course)
        for begin, end, target in self.faces:
            if begin < t < end:
                weight = ease((t - begin) / 0.35) * ease((end - t) / 0.35)
                x, z = target(t) if callable(target) else target
                away = math.hypot(x - place[0], z - place[1]) + 1e-6
                sin_h += weight * ((x - place[0]) / away - sin_h)
                cos_h += weight * ((z - place[1]) / away - cos_h)
        return Figure(self.look, place, math.atan2(sin_h, cos_h), pose, self.on_bike)

    def flee(self, at_s: float, from_place: Place, stage: Stage, rng: np.random.Generator) -> None:
        """From `at_s` on: startle, then run out of the picture, away from a place."""
        if at_s >= self.knots[-1][0]:
            return
        if at_s <= self.knots[0][0]:  # not on stage yet: stays away
            self.knots = [(at_s + 1e6, 0.0, 0.0), (at_s + 1e6 + 1, 0.0, 0.0)]
            self.settle()
            return
        x, z = self.place(at_s)
        side = 1.0 if x > from_place[0] else -1.0
        goal_z = float(np.clip(z + rng.uniform(-0.8, 1.6), 6.8, 11.5)) if z < 15 else z
        goal_x = stage.middle(goal_z) + side * (stage.exit(goal_z) + 1.5)
        pause = float(rng.uniform(0.3, 0.7))
        run_s = math.hypot(goal_x - x, goal_z - z) / float(rng.uniform(3.2, 4.3))
        self.knots = [k for k in self.knots if k[0] < at_s] + [
            (at_s, x, z),
            (at_s + pause, x + 0.15 * side, z + 0.1),
            (at_s + pause + run_s, goal_x, goal_z),
        ]
        self.acts = [(b, min(e, at_s + 0.3), m, r) for b, e, m, r in self.acts if b < at_s]
        self.acts.append((at_s, at_s + pause + 0.25, moves.startle(self.phase), 0.18))
        self.faces = [(b, min(e, at_s + 0.3), p) for b, e, p in self.faces if b < at_s]
        self.faces.append((at_s, at_s + pause + 0.2, from_place))
        self.settle()


def any_look(rng: np.random.Generator, height_m: float | None = None) -> Look:
    """Return a random appearance."""

    def pick(colours: list[Colour]) -> Colour:
        b, g, r = (np.array(colours[int(rng.integers(len(colours)))]) * rng.uniform(0.88, 1.08)).tolist()
        return (b, g, r)

    return Look(
        height_m or float(rng.uniform(1.58, 1.9)),
        float(rng.uniform(0.92, 1.2)),
        pick(_SKIN),
        pick(_HAIR),
        pick(_TOPS),
        pick(_BOTTOMS),
        pick([(30, 30, 32), (210, 212, 214), (40, 52, 74)]),
        bool(rng.random() < 0.7),
        bool(rng.random() < 0.18),
        pick(_TOPS) if rng.random() < 0.25 else None,
        pick(_TOPS) if rng.random() < 0.25 else None,
    )


def walkers(rng: np.random.Generator, stage: Stage, duration_s: float) -> list[list[Actor]]:
    """Make streams of passers-by on the near and the far pavement; some walk in pairs."""
    cast: list[list[Actor]] = []
    lanes = [7.2, 8.4, 9.6, 10.9, 20.2, 21.2]
    for lane in lanes:
        way = int(rng.choice([-1, 1]))
        t = -float(rng.uniform(1, 14))
        while t < duration_s:
            z0, z1 = lane + rng.uniform(-0.3, 0.3, 2)
            speed = float(rng.uniform(1.05, 1.6))
            x0, x1 = stage.across(z0, way)[0], stage.across(z1, way)[1]
            took = abs(x1 - x0) / speed
            middle = (t + took / 2, (x0 + x1) / 2, (z0 + z1) / 2 + float(rng.uniform(-0.35, 0.35)))
            company: list[Actor] = []
            for n in range(2 if rng.random() < 0.25 else 1):
                aside = 0.62 * n
                knots = [(t, x0, z0 + aside), (middle[0], middle[1], middle[2] + aside), (t + took, x1, z1 + aside)]
                person = Actor(any_look(rng), knots, float(rng.uniform(0, 6)))
                if rng.random() < 0.15:
                    person.acts.append((t + 0.3 * took, t + 0.6 * took, _walk_phone(person), 0.5))
                company.append(person.settle())
            cast.append(company)
            t += took + float(rng.uniform(3, 12))
            way = way if rng.random() < 0.5 else -way
    return cast


def _walk_phone(person: Actor) -> Move:
    """Walk with a telephone at the ear: the gait, with one arm up."""
    leg = 0.49 * person.look.height_m

    def move(t: float) -> list[float]:
        speed = 1.3
        pose = moves.gait(person.at(t)[2], speed, leg, person.phase)
        pose[9:13] = [1.1, 0.35, 1.75, 0.35]
        return pose

    return move


def chatting(rng: np.random.Generator, place: Place, people: int, begin_s: float, end_s: float) -> list[Actor]:
    """Make people who stand around a point and talk."""
    turn, radius = float(rng.uniform(0, 6)), 0.5 + 0.08 * people
    cast = []
    for n in range(people):
        a = turn + n * 2 * math.pi / people + float(rng.uniform(-0.25, 0.25))
        x, z = place[0] + radius * math.sin(a), place[1] + radius * math.cos(a)
        phase = float(rng.uniform(0, 6))
        person = Actor(any_look(rng), [(begin_s, x, z), (end_s, x, z)], phase)
        person.acts.append((begin_s, end_s, moves.talk(phase, float(rng.uniform(0.6, 1.2))), 0.4))
        person.faces.append((begin_s - 1, end_s + 1, place))
        cast.append(person.settle())
    return cast


def vignette(rng: np.random.Generator, stage: Stage, kind: str, t: float, z: float) -> list[Actor]:
    """Make one harmless scene near the camera, with its climax about t. kind: one of VIGNETTES."""
    way = int(rng.choice([-1, 1]))
    spot = (stage.middle(z) + float(rng.uniform(-1.6, 1.6)), z)

    def enter(side: int, gap: float, speed: float = 1.35, look: Look | None = None) -> Actor:
        """Make a person who enters from a side, stands `gap` metres beside the spot from t to t + 5, and walks on."""
        stop, (edge, out) = spot[0] - side * gap, stage.across(z, side)
        came, left = abs(stop - edge) / speed, abs(out - stop) / speed
        pass_z = z + 0.7 * side
        knots = [
            (t - came, edge, z),
            (t, stop, z),
            (t + 5, stop, z),
            (t + 5.8, stop + 0.5 * side, pass_z),
            (t + 5 + left, out, pass_z),
        ]
        return Actor(look or any_look(rng), knots, float(rng.uniform(0, 6)))

    if kind == "hug":
        pair = [enter(1, 0.19), enter(-1, 0.19)]
        for person in pair:
            person.faces.append((t - 0.3, t + 5.2, spot))
            person.acts.append((t - 0.25, t + 2.8, moves.hug(person.phase), 0.45))
            person.acts.append((t + 2.6, t + 5.2, moves.talk(person.phase), 0.5))
        return [p.settle() for p in pair]
    if kind == "wave":
        one, other = enter(way, 0.3), enter(-way, 1.9)
        for person, partner in ((one, other), (other, one)):
            person.settle()
            person.faces.append((t - 0.6, t + 5.2, partner.settle().place))
            person.acts.append((t - 0.8, t + 1.6, moves.wave(person.phase), 0.35))
            person.acts.append((t + 1.6, t + 5, moves.talk(person.phase), 0.5))
        return [one, other]
    if kind == "bag":
        person = enter(way, 0.0)
        person.acts.append((t + 0.6, t + 2.4, moves.pick_up(person.phase), 0.6))
        person.acts.append((t + 2.6, t + 4.8, moves.phone(person.phase), 0.5))
        return [person.settle()]
    if kind in ("child", "bus"):
        height, speed = (1.12, 2.9) if kind == "child" else (None, 3.6)
        x0, x1 = stage.across(z, way)
        took = abs(x1 - x0) / speed
        sway = float(rng.uniform(0.5, 1.1)) if kind == "child" else 0.2
        knots = [
            (t + took * (s - 0.5), x0 + s * (x1 - x0), z + sway * math.sin(5 * s))
            for s in np.linspace(0, 1, 9).tolist()
        ]
        runner = Actor(any_look(rng, height), knots, float(rng.uniform(0, 6))).settle()
        if kind == "child":  # a parent follows and waves
            parent = Actor(any_look(rng), [(t - 4, x0, z + 1), (t + 6, x1, z + 1)], float(rng.uniform(0, 6)))
            return [runner, parent.settle()]
        return [runner]
    if kind == "cyclist":
        lane = 13.4
        x0, x1 = stage.across(lane, way)
        took = abs(x1 - x0) / 4.4
        rider = Actor(any_look(rng), [(t - took / 2, x0, lane), (t + took / 2, x1, lane)], float(rng.uniform(0, 6)))
        rider.on_bike = rider.firm = True
        rider.acts.append((t - took, t + took, moves.ride(rider.phase, 4.4), 0.01))
        return [rider.settle()]
    people = int(rng.integers(3, 6))
    return [_come_and_go(person, stage, way) for person in chatting(rng, spot, people, t - 4, t + 7)]


def _come_and_go(person: Actor, stage: Stage, way: int, speed: float = 1.35) -> Actor:
    """Make a person who stands somewhere enter from one side before, and leave by the other after."""
    (begin_s, x, z), (end_s, _, _) = person.knots
    edge, out = stage.across(z, way)
    first, last = (begin_s - abs(x - edge) / speed, edge, z), (end_s + abs(out - x) / speed, out, z)
    person.knots = [first, *person.knots, last]
    return person.settle()


VIGNETTES = ("hug", "child", "bag", "cyclist", "wave", "bus", "group")


@dataclass(frozen=True)
class Drive:
    """A passing car: at x0 at time t0, then at `speed` metres per second."""

    car: Car
    t0: float
    speed: float

    def at(self, t: float) -> Car | None:
        """Return the car at t, or None when out of sight."""
        x = self.car.x + self.car.way * self.speed * (t - self.t0)
        if abs(x) > 24:
            return None
        return Car(x, self.car.z, self.car.way, self.car.colour, self.car.van, self.car.lights)


def traffic(rng: np.random.Generator, duration_s: float, lights: bool) -> list[Drive]:
    """Make cars that pass now and then, in both directions."""
    drives = []
    colours: list[Colour] = [(160, 160, 162), (44, 44, 46), (60, 56, 150), (140, 90, 50), (206, 208, 210), (60, 92, 66)]
    for z, way in ((14.4, 1), (16.9, -1)):
        t = float(rng.uniform(-3, 4))
        while t < duration_s:
            colour = colours[int(rng.integers(len(colours)))]
            car = Car(-23.9 * way, z, way, colour, bool(rng.random() < 0.2), lights)
            drives.append(Drive(car, t, float(rng.uniform(7, 11))))
            t += float(rng.uniform(5, 13))
    return drives
