"""Two networks side by side: the features are those of each, and a bundle names the weights of both."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from pydantic import ValidationError
from torch import Tensor

from stream_detector.errors import CheckpointError
from stream_detector.models import weights
from stream_detector.models.backbones import PAIR, backbone_spec, build_backbone
from stream_detector.models.backbones.pair import Pair
from stream_detector.models.backbones.tensors import tensor_digest
from stream_detector.models.bundle import Bundle, write_bundle
from stream_detector.models.heads import Head
from stream_detector.models.manifest import BackbonePart
from stream_detector.models.preprocess import RECIPES, recipe_named


@pytest.fixture(scope="module")
def pair() -> Pair:
    torch.manual_seed(0)
    built = build_backbone(PAIR)
    assert isinstance(built, Pair)
    return built.requires_grad_(False)


def test_features_are_those_of_both_each_with_its_own_pixels(pair: Pair) -> None:
    pixels = torch.randint(0, 256, (1, 3, 16, 160, 160)).float()
    features = pair.features(pixels / 127.5 - 1.0)
    assert features.shape == (1, backbone_spec(PAIR).feature_dim)
    recipe = RECIPES["torchvision-112"]
    mean, std = (torch.tensor(v).view(1, 3, 1, 1, 1) for v in (recipe.mean, recipe.std))
    small = F.interpolate(pixels, (16, 112, 112), mode="trilinear", align_corners=False)
    second = pair.second.features((small * recipe.scale - mean) / std)
    assert torch.allclose(features[:, 1024:], second, atol=1e-4)
    assert torch.allclose(features[:, :1024], pair.first.features(pixels / 127.5 - 1.0))


def test_a_bundle_names_the_weights_of_both_and_refuses_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pair: Pair
) -> None:
    stored: dict[str, dict[str, Tensor]] = {"one": pair.first.state_dict(), "two": pair.second.state_dict()}
    whole = weights.load
    monkeypatch.setattr(
        weights, "load", lambda name, sha=None: whole(name, sha) if weights.JOIN in name else stored[name]
    )
    parts = {
        "name": "both",
        "backbone": {"arch": PAIR, "reference": "one+two"},
        "preprocess": recipe_named("i3d-224"),
        "head": {"dims": [1536, 1]},
    }
    bundle = write_bundle(tmp_path / "both", parts, None, Head((1536, 1)).state_dict())
    assert bundle.manifest.backbone.weights_sha256 == tensor_digest(pair.state_dict())
    assert torch.equal(bundle.backbone_state["second.stem.0.weight"], stored["two"]["stem.0.weight"])
    stored["two"] = {key: value + 1 if value.is_floating_point() else value for key, value in stored["two"].items()}
    with pytest.raises(CheckpointError, match="not those that were recorded"):
        Bundle.load(tmp_path / "both")
    with pytest.raises(ValidationError, match="reference"):
        BackbonePart(arch=PAIR, weights_sha256="0" * 64, feature_dim=1536, reference="a+b+c")
