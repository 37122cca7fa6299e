"""The audit condemns what broken extraction leaves and passes real features."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("scipy", reason="scipy is not installed (extra: train)")

from trainer.__main__ import main
from trainer.data.audit import Audit, audit
from trainer.data.features import FeatureSet, VideoFeatures, load_features


def relu_like(seed: int, shift: float = 0.0) -> VideoFeatures:
    rng = np.random.default_rng(seed)
    rows = np.maximum(rng.normal(size=(8, 40)) + rng.normal(size=40), 0).astype(np.float32)
    rows[:, 3] += np.float32(shift)
    category = "Fighting" if seed % 2 else "Normal"
    return VideoFeatures(f"v{seed}", category, "", rows)


def kinds(result: Audit) -> set[str]:
    return {f.kind for f in result.findings}


def test_plain_features_pass() -> None:
    result = audit(FeatureSet(tuple(relu_like(i) for i in range(60)), "x", {}))
    assert not result.condemned and kinds(result) == set()
    assert 0.5 < result.separation["Fighting"] < 0.99


def test_the_signature_of_another_run_is_found() -> None:
    videos = tuple(relu_like(i, shift=30.0 * (i % 2)) for i in range(60))
    result = audit(FeatureSet(videos, "x", {}))
    assert result.condemned and kinds(result) == {"provenance"} and result.separation["Fighting"] == 1.0


def test_few_videos_are_not_condemned_by_chance() -> None:
    rng = np.random.default_rng(0)
    videos = [
        VideoFeatures(f"v{i}", "Fighting" if i < 5 else "Normal", "", rng.normal(size=(4, 4000)).astype(np.float32))
        for i in range(11)
    ]
    result = audit(FeatureSet(tuple(videos), "x", {}))
    assert result.separation["Fighting"] == 1.0 and not result.condemned


def test_an_untrained_network_is_found() -> None:
    rng = np.random.default_rng(0)
    mean = rng.uniform(0.7, 3, 64)
    videos = [
        VideoFeatures(f"v{i}", "Normal", "", (mean + rng.normal(size=(8, 64)) * 0.05).astype(np.float32))
        for i in range(20)
    ]
    assert kinds(audit(FeatureSet(tuple(videos), "x", {}))) == {"untrained"}


def test_rows_that_carry_nothing_are_found() -> None:
    videos = [relu_like(i) for i in range(10)]
    blank, constant, infinite = relu_like(20), relu_like(22), relu_like(24)
    blank.rows[3] = 0
    constant.rows[:] = constant.rows[0]
    infinite.rows[2, 1] = np.inf
    copy = VideoFeatures("copy", "Normal", "", videos[4].rows.copy())
    result = audit(FeatureSet((*videos, blank, constant, infinite, copy), "x", {}))
    assert kinds(result) == {"blank", "constant", "not finite", "duplicated"} and result.condemned
    where = {f.kind: f.where for f in result.findings}
    assert where == {"blank": ("v20",), "constant": ("v22",), "not finite": ("v24",), "duplicated": ("copy = v4",)}


@pytest.mark.data
def test_the_seeds_features_are_condemned(clips: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = clips.parent / "ucf_crime" / "seed_features_specimen.npz"
    assert main(["audit", str(path)]) == 1
    out = capsys.readouterr().out
    assert "CONDEMNED: provenance: 9 of 13 classes" in out
    separation = audit(load_features(path)).separation
    assert {c for c, auc in separation.items() if auc < 0.99} == {"Shoplifting", "Stealing", "Vandalism"}


@pytest.mark.data
def test_real_features_pass(clips: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["audit", str(clips.parent / "ucf_crime" / "c3d_fc6_segments.npz")]) == 0
    assert capsys.readouterr().out.endswith("passed\n")
