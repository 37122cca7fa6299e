"""A small made-up site: calm that startles the head along one axis of the features, incidents along another."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from stream_detector.adaptation.anchors import Anchors, make_anchors
from stream_detector.adaptation.overlay import Overlay, rounded, sigmoid
from stream_detector.adaptation.site_data import Incident, Stretch, replay

DIM, WINDOW_S = 8, 0.64
BUNDLE = "b" * 16
SERVICE = Overlay(BUNDLE, "gate", 0.5, 1.0)
LOUD, STARTLING = 0, 1  # axes that the head listens to; only the first means something


def scores(features: np.ndarray) -> np.ndarray:
    """The bundle's head: it takes both axes for abnormal."""
    return sigmoid(2.0 * features[:, LOUD].astype(float) + 2.0 * features[:, STARTLING].astype(float) - 3.0)


def a_day(
    number: int, incidents: int = 5, startles: int = 8, seed: int = 0, minutes: float = 40.0
) -> tuple[Stretch, list[tuple[float, float]]]:
    """One day and the times of its true incidents; nothing is judged yet."""
    dice = np.random.default_rng(1000 * seed + number)
    count = int(minutes * 60 / WINDOW_S)
    features = dice.normal(0, 0.15, (count, DIM)).astype(np.float32)
    places = dice.permutation(count // 60)[: incidents + startles] * 60 + 20
    truth = []
    for index, place in enumerate(places):
        axis = LOUD if index < incidents else STARTLING
        features[place : place + 8, axis] += 2.5
        if axis == LOUD:
            truth.append((place * WINDOW_S, (place + 8) * WINDOW_S))
    features = rounded(features)
    starts = np.arange(count) * WINDOW_S
    day = f"2026-01-{number + 1:02d}"
    return Stretch("gate", day, starts, starts + WINDOW_S, scores(features), features), truth


def judged(
    stretch: Stretch, truth: list[tuple[float, float]], model: Overlay = SERVICE, flip: float = 0.0, seed: int = 0
) -> Stretch:
    """Every alarm of a model, judged; `flip`: share of wrong verdicts."""
    dice = np.random.default_rng(seed)
    found = []
    for number, alarm in enumerate(replay(stretch, model)):
        right = any(start <= alarm.start_s <= end + 3 for start, end in truth)
        said = right if dice.random() >= flip else not right
        found.append(Incident(f"{stretch.day}-{number}", alarm.begun_s, alarm.end_s, "true" if said else "false"))
    return replace(stretch, incidents=tuple(found))


def a_site(days: int = 8, flip: float = 0.0, seed: int = 0) -> list[Stretch]:
    """Judged days."""
    return [judged(*a_day(number, seed=seed), flip=flip, seed=number) for number in range(days)]


def some_anchors(seed: int = 0) -> Anchors:
    """Clips of the training: normal ones and incidents of the kind that the head knows."""
    dice = np.random.default_rng(seed)
    features = dice.normal(0, 0.3, (400, DIM)).astype(np.float32)
    abnormal = np.arange(400) % 2 == 1
    features[abnormal, LOUD] += 2.0
    features = rounded(features)
    return make_anchors(features, scores(features), abnormal, np.zeros(400, int))
