"""Which pictures a bundle knows: the distance, the limit, what is told, and the file."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from model_samples import DIM, noise_windows, small_parts, small_states

from stream_detector.config import AlarmConfig, EngineConfig, PictureQualityConfig, SmoothingConfig
from stream_detector.engines import load_engine
from stream_detector.errors import BundleError, DataError
from stream_detector.models.bundle import Bundle, write_bundle
from stream_detector.models.novelty import NoveltyModel, NoveltyMonitor, novelty_monitor_factory
from stream_detector.runtime.decider import CameraPlan, Decider
from stream_detector.telemetry.collector import Telemetry
from stream_detector.testing import FakeClock
from stream_detector.types import AlarmEvent, CameraStatus, Decision, Float32Array, Score, Timing, WindowRef
from trainer.recipes.embedded.fit_head import Bag
from trainer.recipes.embedded.novelty import ODD, find_limit, fit_novelty

AXES = 3
WINDOW_S = 16 / 25
CONFIG = PictureQualityConfig()


def plane(count: int, seed: int, noise: float = 0.1) -> Float32Array:
    """Features near a plane of AXES dimensions that does not pass through zero."""
    dice = np.random.default_rng(seed)
    axes = np.random.default_rng(99).normal(size=(AXES, DIM))
    made = 5.0 + dice.normal(size=(count, AXES)) @ axes + noise * dice.normal(size=(count, DIM))
    return made.astype(np.float32)


@pytest.fixture(scope="module")
def model() -> NoveltyModel:
    found = fit_novelty([Bag(plane(300, 0), "a", False), Bag(plane(40, 1), "b", False)], AXES)
    found.limit = find_limit(found, [Bag(plane(200, 2), "a", False)], 0.05)
    return found


def ref(number: int) -> WindowRef:
    start_s = number * WINDOW_S
    return WindowRef("gate", "", number, 0, 15, start_s, start_s + 0.6, 0.0, 0.0, 0.0)


def test_known_kinds_lie_near_one_and_others_far(model: NoveltyModel) -> None:
    known, limit = model.distance(plane(500, 3)), model.limit
    assert known.dtype == np.float32 and known.mean() == pytest.approx(1.0, abs=0.1)
    assert 0.02 < (known > limit).mean() < 0.1
    elsewhere = plane(50, 4) + np.random.default_rng(5).normal(size=(50, DIM)).astype(np.float32)
    assert (model.distance(elsewhere) > 3 * limit).all()
    along = model.mean.numpy() + 100.0 * model.axes.numpy()[:, 0]
    assert model.distance(along[None])[0] < 1.0  # far away inside the plane is more of the same kind
    assert np.allclose(model.axes.numpy().T @ model.axes.numpy(), np.eye(AXES), atol=1e-5)


def test_every_set_counts_the_same_whatever_its_size() -> None:
    odd = plane(20, 6) + 3.0 * np.random.default_rng(7).normal(size=(20, DIM)).astype(np.float32)
    fitted = fit_novelty([Bag(plane(2000, 8), "a", False)], AXES)
    few = find_limit(fitted, [Bag(plane(2000, 9), "a", False), Bag(odd, "odd", False)], 0.25)
    assert (fitted.distance(odd) > few).mean() == pytest.approx(0.5, abs=0.11)  # half the weight is theirs


@pytest.mark.parametrize("features", [plane(AXES, 0), np.ones((50, DIM), np.float32)])
def test_too_little_to_learn_from_is_one_sentence(features: Float32Array) -> None:
    with pytest.raises(DataError, match="clips") as caught:
        fit_novelty([Bag(features, "a", False)], AXES)
    assert "\n" not in str(caught.value)


def test_it_is_told_when_it_lasts_and_not_before(model: NoveltyModel) -> None:
    known, other = plane(1, 10)[0], 50.0 * np.random.default_rng(11).normal(size=DIM).astype(np.float32)
    watch = NoveltyMonitor(model, CONFIG.min_duration_s)
    told = [watch.check(ref(n), other if n != 3 else known) for n in range(12)]
    lasting = [n * WINDOW_S + 0.6 - (0 if n < 3 else 4 * WINDOW_S) >= CONFIG.min_duration_s for n in range(12)]
    assert told == [late and n != 3 for n, late in enumerate(lasting)]
    assert True in told and told.count(False) > 6
    assert not watch.check(ref(0), other)  # the source began anew


class Sink:
    def __init__(self) -> None:
        self.details: list[str] = []
        self.decisions: list[Decision] = []

    def alarm(self, event: AlarmEvent) -> dict[str, Any]:
        raise AssertionError(f"nothing to alarm of: {event}")

    def score(self, decision: Decision) -> None:
        self.decisions.append(decision)

    def status(self, status: CameraStatus) -> None:
        self.details.append(status.detail)

    def service(self) -> None: ...

    def close(self) -> None: ...


def decider(model: NoveltyModel, config: PictureQualityConfig, sink: Sink) -> Decider:
    alarm = AlarmConfig(threshold=0.5)
    plan = CameraPlan("gate", "rtsp://gate", True, 16, SmoothingConfig(kind="none"), alarm, 0.5, evidence=False)
    clock, watch = FakeClock(), novelty_monitor_factory(model, config)
    picture_quality = config if config.enabled else None
    made = Decider(
        (plan,),
        "f00d",
        sink=sink,
        telemetry=Telemetry(["gate"], clock),
        clock=clock,
        picture_quality=picture_quality,
        make_novelty_monitor=watch,
    )
    made.status(CameraStatus("gate", "rtsp://gate", "online"))
    return made


def test_the_cause_reaches_scores_and_status_and_changes_no_score(model: NoveltyModel) -> None:
    other = 50.0 * np.random.default_rng(12).normal(size=DIM).astype(np.float32)
    for config in (CONFIG, CONFIG.model_copy(update={"enabled": False})):
        sink = Sink()
        judged = decider(model, config, sink)
        for number in range(12):
            features = other if number < 8 else plane(1, 13)[0]
            judged.score(Score(ref(number), 0.3, 0.0, Timing(1.0, 2.0, 3.0, 4.0), features=features))
        marked = [d.score.ref.degraded == ("novelty", "unfamiliar") for d in sink.decisions]
        assert [d.score.raw for d in sink.decisions] == [0.3] * 12
        if config.enabled:
            assert marked == [n * WINDOW_S + 0.6 >= CONFIG.min_duration_s and n < 8 for n in range(12)]
            assert sink.details == ["", "picture_quality: novelty, unfamiliar", "picture and coverage are good again"]
        else:
            assert not any(marked) and sink.details == [""]


def test_a_bundle_keeps_it_and_its_fingerprint(tmp_path: Path, model: NoveltyModel) -> None:
    backbone, head = small_states()
    plain = write_bundle(tmp_path / "plain", small_parts(), backbone, head)
    part = {"axes": AXES, "limit": model.limit, "calibrated": "on a plane"}
    made = write_bundle(tmp_path / "made", small_parts(novelty=part), backbone, head, model.state_dict())
    assert made.fingerprint == plain.fingerprint and plain.build_novelty_model() is None
    for bundle in (made, made.save(tmp_path / "copy"), Bundle.load(tmp_path / "copy")):
        built = bundle.build_novelty_model()
        assert built is not None and built.limit == model.limit
        assert np.array_equal(built.distance(plane(9, 14)), model.distance(plane(9, 14)))
    engine = load_engine(made, EngineConfig(engine="torch", device="cpu", precision="fp32"))
    features = engine.infer(noise_windows(2)).features
    engine.close()
    assert np.isfinite(made.build_novelty_model().distance(features)).all()  # type: ignore[union-attr]


def damaged(folder: Path, what: str) -> None:
    path, manifest = folder / "novelty.safetensors", json.loads((folder / "bundle.json").read_text())
    if what == "missing":
        path.unlink()
    elif what == "flipped":
        content = bytearray(path.read_bytes())
        content[-3] ^= 0x10
        path.write_bytes(content)
    elif what == "other axes":
        manifest["novelty"]["axes"] = AXES + 1
    elif what == "many axes":
        manifest["novelty"]["axes"] = DIM + 1
    elif what == "limit":
        manifest["novelty"]["limit"] = -1.0
    (folder / "bundle.json").write_text(json.dumps(manifest))


@pytest.mark.parametrize("what", ["missing", "flipped", "other axes", "many axes", "limit"])
def test_a_damaged_one_is_refused_in_one_sentence(tmp_path: Path, model: NoveltyModel, what: str) -> None:
    backbone, head = small_states()
    part = {"axes": AXES, "limit": model.limit}
    folder = tmp_path / "made"
    write_bundle(folder, small_parts(novelty=part), backbone, head, model.state_dict())
    damaged(folder, what)
    with pytest.raises(BundleError) as caught:
        Bundle.load(folder)
    assert "\n" not in str(caught.value)


def test_a_spread_of_nothing_is_refused(tmp_path: Path, model: NoveltyModel) -> None:
    backbone, head = small_states()
    state = {**model.state_dict(), "spread": torch.zeros(())}
    with pytest.raises(BundleError, match="spread"):
        write_bundle(tmp_path / "b", small_parts(novelty={"axes": AXES, "limit": 2.0}), backbone, head, state)


def test_a_score_without_features_stays_as_it_is(model: NoveltyModel) -> None:
    score = Score(ref(9), 0.3, 0.0, Timing(1.0, 2.0, 3.0, 4.0))
    assert NoveltyMonitor(model, 0.0).mark_score(score) is score
    far = dataclasses.replace(score, features=np.full(DIM, 1e3, np.float32))
    assert NoveltyMonitor(model, 0.0).mark_score(far).ref.degraded == ("novelty", "unfamiliar")


def test_every_kind_of_change_keeps_the_shape_of_a_window() -> None:
    window = np.random.default_rng(15).integers(0, 256, (16, 32, 32, 3), np.uint8)
    for name, change in ODD.items():
        changed = change(window)
        assert changed.shape == window.shape and changed.dtype == np.uint8, name
        assert np.array_equal(changed, window) == (name == "as it is"), name


def test_a_bundle_with_the_former_names_is_read(tmp_path: Path, model: NoveltyModel) -> None:
    backbone, head = small_states()
    part = {"axes": AXES, "limit": model.limit}
    made = write_bundle(tmp_path / "b", small_parts(novelty=part), backbone, head, model.state_dict())
    (tmp_path / "b" / "novelty.safetensors").rename(tmp_path / "b" / "familiar.safetensors")
    path = tmp_path / "b" / "bundle.json"
    manifest = json.loads(path.read_text())
    manifest["familiar"] = manifest.pop("novelty")
    path.write_text(json.dumps(manifest))
    read = Bundle.load(tmp_path / "b")
    built = read.build_novelty_model()
    assert built is not None and read.fingerprint == made.fingerprint
    assert np.array_equal(built.distance(plane(9, 14)), model.distance(plane(9, 14)))
    again = read.save(tmp_path / "again")
    assert json.loads((again.directory / "bundle.json").read_text())["novelty"]["axes"] == AXES
    assert (again.directory / "novelty.safetensors").is_file()
