"""Overlays: what they change, that a file holds them whole, and that what is in service survives kills in between."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stream_detector.adaptation.overlay import (
    Correction,
    NoveltyTerm,
    Overlay,
    load_overlay,
    logit,
    rounded,
    sigmoid,
)
from stream_detector.adaptation.service import Place, Service
from stream_detector.errors import DataError, UsageError

DIM, BUNDLE = 6, "b" * 16


def an_overlay(seed: int = 0, accepted: bool = True, camera: str = "gate", **changes: Any) -> Overlay:
    dice = np.random.default_rng(seed)
    correction = Correction(
        dice.normal(size=(3, DIM)).astype(np.float32),
        dice.normal(size=3).astype(np.float32),
        dice.normal(size=3).astype(np.float32),
        0.25,
    )
    facts = {"gate": {"accepted": accepted, "sentence": "because"}}
    values = {"threshold": 0.4, "time_constant_s": 1.0, "correction": correction, "facts": facts, **changes}
    return Overlay(BUNDLE, camera, **values)


def test_a_file_holds_an_overlay_whole(tmp_path: Path) -> None:
    sample = rounded(np.random.default_rng(1).normal(size=(9, DIM)).astype(np.float32))
    made = an_overlay(novelty=NoveltyTerm(sample, np.ones(DIM, np.float32), 1.0, 0.5, 0.7))
    made.save(tmp_path / "o.safetensors")
    read = load_overlay(tmp_path / "o.safetensors", bundle=BUNDLE, dim=DIM)
    features = np.random.default_rng(2).normal(size=(50, DIM)).astype(np.float32)
    raw = np.linspace(0, 1, 50)
    assert read.fingerprint == made.fingerprint and read.facts == made.facts
    assert np.array_equal(read.adjust(features, raw), made.adjust(features, raw))


def test_the_fingerprint_names_what_decides_and_nothing_else() -> None:
    made = an_overlay()
    same, other = (
        an_overlay(facts={"note": "x"}),
        [an_overlay(1), an_overlay(threshold=0.41), an_overlay(camera="yard")],
    )
    assert same.fingerprint == made.fingerprint
    assert len({made.fingerprint, *(o.fingerprint for o in other)}) == 4


@settings(deadline=None, max_examples=50)
@given(st.integers(0, 999), st.integers(1, 40))
def test_live_windows_and_a_replay_of_the_memory_decide_alike(seed: int, count: int) -> None:
    made = an_overlay(seed % 7)
    dice = np.random.default_rng(seed)
    live = dice.normal(0, 3, (count, DIM)).astype(np.float32)
    raw = dice.uniform(0, 1, count).astype(np.float32).astype(np.float64)
    kept = live.astype(np.float16).astype(np.float32)  # as the memory keeps them
    one_by_one = [made.adjust(row[None], np.array([score]))[0] for row, score in zip(live, raw, strict=True)]
    assert np.allclose(made.adjust(kept, raw), one_by_one, rtol=0, atol=1e-6)
    assert np.all((made.adjust(kept, raw) >= 0) & (made.adjust(kept, raw) <= 1))


@given(st.floats(0, 1))
def test_logit_and_sigmoid_are_finite_everywhere(score: float) -> None:
    assert abs(float(sigmoid(logit(np.array([score])))[0]) - score) < 1e-6


def test_what_is_damaged_or_of_another_bundle_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "o.safetensors"
    an_overlay().save(path)
    with pytest.raises(DataError, match="another"):
        try:
            load_overlay(path, bundle="c" * 16)
        except DataError as error:
            raise DataError(f"another: {error}") from None
    with pytest.raises(DataError, match="features"):
        load_overlay(path, dim=DIM + 1)
    data = path.read_bytes()
    for cut in (0, 10, len(data) // 2, len(data) - 1):
        path.write_bytes(data[:cut])
        with pytest.raises(DataError):
            load_overlay(path)
    an_overlay(threshold=1.5).save(path)
    with pytest.raises(DataError, match="out of range"):
        load_overlay(path)
    broken = an_overlay()
    broken.correction.level[0] = np.nan  # type: ignore[union-attr]
    broken.save(path)
    with pytest.raises(DataError, match="finite"):
        load_overlay(path)


# -- what is in service -------------------------------------------------------------------------------------------


@pytest.fixture()
def service(tmp_path: Path) -> Service:
    return Service(tmp_path)


def put(service: Service, overlay: Overlay) -> Overlay:
    overlay.save(service.path(overlay.fingerprint))
    return overlay


def event(service: Service, camera: str, change: dict[str, Any], seq: int) -> dict[str, Any]:
    return {
        **change,
        "camera": camera or "_detector",
        "epoch": "e" * 16,
        "seq": seq,
        "emitted_utc": "2026-01-01T00:00:00Z",
    }


def test_promotion_and_rollback_go_one_step_at_a_time(service: Service) -> None:
    first, second = put(service, an_overlay(1)), put(service, an_overlay(2))
    for seq, overlay in enumerate((first, second), 1):
        service.apply("gate", service.promoted(overlay, 0.0), ("e" * 16, seq), 5.0)
    assert Service.load(service.directory).of("gate") == second.fingerprint
    assert service.of("yard") == "" and service.changed_utc("gate") == 5.0
    service.apply("gate", service.rolled_back("gate"), ("e" * 16, 3), 6.0)
    assert Service.load(service.directory).of("gate") == first.fingerprint
    service.apply("gate", service.rolled_back("gate"), ("e" * 16, 4), 7.0)
    assert Service.load(service.directory).of("gate") == ""
    with pytest.raises(UsageError, match="nothing to roll back"):
        service.rolled_back("gate")


def test_only_what_the_gate_accepted_is_promoted_and_not_before_its_shadow_is_over(service: Service) -> None:
    with pytest.raises(UsageError, match="because"):
        service.promoted(put(service, an_overlay(1, accepted=False)), 0.0)
    with pytest.raises(UsageError, match="the gate has not tested it"):
        service.promoted(an_overlay(facts={}), 0.0)
    overlay = put(service, an_overlay(2))
    service.set_shadow("gate", overlay.fingerprint, 0.0, 3600.0)
    assert service.shadow_of("gate", 10.0) == overlay.fingerprint and service.shadow_of("gate", 3601.0) == ""
    with pytest.raises(UsageError, match="shadow"):
        service.promoted(overlay, 10.0)
    assert service.promoted(overlay, 3601.0)["type"] == "promoted"


def test_the_whole_site_s_overlay_serves_cameras_without_one_of_their_own(service: Service) -> None:
    every, own = put(service, an_overlay(1, camera="")), put(service, an_overlay(2))
    service.apply("", service.promoted(every, 0.0), ("e" * 16, 1), 1.0)
    service.apply("gate", service.promoted(own, 0.0), ("e" * 16, 1), 1.0)
    assert (service.of("gate"), service.of("yard")) == (own.fingerprint, every.fingerprint)


@pytest.mark.parametrize("killed", ["before the file", "in the file", "after the file"])
def test_a_kill_between_journal_and_file_is_completed_from_the_journal(
    service: Service, killed: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = put(service, an_overlay(1)), put(service, an_overlay(2))
    history = [event(service, "gate", service.promoted(first, 0.0), 1)]
    service.apply("gate", history[0], ("e" * 16, 1), 1.0)
    history.append(event(service, "gate", service.promoted(second, 0.0), 2))
    if killed == "after the file":
        service.apply("gate", history[1], ("e" * 16, 2), 2.0)
    elif killed == "in the file":  # a temporary file is left behind, the state is the former one
        (service.directory / ".service.json.x1").write_text('{"schema": "half')
    again = Service.load(service.directory)
    told = again.reconcile(history, "_detector")
    assert again.of("gate") == Service.load(service.directory).of("gate") == second.fingerprint
    assert bool(told) == (killed != "after the file")
    assert again.reconcile(history, "_detector") == []
    assert again.places["gate"].former == ("", first.fingerprint)


def test_the_journal_of_a_promotion_that_was_followed_by_a_rollback_wins(service: Service) -> None:
    overlay = put(service, an_overlay(1))
    history = [event(service, "gate", service.promoted(overlay, 0.0), 1)]
    service.apply("gate", history[0], ("e" * 16, 1), 1.0)
    history.append(event(service, "gate", service.rolled_back("gate"), 2))
    again = Service.load(service.directory)
    again.reconcile(history, "_detector")
    assert again.of("gate") == ""


def test_a_damaged_state_or_overlay_is_one_sentence(service: Service) -> None:
    overlay = put(service, an_overlay(1))
    service.apply("gate", service.promoted(overlay, 0.0), ("e" * 16, 1), 1.0)
    path = service.path(overlay.fingerprint)
    an_overlay(2).save(path)  # another content under its name
    with pytest.raises(DataError, match="fingerprint"):
        service.load_overlay(overlay.fingerprint)
    for name in ("../../etc/passwd", "x" * 16, ""):
        with pytest.raises(UsageError):
            service.load_overlay(name)
    state = service.directory / "service.json"
    value = json.loads(state.read_text())
    value["places"]["gate"]["overlay"] = "../evil"
    for text in ("{", "[]", json.dumps(value), '{"schema": "other"}'):
        state.write_text(text)
        with pytest.raises(DataError):
            Service.load(service.directory)
    assert Place() == Place()
