"""The empty street, painted once per seed as textures of ground and facades seen through the camera."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import cv2
import numpy as np

from stream_detector.demo.camera import Camera, Floats, project
from stream_detector.demo.paint import SHIFT, Car, Colour, Light, draw_car, fixed
from stream_detector.types import Float32Array, UInt8Array

KERB_Z, ROAD_Z, FAR_Z, WALL_Z = 12.6, 12.8, 19.4, 22.6  # metres: kerb, road from … to, facades
KINDS = ("day", "dusk", "overcast", "night")
_LEFT, _RIGHT, _NEAR = -20.0, 20.0, 3.0
_GROUND_PPM, _WALL_PPM = 42, 64  # texture pixels per metre
_WALL_TOP = 9.0


@dataclass(frozen=True)
class Occluder:
    """A fixed object that hides people behind it: the pixels of the backdrop where mask is 255, at depth metres."""

    depth: float
    x: int
    y: int
    mask: UInt8Array


@dataclass(frozen=True)
class Street:
    """The static parts of the scene. backdrop: uint8 (h, w, 3) BGR.  kind: day, overcast, dusk or night."""

    kind: str
    camera: Camera
    light: Light
    backdrop: UInt8Array
    occluders: tuple[Occluder, ...]


def build_street(rng: np.random.Generator, size: tuple[int, int], number: int) -> Street:
    """Paint a street. rng determines everything except the light, which cycles with number."""
    kind = KINDS[number % len(KINDS)]
    camera = Camera(
        size,
        float(rng.uniform(3.6, 4.1)),
        math.radians(rng.uniform(14.0, 16.0)),
        math.radians(rng.uniform(4, 14) * rng.choice([-1, 1])),
        float(rng.uniform(0.88, 0.94)),
    )
    lamps = tuple((float(x), 11.9) for x in (np.array([-14.5, -5.0, 4.5, 14.0]) + rng.uniform(-1.5, 1.5)))
    sun = (float(rng.uniform(0.45, 0.95) * rng.choice([-1, 1])), float(rng.uniform(0.1, 0.4)))
    light = {
        "day": Light((1.0, 1.0, 1.0), sun, 0.5),
        "overcast": Light((0.88, 0.85, 0.82), (0.25 * sun[0], 0.1), 0.0),
        "dusk": Light((0.62, 0.52, 0.5), (sun[0], 0.2), 0.0, lamps, (0.1, 0.2, 0.28)),
        "night": Light((0.38, 0.33, 0.3), (0.3, 0.2), 0.0, lamps, (0.3, 0.52, 0.62)),
    }[kind]
    lit_windows = kind in ("dusk", "night")

    large = camera.at_size((2 * size[0], 2 * size[1]))
    image = _sky(kind, (2 * size[0], 2 * size[1]))
    ground = _ground_texture(rng, light)
    to_pixels = large.ground() @ np.array([[1 / _GROUND_PPM, 0, _LEFT], [0, 1 / _GROUND_PPM, _NEAR], [0, 0, 1.0]])
    _warp_onto(image, ground, to_pixels)
    wall = _wall_texture(rng, light, lit_windows)
    to_pixels = large.wall(WALL_Z) @ np.array([[1 / _WALL_PPM, 0, _LEFT], [0, -1 / _WALL_PPM, _WALL_TOP], [0, 0, 1.0]])
    _warp_onto(image, wall, to_pixels)

    matrix = large.matrix()
    masks: list[tuple[float, UInt8Array]] = []  # depth of each object, and the pixels that it covers
    for x in np.arange(-16.0, 17.0, 5.4):
        if rng.random() < 0.5:
            paint = _pick(
                rng, [(150, 150, 152), (40, 40, 42), (70, 62, 130), (120, 84, 52), (200, 202, 204), (58, 84, 62)]
            )
            car = Car(
                float(x + rng.uniform(-0.3, 0.3)), 18.3, int(rng.choice([-1, 1])), paint, bool(rng.random() < 0.2)
            )
            before = image.copy()
            draw_car(image, car, matrix, replace(light, strength=max(light.strength, 0.2)))
            covered = np.where((image != before).any(axis=2), 255, 0).astype(np.uint8)
            masks.append((float(project(matrix, np.array([[car.x, 0.8, car.z]]))[1][0]), covered))

    things = [("lamp", x, z) for x, z in lamps]
    things += [("tree", float(x), 11.6) for x in (-9.8 + rng.uniform(-1, 1), 9.3 + rng.uniform(-1, 1))]
    things += [("bench", float(rng.uniform(-8, 8)), 10.9), ("bollard", float(rng.uniform(-4, 4)), 12.1)]
    for kind_of, x, z in things:
        mask = np.zeros(image.shape[:2], np.uint8)
        _thing(image, mask, kind_of, x, z, matrix, light, rng, lit_windows)
        masks.append((float(project(matrix, np.array([[x, 0.8, z]]))[1][0]), mask))
    occluders = []
    for depth, mask in masks:
        small = cv2.resize(mask, size, interpolation=cv2.INTER_AREA)
        rows, columns = np.nonzero(small > 100)
        if len(rows):
            x0, x1, y0, y1 = int(columns.min()), int(columns.max()) + 1, int(rows.min()), int(rows.max()) + 1
            occluders.append(Occluder(depth, x0, y0, np.where(small[y0:y1, x0:x1] > 100, 255, 0).astype(np.uint8)))
    backdrop = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
    return Street(kind, camera, light, np.asarray(backdrop, np.uint8), tuple(sorted(occluders, key=lambda o: -o.depth)))


def _pick(rng: np.random.Generator, colours: list[Colour]) -> Colour:
    return colours[int(rng.integers(len(colours)))]


def _sky(kind: str, size: tuple[int, int]) -> UInt8Array:
    colour = {"day": (232, 214, 190), "overcast": (205, 203, 200), "dusk": (120, 92, 96), "night": (34, 26, 24)}[kind]
    return np.full((size[1], size[0], 3), colour, np.uint8)


def _warp_onto(image: UInt8Array, texture: UInt8Array, to_pixels: Floats) -> None:
    """Paint a texture through a homography; points behind the camera stay unchanged."""
    height, width = image.shape[:2]
    back = np.linalg.inv(to_pixels)
    v, u = np.mgrid[0:height, 0:width].astype(np.float64)
    source = np.stack([u, v, np.ones_like(u)], axis=-1) @ back.T
    source /= source[..., 2:]
    in_front = (source @ to_pixels.T)[..., 2] > 0
    x, y = source[..., 0].astype(np.float32), source[..., 1].astype(np.float32)
    rows, columns = texture.shape[:2]
    hit = in_front & (x >= 0) & (x < columns - 1) & (y >= 0) & (y < rows - 1)
    x, y = np.clip(x, 0, columns - 1), np.clip(y, 0, rows - 1)
    seen = cv2.remap(texture, x, y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    image[hit] = seen[hit]


def _grain(rng: np.random.Generator, shape: tuple[int, int], coarse: int) -> Float32Array:
    """Return noise (rows, columns, 1) with mean 0 and a deviation of about 1, in blobs `coarse` pixels wide."""
    small = rng.standard_normal((shape[0] // coarse + 2, shape[1] // coarse + 2), np.float32)
    grown = cv2.resize(small, (shape[1], shape[0]), interpolation=cv2.INTER_CUBIC)
    return np.asarray(grown, np.float32)[..., None]


def _ground_texture(rng: np.random.Generator, light: Light) -> UInt8Array:
    ppm = _GROUND_PPM
    rows, columns = round((WALL_Z - _NEAR) * ppm), round((_RIGHT - _LEFT) * ppm)
    texture = np.zeros((rows, columns, 3), np.float32)

    def row(z: float) -> int:
        return round((z - _NEAR) * ppm)

    def column(x: float) -> int:
        return round((x - _LEFT) * ppm)

    asphalt = np.array(_pick(rng, [(92, 91, 90), (104, 102, 100), (84, 84, 86)]))
    texture[:] = asphalt + 5 * _grain(rng, (rows, columns), 2) + 4 * _grain(rng, (rows, columns), 60)
    tile, tint = (
        float(rng.choice([0.6, 0.8, 1.0])),
        np.array(_pick(rng, [(150, 156, 160), (142, 150, 164), (160, 162, 160)])),
    )
    for z0, z1 in ((_NEAR, KERB_Z), (FAR_Z, WALL_Z)):
        top, bottom = row(z0), row(z1)
        nz, nx = math.ceil((z1 - z0) / tile), math.ceil((_RIGHT - _LEFT) / tile)
        shades = rng.normal(0, 4.5, (nz, nx))
        pattern = int(rng.integers(3))
        if pattern == 1:
            shades += np.where((np.add.outer(np.arange(nz), np.arange(nx)) % 2) == 0, 7, -7)
        if pattern == 2:
            shades[:, ::6] -= 22
        side = round(tile * ppm)
        tiles = np.kron(shades, np.ones((side, side)))[: bottom - top, :columns]
        area = texture[top:bottom]
        area[: len(tiles), : tiles.shape[1]] = tint + tiles[..., None]
        area += 3 * _grain(rng, area.shape[:2], 2) + 5 * _grain(rng, area.shape[:2], 50)
        area[::side] *= 0.8
        area[1::side] *= 0.9
        area[:, ::side] *= 0.82
    texture[row(KERB_Z) : row(ROAD_Z)] = tint * 1.12
    texture[row(FAR_Z) - 8 : row(FAR_Z)] = tint * 1.1
    texture[row(ROAD_Z) : row(ROAD_Z) + 6] *= 0.7
    middle = row(16.0)
    for x in range(0, columns, 5 * ppm):
        texture[middle : middle + 6, x : x + 2 * ppm] = (196, 198, 200)
    crossing = column(rng.uniform(-9, 9))
    for z in np.arange(ROAD_Z + 0.4, FAR_Z - 0.6, 1.0):
        texture[row(z) : row(z + 0.5), crossing : crossing + 3 * ppm] = (188, 190, 192) + 6 * _grain(
            rng, (row(z + 0.5) - row(z), 3 * ppm), 3
        )
    for _ in range(3):
        centre = (column(rng.uniform(-12, 12)), row(rng.uniform(7, 15.5)))
        cv2.circle(texture, centre, 13, (78, 78, 80), -1, cv2.LINE_AA)
        cv2.circle(texture, centre, 13, (56, 56, 58), 2, cv2.LINE_AA)
    stain = np.zeros((rows, columns), np.uint8)
    for _ in range(40):
        centre = (column(rng.uniform(-16, 16)), row(rng.uniform(5, 12)))
        cv2.ellipse(
            stain,
            centre,
            (int(rng.integers(3, 16)), int(rng.integers(3, 12))),
            0,
            0,
            360,
            int(rng.integers(40, 160)),
            -1,
        )
    texture *= np.asarray(1 - 0.12 / 255 * cv2.GaussianBlur(stain, (0, 0), 3), np.float32)[..., None]
    if light.strength > 0.3:  # the sun stands behind: the facades shade their own pavement a little
        texture[row(WALL_Z - 1.0) :] *= 0.78
    z, x = np.mgrid[0:rows, 0:columns].astype(np.float32)
    factor = light.at(x[::8, ::8] / ppm + _LEFT, z[::8, ::8] / ppm + _NEAR).astype(np.float32)
    texture *= factor.repeat(8, 0).repeat(8, 1)[:rows, :columns]
    return np.clip(texture, 0, 255).astype(np.uint8)


def _wall_texture(rng: np.random.Generator, light: Light, lit: bool) -> UInt8Array:
    ppm = _WALL_PPM
    rows, columns = round(_WALL_TOP * ppm), round((_RIGHT - _LEFT + 10) * ppm)  # 10 m over, cut off below
    texture = np.zeros((rows, columns, 3), np.float32)
    glow = np.zeros((rows, columns, 3), np.float32)
    letters = np.zeros((rows, columns), np.uint8)
    plasters: list[Colour] = [
        (120, 142, 168),
        (96, 108, 150),
        (172, 180, 186),
        (140, 150, 150),
        (150, 168, 190),
        (88, 96, 122),
        (168, 160, 150),
    ]
    signs = ["CAFE", "BOOKS", "MARKET", "BAKERY", "PHARMACY", "FLOWERS", "OPTIK", "BAR", "SHOES", "KIOSK"]
    x = 0

    def box(x0: float, y0: float, x1: float, y1: float) -> tuple[slice, slice]:
        """Convert metres from the building's left and above the ground to texture slices."""
        return (
            slice(max(0, round((_WALL_TOP - y1) * ppm)), round((_WALL_TOP - y0) * ppm)),
            slice(round(x + x0 * ppm), round(x + x1 * ppm)),
        )

    def light_up(where: tuple[slice, slice], strength: float) -> None:
        warm = np.array([120, 195, 235.0]) if rng.random() < 0.7 else np.array([215, 215, 200.0])
        glow[where] = warm * strength

    while x < columns - 10 * ppm:
        width = float(rng.uniform(6, 10))
        wall = box(0, 0, width, _WALL_TOP)
        texture[wall] = np.array(_pick(rng, plasters)) * rng.uniform(0.9, 1.08)
        area = texture[wall]
        if rng.random() < 0.4:  # brick
            area[:: ppm // 8] *= 0.86
        area += 2.5 * _grain(rng, area.shape[:2], 3) + 4 * _grain(rng, area.shape[:2], 80)
        texture[box(0, 0, width, 0.45)] *= 0.72
        texture[box(0, 3.3, width, 3.45)] *= 1.12
        texture[box(0, 3.22, width, 3.3)] *= 0.7
        texture[box(width - 0.08, 0, width, _WALL_TOP)] *= 0.6
        bays = int(width // 2.4)
        bay = width / bays
        door = int(rng.integers(bays))
        frame = np.array(_pick(rng, [(60, 62, 64), (190, 192, 196), (52, 70, 92), (70, 60, 40)]))
        for n in range(bays):
            left, right = n * bay + 0.3, (n + 1) * bay - 0.3
            low = 0.02 if n == door else 0.6
            texture[box(left - 0.07, low, right + 0.07, 2.55)] = frame
            pane = box(left, low + 0.06, right, 2.48)
            height = pane[0].stop - pane[0].start
            texture[pane] = np.linspace(1.25, 0.75, height)[:, None, None] * np.array([88, 80, 72])
            shine = np.clip(_grain(rng, texture[pane].shape[:2], 40), -1, 2) * 12
            texture[pane] += shine
            if n == door:
                texture[box(left + 0.04, 0.1, (left + right) / 2, 2.2)] = frame * 0.8
            else:  # goods in the shop window
                for _ in range(int(rng.integers(3, 8))):
                    gx, gh = rng.uniform(left + 0.1, right - 0.4), rng.uniform(0.2, 0.7)
                    texture[box(gx, 0.68, gx + 0.25, 0.68 + gh)] = rng.uniform(40, 170, 3)
            if lit and rng.random() < 0.6:
                light_up(pane, rng.uniform(0.35, 0.8))
                glow[pane] *= np.linspace(1.0, 0.5, height)[:, None, None]
            for floor in (4.1, 6.8):
                up_left, up_right = n * bay + 0.55, (n + 1) * bay - 0.55
                texture[box(up_left - 0.09, floor - 0.1, up_right + 0.09, floor + 1.75)] = np.array([196, 198, 200])
                pane = box(up_left, floor, up_right, floor + 1.65)
                texture[pane] = np.array([104, 94, 84]) * rng.uniform(0.7, 1.2)
                texture[box((up_left + up_right) / 2 - 0.03, floor, (up_left + up_right) / 2 + 0.03, floor + 1.65)] = (
                    190
                )
                texture[box(up_left - 0.16, floor - 0.16, up_right + 0.16, floor - 0.08)] *= 0.75
                if lit and rng.random() < 0.35:
                    light_up(pane, rng.uniform(0.5, 0.9))
        if rng.random() < 0.45:  # awning
            left, right = 0.25, width - 0.25
            stripes = np.array(_pick(rng, [(60, 60, 170), (70, 110, 60), (130, 80, 50), (60, 140, 190)]))
            awning = box(left, 2.45, right, 3.05)
            texture[awning] = stripes
            for s in range(awning[1].start, awning[1].stop, 32):
                texture[awning[0], s : min(s + 16, awning[1].stop)] = (210, 214, 216)
            texture[box(left, 2.3, right, 2.45)] *= 0.6
        else:
            sign = box(0.4, 2.68, width - 0.4, 3.16)
            texture[sign] = np.array(
                _pick(rng, [(50, 46, 44), (80, 40, 30), (40, 60, 120), (70, 90, 40), (200, 204, 206)])
            )
            ink = 225.0 if texture[sign].mean() < 120 else 50.0
            text = signs[int(rng.integers(len(signs)))]
            at = (sign[1].start + 30, sign[0].stop - 8)
            cv2.putText(letters, text, at, cv2.FONT_HERSHEY_SIMPLEX, 0.75, 255, 2, cv2.LINE_AA)
            texture[sign] += (ink - texture[sign]) * (letters[sign][..., None] / 255.0)
        x += round(width * ppm)
    factor = light.at(np.linspace(_LEFT, _RIGHT + 10, columns), np.full(columns, WALL_Z - 2.5))[None]
    climb = np.linspace(0.75 if lit else 1.0, 1.0, rows)[:, None, None]
    texture *= (factor * climb).astype(np.float32)
    halo = cv2.GaussianBlur(cv2.resize(glow, None, fx=0.25, fy=0.25), (0, 0), 7)
    texture += 0.35 * cv2.resize(halo, (columns, rows)) + 0.8 * glow * (0.6 + texture / 400)
    return np.clip(texture[:, : -10 * ppm], 0, 255).astype(np.uint8)


def _thing(
    image: UInt8Array,
    mask: UInt8Array,
    kind: str,
    x: float,
    z: float,
    matrix: Floats,
    light: Light,
    rng: np.random.Generator,
    lit: bool,
) -> None:
    """Paint a lamp post, tree, bench or bollard at X, Z into image, and its outline into mask."""
    gain = light.at(np.array(x), np.array(z))

    def fill(points: list[tuple[float, float, float]], colour: Colour, factor: float = 1.0) -> None:
        pixels = fixed(project(matrix, np.array(points))[0])
        hull = cv2.convexHull(pixels)
        cv2.fillConvexPoly(image, hull, np.minimum(np.array(colour) * gain * factor, 255).tolist(), cv2.LINE_AA, SHIFT)
        cv2.fillConvexPoly(mask, hull, 255, cv2.LINE_AA, SHIFT)

    def post(u: float, y0: float, y1: float, r: float, colour: Colour) -> None:
        fill([(x + u - r, y0, z), (x + u + r, y0, z), (x + u + 0.8 * r, y1, z), (x + u - 0.8 * r, y1, z)], colour)
        fill([(x + u - 0.2 * r, y0, z), (x + u + 0.4 * r, y0, z), (x + u, y1, z)], colour, 1.3)

    if light.strength > 0.1:  # the object's own shadow is below it and not part of the mask
        tall, r = {"lamp": (4.2, 0.07), "tree": (3.2, 0.5), "bench": (0.5, 0.8), "bollard": (0.9, 0.1)}[kind]
        shade = np.zeros(image.shape[:2], np.uint8)
        sx, sz = light.shadow
        strip = [
            (x - r, 0, z),
            (x + r, 0, z),
            (x + r + tall * sx, 0, z + tall * sz),
            (x - r + tall * sx, 0, z + tall * sz),
        ]
        cv2.fillConvexPoly(shade, fixed(project(matrix, np.array(strip))[0]), 255, cv2.LINE_AA, SHIFT)
        soft = cv2.GaussianBlur(shade, (0, 0), 3)[..., None] / 255.0
        image[:] = (image * (1 - 0.42 * soft)).astype(np.uint8)
    if kind == "lamp":
        post(0, 0, 0.5, 0.13, (62, 66, 60))
        post(0, 0.4, 4.6, 0.06, (62, 66, 60))
        fill([(x - 0.22, 4.3, z), (x + 0.22, 4.3, z), (x + 0.14, 4.75, z), (x - 0.14, 4.75, z)], (70, 74, 70))
    elif kind == "bollard":
        post(0, 0, 0.95, 0.09, (70, 72, 74))
    elif kind == "bench":
        wood: Colour = (62, 96, 134)
        for u in (-0.75, 0.75):
            fill(
                [
                    (x + u - 0.04, 0, z),
                    (x + u + 0.04, 0, z),
                    (x + u + 0.04, 0.85, z + 0.25),
                    (x + u - 0.04, 0.85, z + 0.25),
                ],
                (50, 50, 52),
            )
        for y, back in ((0.45, -0.1), (0.45, 0.08), (0.62, 0.2), (0.8, 0.24)):
            fill(
                [
                    (x - 0.9, y, z + back),
                    (x + 0.9, y, z + back),
                    (x + 0.9, y + 0.09, z + back),
                    (x - 0.9, y + 0.09, z + back),
                ],
                wood,
                1 + 0.2 * y,
            )
    else:
        fill(
            [
                (x - 0.7, 0, z - 0.4),
                (x + 0.7, 0, z - 0.4),
                (x + 0.7, 0.5, z - 0.4),
                (x - 0.7, 0.5, z - 0.4),
                (x - 0.7, 0.5, z + 0.3),
                (x + 0.7, 0.5, z + 0.3),
            ],
            (110, 118, 126),
        )
        post(0, 0.5, 2.4, 0.12, (52, 66, 84))
        for _ in range(70):
            a, r = rng.uniform(0, 2 * math.pi), math.sqrt(rng.random())
            u, y = 1.05 * r * math.cos(a), 3.0 + 0.95 * r * math.sin(a)
            leaf = 0.24 + 0.14 * rng.random()
            ring = [(x + u + leaf * math.cos(b), y + leaf * math.sin(b), z) for b in np.arange(0, 6.2, 0.8)]
            fill(
                ring,
                (52, 104, 78),
                0.62 + 0.2 * (y - 2.0) / 2 + 0.3 * rng.random() - 0.1 * u * math.copysign(1, light.shadow[0]),
            )
    if lit and kind == "lamp":
        ((u, v),) = project(matrix, np.array([[x, 4.5, z]]))[0]
        halo = np.zeros(image.shape[:2], np.float32)
        cv2.circle(halo, (round(u), round(v)), 26, 1.0, -1)
        soft_halo = cv2.GaussianBlur(halo, (0, 0), 20)[..., None]
        image[:] = np.clip(image + soft_halo * np.array([110, 170, 200.0]), 0, 255).astype(np.uint8)
        cv2.circle(image, (round(u), round(v)), 9, (215, 240, 250), -1, cv2.LINE_AA)
