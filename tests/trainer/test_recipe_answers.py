"""Answers that are kept: made once, keyed by content, whole after a kill, and equal to those that are asked online."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from recipe_rig import teacher, tiny
from torch import Tensor

from stream_detector.errors import DataError
from stream_detector.models.backbones import build_backbone
from trainer.recipes.labelfree.answers import Kept, Online, answers_key
from trainer.recipes.labelfree.teachers import KNOWN, Asked, asker, load
from trainer.recipes.labelfree.teachers import write_tensors as write
from trainer.recipes.labelfree.views import Drawer

SETTINGS = tiny('teachers=["i3d", "mc3"]')


class Bank:
    """Clip k is smooth colour, other every frame."""

    device = "cpu"
    asked = 0

    def windows(self, clips: Sequence[int], index: NDArray[np.int64]) -> Tensor:
        self.asked += len(clips)
        x = torch.linspace(0, 3, 40)[None, None, None, :, None] + torch.from_numpy(index)[:, :, None, None, None] / 9
        y = torch.linspace(0, 2, 32)[None, None, :, None, None] + torch.tensor(clips)[:, None, None, None, None]
        return (127 + 100 * torch.sin(x + y + torch.arange(3) / 2)).to(torch.uint8)


def online(bank: Bank) -> Online:
    drawer = Drawer(["a", "b", "b"], [30, 40, 50], [0, 1, 2], SETTINGS)
    return Online(drawer, bank, {name: teacher(name) for name in SETTINGS.teachers}, SETTINGS)  # type: ignore[misc]


def test_kept_answers_are_those_that_are_asked_online_and_are_made_once(tmp_path: Path) -> None:
    bank = Bank()
    kept = Kept(online(bank), tmp_path, "learn", 32)
    numbers = [17, 2, 30, 3]
    got, wanted = kept.batch(numbers), online(Bank()).batch(numbers)
    assert got.answers["mc3"][0].tolist() == wanted.answers["mc3"][0].tolist() == [1, 2]
    for name in SETTINGS.teachers:
        for part, other in zip(got.answers[name][1], wanted.answers[name][1], strict=True):
            assert (part is None) == (other is None)
            if part is not None and other is not None:
                assert torch.allclose(part, other, atol=2e-2, rtol=1e-2)  # float16
    assert float((got.views.float() - wanted.views.float()).abs().mean()) < 4  # JPEG
    before = bank.asked
    again = Kept(online(bank), tmp_path, "learn", 32)
    assert torch.equal(again.batch(numbers).views, got.views) and bank.asked == before
    assert again.done(32) == 32 and list(again.fill(32)) == [16, 32] and bank.asked == before


def test_a_file_that_was_not_finished_is_made_again(tmp_path: Path) -> None:
    kept = Kept(online(Bank()), tmp_path, "learn", 32)
    first = next(kept.fill(32))
    (tmp_path / "learn-00001.123.partial").write_bytes(b"killed here")
    assert first == 16 and kept.done(32) == 16
    assert list(kept.fill(32)) == [16, 32] and kept.done(32) == 32
    (tmp_path / "learn-00001.npz").write_bytes(b"damaged")
    with pytest.raises(DataError, match="learn-00001"):
        Kept(online(Bank()), tmp_path, "learn", 32).batch([20])


def test_the_key_covers_all_that_decides_an_answer() -> None:
    mine = answers_key("p", "t", 32, SETTINGS)
    assert mine == answers_key("p", "t", 32, tiny('teachers=["i3d", "mc3"]', "rate=0.5", "batch=8", "views=64"))
    others = [
        answers_key("other", "t", 32, SETTINGS),
        answers_key("p", "other", 32, SETTINGS),
        answers_key("p", "t", 48, SETTINGS),
        *(answers_key("p", "t", 32, tiny(change)) for change in ("seed=1", "mixed=0", "least_area=0.5", "visit=2")),
    ]
    assert len({mine, *others}) == len(others) + 1


@pytest.mark.parametrize("name", ["i3d", "mc3"])
def test_teachers_answer_with_the_shapes_that_the_student_matches(name: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = build_backbone(KNOWN[name].arch, 400 if name == "i3d" else 2)
    write(tmp_path / "w.safetensors", network.state_dict())
    loaded = load(name, tmp_path / "w.safetensors")
    views = torch.randint(0, 256, (1, 16, 64, 64, 3), dtype=torch.uint8)
    with torch.no_grad():
        parts = Asked(name, loaded)(views)
    assert parts[0].shape == (1, KNOWN[name].dim) and parts[1].shape == (1, KNOWN[name].dim, 1, 5, 5)
    assert len(parts) == (3 if KNOWN[name].classes else 2)
    said = asker(name, loaded, "cpu", 64)(views)
    assert float(torch.cosine_similarity(said.features, parts[0])) > 0.99
    assert (said.logits is None) == (KNOWN[name].classes == 0)
