"""Views: settled before the teacher looks, from training clips alone, labelled by somebody who never saw them."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from stream_detector.errors import DataError
from stream_detector.models.backbones.i3d import CLASSES, FEATURE_DIM
from stream_detector.types import UInt8Array
from trainer.data.clips import Clip, PackedFrames, load_clips
from trainer.data.sizes import Size
from trainer.recipes.embedded.augment import Augmentation, augment, degrade_view, sample_part, shrink
from trainer.recipes.embedded.teacher import MAPS, Job, Targets
from trainer.recipes.embedded.view_pool import Pack, Pool
from trainer.recipes.embedded.views import ViewPlan, ViewSource, mix, pack_views, soft_labels

SIZE = 40
STILL = Augmentation(p_light=0, p_grey=0, p_low=0, p_blur=0, p_noise=0, p_jpeg=0)


def _clip(number: int, abnormal: bool, split: str = "train") -> Clip:
    return Clip(f"{number}.mp4", "streets", abnormal, "c", f"group {number}", split, 25.0)


def _frames(number: int) -> UInt8Array:
    return np.random.default_rng(number).integers(0, 256, (30, 48, 48, 3), dtype=np.uint8)


@pytest.fixture()
def views(tmp_path: Path) -> tuple[PackedFrames, tuple[Clip, ...]]:
    clips = [_clip(0, False), _clip(1, True), _clip(2, False, "val")]
    source = ViewSource([(clips, _frames)], ViewPlan({"streets": 3}), SIZE)
    assert list(pack_views(source, tmp_path / "views.u8")) == [(6, 6)]
    assert list(pack_views(source, tmp_path / "views.u8")) == []  # it is there
    return load_clips(tmp_path, "views")


def test_a_view_is_one_window_of_a_training_clip(views: tuple[PackedFrames, tuple[Clip, ...]]) -> None:
    packed, clips = views
    assert [clip.path for clip in clips] == ["0.mp4"] * 3 + ["1.mp4"] * 3
    assert all(packed.frames(k).shape == (16, SIZE, SIZE, 3) for k in range(6))
    assert not np.array_equal(packed.frames(0), packed.frames(1))


def test_another_plan_draws_anew(tmp_path: Path) -> None:
    path, clips = tmp_path / "views.u8", [_clip(0, False)]
    for seed in (0, 0, 1):
        list(pack_views(ViewSource([(clips, _frames)], ViewPlan({}, default=1, seed=seed), SIZE), path))
        if seed == 0:
            first = PackedFrames(path).frames(0).copy()
    assert not np.array_equal(first, PackedFrames(path).frames(0))


def test_augmenting_is_taking_and_then_spoiling() -> None:
    a = Augmentation()
    both = np.random.default_rng(4)
    taken = sample_part(_frames(0), 3, SIZE, both, a)
    steps = degrade_view(taken[:, :, ::-1] if both.random() < 0.5 else taken, both, a)
    assert np.array_equal(augment(_frames(0), 3, SIZE, np.random.default_rng(4), a), steps)


def test_of_a_mirrored_view_the_maps_are_mirrored_too(
    views: tuple[PackedFrames, tuple[Clip, ...]], tmp_path: Path
) -> None:
    packed, clips = views
    targets = Targets(tmp_path / "maps", [Job(k, 0) for k in range(6)], "k", maps=True)
    rising = {name: torch.arange(float(shape[-1])).expand(6, *shape) for name, shape in MAPS.items()}
    told = torch.arange(6.0)[:, None]
    targets.put(range(6), told.expand(6, FEATURE_DIM), torch.zeros(6, CLASSES), *rising.values())
    drawn = Pool([Pack(packed, clips, targets, True)], seed=0, augmentation=STILL).batch(0, 16, 32)
    found = set()
    for k, feature in enumerate(drawn.features[:, 0].int().tolist()):
        mirrored = bool(drawn.maps["last"][k, 0, 0, 0, 0] > drawn.maps["last"][k, 0, 0, 0, -1])
        seen = shrink(packed.frames(feature), 32)
        assert np.array_equal(drawn.windows[k].numpy(), seen[:, :, ::-1] if mirrored else seen)
        assert bool(drawn.maps["middle"][k, 0, 0, 0, 0] > drawn.maps["middle"][k, 0, 0, 0, -1]) == mirrored
        found.add(mirrored)
    assert found == {False, True}


def test_a_batch_shows_the_very_part_that_the_teacher_saw(
    views: tuple[PackedFrames, tuple[Clip, ...]], tmp_path: Path
) -> None:
    packed, clips = views
    targets = Targets(tmp_path / "teacher", [Job(k, 0) for k in range(6)], "k")
    told = torch.arange(6.0)[:, None]
    targets.put(range(6), told.expand(6, FEATURE_DIM), torch.zeros(6, CLASSES))
    labels = np.linspace(0, 1, 6, dtype=np.float32)
    pool = Pool([Pack(packed, clips, targets, True, labels)], seed=0, augmentation=STILL)
    drawn = pool.batch(0, 12, 32)
    assert bool(drawn.known.all())
    for window, feature, label in zip(drawn.windows.numpy(), drawn.features[:, 0], drawn.labels, strict=True):
        seen = shrink(packed.frames(int(feature)), 32)
        assert np.array_equal(window, seen) or np.array_equal(window, seen[:, :, ::-1])
        assert float(label) == pytest.approx(float(labels[int(feature)]))


def test_labels_of_views_come_from_a_regression_that_never_saw_the_clip(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    clips = [_clip(n, n % 2 == 1) for n in range(40) for _ in range(3)]
    odd = clips[9].path  # its label says abnormal, its features say normal
    features = rng.normal(size=(120, FEATURE_DIM)).astype(np.float32)
    for row, clip in enumerate(clips):
        features[row, :50] += 2.0 * (clip.abnormal and clip.path != odd)
    targets = Targets(tmp_path, [Job(k, 0) for k in range(120)], "k")
    targets.put(range(120), torch.from_numpy(features), torch.zeros(120, CLASSES))
    soft = soft_labels(targets, clips, {})
    abnormal = np.array([clip.abnormal and clip.path != odd for clip in clips])
    doubted = np.array([clip.path == odd for clip in clips])
    assert soft[abnormal].min() > 0.7 and soft[~abnormal & ~doubted].max() < 0.3
    assert 0.45 < soft[doubted].max() < 0.65  # half the label, and next to nothing from the regression
    assert np.array_equal(
        soft_labels(targets, clips, {}, trust=0.0), np.array([float(c.abnormal) for c in clips], "f4")
    )


def test_a_mix_holds_something_of_both_and_nothing_else() -> None:
    dark, bright = np.full((16, SIZE, SIZE, 3), 50, np.uint8), np.full((16, SIZE, SIZE, 3), 200, np.uint8)
    kinds = set()
    for seed in range(40):
        mixed = mix(dark, bright, np.random.default_rng(seed))
        values, counts = np.unique(mixed, return_counts=True)
        if len(values) == 1:  # blended: 30 to 60 % of the way
            kinds.add("blended")
            assert 95 <= values[0] <= 140
        else:  # a rectangle of 15 to 60 % of the picture, the same in every frame
            kinds.add("pasted")
            assert values.tolist() == [50, 200] and 0.13 < counts[1] / mixed.size < 0.62
            assert np.array_equal(mixed[0], mixed[15])
    assert kinds == {"blended", "pasted"} and int(dark.max()) == 50


def test_packed_views_are_square(tmp_path: Path) -> None:
    source = ViewSource([([_clip(0, True)], _frames)], ViewPlan({}), (24, 32))
    assert source.view(0).shape == (16, 24, 32, 3)
    with pytest.raises(DataError, match="square"):
        list(pack_views(source, tmp_path / "views.u8"))


def test_mixed_views_are_drawn_alike_every_time(tmp_path: Path) -> None:
    clips, plan = [_clip(n, bool(n % 2)) for n in range(6)], ViewPlan({}, default=3, mixed=0.5)
    for name in ("a", "b"):
        list(pack_views(ViewSource([(clips, _frames)], plan, SIZE), tmp_path / f"{name}.u8"))
    first, second = PackedFrames(tmp_path / "a.u8"), PackedFrames(tmp_path / "b.u8")
    assert all(np.array_equal(first.frames(k), second.frames(k)) for k in range(18))


@pytest.mark.parametrize(("size", "columns"), [(48, None), ((48, 64), None), ((48, 64), 160)])
def test_teacher_and_student_get_the_same_view_at_sizes_of_their_own(size: Size, columns: int | None) -> None:
    """columns: of the frames that the teacher's views are cut from; None: those that the student's are."""

    def smooth(n: int) -> UInt8Array:
        return np.stack([cv2.GaussianBlur(frame, (0, 0), 4) for frame in _frames(n)])

    def wide(n: int) -> UInt8Array:
        frames = smooth(n)
        return shrink(frames, (frames.shape[1], columns)) if columns else frames

    clips, plan = [_clip(n, bool(n % 2)) for n in range(6)], ViewPlan({}, default=3, mixed=0.5)
    large, small = ViewSource([(clips, wide)], plan, size), ViewSource([(clips, smooth)], plan, 32)
    assert large.key != small.key and large.clips == small.clips
    seen = [small.view(number).astype(int) for number in range(18)]
    for number in range(18):
        wanted = shrink(large.view(number), 32).astype(int)
        apart = [float(abs(wanted - view).mean()) for view in seen]  # grey levels
        assert apart.index(min(apart)) == number and apart[number] < 3
