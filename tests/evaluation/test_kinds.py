"""What a bundle's features know of kinds: judged by groups, shipped only where it is enough, told by alarms."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest

from stream_detector.errors import BundleError
from stream_detector.models.bundle import EMBEDDED, Bundle
from stream_detector.models.kinds import AlarmKind, KindModel
from trainer.evaluation.kinds import Linear, fitted, settled, with_kind
from trainer.evaluation.nested import Labels

NAMES = ("crash", "fight", "other")
DIM = 6


def clips(known: float, seed: int = 0) -> tuple[np.ndarray, np.ndarray, Labels]:
    """80 clips in 20 groups, and 4 of a rare kind. known: how far apart the kinds lie."""
    rng = np.random.default_rng(seed)
    groups = [f"g{n // 4}" for n in range(84)]
    kinds = np.array([(n // 4) % 2 for n in range(80)] + [2] * 4)
    features = rng.normal(size=(84, DIM))
    features[:, 0] += known * kinds
    sets = tuple(f"s{(n // 4) // 2 % 2}" for n in range(84))
    folds = np.array([(n // 8) % 5 for n in range(84)])
    return features, kinds, Labels(np.ones(84, bool), sets, tuple(groups), folds)


def test_kinds_that_lie_apart_are_shipped_and_a_rare_kind_is_judged_but_never_answered() -> None:
    model, judged = settled(*clips(8.0), NAMES)
    assert model is not None and judged["balanced"]["low"] > 0.9 and judged["learned"] == ["crash", "fight"]
    assert judged["confusion"][2][2] == 0 and sum(judged["confusion"][2]) == 4
    assert judged["balanced_all_kinds"]["value"] < judged["balanced"]["value"]
    assert set(judged["set_left_out"]) == {"s0", "s1"}


def test_features_that_know_nothing_are_not_shipped() -> None:
    model, judged = settled(*clips(0.0), NAMES)
    assert model is None and judged["balanced"]["low"] <= 0.5


def test_two_classes_give_the_probability_of_a_logistic_regression() -> None:
    features, kinds, _ = clips(1.0)
    model = fitted(features[:80], kinds[:80], 3, 1.0)
    from sklearn.linear_model import LogisticRegression

    scaled = (features[:80] - features[:80].mean(axis=0)) / features[:80].std(axis=0)
    wanted = LogisticRegression(C=1.0, class_weight="balanced", max_iter=1000).fit(scaled, kinds[:80])
    names, weight, bias = NAMES[:2], model.weight[:2], model.bias[:2]
    runtime = KindModel(names, weight.astype(np.float32), bias.astype(np.float32))
    for row in range(0, 80, 9):
        name, probability = runtime.likeliest(features[row].astype(np.float32))
        expected = wanted.predict_proba(scaled[row : row + 1])[0]
        assert name == names[int(expected.argmax())] and probability == pytest.approx(expected.max(), abs=2e-3)


def test_a_bundle_carries_its_kinds_and_keeps_its_fingerprint(tmp_path: Path) -> None:
    bundle = Bundle.load(EMBEDDED)
    dim = bundle.manifest.backbone.feature_dim
    model = Linear(np.arange(3 * dim).reshape(3, dim) / dim, np.array([0.0, 1.0, -1e9]))
    written = with_kind(bundle, model, {"kinds": list(NAMES), "learned": ["crash", "fight"]}, tmp_path / "b")
    assert written.fingerprint == bundle.fingerprint
    again = Bundle.load(written.save(tmp_path / "c").directory)
    kinds = again.build_kind_model()
    assert kinds is not None and kinds.names == ("crash", "fight") and kinds.weight.shape == (2, dim)
    manifest = json.loads((again.directory / "bundle.json").read_text(encoding="utf-8"))
    manifest["kind"]["names"] = ["crash", "fight", "other"]
    (again.directory / "bundle.json").write_text(json.dumps(manifest), encoding="utf-8")
    with pytest.raises(BundleError, match=r"kind\.safetensors holds other arrays"):
        Bundle.load(again.directory)


def test_the_kind_of_an_alarm_follows_the_mean_of_its_windows_here_and_elsewhere() -> None:
    model = KindModel(("crash", "fight"), np.array([[1.0], [-1.0]], np.float32), np.zeros(2, np.float32))
    kind = AlarmKind(model)
    assert kind.told() == ("", 0.0)
    kind.see(np.array([2.0], np.float32))
    assert kind.told() == ("crash", round(1 / (1 + math.exp(-4)), 3))
    elsewhere = AlarmKind(model)
    elsewhere.restore(json.loads(json.dumps(kind.state())))
    for each in (kind, elsewhere):
        each.see(np.array([-5.0], np.float32))
        assert each.told()[0] == "fight"
    kind.forget()
    kind.see(None)
    assert kind.told() == ("", 0.0)


def test_the_embedded_bundle_tells_fights_from_crashes_and_says_how_well() -> None:
    bundle = Bundle.load(EMBEDDED)
    model = bundle.build_kind_model()
    assert model is not None and bundle.manifest.kind is not None and model.names == ("crash", "fight")
    judged = bundle.manifest.kind.judged
    assert judged["balanced"]["low"] > judged["balanced"]["baseline"]
    assert bundle.fingerprint == "2d624ac3049768e9"  # of the bundle as it was before it knew kinds
