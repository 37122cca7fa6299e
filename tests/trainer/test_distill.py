"""Distillation: what the teacher is asked, what a batch holds, and that a stopped run goes on as if it had not."""

from __future__ import annotations

import argparse
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from stream_detector.errors import DataError
from stream_detector.models.backbones.i3d import CLASSES, FEATURE_DIM, I3D
from stream_detector.models.backbones.resnet3d import ResNet3D
from stream_detector.models.preprocess import normalise, recipe_named
from trainer.data.clips import Clip, PackedFrames, PackWriter
from trainer.recipes.embedded.average import mean_state, measure_statistics
from trainer.recipes.embedded.distill import Run, begin
from trainer.recipes.embedded.options import parse_sizes
from trainer.recipes.embedded.settings import TrainConfig
from trainer.recipes.embedded.student import LossWeights, Outputs, Student, inherit_stem, student_from, student_loss
from trainer.recipes.embedded.teacher import MAPS, Job, Targets, answer, plan
from trainer.recipes.embedded.view_pool import Drawn, Pack, Pool

SIZE = 32
TINY = TrainConfig(arch="resnet3d-10-b-w0.125", steps=4, batch=4, warmup=2, sizes=((SIZE, 1.0),))


def _clips(count: int = 12) -> tuple[Clip, ...]:
    sets = ["fights", "streets"]
    return tuple(
        Clip(f"{i}", sets[i % 2], i % 4 == 0, "c", "", "val" if i % 6 == 5 else "train", 25.0) for i in range(count)
    )


@pytest.fixture()
def pack(tmp_path: Path) -> Pack:
    clips = _clips()
    writer = PackWriter(tmp_path / "clips.u8", SIZE)
    rng = np.random.default_rng(0)
    for _ in clips:
        writer.add(rng.integers(0, 256, (24, SIZE, SIZE, 3), dtype=np.uint8), {})
    writer.close()
    targets = Targets(tmp_path / "teacher", plan(clips, [24] * len(clips), per_clip=1), "k")
    rows = list(range(0, len(targets.jobs), 2))
    torch.manual_seed(0)
    targets.put(rows, torch.randn(len(rows), FEATURE_DIM), torch.randn(len(rows), CLASSES))
    return Pack(PackedFrames(tmp_path / "clips.u8"), clips, targets)


def test_every_clip_is_asked_about_once_before_any_twice() -> None:
    clips = _clips(40)
    jobs = plan(clips, [60] * 40, per_clip=2, per_set=15)
    assert jobs == plan(clips, [60] * 40, per_clip=2, per_set=15)
    assert Counter(clips[job.item].set for job in jobs) == {"fights": 15, "streets": 15}
    assert max(Counter(job.item for job in jobs).values()) == 1
    both = plan(clips, [60] * 40, per_clip=2, per_set=1000)
    assert len(both) == 80 and {job.start for job in both} == {11, 33}
    assert plan(clips[:1], [9], per_clip=2) == [Job(0, 0)]  # too short for two


def test_targets_survive_a_stop_and_start_afresh_for_another_question(tmp_path: Path) -> None:
    jobs = [Job(0, 0), Job(1, 0), Job(2, 5)]
    Targets(tmp_path, jobs, "a").put([1], torch.ones(1, FEATURE_DIM), torch.ones(1, CLASSES))
    again = Targets.open(tmp_path)
    assert again.jobs == jobs and again.done.tolist() == [False, True, False]
    assert float(again.features[1].sum()) == FEATURE_DIM
    assert not Targets(tmp_path, jobs, "another teacher").done.any()
    with pytest.raises(DataError, match="run the teacher first"):
        Targets.open(tmp_path / "absent")


def test_the_teacher_answers_what_is_open_and_nothing_else(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = I3D(CLASSES).eval()
    frames = np.random.default_rng(0).integers(0, 256, (20, SIZE, SIZE, 3), dtype=np.uint8)
    targets = Targets(tmp_path, [Job(0, 0), Job(0, 4), Job(0, 2)], "k")
    targets.put([0], torch.full((1, FEATURE_DIM), 7.0), torch.zeros(1, CLASSES))
    assert list(answer(model, targets, lambda item: frames, batch=2)) == [(3, 3)]
    assert targets.done.all() and float(targets.features[0, 0]) == 7.0
    clip = torch.from_numpy(frames[4:20]).permute(3, 0, 1, 2)[None].float() / 127.5 - 1
    with torch.no_grad():
        wanted = model.features(clip)[0]
    assert torch.allclose(torch.from_numpy(np.array(targets.features[1])), wanted, atol=1e-4)


def test_a_batch_depends_on_seed_and_step_alone(pack: Pack) -> None:
    pool = Pool([pack], seed=5)
    first, again, other = pool.batch(3, 6, SIZE), Pool([pack], seed=5).batch(3, 6, SIZE), pool.batch(4, 6, SIZE)
    assert torch.equal(first.windows, again.windows) and torch.equal(first.labels, again.labels)
    assert not torch.equal(first.windows, other.windows)
    assert first.windows.shape == (6, 16, SIZE, SIZE, 3) and first.windows.dtype == torch.uint8


def test_shares_do_not_depend_on_the_size_of_a_set_and_val_is_never_drawn(pack: Pack) -> None:
    pool = Pool([pack], seed=0, shares={"fights": 0.75, "streets": 0.25})
    places = [pool._draw(np.random.default_rng([1, k])) for k in range(800)]
    names = Counter(pack.clips[place.item].set for place, _ in places)
    labels = Counter(abnormal for place, abnormal in places if pack.clips[place.item].set == "fights")
    assert 540 < names["fights"] < 660  # 600 ± 5 deviations
    assert abs(labels[True] - labels[False]) < 130
    assert all(pack.clips[place.item].split == "train" for place, _ in places)


def test_a_pool_without_training_clips_or_answers_is_refused(pack: Pack) -> None:
    held = tuple(Clip(c.path, c.set, c.abnormal, c.category, c.group, "val", c.fps) for c in pack.clips)
    with pytest.raises(DataError, match="train split"):
        Pool([Pack(pack.frames, held)], seed=0)
    with pytest.raises(DataError, match="run the teacher first"):
        Pool([Pack(pack.frames, pack.clips)], seed=0).moments()


def test_the_inherited_stem_answers_like_the_teachers() -> None:
    """Same filters, other pixel scale: away from the border the two first layers agree."""
    torch.manual_seed(1)
    teacher = I3D().eval()
    unit = teacher.stages.get_submodule("Conv3d_1a_7x7")
    unit.get_buffer("mean").normal_()
    unit.get_buffer("variance").uniform_(0.5, 2.0)
    student = ResNet3D(10, "B", 0.5).eval()
    recipe = recipe_named("stream-112")
    inherit_stem(student, teacher, recipe)
    pixels = torch.randint(0, 256, (1, 16, 32, 32, 3), dtype=torch.uint8)
    with torch.no_grad():
        theirs = unit(pixels.permute(0, 4, 1, 2, 3).float() / 127.5 - 1)
        shifted = normalise(pixels, recipe)[..., 1:, 1:]  # SAME padding puts the teacher's centre one pixel further
        ours = torch.relu(student.bn1(student.conv1(shifted)))
    following = teacher.stages.get_submodule("Conv3d_2b_1x1").get_parameter("conv.weight")
    chosen = following.flatten(1).norm(dim=0).topk(32).indices.sort().values
    wanted = theirs[:, chosen, 2:5, 4:12, 4:12]
    assert float(wanted.std()) > 0.1
    assert torch.allclose(ours[:, :, 5:11:2, 4:12, 4:12], wanted, atol=1e-3)


def test_the_teacher_counts_only_where_it_answered() -> None:
    torch.manual_seed(0)
    drawn = Drawn(
        torch.zeros(4, 16, 8, 8, 3, dtype=torch.uint8),
        torch.tensor([1.0, 0.0, 1.0, 0.0]),
        torch.tensor([True, False, False, False]),
        torch.randn(4, FEATURE_DIM),
        torch.randn(4, CLASSES),
    )
    moments = {"features": (torch.zeros(FEATURE_DIM), torch.ones(FEATURE_DIM))}
    perfect = Outputs(drawn.features.clone(), drawn.logits.clone(), torch.tensor([9.0, -9.0, 9.0, -9.0]), {})
    loss, report = student_loss(perfect, drawn, moments, LossWeights(smoothing=0.0))
    assert float(loss) < 1e-3 and report["cosine"] == pytest.approx(1.0, abs=1e-5)
    perfect[0][1:] += 100  # rows without an answer: no difference
    assert float(student_loss(perfect, drawn, moments, LossWeights(smoothing=0.0))[0]) == pytest.approx(float(loss))
    silent = Drawn(drawn.windows, drawn.labels, torch.zeros(4, dtype=torch.bool), drawn.features, drawn.logits)
    assert set(student_loss(perfect, silent, moments, LossWeights())[1]) == {"labels"}


def test_the_maps_are_matched_place_by_place() -> None:
    torch.manual_seed(0)
    wanted = {name: (torch.randn(2, *shape) * 3 + 2).half() for name, shape in MAPS.items()}
    drawn = Drawn(
        torch.zeros(2, 16, 8, 8, 3, dtype=torch.uint8),
        torch.zeros(2),
        torch.ones(2, dtype=torch.bool),
        torch.randn(2, FEATURE_DIM),
        torch.randn(2, CLASSES),
        wanted,
    )
    moments = {"features": (torch.zeros(FEATURE_DIM), torch.ones(FEATURE_DIM))}
    moments |= {
        name: (torch.full((shape[0], 1, 1, 1), 2.0), torch.full((shape[0], 1, 1, 1), 3.0))
        for name, shape in MAPS.items()
    }
    plain = (drawn.features, drawn.logits, torch.full((2,), -9.0))
    right = {name: (values.float() - 2) / 3 for name, values in wanted.items()}
    loss, report = student_loss(Outputs(*plain, right), drawn, moments, LossWeights(smoothing=0.0))
    assert float(loss) < 1e-3 and report["middle_cosine"] == pytest.approx(1.0, abs=1e-3)
    turned = {name: values.flip(-1) for name, values in right.items()}
    assert student_loss(Outputs(*plain, turned), drawn, moments, LossWeights())[1]["last_cosine"] < 0.5
    small = {name: F.adaptive_avg_pool3d(values, (*values.shape[2:3], 3, 3)) for name, values in right.items()}
    report = student_loss(Outputs(*plain, small), drawn, moments, LossWeights())[1]  # a student of fewer cells
    assert report["last"] == pytest.approx(0.0, abs=1e-3) and report["middle"] == pytest.approx(0.0, abs=1e-3)


def test_a_student_that_matches_maps_leaves_a_checkpoint_that_any_command_reads(pack: Pack, tmp_path: Path) -> None:
    views = Targets(tmp_path / "maps", pack.targets.jobs, "k", maps=True)
    rows = range(len(views.jobs))
    with pytest.raises(DataError, match="gave no 'middle'"):
        views.put(rows, torch.randn(len(rows), FEATURE_DIM), torch.randn(len(rows), CLASSES))
    maps = [torch.randn(len(rows), *shape) for shape in MAPS.values()]
    views.put(rows, torch.randn(len(rows), FEATURE_DIM), torch.randn(len(rows), CLASSES), *maps)
    assert Targets.open(tmp_path / "maps").maps["last"].shape == (len(rows), *MAPS["last"])
    writer = PackWriter(tmp_path / "views.u8", SIZE)
    for item in range(len(pack.clips)):
        writer.add(pack.frames.frames(item)[:16], {})
    writer.close()
    seen = Pack(PackedFrames(tmp_path / "views.u8"), pack.clips, Targets.open(tmp_path / "maps"), True)
    pool = Pool([seen], seed=0)
    assert pool.has_maps and not Pool([pack], seed=0).has_maps
    assert set(pool.batch(0, 4, 32).maps) <= set(MAPS)
    run = Run(TINY, pool, tmp_path / "run", "cpu", None)
    reports = list(run.train())
    assert any(report.get("last", 0) > 0 for report in reports)
    state = torch.load(run.checkpoint, weights_only=True)
    assert "maps.last.weight" in student_from(state).state_dict()
    later = Run(replace(TINY, start_from=str(run.checkpoint)), Pool([pack], seed=0), tmp_path / "later", "cpu", None)
    assert torch.equal(later.student.project.weight, run.averaged.project.weight)


def test_a_resumed_run_ends_where_an_unbroken_one_does(pack: Pack, tmp_path: Path) -> None:
    pool = Pool([pack], seed=0)
    whole = Run(TINY, pool, tmp_path / "whole", "cpu", None)
    assert len(list(whole.train())) == 4
    broken = Run(TINY, pool, tmp_path / "broken", "cpu", None)
    steps = broken.train(save_every_s=0.0)
    next(steps), next(steps)
    steps.close()
    again = Run(TINY, pool, tmp_path / "broken", "cpu", None)
    assert again.resume() and again.step == 2
    assert len(list(again.train())) == 2
    for name, value in whole.averaged.state_dict().items():
        assert torch.allclose(value.float(), again.averaged.state_dict()[name].float(), atol=1e-5), name


def test_a_step_whose_gradient_is_not_finite_is_skipped_and_counted(pack: Pack, tmp_path: Path) -> None:
    run = Run(TINY, Pool([pack], seed=0), tmp_path, "cpu", None)
    before = {name: value.clone() for name, value in run.student.named_parameters()}
    run.moments = {name: (m * float("nan"), d) for name, (m, d) in run.moments.items()}
    run._one(run.pool.batch(0, 4, SIZE))
    assert run.skipped == 1
    assert all(torch.equal(before[name], value) for name, value in run.student.named_parameters())


def test_replicas_take_the_mean_of_their_gradients_and_stay_equal(pack: Pack, tmp_path: Path) -> None:
    run = Run(TINY, Pool([pack], seed=0), tmp_path, "cpu", None, replicas=2)
    for number, replica in enumerate(run.replicas):
        for parameter in replica.parameters():
            parameter.grad = torch.full_like(parameter, float(number))
    run._gather()
    assert all(p.grad is not None and bool((p.grad == 0.5).all()) for p in run.student.parameters())
    for _ in run.train():
        pass
    first, second = (dict(replica.named_parameters()) for replica in run.replicas)
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_a_checkpoint_of_another_network_is_refused(pack: Pack, tmp_path: Path) -> None:
    Run(TINY, Pool([pack], seed=0), tmp_path, "cpu", None).save()
    other = TrainConfig(arch="resnet3d-18-b-w0.125", steps=2, batch=2, sizes=((SIZE, 1.0),))
    with pytest.raises(DataError, match="another --run folder"):
        Run(other, Pool([pack], seed=0), tmp_path, "cpu", None).resume()


def test_a_run_can_begin_with_another_one_s_network(pack: Pack, tmp_path: Path) -> None:
    first = Run(TINY, Pool([pack], seed=0), tmp_path, "cpu", None)
    list(first.train())
    student = Student(TINY.arch)
    begin(student, replace(TINY, start_from=str(first.checkpoint)))
    for name, value in first.averaged.state_dict().items():
        assert torch.equal(student.state_dict()[name], value)
    with pytest.raises(DataError, match=r"holds a resnet3d-10-b-w0\.125, not a resnet3d-18"):
        begin(student, replace(TINY, arch="resnet3d-18-b-w0.5", start_from=str(first.checkpoint)))


def test_the_mean_of_two_checkpoints_has_statistics_of_its_own(pack: Pack, tmp_path: Path) -> None:
    pool = Pool([pack], seed=0)
    torch.manual_seed(0)
    first, second = Student(TINY.arch), Student(TINY.arch)
    mean = mean_state(first.state_dict(), second.state_dict())
    name = "backbone.layer1.0.conv1.weight"
    assert torch.allclose(mean[name], (first.state_dict()[name] + second.state_dict()[name]) / 2)
    student = Student(TINY.arch)
    student.load_state_dict(mean)
    seen: list[torch.Tensor] = []
    norm = student.backbone.get_submodule("layer1.0.bn1")
    norm.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].detach()))
    measure_statistics(student, pool, "stream-112", batches=2, size=SIZE)
    wanted = torch.stack([x.mean(dim=(0, 2, 3, 4)) for x in seen]).mean(dim=0)
    assert torch.allclose(norm.get_buffer("running_mean"), wanted, atol=1e-5)
    assert not norm.training and float(student.backbone.bn1.running_mean.abs().sum()) == 0.0  # type: ignore[union-attr]
    with pytest.raises(DataError, match="same network"):
        mean_state(first.state_dict(), Student("resnet3d-10-b-w0.25").state_dict())


def test_the_schedule() -> None:
    config = TrainConfig(steps=1000, warmup=100, rate=1.0, sizes=((64, 0.5), (112, 0.5)))
    assert (config.size_at(0), config.size_at(499), config.size_at(500), config.size_at(999)) == (64, 64, 112, 112)
    assert config.rate_at(49) == 0.5 and config.rate_at(99) == 1.0
    assert config.rate_at(550) == pytest.approx(0.505, abs=1e-3) and config.rate_at(999) < 0.011
    assert parse_sizes("64:0.5,112:0.5") == ((64, 0.5), (112, 0.5))
    for text in ("64", "8:1", "64:-1", "a:b"):
        with pytest.raises(argparse.ArgumentTypeError):
            parse_sizes(text)


def test_a_student_must_be_a_resnet3d() -> None:
    with pytest.raises(DataError, match="must be a ResNet3D"):
        Student("r3d_18")
