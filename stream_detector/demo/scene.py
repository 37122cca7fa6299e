"""DemoScene: the frames of the rendered footage."""

from __future__ import annotations

import math
from collections.abc import Iterator
from datetime import datetime, timedelta

import cv2
import numpy as np

from stream_detector.demo import cast as people
from stream_detector.demo.avoid import walk_round
from stream_detector.demo.camera import Floats
from stream_detector.demo.fight import fight
from stream_detector.demo.paint import (
    Car,
    Crowd,
    draw_car,
    draw_contact,
    draw_figure,
    draw_shadows,
    pose_crowd,
    prepare,
)
from stream_detector.demo.street import build_street
from stream_detector.errors import UsageError
from stream_detector.types import UInt8Array

_NOISE = {"day": 3.5, "overcast": 4.5, "dusk": 7.0, "night": 7.5}
_HOUR = {"day": 13, "overcast": 10, "dusk": 20, "night": 23}
_KEEP_BYTES = 48_000_000
_MARGIN = 64  # the noise image is larger than the picture by this factor, so that every frame uses another part of it


def incident_span(seed: int, duration_s: float) -> tuple[float, float]:
    """Return start and end of the incident in media seconds, as a DemoScene of these arguments has them; at once."""
    return _draw_span(np.random.default_rng([seed, 3]), duration_s)


def _draw_span(rng: np.random.Generator, duration_s: float) -> tuple[float, float]:
    start_s = float(rng.uniform(0.45, 0.6)) * duration_s
    return start_s, start_s + min(float(rng.uniform(7.5, 9.5)), duration_s - start_s - 0.5)


class DemoScene:
    """A rendered surveillance view of a street, with or without a scripted violent incident at a known time.

    A frame is a pure function of (seed, i) and the other arguments; frames may be read in any order. seed: selects
    street, light (day, dusk, overcast, night), people and the course of the incident. duration_s, fps, size: length in
    seconds, frames per second, (width, height) in pixels. incident: False leaves the incident out; everything else
    stays. incident_start_s, incident_end_s: media time at which the attackers begin to rush, and at which they run
    away; or None. Raises UsageError for a length, rate or size that cannot be rendered.
    """

    def __init__(
        self,
        seed: int = 0,
        duration_s: float = 40.0,
        fps: float = 25.0,
        size: tuple[int, int] = (640, 360),
        incident: bool = True,
    ) -> None:
        if not (math.isfinite(fps) and 1 <= fps <= 240 and math.isfinite(duration_s) and duration_s * fps >= 1):
            raise UsageError(
                f"a demo of {duration_s} s at {fps} fps has no frames; give 1 to 240 fps and a longer time"
            )
        if not (64 <= size[0] <= 3840 and 48 <= size[1] <= 2160):
            raise UsageError(f"demo size {size[0]}x{size[1]} cannot be rendered; give 64x48 to 3840x2160")
        if incident and duration_s < 8:
            raise UsageError(f"a demo of {duration_s} s is too short for the incident; give at least 8 s")
        self.seed, self.fps, self.size, self.duration_s = (
            seed,
            float(fps),
            (int(size[0]), int(size[1])),
            float(duration_s),
        )
        self.frame_count = max(1, round(duration_s * fps))
        self.incident_start_s: float | None = None
        self.incident_end_s: float | None = None
        self.course: str | None = None
        rng = np.random.default_rng([seed, 1])
        self.street = build_street(np.random.default_rng([seed, 2]), self.size, seed)
        self._stage = people.Stage(math.tan(self.street.camera.yaw))
        lights = self.street.kind in ("dusk", "night")
        self._drives = people.traffic(rng, duration_s, lights)
        self._fighters: list[people.Actor] = []
        self._actors = self._ordinary(rng)
        if incident:
            self._stage_incident(np.random.default_rng([seed, 3]))
        walk_round(self._actors, duration_s)
        self._look(np.random.default_rng([seed, 4]))

    def _ordinary(self, rng: np.random.Generator) -> list[people.Actor]:
        stage, duration = self._stage, self.duration_s
        companies = people.walkers(rng, stage, duration)
        for side in (-1, 1):
            z = float(rng.uniform(9.6, 11.2))
            place = (stage.middle(z) + side * float(rng.uniform(2.6, 4.2)), z)
            companies.append(people.chatting(rng, place, int(rng.integers(2, 4)), -1.0, duration + 1))
        kinds = list(rng.permutation(people.VIGNETTES))
        t = float(rng.uniform(1.5, 4))
        while t < duration + 4:
            kind = str(kinds.pop(0))
            kinds.append(kind)
            companies.append(people.vignette(rng, stage, kind, t, float(rng.uniform(7.3, 8.8))))
            t += float(rng.uniform(4.5, 7.5))
        for number, company in enumerate(companies):
            for actor in company:
                actor.company = number
        return [actor for company in companies for actor in company]

    def _stage_incident(self, rng: np.random.Generator) -> None:
        stage = self._stage
        start, end = _draw_span(rng, self.duration_s)
        z = float(rng.uniform(6.95, 7.5))
        spot = (stage.middle(z) + float(rng.uniform(-1.3, 1.3)), z)
        self.course, fighters = fight(rng, stage, spot, start, end)
        for actor in self._actors:
            x, away_z = actor.place(start)
            near = math.hypot(x - spot[0], away_z - spot[1])
            if actor.knots[0][0] > end + 2:
                continue
            if away_z < 15 and not actor.on_bike:
                actor.flee(start + 0.5 + 0.12 * near + float(rng.uniform(0, 0.5)), spot, stage, rng)
            elif not actor.on_bike and rng.random() < 0.6:  # across the road: stop and look
                stop = start + float(rng.uniform(1, 2.5))
                if actor.knots[0][0] < stop < actor.knots[-1][0]:
                    here = actor.place(stop)
                    actor.knots = [k for k in actor.knots if k[0] < stop] + [(stop, *here), (end + 60, *here)]
                    actor.faces.append((stop, end + 60, spot))
                    actor.settle()
        keep_clear = [a for a in self._actors if not _crosses(a, spot, start - 6, start)]
        for fighter in fighters:
            fighter.firm = True
        self._actors = keep_clear + fighters
        self._fighters = fighters
        self.incident_start_s, self.incident_end_s = start, end

    def _look(self, rng: np.random.Generator) -> None:
        width, height = self.size
        noise = rng.normal(0, _NOISE[self.street.kind], (height + _MARGIN, width + _MARGIN, 3)).astype(np.float32)
        noise = 0.6 * noise + 0.8 * noise.mean(axis=2, keepdims=True)
        noise = 0.7 * noise + 0.5 * cv2.GaussianBlur(noise, (3, 3), 0.8)
        self._noise = np.clip(noise + 128, 0, 255).astype(np.uint8)
        y, x = np.mgrid[-1 : 1 : height * 1j, -1 : 1 : width * 1j]
        fall = 255 * (1 - 0.26 * np.clip((x * x + y * y) / 2, 0, 1) ** 1.5)
        self._vignette = np.repeat(fall.astype(np.uint8)[..., None], 3, axis=2)
        self._sway = rng.uniform(0, 6, 4)
        day = int(rng.integers(0, 360))
        self._clock = datetime(2026, 1, 3, _HOUR[self.street.kind]) + timedelta(
            days=day, seconds=int(rng.integers(3000))
        )
        self._backdrops: dict[tuple[float, float], UInt8Array] = {}  # a cache by sway, no state
        self._texts: dict[int, tuple[str, UInt8Array, UInt8Array]] = {}  # a cache by row, no state
        self._matrix = self.street.camera.matrix()

    def __len__(self) -> int:
        return self.frame_count

    def __iter__(self) -> Iterator[UInt8Array]:
        """Yield all frames in order."""
        return (self.frame(i) for i in range(self.frame_count))

    def frame(self, i: int) -> UInt8Array:
        """Draw frame i: uint8 (height, width, 3) BGR, a new array. Raises IndexError outside 0 … frame_count − 1."""
        if not 0 <= i < self.frame_count:
            raise IndexError(f"frame {i} is not in 0 … {self.frame_count - 1}")
        t = i / self.fps
        street, (width, height) = self.street, self.size
        s = self._sway
        unit = width / 640
        dx = unit * (0.35 * math.sin(2.1 * t + s[0]) + 0.2 * math.sin(7.7 * t + s[1]))
        dy = unit * (0.25 * math.sin(1.7 * t + s[2]) + 0.15 * math.sin(9.1 * t + s[3]))
        shift = np.array([[1.0, 0, round(4 * dx) / 4], [0, 1.0, round(4 * dy) / 4], [0, 0, 1.0]])
        backdrop = self._swayed(shift)
        image = backdrop.copy()
        matrix = shift @ self._matrix

        figures = [f for f in (actor.figure(t) for actor in self._actors if self._in_view(actor, t)) if f is not None]
        things: list[tuple[float, int, int | Car]] = []
        if figures:
            crowd = pose_crowd(figures, matrix)
            ready = prepare(crowd, matrix, street.light)
            self._shade(image, crowd, matrix)
            things += [(float(d), 0, n) for n, d in enumerate(crowd.depth)]
            low, high = ready.pixels.min(axis=1).tolist(), ready.pixels.max(axis=1).tolist()
        things += [(car.z, 1, car) for car in (drive.at(t) for drive in self._drives) if car is not None]
        things += [(occluder.depth, 2, n) for n, occluder in enumerate(street.occluders)]
        things.sort(key=lambda thing: -thing[0])
        painted: list[tuple[float, float, float, float]] = []
        for _, kind, what in things:
            if isinstance(what, Car):
                draw_car(image, what, matrix, street.light)
                painted.append((0, 0, width, height))
            elif kind == 0:
                draw_figure(image, crowd, ready, what, matrix)
                painted.append((*low[what], *high[what]))
            else:
                o = street.occluders[what]
                y1, x1 = o.y + o.mask.shape[0], o.x + o.mask.shape[1]
                if any(b[0] - 9 < x1 and b[2] + 9 > o.x and b[1] - 9 < y1 and b[3] + 9 > o.y for b in painted):
                    cv2.copyTo(backdrop[o.y : y1, o.x : x1], o.mask, image[o.y : y1, o.x : x1])
        return self._finish(image, i, t)

    def incident_boxes(self, i: int) -> list[tuple[float, float, float, float]]:
        """Where the people of the incident are in frame i: (left, top, right, bottom) as shares of the picture.

        Empty where none of them is in the picture; what stands before them is not taken off.
        """
        t = i / self.fps
        figures = [f for f in (actor.figure(t) for actor in self._fighters if self._in_view(actor, t)) if f is not None]
        if not figures:
            return []
        ready = prepare(pose_crowd(figures, self._matrix), self._matrix, self.street.light)
        size = np.array(self.size, dtype=np.float64)
        low, high = (np.clip(edge / size, 0.0, 1.0) for edge in (ready.pixels.min(axis=1), ready.pixels.max(axis=1)))
        boxes = [(float(a[0]), float(a[1]), float(b[0]), float(b[1])) for a, b in zip(low, high, strict=True)]
        return [box for box in boxes if box[2] > box[0] and box[3] > box[1]]

    def _in_view(self, actor: people.Actor, t: float) -> bool:
        """Return whether any part of the actor can be in the picture (with 1.2 m of margin for limbs and shadows)."""
        if not actor.knots[0][0] <= t <= actor.knots[-1][0]:
            return False
        x, z, _ = actor.at(t)
        m = self._matrix
        depth = m[2, 0] * x + m[2, 1] + m[2, 2] * z + m[2, 3]
        u = (m[0, 0] * x + m[0, 1] + m[0, 2] * z + m[0, 3]) / max(depth, 0.3)
        spare = 1.2 * self.street.camera.focal * self.size[0] / max(depth, 0.3)
        return bool(-spare < u < self.size[0] + spare)

    def _swayed(self, shift: Floats) -> UInt8Array:
        """Return the backdrop moved by the camera's sway, in quarters of a pixel, so that few variants are cached."""
        key = (float(shift[0, 2]), float(shift[1, 2]))
        found = self._backdrops.get(key)
        if found is None:
            moved = cv2.warpAffine(self.street.backdrop, shift[:2], self.size, borderMode=cv2.BORDER_REPLICATE)
            found = np.asarray(moved, np.uint8)
            if found.nbytes * (len(self._backdrops) + 1) <= _KEEP_BYTES:
                self._backdrops[key] = found
        return found

    def _shade(self, image: UInt8Array, crowd: Crowd, matrix: Floats) -> None:
        light = self.street.light
        mask = np.zeros(image.shape[:2], np.uint8)
        if light.strength > 0.1:
            draw_shadows(mask, crowd, matrix, light)
            depth = light.strength
        else:
            draw_contact(mask, crowd, matrix)
            depth = 0.38
        top = int(image.shape[0] * 0.3)
        soft = cv2.blur(mask[top:], (5, 5))
        keep = cv2.cvtColor(cv2.convertScaleAbs(soft, alpha=-depth, beta=255.0), cv2.COLOR_GRAY2BGR)
        image[top:] = cv2.multiply(image[top:], keep, scale=1 / 255)

    def _finish(self, image: UInt8Array, i: int, t: float) -> UInt8Array:
        width, height = self.size
        mixed = (self.seed * 7919 + i * 104729 + (i * i) % 8191) & 0x7FFFFFFF
        ox, oy = mixed % _MARGIN, (mixed // _MARGIN) % _MARGIN
        cv2.multiply(image, self._vignette, image, scale=1 / 255)
        cv2.addWeighted(image, 1.0, self._noise[oy : oy + height, ox : ox + width], 1.0, -128.0, image)
        now = self._clock + timedelta(seconds=t)
        self._write(image, f"CAM 1  {now:%Y-%m-%d %H:%M:%S}", 16)
        self._write(image, "RENDERED", 350)
        return image

    def _write(self, image: UInt8Array, text: str, baseline: int) -> None:
        """Write white text with a dark outline. baseline: row in a picture of 360 rows."""
        unit = self.size[1] / 360
        cached = self._texts.get(baseline)
        if cached is None or cached[0] != text:
            ink = np.zeros((round(22 * unit), min(self.size[0], round(330 * unit))), np.uint8)
            where = (round(8 * unit), round(16 * unit))
            cv2.putText(ink, text, where, cv2.FONT_HERSHEY_SIMPLEX, 0.5 * unit, 255, max(1, round(unit)), cv2.LINE_AA)
            rim = np.asarray(cv2.dilate(ink, np.ones((3, 3), np.uint8)), np.uint8)
            cached = self._texts[baseline] = (text, np.repeat(rim[..., None], 3, 2), np.repeat(ink[..., None], 3, 2))
        dark, bright = cached[1:]
        top = max(0, round((baseline - 16) * unit))
        area = image[top : top + dark.shape[0], : dark.shape[1]]
        cv2.subtract(area, dark[: len(area)], area)
        cv2.add(area, bright[: len(area)], area)


def _crosses(actor: people.Actor, spot: people.Place, begin_s: float, end_s: float) -> bool:
    """Return whether the actor stands where a person of the incident will stand."""
    for t in np.linspace(begin_s, end_s, 7).tolist():
        if actor.knots[0][0] <= t <= actor.knots[-1][0]:
            x, z = actor.place(t)
            if math.hypot(x - spot[0], z - spot[1]) < 0.7:
                return True
    return False
