"""Our networks against recorded outputs of the reference implementations (see the note in each fixture)."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from parity_weights import CLASSES, SHAPES, seeded_clip, seeded_state

from stream_detector.models.backbones import backbone_spec, build_backbone

FIXTURES = sorted((Path(__file__).parents[1] / "fixtures" / "parity").glob("*_18.json")) + sorted(
    (Path(__file__).parents[1] / "fixtures" / "parity").glob("resnet3d-*.json")
)
TOLERANCE = 1e-4  # fp32, of values between 1 and 10


@pytest.mark.parametrize("path", FIXTURES, ids=lambda p: p.stem)
def test_outputs_equal_the_reference(path: Path) -> None:
    wanted = json.loads(path.read_text(encoding="utf-8"))
    model = build_backbone(wanted["arch"], num_classes=CLASSES)
    model.load_state_dict(seeded_state(model.state_dict()))
    assert sum(p.numel() for p in model.parameters()) == wanted["parameters"]
    for name in SHAPES:
        expected = wanted["outputs"][name]
        assert expected["feature_dim"] == backbone_spec(wanted["arch"]).feature_dim
        with torch.inference_mode():
            features = model.features(seeded_clip(name))  # type: ignore[operator]
            logits = model.fc(features)  # type: ignore[operator]
        scale = max(1.0, float(features.abs().max()))
        recorded = torch.tensor(expected["features_head"])
        assert (features[0, :32] - recorded).abs().max() / scale < TOLERANCE
        assert (logits[0] - torch.tensor(expected["logits"])).abs().max() / scale < TOLERANCE
        assert features.norm().item() == pytest.approx(expected["feature_norm"], rel=TOLERANCE)


def test_every_reference_is_recorded() -> None:
    hara = {f"resnet3d-{depth}-{shortcut}" for depth in (10, 18, 34, 50) for shortcut in "ab"}
    assert {p.stem for p in FIXTURES} >= hara | {"resnet3d-18-b-w0.5", "r3d_18", "mc3_18", "r2plus1d_18"}
