"""The scripted incident: who attacks whom, and how it goes, as pure functions of time.

Times are fractions of the incident's length: the attackers rush in, they strike while standing, one person falls, they
kick and strike on the ground, they run away. Courses: "beating" (several against one), "brawl" (two sides exchange
blows for long), "wrestle" (grappling, then strikes on the ground).
"""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np

from stream_detector.demo import moves
from stream_detector.demo.cast import Actor, Place, Stage, any_look
from stream_detector.demo.paint import Look

COURSES = ("beating", "brawl", "wrestle")


def fighter_look(rng: np.random.Generator) -> Look:
    """Return the appearance of a random adult with free hands."""
    return replace(any_look(rng), bag=None)


def fight(rng: np.random.Generator, stage: Stage, spot: Place, start_s: float, end_s: float) -> tuple[str, list[Actor]]:
    """Return the course and its actors.

    spot: X, Z in metres.  start_s: the attackers begin to rush.  end_s: they run away.
    """
    course = str(rng.choice(COURSES))
    attackers = {"beating": int(rng.integers(2, 4)), "brawl": 2, "wrestle": int(rng.integers(1, 3))}[course]
    length = end_s - start_s
    down_s = start_s + length * {"beating": 0.4, "brawl": 0.62, "wrestle": 0.5}[course] + float(rng.uniform(-0.3, 0.3))
    contact_s = start_s + min(0.8, 0.15 * length)
    victim = _victim(rng, stage, spot, start_s, contact_s, down_s, end_s, course)
    cast = [victim]
    others = 2 if course == "brawl" else 1
    friend = None
    if others == 2:  # the victim's friend fights back to the end
        friend = _victim(rng, stage, (spot[0] + 0.9, spot[1] + 0.35), start_s, contact_s, end_s + 1e3, end_s, course)
        cast.append(friend)
    around = float(rng.uniform(-0.4, 0.4))
    sides = [math.pi / 2, -math.pi / 2, 0.15, math.pi - 0.4]
    for n in range(attackers):
        target = friend if friend is not None and n == 1 else victim
        lie_down = down_s if target is victim else end_s + 1e3
        attacker = _attacker(rng, stage, target, sides[n] + around, (start_s, contact_s, lie_down, end_s), course, n)
        if target is not victim and friend is not None:
            friend.faces.append((start_s, end_s + 0.5, attacker.place))
        elif n == 0:
            victim.faces.append((start_s, down_s, attacker.place))
        cast.append(attacker)
    return course, cast


def _jostle(
    rng: np.random.Generator, centre: Place, begin_s: float, end_s: float, by_m: float
) -> list[tuple[float, float, float]]:
    """Make knots of a person who is pushed about a point."""
    knots, t = [], begin_s
    while t < end_s:
        knots.append((t, centre[0] + float(rng.normal(0, by_m)), centre[1] + float(rng.normal(0, 0.7 * by_m))))
        t += float(rng.uniform(0.22, 0.42))
    return knots


def _victim(
    rng: np.random.Generator,
    stage: Stage,
    spot: Place,
    start_s: float,
    contact_s: float,
    down_s: float,
    end_s: float,
    course: str,
) -> Actor:
    side = int(rng.choice([-1, 1]))
    z = spot[1]
    edge = stage.middle(z) + side * stage.exit(z)
    wait = float(rng.uniform(3, 6))
    came = abs(edge - spot[0]) / 1.3
    knots = [(start_s - wait - came, edge, z), (start_s - wait, *spot), (contact_s, *spot)]
    fallen = min(down_s, end_s + 0.4)
    knots += _jostle(rng, spot, contact_s + 0.1, fallen, 0.24)
    phase = float(rng.uniform(0, 6))
    person = Actor(fighter_look(rng), knots, phase, smooth_s=0.08)
    person.acts.append((start_s - wait, start_s + 0.3, moves.phone(phase), 0.4))
    person.acts.append((start_s + 0.1, contact_s + 0.3, moves.startle(phase), 0.2))
    standing = moves.grapple(phase) if course == "wrestle" else moves.reel(phase)
    if course == "brawl":
        standing = moves.mix(moves.punch(phase, 1.5), moves.reel(phase), 2.6, phase)
    person.acts.append((contact_s - 0.1, fallen + 0.5, standing, 0.2))
    if down_s < end_s:
        x, zz = knots[-1][1], knots[-1][2]
        person.knots.append((down_s + 0.3, x + 0.2 * side, zz))
        person.knots.append((end_s + 60, x + 0.2 * side, zz))
        side_lying = float(rng.choice([-1, 1]))
        # heading such that the body lies across the picture, head to one side
        person.faces.append((down_s - 0.3, end_s + 100, (x + 0.2 * side, -50.0 if side_lying > 0 else 50.0)))
        ground = moves.on_back(phase) if course == "wrestle" else moves.curl_up(phase, side_lying)
        if course == "wrestle":
            person.faces[-1] = (down_s - 0.3, end_s + 100, (x + 50.0 * side_lying, zz))
        person.acts.append((down_s, end_s + 1.2, ground, 0.4))
        person.acts.append((end_s + 0.2, end_s + 6, moves.curl_up(phase, side_lying, 0.0), 0.9))
        person.acts.append((end_s + 4.5, end_s + 100, moves.sit_up(phase), 1.5))
    else:  # breaks away and runs, too
        x, zz = knots[-1][1], knots[-1][2]
        out = stage.middle(zz) + side * (stage.exit(zz) + 1)
        person.knots.append((end_s + 0.5 + abs(out - x) / 4.2, out, zz + 0.6))
    return person.settle()


def _attacker(
    rng: np.random.Generator,
    stage: Stage,
    victim: Actor,
    angle: float,
    times: tuple[float, float, float, float],
    course: str,
    number: int,
) -> Actor:
    start_s, contact_s, down_s, end_s = times
    reach = 0.48 if course == "wrestle" and number == 0 else 0.74
    side = 1 if math.sin(angle) >= 0 else -1

    def beside(t: float, distance: float, turn: float = 0.0) -> tuple[float, float, float]:
        x, z = victim.place(t)
        return t, x + distance * math.sin(angle + turn), z + 0.8 * distance * math.cos(angle + turn)

    _, x, z = beside(start_s, float(rng.uniform(2.4, 3.0)))
    z = max(z, 6.9)
    edge = stage.middle(z) + side * stage.exit(z)
    speed = float(rng.uniform(1.25, 1.5))
    knots = [(start_s - max(abs(edge - x), 0.5) / speed, edge, z), (start_s, x, z)]
    t = contact_s
    while t < min(down_s, end_s):
        lunge = reach + 0.16 * math.sin(9 * t + number) + float(rng.normal(0, 0.06))
        knots.append(beside(t, lunge, 0.5 * math.sin(0.9 * (t - start_s) + number)))
        t += float(rng.uniform(0.2, 0.34))
    kneels = course == "wrestle" and number == 0
    while t < end_s:
        distance = 0.12 if kneels else 0.7 + 0.12 * math.sin(8 * t + number)
        turn = 0.0 if kneels else 0.35 * math.sin(0.8 * t + 2 * number)
        knots.append(beside(t, distance, turn))
        t += float(rng.uniform(0.25, 0.4))
    x, z = knots[-1][1], knots[-1][2]
    out_z = min(z + float(rng.uniform(0.3, 1.5)), 11.0)
    out = stage.middle(out_z) + side * (stage.exit(out_z) + 1)
    gone = end_s + abs(out - x) / float(rng.uniform(4.0, 5.0))
    knots.append((gone, out, out_z))
    phase = float(rng.uniform(0, 6))
    person = Actor(fighter_look(rng), knots, phase, smooth_s=0.08)
    person.faces.append((start_s - 0.2, end_s + 0.2, victim.place))
    blows = moves.punch(phase, float(rng.uniform(1.5, 2.0)))
    up = {
        "beating": moves.mix(blows, moves.kick(phase, 1.3, 1.1) if number else moves.shove(phase), 3.0, phase),
        "brawl": moves.mix(blows, moves.shove(phase), 3.4, phase),
        "wrestle": moves.grapple(phase + 2) if number == 0 else blows,
    }[course]
    person.acts.append((contact_s - 0.25, min(down_s, end_s) + 0.3, up, 0.2))
    if down_s < end_s:
        low = moves.pound(phase) if kneels else moves.mix(moves.kick(phase, 1.5, 0.6), moves.stomp(phase), 2.8, phase)
        person.acts.append((down_s, end_s + 0.25, low, 0.25))
    return person.settle()
