"""The accurate recipe on made-up features: what it takes and why, what it writes, and the head that it ships."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from rich.console import Console
from small_judgement import judge_little

from stream_detector.errors import UsageError
from stream_detector.models import weights
from stream_detector.models.backbones.i3d import I3D
from stream_detector.models.backbones.pair import Pair
from stream_detector.models.backbones.tensors import tensor_digest
from stream_detector.types import Float32Array
from trainer import __main__ as trainer_main
from trainer.evaluation import networks
from trainer.evaluation.figures import Judged
from trainer.evaluation.folds import KEPT
from trainer.evaluation.logistic import Logistic
from trainer.evaluation.nested import Labels, highest, nested
from trainer.evaluation.pieces import Piece
from trainer.evaluation.standard import Quiet, labelled
from trainer.recipes.accurate import command, settings
from trainer.recipes.accurate.decide import compared
from trainer.recipes.labelfree.ship import head_of

SETS = ("cctv_fights", "cctv_crashes", "hockey_fights")


def two_candidates(better: float) -> tuple[dict[str, float], dict[str, float], Judged]:
    """60 clips of each label in two sets, two a group; the second candidate tells them apart `better` better."""
    noise = np.random.default_rng(0).normal(size=240)
    abnormal = np.tile([True, False], 120)
    paths = tuple(f"c{k}" for k in range(240))
    one = dict(zip(paths, (0.8 * abnormal + noise).tolist(), strict=True))
    two = dict(zip(paths, ((0.8 + better) * abnormal + noise).tolist(), strict=True))
    groups, sets = tuple(f"g{k // 2}" for k in range(240)), tuple("ab"[k // 120] for k in range(240))
    return one, two, Judged(np.zeros(240), abnormal, groups, sets, paths)


def test_a_clear_lead_wins_and_equals_are_a_tie() -> None:
    clear = compared(*two_candidates(2.0), rounds=200)
    assert clear["low"] > 0 and clear["difference"] == pytest.approx(clear["second"] - clear["first"], abs=2e-4)
    tie = compared(*two_candidates(0.0), rounds=200)
    assert tie["low"] == tie["difference"] == tie["high"] == 0.0
    assert tie["sets"] == ["a", "b"]
    assert compared(*two_candidates(-2.0), rounds=200)["high"] < 0


def test_few_groups_are_drawn_as_clips() -> None:
    first, second, judged = two_candidates(0.3)
    few = compared(first, second, dataclasses.replace(judged, groups=("one",) * 240), rounds=200)
    assert few["difference"] == compared(first, second, judged, rounds=200)["difference"]
    assert few["low"] < few["difference"] < few["high"]


@pytest.mark.parametrize(
    "change",
    [
        "size=8",
        "networks=['mc3']",
        "networks=[]",
        "rounds=1",
        "name=3",
        "budget=0",
        "x=1",
        "seen={a=[]}",
        "seen={mc3=1}",
    ],
)
def test_impossible_settings_are_refused_in_one_sentence(change: str) -> None:
    with pytest.raises(UsageError) as refused:
        settings.load([change])
    assert change.partition("=")[0] in str(refused.value)


def test_the_recipe_states_what_it_judges_and_can_be_changed() -> None:
    assert settings.load().networks == ("i3d", "mc3")
    assert settings.load(["size=224", "judge_limits={}"]).size == 224


def test_data_is_asked_for(capsys: pytest.CaptureFixture[str]) -> None:
    assert trainer_main.main(["recipe", "accurate"]) == 2
    assert "--data" in capsys.readouterr().err


def world(dim: int, telling: slice) -> tuple[list[Piece], Labels, list[Float32Array]]:
    """Twelve blocks of five clips a set; the `telling` features tell abnormal windows apart."""
    rng = np.random.default_rng(0)
    pieces, features = [], []
    for name in SETS:
        for k in range(60):
            abnormal = (k // 5) % 2 == 0
            path = f"{name}/{'abnormal' if abnormal else 'normal'}/c{k // 5 * 20 + k % 5}.mp4"
            pieces.append(Piece(Path(path), path, name, abnormal, "crash" if abnormal else "", "", 25.0))
            rows = rng.normal(size=(3, dim)).astype(np.float32)
            rows[:, telling] += 2.0 * abnormal
            features.append(rows)
    return pieces, labelled(pieces, rng.integers(0, 256, (len(pieces), 18, 32, 3)).astype(np.uint8)), features


def test_the_shipped_head_is_the_one_that_judged_the_kept_fold() -> None:
    _, labels, features = world(12, slice(2, 4))
    parts = {"i3d": (0, 8), "mc3": (8, 12)}
    learner = Logistic(features, labels.abnormal, labels.sets, ((1.0, "clips", "i3d"), (0.1, "sets", "i3d")), parts)
    fold = next(fold for fold in nested(labels, learner) if fold.number == KEPT)
    head = head_of(learner, fold, 8, parts["i3d"])
    own = [head(torch.from_numpy(features[p][:, :8])).double().numpy() for p in fold.places.tolist()]
    assert np.allclose(highest(own), highest(fold.scores), atol=1e-5)


class Kept:
    """In place of `Stores`: the features of `world`, at once."""

    def __init__(self, names: Sequence[str], features: dict[str, Float32Array]) -> None:
        self.name, self.pixels, self._features = "+".join(names), "p", features
        self._dim = sum(networks.COLUMNS[name] for name in names)

    def features(self, file: Path, most: int | None = None) -> Float32Array:
        return self._features[str(file)][:, : self._dim]

    def fill(self, files: Sequence[Path]) -> Iterator[tuple[int, int]]:
        yield len(files), len(files)


@pytest.mark.parametrize("blind", [False, True], ids=["a tie", "only the second can tell"])
def test_one_command_judges_decides_and_writes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, blind: bool) -> None:
    """Where both see the same it is a tie and the I3D is shipped, where only the second can tell, the two networks."""
    states = {
        weights.JOIN.join(networks.KNOWN.values()): Pair().eval().state_dict(),
        networks.KNOWN["i3d"]: I3D().state_dict(),
    }
    monkeypatch.setattr(weights, "digest_of", lambda name: tensor_digest(states[name]))
    monkeypatch.setattr(weights, "load", lambda name, digest: states[name])
    pieces, labels, features = world(1536, slice(1024, None) if blind else slice(0, 300))
    of = {str(piece.file): rows for piece, rows in zip(pieces, features, strict=True)}
    rng = np.random.default_rng(1)
    monkeypatch.setattr(command, "judged_clips", lambda *_: (pieces, labels, None))
    monkeypatch.setattr(command, "known_stores", lambda names, *_: Kept(names, of))
    monkeypatch.setattr(
        command,
        "quiet_hours",
        lambda folder, minutes, store, console: [
            Quiet(f"h{k}", rng.normal(size=(60, store._dim)).astype(np.float32), 5.0) for k in range(3)
        ],
    )
    monkeypatch.setattr(command, "choices_of", lambda parts: tuple((1.0, "clips", part) for part in parts))
    judge_little(monkeypatch, command)
    told = settings.load(["rounds=200"])
    words = (tmp_path, tmp_path / "root", tmp_path / "out", tmp_path / "run", told, Console(quiet=True))
    bundle = command.build(*words)
    manifest = json.loads((tmp_path / "out/bundle.json").read_text(encoding="utf-8"))
    assert bundle.build_novelty_model() is not None
    if blind:
        assert manifest["training"]["decision"]["taken"] == "with_mc3"
        assert manifest["backbone"]["arch"] == "i3d+mc3_18" and manifest["head"]["dims"] == [1536, 1]
        assert "cctv_fights" not in manifest["training"]["sets"]
        assert "models fetch mc3-18-fights" in (tmp_path / "out/card.md").read_text(encoding="utf-8")
        return
    assert manifest["training"]["decision"]["taken"] == "i3d"
    assert manifest["training"]["decision"]["sets"] == ["cctv_crashes", "hockey_fights"]
    assert manifest["preprocess"]["size"] == [160, 160] and manifest["backbone"]["reference"] == "i3d-kinetics400"
    card = (tmp_path / "out/card.md").read_text(encoding="utf-8")
    assert "| cctv_fights, outer folds | 0.80 | " in card and "<!-- benchmark:standard -->" in card
    records = {
        name: json.loads((tmp_path / f"run/standard_{name}-160.json").read_text()) for name in ("i3d", "with_mc3")
    }
    assert records["with_mc3"]["settings"]["not judged, for labels of it were seen"] == ["cctv_fights"]
    assert "cctv_fights" not in records["with_mc3"]["results"]["outer"]
    assert records["i3d"]["results"]["outer"]["cctv_fights"]["value"] > 0.8
