"""The teacher as a bundle of its own: a head fitted on its stored answers, weights named but not included."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from rich.console import Console

from stream_detector.errors import DataError
from stream_detector.models import weights
from stream_detector.models.backbones.i3d import CLASSES, FEATURE_DIM, I3D
from stream_detector.models.backbones.tensors import tensor_digest
from trainer.data.clips import Clip
from trainer.data.sizes import parse_size
from trainer.recipes.embedded import teacher_bundle
from trainer.recipes.embedded.teacher import Job, Targets


def answered(folder: Path, splits: tuple[str, ...], size: str = "224") -> tuple[Targets, tuple[Clip, ...]]:
    """Forty clips of two labels whose features differ in a tenth of the dimensions."""
    rng = np.random.default_rng(0)
    clips = tuple(
        Clip(f"{k}.mp4", "street", bool(k % 2), "walk", f"g{k}", splits[k // 2 % len(splits)], 25.0) for k in range(40)
    )
    jobs = [Job(k, start) for start in (16, 0) for k in range(40)]
    targets = Targets(folder / f"teacher-{size}", jobs, "k")
    values = rng.normal(size=(80, FEATURE_DIM)).astype(np.float32)
    values[:, :100] += np.array([[2.0 * clips[job.item].abnormal] for job in jobs], dtype=np.float32)
    targets.put(range(80), torch.from_numpy(values), torch.zeros(80, CLASSES))
    return targets, clips


@pytest.mark.parametrize(("size", "shape"), [("224", [224, 224]), ("240x320", [240, 320])])
def test_a_head_on_the_teachers_answers_is_written_without_the_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: str, shape: list[int]
) -> None:
    monkeypatch.setenv("STREAM_DETECTOR_CACHE", str(tmp_path / "cache"))
    state = I3D().eval().state_dict()
    monkeypatch.setattr(weights, "show", lambda name: argparse.Namespace(tensors_sha256=tensor_digest(state)))
    monkeypatch.setattr(weights, "load", lambda name, digest: state)
    _, clips = answered(tmp_path, ("train", "val"), size)
    monkeypatch.setattr(teacher_bundle, "load_clips", lambda cache: (None, clips))
    args = argparse.Namespace(cache=tmp_path, teacher_size=parse_size(size), out=tmp_path / "big", name="i3d")
    bundle = teacher_bundle.build(args, Console(quiet=True))
    manifest = json.loads((tmp_path / "big" / "bundle.json").read_text(encoding="utf-8"))
    assert manifest["backbone"]["reference"] == "i3d-kinetics400"
    assert manifest["preprocess"]["size"] == shape and manifest["preprocess"]["fit"] == "stretch"
    assert not (tmp_path / "big" / "backbone.safetensors").exists()
    assert bundle.manifest.results["val_clip_auc"]["street"]["value"] > 0.9
    assert 0.2 < bundle.threshold < 1.0
    card = teacher_bundle.render_card(manifest)
    assert f"{shape[0]}×{shape[1]} pixels" in card
    assert "models fetch i3d-kinetics400" in card
    assert "| street | 10 / 10 |" not in card  # no figure of clips that the head was chosen on
    assert "<!-- benchmark:heldout -->" in card and "<!-- benchmark:standard -->" in card


def test_windows_of_a_clip_are_in_order_and_one_split_is_not_enough(tmp_path: Path) -> None:
    targets, clips = answered(tmp_path, ("train", "val"))
    bag, clip = teacher_bundle.clip_bags(targets, clips)["train"][0]
    assert clip.path == "0.mp4" and np.array_equal(bag.features[0], targets.features[40])  # start 0 before start 16
    targets, clips = answered(tmp_path / "other", ("train",))
    with pytest.raises(DataError, match="one split only"):
        teacher_bundle.clip_bags(targets, clips)
