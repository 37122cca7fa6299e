"""Alarm events say where in the picture the strongest window looks at."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest

import stream_detector.events
from stream_detector.config import AlarmConfig, SmoothingConfig
from stream_detector.config.schedule import SeverityConfig
from stream_detector.models.kinds import KindModel
from stream_detector.models.recipe import View
from stream_detector.runtime.decider import CameraPlan, Decider
from stream_detector.runtime.places import CameraPlace
from stream_detector.runtime.stages import UnpublishedEvents
from stream_detector.telemetry.collector import Telemetry
from stream_detector.testing import FakeClock
from stream_detector.types import AlarmEvent, Preview, Score, Timing, WindowRef

ALARM = AlarmConfig(threshold=0.6, min_length_s=0.0, cooldown_s=0.0, hold_s=0.0, update_interval_s=1000.0)
SCHEMA = json.loads(
    (Path(stream_detector.events.__file__).parent / "schemas" / "alarm-1.schema.json").read_text(encoding="utf-8")
)


class Kept(UnpublishedEvents):
    def __init__(self, clock: FakeClock) -> None:
        super().__init__(clock)
        self.bodies: list[dict[str, Any]] = []

    def keep(self, event: AlarmEvent, body: dict[str, Any]) -> None:
        self.bodies.append(body)


def cell(row: int, column: int) -> np.ndarray:
    grid = np.zeros((4, 4), np.float32)
    grid[row, column] = 1.0
    return grid


def window(n: int, raw: float, grid: np.ndarray | None, previews: tuple[Preview, ...] = ()) -> Score:
    ref = WindowRef("gate", "rtsp://h", n, 16 * n, 16 * n + 15, n * 1.0, n + 0.6, 0.0, 0.0, 0.0)
    return Score(ref, raw, 0.0, Timing(0, 0, 0, 0), previews, np.zeros(3, np.float32), grid)


def decider(parts: Mapping[str, Any] | None = None, **plan: Any) -> tuple[Decider, Kept]:
    clock = FakeClock()
    kept = Kept(clock)
    gate = CameraPlan("gate", "rtsp://h", True, 16, SmoothingConfig(kind="none"), ALARM, 0.6, evidence=False, **plan)
    telemetry = Telemetry(["gate"], clock)
    return Decider((gate,), "f00d", sink=kept, telemetry=telemetry, clock=clock, **(parts or {})), kept


def played(*scores: Score, **plan: Any) -> list[dict[str, Any]]:
    made, kept = decider(**plan)
    for score in scores:
        made.score(score)
    made.finish("shutdown")
    for body in kept.bodies:
        jsonschema.validate(body, SCHEMA)
    return kept.bodies


def test_an_alarm_tells_the_place_of_its_strongest_window_and_the_next_begins_anew() -> None:
    bodies = played(
        window(0, 0.9, cell(3, 3)),
        window(1, 0.0, cell(0, 0)),
        window(2, 0.7, cell(0, 1)),
        window(3, 0.8, cell(2, 2)),
        window(4, 0.75, cell(1, 1)),
    )
    assert [(b["type"], b["where"]["boxes"], b["where"]["start_s"]) for b in bodies] == [
        ("start", [[0.75, 0.75, 1.0, 1.0]], 0.0),
        ("end", [[0.75, 0.75, 1.0, 1.0]], 0.0),
        ("start", [[0.25, 0.0, 0.5, 0.25]], 2.0),
        ("end", [[0.5, 0.5, 0.75, 0.75]], 3.0),
    ]
    assert "region" not in bodies[0]["where"]


def test_the_same_windows_give_the_same_bytes() -> None:
    rng = np.random.default_rng(7)
    scores = [window(n, float(rng.random()), rng.normal(size=(5, 5)).astype(np.float32)) for n in range(40)]
    first, second = (json.dumps(played(*scores)) for _ in range(2))
    assert first == second and '"where"' in first


def test_an_engine_that_does_not_know_leaves_the_key_out() -> None:
    assert all("where" not in body for body in played(window(0, 0.9, None)))


def test_hidden_parts_of_the_camera_are_not_pointed_at() -> None:
    bottom = ((0.0, 0.5), (1.0, 0.5), (1.0, 1.0), (0.0, 1.0))
    strong = cell(3, 3)
    strong[0, 0] = 0.5
    assert played(window(0, 0.9, strong), hidden=(bottom,))[0]["where"]["boxes"] == [[0.0, 0.0, 0.25, 0.25]]


def test_an_alarm_tells_its_kind_and_the_kind_moves_its_severity() -> None:
    model = KindModel(("crash", "fight"), np.array([[9.0, 0, 0], [0, 9.0, 0]], np.float32), np.zeros(2, np.float32))
    parts = {"kind_model": model, "severity_rule": SeverityConfig(kinds={"fight": 2})}
    made, kept = decider(parts)
    for n, features in enumerate(([1.0, 0, 0], [0, 3.0, 0])):
        made.score(dataclasses.replace(window(n, 0.61, cell(0, 0)), features=np.array(features, np.float32)))
    made.finish("shutdown")
    told = [(b["type"], b["kind"], b["severity"]) for b in kept.bodies]
    assert told == [("start", "crash", "low"), ("end", "fight", "high")]
    assert all(body["kind_probability"] > 0.99 for body in kept.bodies)
    for body in kept.bodies:
        jsonschema.validate(body, SCHEMA)


def test_a_decider_elsewhere_goes_on_with_the_place() -> None:
    first, _ = decider()
    first.score(window(0, 0.9, cell(3, 3)))
    second, kept = decider()
    second.restore("gate", json.loads(json.dumps(first.state("gate"))))
    second.score(window(1, 0.8, cell(0, 0)))
    second.finish("shutdown")
    assert kept.bodies[-1]["where"]["boxes"] == [[0.75, 0.75, 1.0, 1.0]]


@pytest.mark.parametrize(
    ("view", "size", "box"),
    [
        (View("whole", (112, 112)), None, [0.75, 0.75, 1.0, 1.0]),
        (View("left", (112, 112), "stretch", (0.0, 0.0, 0.5, 1.0)), None, [0.375, 0.75, 0.5, 1.0]),
        (View("middle", (112, 112), "crop"), (384, 192), [0.625, 0.75, 0.75, 1.0]),
        (View("middle", (112, 112), "crop"), None, None),  # nobody knows the proportions of the picture
    ],
)
def test_cells_are_mapped_back_from_the_view_to_the_picture(
    view: View, size: tuple[int, int] | None, box: list[float] | None
) -> None:
    place = CameraPlace(view)
    shown = () if size is None else (Preview(0.0, np.zeros((size[1], size[0], 3), np.uint8)),)
    place.see(0.9, window(0, 0.9, cell(3, 3), shown))
    assert (place.where and [list(found) for found in place.where.boxes]) == (box and [box])
