"""Draws people, their shadows, bicycles and cars with anti-aliased polygons (sub-pixel by OpenCV's `shift`)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from stream_detector.demo import body
from stream_detector.demo.camera import Floats, project
from stream_detector.types import UInt8Array

Ints = NDArray[np.int32]
Colour = tuple[float, float, float]  # BGR, 0…255

SHIFT = 4
_ONE = 1 << SHIFT


@dataclass(frozen=True)
class Look:
    """Build and clothes of a person. height_m: metres.  build: 1 is average girth.  Colours: BGR."""

    height_m: float
    build: float
    skin: Colour
    hair: Colour
    top: Colour
    bottom: Colour
    shoes: Colour
    long_sleeves: bool = True
    skirt: bool = False
    pack: Colour | None = None
    bag: Colour | None = None


@dataclass(frozen=True)
class Figure:
    """A person at one moment. place: X, Z metres.  heading: radians.  on_bike: whether to draw a bicycle."""

    look: Look
    place: tuple[float, float]
    heading: float
    pose: body.Pose
    on_bike: bool = False


@dataclass(frozen=True)
class Light:
    """The light of the street. shadow: X, Z metres of shadow per metre of height.  strength: 0…1 of the cast shadow."""

    ambient: Colour
    shadow: tuple[float, float]
    strength: float
    lamps: tuple[tuple[float, float], ...] = ()
    lamp_gain: Colour = (0.0, 0.0, 0.0)

    def at(self, x: Floats, z: Floats) -> Floats:
        """Return the factors (…, 3) that multiply a colour at ground points X, Z."""
        result = np.broadcast_to(np.array(self.ambient), (*np.shape(x), 3)).copy()
        for lamp_x, lamp_z in self.lamps:
            near = np.exp(-((x - lamp_x) ** 2 + (z - lamp_z) ** 2) / 34.0)
            result += near[..., None] * np.array(self.lamp_gain)
        return result


# part: end a, end b, radius at a, radius at b (shares of height), colour key
_PARTS: tuple[tuple[int, int, float, float, str], ...] = (
    (body.L_HIP, body.L_KNEE, 0.048, 0.036, "bottom"),
    (body.L_KNEE, body.L_ANKLE, 0.036, 0.025, "shin"),
    (body.L_ANKLE, body.L_TOE, 0.023, 0.018, "shoes"),
    (body.R_HIP, body.R_KNEE, 0.048, 0.036, "bottom"),
    (body.R_KNEE, body.R_ANKLE, 0.036, 0.025, "shin"),
    (body.R_ANKLE, body.R_TOE, 0.023, 0.018, "shoes"),
    (body.L_SHOULDER, body.L_ELBOW, 0.031, 0.026, "top"),
    (body.L_ELBOW, body.L_WRIST, 0.026, 0.019, "sleeve"),
    (body.L_WRIST, body.L_HAND, 0.019, 0.019, "skin"),
    (body.R_SHOULDER, body.R_ELBOW, 0.031, 0.026, "top"),
    (body.R_ELBOW, body.R_WRIST, 0.026, 0.019, "sleeve"),
    (body.R_WRIST, body.R_HAND, 0.019, 0.019, "skin"),
    (body.NECK, body.HEAD, 0.028, 0.03, "skin"),
    (body.HEAD, body.CROWN, 0.055, 0.056, "hair"),
    (body.HEAD, body.FACE, 0.034, 0.046, "skin"),
    (body.PACK_TOP, body.PACK_LOW, 0.06, 0.07, "pack"),
)
_A = np.array([p[0] for p in _PARTS])
_B = np.array([p[1] for p in _PARTS])
_RA = np.array([p[2] for p in _PARTS])
_RB = np.array([p[3] for p in _PARTS])
_KEYS = [p[4] for p in _PARTS]
_TORSO = len(_PARTS)
_ROUNDED = {0: 0, 3: 1, 6: 2, 9: 3}  # parts with a lighter strip
_LIT = np.array(list(_ROUNDED))
_SKIRT = _TORSO + 1
_BAG = _TORSO + 2
_SHADOW_PARTS = np.array([0, 1, 3, 4, 6, 7, 9, 10, 13])
_HULL = np.array([body.L_SHOULDER, body.R_SHOULDER, body.L_HIP, body.R_HIP])
_HULL_R = np.array([0.044, 0.044, 0.056, 0.056])
_ARC = np.linspace(-np.pi / 2, np.pi / 2, 5)
_ARC_XY = np.stack([np.cos(_ARC), np.sin(_ARC)], axis=-1)
_RING = np.stack([np.cos(np.arange(8) * np.pi / 4), np.sin(np.arange(8) * np.pi / 4)], axis=-1)
_WHEEL = np.stack([np.cos(np.arange(18) * np.pi / 9), np.sin(np.arange(18) * np.pi / 9)], axis=-1)


def fixed(points: Floats) -> Ints:
    """Convert pixels to OpenCV's fixed point."""
    return (np.minimum(np.maximum(points, -4000), 4000) * _ONE + 0.5).astype(np.int32)


def _capsules(a: Floats, b: Floats, ra: Floats, rb: Floats) -> Floats:
    """Outlines (…, 10, 2) of tapered capsules from a to b (…, 2) with radii (…,), all in pixels."""
    along = b - a
    length = np.hypot(along[..., 0], along[..., 1])[..., None]
    along = np.where(length > 1e-3, along / np.maximum(length, 1e-3), np.array([0.0, 1.0]))
    across = np.stack([-along[..., 1], along[..., 0]], axis=-1)
    arc = _ARC_XY[:, :1] * along[..., None, :] + _ARC_XY[:, 1:] * across[..., None, :]
    return np.concatenate(
        [b[..., None, :] + rb[..., None, None] * arc, a[..., None, :] - ra[..., None, None] * arc], axis=-2
    )


def _palette(look: Look) -> list[Colour]:
    colours = {
        "top": look.top,
        "bottom": look.bottom,
        "shoes": look.shoes,
        "skin": look.skin,
        "hair": look.hair,
        "sleeve": look.top if look.long_sleeves else look.skin,
        "shin": look.skin if look.skirt else look.bottom,
        "pack": look.pack or look.top,
    }
    return [*(colours[key] for key in _KEYS), look.top, look.bottom, look.bag or look.top]


@dataclass(frozen=True)
class Crowd:
    """All figures of one frame, posed: joints (N, J, 3) metres; depth (N,) metres, for sorting."""

    figures: tuple[Figure, ...]
    joints: Floats
    depth: Floats


def pose_crowd(figures: Sequence[Figure], matrix: Floats) -> Crowd:
    """Compute the forward kinematics of all figures together."""
    world = body.joints(
        np.array([f.pose for f in figures]),
        np.array([f.place for f in figures], dtype=np.float64),
        np.array([f.heading for f in figures]),
        np.array([f.look.height_m for f in figures]),
    )
    depth = project(matrix, world[:, :1])[1][:, 0]
    return Crowd(tuple(figures), world, depth)


def draw_shadows(mask: UInt8Array, crowd: Crowd, matrix: Floats, light: Light) -> None:
    """Paint the cast shadows into mask (uint8 (h, w), 255 = full shadow)."""
    height = np.array([f.look.height_m * f.look.build for f in crowd.figures])
    ground = crowd.joints.copy()
    ground[..., 0] += ground[..., 1] * light.shadow[0]
    ground[..., 2] += ground[..., 1] * light.shadow[1]
    ground[..., 1] = 0.0
    pixels, depth = project(matrix, ground)
    focal = float(np.hypot(matrix[0, 0], matrix[0, 2]))
    scale = (focal * height / depth[:, 0])[:, None]
    parts = _SHADOW_PARTS
    outlines = fixed(
        _capsules(pixels[:, _A[parts]], pixels[:, _B[parts]], scale * _RA[parts] * 0.8, scale * _RB[parts] * 0.8)
    )
    rings = fixed(pixels[:, _HULL][:, :, None] + (scale * _HULL_R * 0.7)[:, :, None, None] * _RING)
    for figure_outlines, ring in zip(outlines, rings, strict=True):
        for outline in figure_outlines:
            cv2.fillConvexPoly(mask, outline, 255, cv2.LINE_8, SHIFT)
        cv2.fillConvexPoly(mask, cv2.convexHull(ring.reshape(-1, 2)), 255, cv2.LINE_8, SHIFT)


def draw_contact(mask: UInt8Array, crowd: Crowd, matrix: Floats) -> None:
    """Soft dark patches under the figures, for light without a sun."""
    centre = crowd.joints[:, [body.PELVIS, body.L_ANKLE, body.R_ANKLE, body.NECK]].copy()
    centre[..., 1] = 0.0
    pixels, depth = project(matrix, centre)
    radius = 0.26 * float(np.hypot(matrix[0, 0], matrix[0, 2])) / depth
    for points, radii in zip(pixels.tolist(), radius.tolist(), strict=True):
        for (x, y), r in zip(points, radii, strict=True):
            axes = (round(r * _ONE), round(0.42 * r * _ONE))
            cv2.ellipse(mask, (round(x * _ONE), round(y * _ONE)), axes, 0, 0, 360, 255, -1, cv2.LINE_8, SHIFT)


@dataclass(frozen=True)
class Prepared:
    """Outlines, colours and drawing order of a crowd, ready to be painted one figure at a time."""

    outlines: Ints
    strips: Ints
    rings: Ints
    torso_strips: Ints
    colours: list[list[tuple[float, float, float]]]
    bright: list[list[tuple[float, float, float]]]
    order: list[list[int]]
    pixels: Floats
    scale: list[float]


def prepare(crowd: Crowd, matrix: Floats, light: Light) -> Prepared:
    """Compute everything about the crowd that does not depend on the drawing order."""
    pixels, depth = project(matrix, crowd.joints)
    height = np.array([f.look.height_m for f in crowd.figures])
    girth = np.array([f.look.build for f in crowd.figures])
    focal = float(np.hypot(matrix[0, 0], matrix[0, 2]))
    tall = focal * height / depth[:, 0]
    wide = (tall * girth)[:, None]
    a, b = pixels[:, _A], pixels[:, _B]
    ra, rb = wide * _RA, wide * _RB
    lit = -1.0 if light.shadow[0] > 0 else 1.0
    aside = np.stack([lit * 0.4 * ra, -0.12 * ra], axis=-1)[:, _LIT]
    both = fixed(
        _capsules(
            np.concatenate([a, a[:, _LIT] + aside], axis=1),
            np.concatenate([b, b[:, _LIT] + aside], axis=1),
            np.concatenate([ra, 0.5 * ra[:, _LIT]], axis=1),
            np.concatenate([rb, 0.5 * rb[:, _LIT]], axis=1),
        )
    )
    outlines, strips = both[:, : len(_PARTS)], both[:, len(_PARTS) :]
    hull = pixels[:, _HULL]
    rings = fixed(hull[:, :, None] + (wide * _HULL_R)[:, :, None, None] * _RING)
    centre = hull.mean(axis=1, keepdims=True)
    inner = centre + 0.62 * (hull - centre) + (wide * np.array([lit * 0.02, -0.012]))[:, None, :]
    torso_strips = fixed(inner[:, :, None] + (wide * _HULL_R * 0.55)[:, :, None, None] * _RING)

    key = 0.5 * (depth[:, _A] + depth[:, _B])
    torso_key = depth[:, _HULL].mean(axis=1)
    bias = np.array([-0.02 if k in ("skin", "sleeve") else 0.0 for k in _KEYS])
    key = key + bias
    behind = np.clip((key - torso_key[:, None]) / 0.22, -0.4, 1.0)
    keys = np.concatenate([key, (torso_key - 0.03)[:, None], (torso_key + 0.02)[:, None]], axis=1)
    shade = np.concatenate([1.0 - 0.3 * behind, np.ones((len(height), 3))], axis=1)
    shade[:, [0, 1, 2, 3, 4, 5]] *= 0.93
    base = np.array([_palette(f.look) for f in crowd.figures])
    factor = light.at(crowd.joints[:, 0, 0], crowd.joints[:, 0, 2])
    colours = base * shade[..., None] * factor[:, None, :]
    bright = np.minimum(colours * 1.16 + 7 * factor[:, None, :], 255)
    return Prepared(
        outlines,
        strips,
        rings,
        torso_strips,
        np.minimum(colours, 255).tolist(),
        bright.tolist(),
        np.argsort(-keys, axis=1).tolist(),
        pixels,
        tall.tolist(),
    )


def draw_figure(image: UInt8Array, crowd: Crowd, ready: Prepared, n: int, matrix: Floats) -> None:
    """Paint figure n, its parts from back to front."""
    figure = crowd.figures[n]
    look = figure.look
    if figure.on_bike:
        _draw_bike(image, figure, matrix, ready.colours[n][_TORSO])
    colours, bright, detailed = ready.colours[n], ready.bright[n], ready.scale[n] > 66
    outlines, strips, fill = ready.outlines[n], ready.strips[n], cv2.fillConvexPoly
    for part in ready.order[n]:
        if part < _TORSO - 1:
            fill(image, outlines[part], colours[part], cv2.LINE_AA, SHIFT)
            if detailed and part in _ROUNDED:
                fill(image, strips[_ROUNDED[part]], bright[part], cv2.LINE_AA, SHIFT)
        elif part == _TORSO - 1:
            if look.pack is not None:
                fill(image, outlines[part], colours[part], cv2.LINE_AA, SHIFT)
        elif part == _TORSO:
            fill(image, cv2.convexHull(ready.rings[n].reshape(-1, 2)), colours[part], cv2.LINE_AA, SHIFT)
            if detailed:
                fill(image, cv2.convexHull(ready.torso_strips[n].reshape(-1, 2)), bright[part], cv2.LINE_AA, SHIFT)
        elif look.skirt:
            hips, knees = ready.pixels[n, [body.L_HIP, body.R_HIP]], ready.pixels[n, [body.L_KNEE, body.R_KNEE]]
            low = 0.25 * hips + 0.75 * knees
            around = np.concatenate([hips, low])[:, None] + 0.06 * ready.scale[n] * _RING
            fill(image, cv2.convexHull(fixed(around).reshape(-1, 2)), colours[part], cv2.LINE_AA, SHIFT)
    if look.bag is not None:
        x, y = ready.pixels[n, body.R_HAND]
        r = 0.075 * ready.scale[n]
        box = np.array([[x - r, y], [x + r, y], [x + 1.1 * r, y + 1.7 * r], [x - 1.1 * r, y + 1.7 * r]])
        fill(image, fixed(box), colours[_BAG], cv2.LINE_AA, SHIFT)


def _draw_bike(image: UInt8Array, figure: Figure, matrix: Floats, colour: Colour) -> None:
    way = np.array([np.sin(figure.heading), 0.0, np.cos(figure.heading)])
    up = np.array([0.0, 1.0, 0.0])
    seat = np.array([figure.place[0], 0.0, figure.place[1]])
    scale = project(matrix, seat[None])[1][0]
    thick = max(1, round(0.035 * float(np.hypot(matrix[0, 0], matrix[0, 2])) / scale))
    dark = (28.0, 26.0, 26.0)
    for along in (-0.42, 0.62):
        rim = seat + along * way + 0.34 * up + 0.34 * (_WHEEL[:, :1] * way + _WHEEL[:, 1:] * up)
        cv2.polylines(image, [fixed(project(matrix, rim)[0])], True, dark, thick, cv2.LINE_AA, SHIFT)
    knots = {(-0.42, 0.34), (0.12, 0.3), (-0.12, 0.85), (0.5, 0.85), (0.62, 0.34)}
    points = {k: fixed(project(matrix, (seat + k[0] * way + k[1] * up)[None])[0])[0] for k in knots}
    frame = [(-0.42, 0.34), (0.12, 0.3), (0.5, 0.85), (-0.12, 0.85), (-0.42, 0.34)]
    line = np.array([points[k] for k in frame])
    cv2.polylines(image, [line], False, colour, thick, cv2.LINE_AA, SHIFT)
    fork = np.array([points[(0.62, 0.34)], points[(0.5, 0.85)]])
    cv2.polylines(image, [fork], False, dark, thick, cv2.LINE_AA, SHIFT)


@dataclass(frozen=True)
class Car:
    """A car parallel to the road. x, z: metres of the centre.  way: +1 drives along +X, −1 along −X."""

    x: float
    z: float
    way: int
    colour: Colour
    van: bool = False
    lights: bool = False


def draw_car(image: UInt8Array, car: Car, matrix: Floats, light: Light) -> None:
    """Paint a car as hulls of its boxes, then its side, windows and wheels."""
    gain = light.at(np.array(car.x), np.array(car.z)).tolist()
    near, far = car.z - 0.88, car.z + 0.88
    long, roof = 2.15, 1.95 if car.van else 1.42

    def colour(base: Colour, factor: float = 1.0) -> Colour:
        b, g, r = (min(255.0, value * part * factor) for value, part in zip(base, gain, strict=True))
        return (b, g, r)

    hulls: list[tuple[Sequence[tuple[float, float, float]], Colour]] = []

    def fill(outline: Sequence[tuple[float, float, float]], base: Colour, factor: float = 1.0) -> None:
        hulls.append((outline, colour(base, factor)))

    def prism(profile: Sequence[tuple[float, float]]) -> list[tuple[float, float, float]]:
        return [(u, y, z) for u, y in profile for z in (near, far)]

    if light.strength > 0.1:
        dark = tuple(0.62 * v for v in (70.0, 70.0, 70.0))
        slope = light.shadow[0] * car.way
        skirt = [
            (u + slope * y, 0.0, z + light.shadow[1] * y) for u in (-long, long) for y in (0, 0.8) for z in (near, far)
        ]
        fill(skirt, (dark[0], dark[1], dark[2]))
    low = [(-long, 0.28), (long, 0.28), (long, 0.72), (-long, 0.85)]
    cabin = (
        [(-2.1, 0.85), (-2.05, roof), (0.9, roof), (1.7, 0.9)]
        if car.van
        else [(-1.85, 0.85), (-1.25, roof), (0.35, roof), (1.15, 0.86)]
    )
    fill(prism(low), car.colour, 0.8)
    fill([(u, y, z) for u, y in ((1.1, 0.88), (long, 0.74)) for z in (near, far)], car.colour, 1.12)
    fill(prism(cabin), (62, 56, 50))
    fill([(u, roof, z) for u in (cabin[1][0], cabin[2][0]) for z in (near + 0.08, far - 0.08)], car.colour, 1.2)
    fill(
        [(u, y, near) for u, y in ((-long, 0.3), (long, 0.3), (long, 0.7), (1.2, 0.86), (-long, 0.86))],
        car.colour,
        0.92,
    )
    fill([(u, y, near) for u, y in ((-long, 0.28), (long, 0.28), (long, 0.42), (-long, 0.42))], car.colour, 0.6)
    pillar = 0.5 * (cabin[1][0] + cabin[2][0])
    fill([(pillar - 0.05, 0.85, near), (pillar + 0.05, 0.85, near), (pillar, roof, near)], car.colour, 0.9)
    for u in (-1.3, 1.3):
        for z, radius, base in ((near - 0.01, 0.33, (24.0, 23.0, 22.0)), (near - 0.02, 0.19, (120.0, 118.0, 116.0))):
            fill([(u + radius * p, 0.33 + radius * q, z) for p, q in _WHEEL.tolist()], base)
    fill([(long, 0.55, near), (long - 0.25, 0.55, near), (long - 0.25, 0.7, near), (long, 0.68, near)], (200, 225, 235))
    fill([(-long, 0.6, near), (0.18 - long, 0.6, near), (0.18 - long, 0.8, near), (-long, 0.8, near)], (40, 40, 190))
    points = np.array([point for outline, _ in hulls for point in outline])
    points[:, 0] = car.x + car.way * points[:, 0]
    pixels = fixed(project(matrix, points)[0])
    first = 0
    for outline, shade in hulls:
        hull = cv2.convexHull(pixels[first : first + len(outline)])
        cv2.fillConvexPoly(image, hull, shade, cv2.LINE_AA, SHIFT)
        first += len(outline)
    if car.lights:
        head = np.array([[car.x + car.way * (long + 0.05), 0.62, near]])
        ((x, y),) = project(matrix, head)[0]
        r = max(2.0, 0.16 * float(np.hypot(matrix[0, 0], matrix[0, 2])) / (car.z - 1))
        cv2.circle(image, (round(x * _ONE), round(y * _ONE)), round(r * _ONE), (225, 248, 255), -1, cv2.LINE_AA, SHIFT)
