"""Training by the recipe: it learns, it survives being killed, and what it writes is what it learned."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from recipe_rig import Noise, tiny

from stream_detector.errors import DataError
from stream_detector.models.backbones.i3d import I3D
from stream_detector.models.backbones.resnet3d import ResNet3D
from trainer.recipes.labelfree.answers import Asked
from trainer.recipes.labelfree.student import Student, inherit_stem, loss_of, moments_of
from trainer.recipes.labelfree.teachers import Answer
from trainer.recipes.labelfree.training import Run, read_student, recipe_of

STEPS = 6
ROOT = Path(__file__).parents[2]


def start(folder: Path) -> subprocess.Popen[str]:
    words = [sys.executable, "-m", "tests.trainer.recipe_rig", str(folder), str(STEPS)]
    return subprocess.Popen(words, stdout=subprocess.PIPE, text=True, cwd=ROOT)


@pytest.mark.integration
def test_a_killed_run_ends_as_one_that_was_not(tmp_path: Path) -> None:
    whole = start(tmp_path / "whole")
    assert whole.communicate(timeout=300)[0].splitlines()[0] == "new 0" and whole.returncode == 0
    killed = start(tmp_path / "killed")
    assert killed.stdout is not None
    while (line := killed.stdout.readline().strip()) != "3":
        assert line
    os.kill(killed.pid, signal.SIGKILL)
    killed.communicate(timeout=60)
    assert killed.returncode == -signal.SIGKILL
    last = start(tmp_path / "killed")
    told = last.communicate(timeout=300)[0].splitlines()
    assert last.returncode == 0 and told[0].startswith("resumed") and told[-1] == str(STEPS)
    facts, state = read_student(tmp_path / "killed")
    wanted_facts, wanted = read_student(tmp_path / "whole")
    assert facts["steps"] == wanted_facts["steps"] == STEPS
    assert state.keys() == wanted.keys() and all(torch.equal(state[name], wanted[name]) for name in wanted)


def test_it_learns_what_the_teacher_says(tmp_path: Path) -> None:
    class Colours(Noise):
        """Views of one colour each, which a network can tell apart."""

        def batch(self, numbers: Sequence[int]) -> Asked:
            generators = [torch.Generator().manual_seed(k) for k in numbers]
            colours = torch.stack([torch.randint(0, 256, (1, 1, 1, 3), generator=g) for g in generators])
            views = colours.expand(-1, 16, 32, 32, 3).to(torch.uint8)
            return Asked(views, {n: (torch.arange(len(views)), ask(views)) for n, ask in self.asks.items()})  # type: ignore[operator]

    settings = tiny("views=160", "batch=4", "shard=4", "rate=0.005", "memory=4", "watched=12", "save_every_s=60.0")
    run = Run(settings, tmp_path, "cpu", kept=False)
    reports = list(run.train(Colours()))
    assert len(reports) == 40 and run.skipped == 0
    early, late = (sum(r["loss"] for r in part) / 8 for part in (reports[:8], reports[-8:]))
    assert late < 0.8 * early
    assert run.watch(Colours())["i3d"] > 0.3


def test_a_step_whose_gradient_is_not_finite_changes_nothing_and_is_counted(tmp_path: Path) -> None:
    class Spoilt(Noise):
        def batch(self, numbers: Sequence[int]) -> Asked:
            asked = super().batch(numbers)
            if 8 in numbers:  # step 2
                where, said = asked.answers["i3d"]
                said = Answer(torch.full_like(said.features, torch.inf), said.map, said.logits)
                return Asked(asked.views, {"i3d": (where, said)})
            return asked

    run = Run(tiny(), tmp_path, "cpu", kept=False)
    run.moments = moments_of([Noise().batch(range(16))])
    before = {}
    for _ in run.train(Spoilt()):
        if run.step == 2:
            before = {name: p.detach().clone() for name, p in run.student.named_parameters()}
        if run.step == 3:
            assert all(torch.equal(before[name], p) for name, p in run.student.named_parameters())
    assert run.skipped == 1 and run.step == 8


def test_each_teacher_counts_by_its_share_and_the_second_tells_no_classes() -> None:
    settings = tiny('teachers=["i3d", "mc3"]')
    asked = Noise(("i3d", "mc3")).batch(range(8))
    moments = moments_of([asked])
    student = Student(settings)
    assert set(student.logits) == {"i3d"} and asked.answers["mc3"][0].tolist() == [0, 2, 4, 6]
    got = student(torch.randn(8, 3, 16, 32, 32))
    both, report = loss_of(got, asked, moments, settings)
    assert {"i3d_logits", "i3d_maps", "mc3_maps", "mc3_features"} <= report.keys() and "mc3_logits" not in report
    alone, _ = loss_of(got, Asked(asked.views, {"i3d": asked.answers["i3d"]}), moments, settings)
    second = 0.5 * (report["mc3_features"] + report["mc3_maps"])
    assert float(both.detach()) == pytest.approx(float(alone.detach()) + second, rel=1e-5)


def test_a_checkpoint_of_other_settings_or_a_damaged_one_is_refused(tmp_path: Path) -> None:
    run = Run(tiny(), tmp_path, "cpu", kept=False)
    run.save()
    assert Run(tiny("save_every_s=5.0", "budget=0.5"), tmp_path, "cpu", kept=False).resume()
    with pytest.raises(DataError, match="rate"):
        Run(tiny("rate=0.01"), tmp_path, "cpu", kept=False).resume()
    run.checkpoint.write_bytes(b"half a file")
    with pytest.raises(DataError, match="damaged"):
        Run(tiny(), tmp_path, "cpu", kept=False).resume()
    with pytest.raises(DataError, match="train one"):
        read_student(tmp_path / "absent")


def test_minutes_end_a_run(tmp_path: Path) -> None:
    run = Run(tiny(), tmp_path, "cpu", kept=False, minutes=1e-4)
    assert run.share == 0 and len(list(run.train(Noise()))) >= 1 and run.share >= 1


def test_the_student_begins_with_the_teachers_filters_shortened_in_time() -> None:
    teacher = I3D().eval()
    student = ResNet3D(10, "B", 0.125, stem=3)
    inherit_stem(student, teacher, recipe_of(tiny()))
    kernel = teacher.stages.get_submodule("Conv3d_1a_7x7").state_dict()["conv.weight"]
    std, scale = torch.tensor(recipe_of(tiny()).std), recipe_of(tiny()).scale
    scaled = kernel[:, :, 2:5] * (std / scale / 127.5)[None, :, None, None, None]
    for mine in student.conv1.weight:
        assert float((scaled - mine).detach().abs().amax(dim=(1, 2, 3, 4)).min()) < 1e-7
    with pytest.raises(DataError, match="inherit_stem"):
        inherit_stem(ResNet3D(10, "B", 2.0, stem=3), teacher, recipe_of(tiny()))


def test_the_student_is_written_in_parts_that_may_travel(tmp_path: Path) -> None:
    run = Run(tiny(), tmp_path, "cpu", kept=False)
    run.write({"sets": {"a": 1}})
    facts, state = read_student(tmp_path)
    assert facts["sets"] == {"a": 1} and facts["settings"]["size"] == 32
    assert state.keys() == run.student.backbone.state_dict().keys()
    sizes = [(tmp_path / f"student-{k}.safetensors").stat().st_size for k in (0, 1)]
    assert max(sizes) < 2 * min(sizes)
    assert json.loads((tmp_path / "student.json").read_text())["steps"] == 0
