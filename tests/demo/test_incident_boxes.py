"""Where the people of the rendered incident are: `python -m benchmarks where` judges by it."""

from __future__ import annotations

import numpy as np

from stream_detector.demo import DemoScene

SIZE = (320, 180)


def test_the_boxes_hold_what_the_people_of_the_incident_add_to_the_picture() -> None:
    with_people, without = DemoScene(3, 20.0, size=SIZE), DemoScene(3, 20.0, size=SIZE)
    without._actors = [actor for actor in without._actors if actor not in without._fighters]
    assert with_people.incident_start_s is not None and with_people.incident_end_s is not None
    at = round((with_people.incident_start_s + with_people.incident_end_s) / 2 * with_people.fps)
    changed = np.abs(with_people.frame(at).astype(int) - without.frame(at)).max(axis=2) > 40
    boxes = with_people.incident_boxes(at)
    assert len(boxes) >= 2 and changed.sum() > 100
    inside = np.zeros_like(changed)
    for left, top, right, bottom in boxes:
        assert 0 <= left < right <= 1 and 0 <= top < bottom <= 1
        x0, x1 = int(left * SIZE[0]) - 4, int(right * SIZE[0]) + 5  # limbs are thicker than the joints between them
        inside[max(0, int(top * SIZE[1]) - 4) : int(bottom * SIZE[1]) + 5, max(0, x0) : x1] = True
    assert (changed & inside).sum() > 0.9 * changed.sum() and inside.mean() < 0.4


def test_a_scene_without_an_incident_has_no_boxes() -> None:
    scene = DemoScene(3, 20.0, size=SIZE, incident=False)
    assert all(scene.incident_boxes(i) == [] for i in range(0, 500, 50))
