"""The seed's checkpoint layout and text features become ours, with a warning."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from stream_detector.errors import CheckpointError, DataError
from trainer.__main__ import main
from trainer.data.features import load_features
from trainer.mil.import_seed import dense_layers, head_of, read_checkpoint

RNG = np.random.default_rng(0)
SUFFIX = "/.ATTRIBUTES/VARIABLE_VALUE"


def variables() -> dict[str, np.ndarray]:
    found: dict[str, np.ndarray] = {"save_counter" + SUFFIX: np.array(1)}
    for i, (a, b) in enumerate(((512, 128), (128, 32), (32, 1))):
        key = f"layer_with_weights-{i}"
        found[f"{key}/kernel{SUFFIX}"] = RNG.normal(size=(a, b)) * 0.1
        found[f"{key}/bias{SUFFIX}"] = RNG.normal(size=b) * 0.1
        found[f"{key}/kernel/.OPTIMIZER_SLOT/optimizer/accumulator{SUFFIX}"] = np.ones((a, b))
    return found


def test_a_checkpoint_becomes_a_head(tmp_path: Path) -> None:
    values = variables()
    checkpoint = head_of(dense_layers(values))
    row = RNG.uniform(size=512).astype(np.float32)
    x = row.astype(np.float64)
    for i in range(2):
        x = np.maximum(
            x @ values[f"layer_with_weights-{i}/kernel{SUFFIX}"] + values[f"layer_with_weights-{i}/bias{SUFFIX}"], 0
        )
    logit = float(
        x @ values[f"layer_with_weights-2/kernel{SUFFIX}"][:, 0] + values[f"layer_with_weights-2/bias{SUFFIX}"][0]
    )
    assert checkpoint.head().step(row) == pytest.approx(1 / (1 + np.exp(-logit)), abs=1e-6)
    assert checkpoint.spec.widths == (128, 32) and "untrained" in checkpoint.features["warning"]


def test_other_checkpoints_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="dense layers"):
        dense_layers({"layer_with_weights-0/kernel" + SUFFIX: np.zeros((4, 2))})
    with pytest.raises(CheckpointError, match="does not exist"):
        read_checkpoint(tmp_path / "weights")


def test_text_features_are_normalised_and_warned_about(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "Abuse001_x264.txt").write_text("3 4\n0 0\n")
    (tmp_path / "Normal_Videos_003_x264.txt").write_text("0 2\n1 0\n2 0\n")
    assert main(["import-seed", "--features", str(tmp_path), "--out", str(tmp_path / "out" / "seed.npz")]) == 0
    assert "untrained networks" in capsys.readouterr().err
    found = {v.name: v.rows for v in load_features(tmp_path / "out" / "seed.npz").videos}
    assert found["Abuse001_x264"] == pytest.approx(np.array([[0.6, 0.8], [0, 0]]))
    assert found["Normal_Videos_003_x264"].shape == (3, 2)
