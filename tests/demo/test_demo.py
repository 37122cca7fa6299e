"""The rendered scene: deterministic, random access, an incident that stands out, files that can be read back."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import cv2
import numpy as np
import pytest

from stream_detector.demo import DemoScene, incident_span, moves
from stream_detector.demo.__main__ import main
from stream_detector.demo.avoid import FASTEST_M_S
from stream_detector.demo.body import joints
from stream_detector.demo.cast import ASIDE_STEP_S
from stream_detector.demo.street import KINDS
from stream_detector.errors import UsageError

SIZE = (160, 90)


@cache
def build(seed: int) -> DemoScene:
    """A scene for reading only; building one takes most of the time."""
    return DemoScene(seed=seed, duration_s=20, fps=25, size=SIZE)


@pytest.fixture
def scene() -> DemoScene:
    return build(3)


def test_a_frame_is_a_pure_function_of_seed_and_index(scene: DemoScene) -> None:
    forward = [scene.frame(i).copy() for i in (0, 120, 260, 499)]
    other = DemoScene(seed=3, duration_s=20, fps=25, size=SIZE)
    backward = [other.frame(i) for i in (499, 260, 120, 0)][::-1]
    for a, b in zip(forward, backward, strict=True):
        assert a.dtype == np.uint8 and a.shape == (SIZE[1], SIZE[0], 3)
        assert np.array_equal(a, b)
    assert np.array_equal(next(iter(scene)), forward[0])


def test_frames_differ_from_frame_to_frame_and_from_seed_to_seed(scene: DemoScene) -> None:
    assert not np.array_equal(scene.frame(10), scene.frame(11))
    other = build(0)
    assert np.abs(scene.frame(10).astype(int) - other.frame(10)).mean() > 8


def test_incident_lies_where_it_says_and_can_be_left_out(scene: DemoScene) -> None:
    assert scene.frame_count == len(scene) == 500
    assert scene.incident_start_s is not None and scene.incident_end_s is not None
    assert 0.45 * 20 <= scene.incident_start_s <= 0.6 * 20
    assert 6 <= scene.incident_end_s - scene.incident_start_s <= 10
    calm = DemoScene(seed=3, duration_s=20, fps=25, size=SIZE, incident=False)
    assert calm.incident_start_s is None and calm.incident_end_s is None
    assert calm.street.kind == scene.street.kind


def _motion(scene: DemoScene, begin_s: float, end_s: float) -> float:
    """Mean squared change from frame to frame of the area near the camera, noise smoothed away."""
    changes = []
    for i in range(round(begin_s * scene.fps), round(end_s * scene.fps), 3):
        a, b = (
            cv2.GaussianBlur(cv2.cvtColor(scene.frame(k), cv2.COLOR_BGR2GRAY), (0, 0), 1).astype(float)
            for k in (i, i + 1)
        )
        changes.append(float(((a - b)[SIZE[1] // 3 :] ** 2).mean()))
    return float(np.mean(changes))


def test_the_fight_moves_more_than_the_street_before_it(scene: DemoScene) -> None:
    start = scene.incident_start_s
    assert start is not None
    assert _motion(scene, start + 0.5, start + 4) > 1.3 * _motion(scene, start - 5, start - 1)


@pytest.mark.parametrize("seed", range(5))
def test_fighters_are_large_and_in_the_picture(seed: int) -> None:
    scene = build(seed)
    start, end = scene.incident_start_s, scene.incident_end_s
    assert start is not None and end is not None
    fighters = [a for a in scene._actors if a.smooth_s == 0.08]
    assert 2 <= len(fighters) <= 5
    for t in np.linspace(start + 0.9, end - 0.2, 8).tolist():
        for figure in (a.figure(t) for a in fighters):
            assert figure is not None
            matrix = scene.street.camera.matrix()
            foot, head = (
                matrix @ np.array([figure.place[0], y, figure.place[1], 1.0]) for y in (0.0, figure.look.height_m)
            )
            assert 0.03 * SIZE[0] < foot[0] / foot[2] < 0.97 * SIZE[0]
            assert foot[1] / foot[2] - head[1] / head[2] > 0.27 * SIZE[1]


def test_all_kinds_of_light_and_all_courses_occur() -> None:
    scenes = [build(s) for s in range(5)]
    assert {s.street.kind for s in scenes} == set(KINDS)
    assert {s.course for s in scenes} == {"beating", "brawl", "wrestle"}
    brightness = {s.street.kind: float(s.frame(0).mean()) for s in scenes}
    assert brightness["night"] < brightness["dusk"] < brightness["day"]


def test_feet_rest_on_the_ground_whatever_the_pose() -> None:
    poses = [m(t) for m in (moves.kick(0.0), moves.curl_up(0.0, 1.0), moves.on_back(0.0)) for t in (0.1, 0.4, 0.9)]
    poses.append(moves.gait(1.3, 1.4, 0.85, 0.0))
    n = len(poses)
    world = joints(np.array(poses), np.zeros((n, 2)), np.zeros(n), np.full(n, 1.75))
    low = world[..., 1].min(axis=1)
    assert (low > -0.06 * 1.75).all() and (low < 0.06 * 1.75).all()
    assert (world[-1][:, 1].max() > 1.5) and (world[3][:, 1].max() < 0.9)  # walking stands, curled up lies


@pytest.mark.parametrize("arguments", [{"fps": 0}, {"duration_s": 0}, {"duration_s": 5}, {"size": (10, 10)}])
def test_impossible_scenes_are_refused_in_one_sentence(arguments: dict[str, object]) -> None:
    with pytest.raises(UsageError, match="give"):
        DemoScene(**arguments)  # type: ignore[arg-type]


def test_index_out_of_range(scene: DemoScene) -> None:
    for i in (-1, scene.frame_count):
        with pytest.raises(IndexError):
            scene.frame(i)


def test_command_writes_video_and_still(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    video, still = tmp_path / "x.webm", tmp_path / "pictures" / "demo.jpg"
    common = ["--seed", "2", "--duration", "8", "--fps", "5", "--size", "160x90"]
    assert main([*common, "--out", str(video), "--still", str(still), "--at", "4"]) == 0
    assert "incident" in capsys.readouterr().out
    reader = cv2.VideoCapture(str(video), cv2.CAP_FFMPEG)
    frames = 0
    while reader.read()[0]:
        frames += 1
    assert frames == 40 and round(reader.get(cv2.CAP_PROP_FPS)) == 5
    reader.release()
    picture = cv2.imread(str(still))
    assert picture is not None and picture.shape == (90, 160, 3) and still.stat().st_size <= 120_000


@pytest.mark.parametrize("wrong", [["--out", "x.xyz"], ["--still", "x.bmp"], ["--still", "x.jpg", "--at", "99"]])
def test_command_refuses_with_exit_2(
    wrong: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["--duration", "8", "--fps", "5", "--size", "96x54", *wrong]) == 2
    assert "use" in (said := capsys.readouterr().err) or "give" in said
    assert main(["--size", "wide", "--out", "x.webm"]) == 2
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("incident", [True, False])
def test_nobody_appears_or_vanishes_inside_the_picture(incident: bool) -> None:
    for seed in range(8):
        scene = DemoScene(seed, size=SIZE, incident=incident)
        for actor in scene._actors:
            for at_s, x, z in (actor.knots[0], actor.knots[-1]):
                if 0 < at_s < scene.duration_s:
                    assert abs(x - scene._stage.middle(z)) > 0.85 * scene._stage.exit(z), (seed, at_s, x, z)


def near_strangers(scene: DemoScene) -> int:
    """How often two who did not come together are nearer than 0.35 m, looked at every 0.4 s; the fight left out."""
    count = 0
    for t in np.arange(0.0, scene.duration_s, 0.4).tolist():
        here = [a for a in scene._actors if a.knots[0][0] <= t <= a.knots[-1][0]]
        places = np.array([a.place(t) for a in here])
        for n, one in enumerate(here):
            for k in np.flatnonzero(np.hypot(*(places[:n] - places[n]).T) < 0.35).tolist():
                other = here[k]
                count += one.company != other.company and not (one.firm and other.firm)
    return count


@pytest.mark.parametrize("incident", [True, False])
def test_people_step_aside_for_one_another(incident: bool) -> None:
    scenes = [DemoScene(seed, size=SIZE, incident=incident) for seed in range(3)]
    after = [near_strangers(scene) for scene in scenes]
    steps = np.concatenate([np.diff(a.asides) for scene in scenes for a in scene._actors if a.asides])
    assert 0.05 < np.abs(steps).max() / ASIDE_STEP_S <= FASTEST_M_S + 1e-9
    for scene in scenes:
        for actor in scene._actors:
            assert not (actor.firm and actor.asides)
            actor.asides = []
    before = [near_strangers(scene) for scene in scenes]
    assert sum(after) < 0.25 * sum(before), (after, before)


@pytest.mark.parametrize(("seed", "duration_s"), [(0, 40.0), (7, 12.0), (3, 8.0)])
def test_the_span_of_the_incident_is_known_without_the_scene(seed: int, duration_s: float) -> None:
    scene = DemoScene(seed=seed, duration_s=duration_s)
    assert incident_span(seed, duration_s) == (scene.incident_start_s, scene.incident_end_s)
