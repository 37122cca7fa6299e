"""A run and its site: windows are remembered, overlays decide, promotion works without a restart, shadows only tell."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from stream_detector.adaptation.memory import Memory
from stream_detector.adaptation.overlay import Correction, Overlay
from stream_detector.adaptation.service import Service
from stream_detector.config import build_config
from stream_detector.errors import ProtocolError
from stream_detector.events.writes import parse_write
from stream_detector.models.bundle import EMBEDDED, read_manifest
from stream_detector.runtime.build import Run, build_run
from stream_detector.testing import ConstantEngine, FakeSource
from stream_detector.types import EngineOutput, UInt8Array

DIM = 256
DEADLINE_S = 240.0
BUNDLE = read_manifest(EMBEDDED).fingerprint


class NumberedEngine(ConstantEngine):
    """Every window's first feature is the number that its first frame carries, as is a hundredth of its score."""

    def infer(self, frames: UInt8Array) -> EngineOutput:
        numbers = frames[:, 0, 0, 0, 0].astype(np.float32)
        features = np.zeros((len(frames), DIM), np.float32)
        features[:, 0] = numbers
        return EngineOutput(features, np.clip(numbers / 100, 0, 1), 0.0, 0.0)


class SteppedSource(FakeSource):
    """Goes on by one stall at every `step`; `release` ends all."""

    def __init__(self, steps: tuple[str, ...]) -> None:
        super().__init__(steps)
        self._steps_left = threading.Semaphore(0)

    def step(self) -> None:
        self._steps_left.release()

    def release(self) -> None:
        self._steps_left.release(100)
        super().release()

    def _block(self) -> None:
        self.stalled.set()
        self._steps_left.acquire(timeout=DEADLINE_S)


def an_overlay(bundle: str, level: float, threshold: float = 0.5, accepted: bool = True) -> Overlay:
    """Adds `level` to every logit."""
    correction = Correction(np.zeros((1, DIM), np.float32), np.ones(1, np.float32), np.full(1, level, np.float32), 0.0)
    facts = {"gate": {"accepted": accepted, "sentence": "as asked"}}
    return Overlay(bundle, "gate", threshold, 0.0, correction, None, facts)


@dataclass
class Site:
    run: Run
    source: SteppedSource
    folder: Path
    decisions: list[Any]

    def put(self, overlay: Overlay) -> Overlay:
        service = Service(self.folder / "site")
        overlay.save(service.path(overlay.fingerprint))
        return overlay

    def write(self, **value: Any) -> dict[str, Any]:
        """As a peer's write: carried out by the decision thread."""
        write = parse_write({"kind": "command", "by": "Ann", **value})
        queue = self.run.pipeline.decision_queue
        return queue.submit(lambda: self.run.publisher.write(write, "key:ann")).result(DEADLINE_S)

    def journal(self, topic: str) -> list[dict[str, Any]]:
        done = self.run.pipeline.decision_queue.submit(lambda: self.run.ledger.since(topic, "first", 0, 1000)[0])
        return [json.loads(text) for text in done.result(DEADLINE_S)]


@contextmanager
def running(folder: Path, steps: tuple[str, ...], **changes: Any) -> Iterator[Site]:
    values: dict[str, Any] = {
        "cameras": [{"name": "gate", "source": "gate.mp4"}],
        "pace": "max",
        "smoothing": {"kind": "none"},
        "alarm": {"threshold": 0.5, "min_length_s": 0.5, "cooldown_s": 0.5},
        "evidence": {"enabled": False},
        "publish": {"bind": "none", "ledger": folder / "ledger.sqlite3"},
        "picture_quality": {"enabled": False},
        "window": {"detect_cuts": False},
        "site": {"keep": True},
    }
    decisions: list[Any] = []
    source = SteppedSource(steps)
    arrived = threading.Event()

    def on_decision(decision: Any) -> None:
        decisions.append(decision)
        arrived.set()

    with build_run(build_config({**values, **changes}), engine=NumberedEngine(), on_decision=on_decision) as run:
        run.pipeline.open_reader = lambda camera, _config: source
        thread = threading.Thread(target=run.pipeline.run, daemon=True)
        thread.start()
        try:
            yield Site(run, source, folder, decisions)
        finally:
            source.release()
            run.pipeline.stop()
            thread.join(20)


def until(condition: Any, what: str) -> None:
    pause, deadline_s = threading.Event(), time.monotonic() + DEADLINE_S
    while time.monotonic() < deadline_s:
        if condition():
            return
        pause.wait(0.01)
    raise AssertionError(what)


HALF = ("frame",) * 130


def test_every_window_is_remembered_as_the_bundle_scored_it(tmp_path: Path) -> None:
    with running(tmp_path, (*HALF, "stall")) as site:
        until(lambda: len(site.decisions) >= 8, "eight windows")
        assert site.run.site is not None and site.run.site.keeper is not None
        assert site.run.site.keeper.flush(DEADLINE_S)
    memory = Memory(tmp_path / "site" / "memory.sqlite3", read_only=True)
    (block,) = memory.blocks("gate", BUNDLE)
    assert len(block) >= 8 and np.allclose(block.raw[:8], np.minimum(np.arange(8) * 0.16, 1))
    assert np.array_equal(block.features[:8, 0], np.arange(8) * 16)
    plan = memory.fact("plan")["gate"]
    assert plan["threshold"] == 0.5 and plan["alarm"]["cooldown_s"] == 0.5
    assert memory.alarms("gate")[0].model == BUNDLE
    memory.close()


def test_nothing_is_kept_of_cameras_until_it_is_asked_for(tmp_path: Path) -> None:
    with running(tmp_path, (*HALF, "stall"), site={"keep": False}) as site:
        until(lambda: len(site.decisions) >= 8, "eight windows")
    assert not (tmp_path / "site").exists()


def test_promotion_and_rollback_need_no_restart_and_events_name_the_model(tmp_path: Path) -> None:
    with running(tmp_path, (*HALF, "stall", *HALF, "stall", *HALF, "stall")) as site:
        until(lambda: len(site.decisions) >= 8, "eight windows")
        assert any(d.alarmed for d in site.decisions)
        overlay = site.put(an_overlay(BUNDLE, -50.0))
        told = site.write(command="promote", overlay=overlay.fingerprint)
        assert told["type"] == "promoted" and told["author"] == "key:ann"
        assert told["model"] == f"{BUNDLE}+{overlay.fingerprint}"
        before = len(site.decisions)
        site.source.step()
        until(lambda: len(site.decisions) >= before + 7, "windows with the overlay")
        assert max(d.score.raw for d in site.decisions[before + 1 :]) < 0.01  # the overlay silences everything
        louder = site.put(an_overlay(BUNDLE, 50.0))
        site.write(command="promote", overlay=louder.fingerprint)
        before = len(site.decisions)
        site.source.step()
        until(lambda: len(site.decisions) >= before + 7, "windows with the second overlay")
        assert min(d.score.raw for d in site.decisions[before + 1 :]) > 0.9
        back = site.write(command="rollback", camera="gate")
        assert (back["type"], back["overlay"]) == ("rolled_back", overlay.fingerprint)
        models = [body["bundle"] for body in site.journal("v1/alarm/gate/")]
        assert models[0] == BUNDLE and models[-1] == f"{BUNDLE}+{louder.fingerprint}"
        kinds = [body["type"] for body in site.journal("v1/alarm/gate/") if body["type"] != "update"]
        assert kinds == ["start", "end"] * (len(kinds) // 2)  # every alarm ends, also of a model that was replaced
        assert [body["type"] for body in site.journal("v1/site/gate/")] == ["promoted", "promoted", "rolled_back"]
    with running(tmp_path, ("stall",)) as again:
        found = again.run.site
        assert found is not None and found.overlay("gate") is not None
        assert found.overlay("gate").fingerprint == overlay.fingerprint  # type: ignore[union-attr]


def test_what_the_gate_refused_or_nobody_made_is_not_promoted(tmp_path: Path) -> None:
    with running(tmp_path, (*HALF, "stall")) as site:
        refused = site.put(an_overlay(BUNDLE, 1.0, accepted=False))
        foreign = site.put(an_overlay("0" * 16, 1.0))
        for overlay, why in ((refused.fingerprint, "as asked"), (foreign.fingerprint, "bundle"), ("1" * 16, "not in")):
            with pytest.raises(ProtocolError, match=why):
                site.write(command="promote", overlay=overlay)
        with pytest.raises(ProtocolError, match="nothing to roll back"):
            site.write(command="rollback", camera="gate")
        assert site.journal("v1/site/gate/") == []


def test_a_shadow_tells_and_decides_nothing(tmp_path: Path) -> None:
    with running(tmp_path, ("stall", *HALF, "stall")) as site:
        louder = site.put(an_overlay(BUNDLE, 50.0))
        told = site.write(command="shadow", overlay=louder.fingerprint, hours=1.0)
        assert told["type"] == "shadow_started" and told["hours"] == 1.0
        with pytest.raises(ProtocolError, match="shadow"):
            site.write(command="promote", overlay=louder.fingerprint)
        assert site.run.site is not None
        site.run.pipeline.decision_queue.submit(site.run.site.tick).result(DEADLINE_S)
        site.source.step()
        until(lambda: len(site.decisions) >= 7, "windows beside the shadow")
        shadow = site.journal("v1/shadow/gate/")
        assert [body["type"] for body in shadow] == ["start"] and shadow[0]["overlay"] == louder.fingerprint
        assert shadow[0]["in_service_alarmed"] is False
        assert [round(d.score.raw, 2) for d in site.decisions[:3]] == [0.0, 0.16, 0.32]  # the bundle decided
        assert not any(d.alarmed for d in site.decisions[:3])
        assert all("+" not in body["bundle"] for body in site.journal("v1/alarm/gate/"))
