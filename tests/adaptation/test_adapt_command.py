"""`stream-detector adapt` and `site` on a memory on disk: overlay, report, promotion, rollback, and clear refusals."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from site_samples import a_day, judged, some_anchors

from stream_detector.adaptation import anchors as anchors_module
from stream_detector.adaptation.memory import Block, KeptAlarm, Memory
from stream_detector.adaptation.overlay import Overlay
from stream_detector.adaptation.recall_site import stretches_of
from stream_detector.adaptation.service import Service
from stream_detector.cli.main import main
from stream_detector.events.ledger import Ledger
from stream_detector.models.bundle import EMBEDDED, read_manifest
from stream_detector.testing import FakeClock

BUNDLE = read_manifest(EMBEDDED).fingerprint
EPOCH = "e" * 16
PLAN = {"gate": {"threshold": 0.5, "smoothing": "ema", "time_constant_s": 1.0}}


def remember(folder: Path, days: int = 8) -> None:
    """A memory of so many judged days."""
    memory = Memory(folder / "memory.sqlite3")
    for number in range(days):
        stretch, truth = a_day(number)
        stretch = judged(stretch, truth, Overlay(BUNDLE, "", 0.5, 1.0), seed=number)
        offset_s, noon = number * 86400.0, 1_767_268_800.0  # noon of the first of January 2026
        for first in range(0, len(stretch.raw), 64):
            part = slice(first, first + 64)
            starts, ends = stretch.starts_s[part] + offset_s, stretch.ends_s[part] + offset_s
            flags = np.zeros(len(starts), np.uint8)
            raw, features = stretch.raw[part].astype(np.float32), stretch.features[part].astype(np.float16)
            memory.add([Block("gate", EPOCH, BUNDLE, starts, ends, noon + ends, raw, flags, features)])
        for place, incident in enumerate(stretch.incidents):
            name = f"{number:02x}{place:02x}".ljust(32, "0")
            start_s, end_s = incident.start_s + offset_s, incident.end_s + offset_s
            memory.alarm(KeptAlarm(name, EPOCH, "gate", start_s, end_s, noon + start_s, 0.9, 0.5, BUNDLE, ""))
            body = {"id": name, "alarm_epoch": EPOCH, "camera": "gate", "verdict": incident.verdict, "note": ""}
            memory.verdict({**body, "by": "Ann", "author": "local", "epoch": EPOCH}, None, noon + end_s)
    memory.set_fact("plan", PLAN)
    memory.close()


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    remember(folder)
    return folder


@pytest.fixture()
def anchored(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(anchors_module, "anchors_of", lambda bundle: some_anchors())


def test_the_memory_gives_the_stretches_and_verdicts_back(site: Path) -> None:
    memory = Memory(site / "memory.sqlite3", read_only=True)
    found = stretches_of(memory, BUNDLE, "gate")
    memory.close()
    assert [s.day for s in found] == [f"2026-01-{k + 1:02d}" for k in range(8)]
    original, truth = a_day(2)
    original = judged(original, truth, Overlay(BUNDLE, "", 0.5, 1.0), seed=2)
    assert np.array_equal(found[2].features, original.features)
    assert [i.verdict for i in found[2].incidents] == [i.verdict for i in original.incidents]
    assert found[2].hours == pytest.approx(original.hours)


def test_from_verdicts_to_service_and_back(
    site: Path, anchored: None, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert main(["adapt", "--camera", "gate", "--site", str(site), "--json"]) == 0
    told: dict[str, Any] = json.loads(capsys.readouterr().out)
    assert told["accepted"] and told["candidate"]["false_high"] < told["service"]["false_high"]
    name = told["overlay"]
    report = json.loads((site / "overlays" / f"{name}.json").read_text())
    assert report["in_service"] and len(report["changes"]) == len(told["changes"])
    assert "accepted" in Path(told["report"]).read_text()
    assert Service.load(site).of("gate") == ""  # adapt takes nothing into service
    assert main(["site", "show", "--site", str(site), "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert shown["cameras"][0]["verdicts"]["false"] > 20 and shown["overlays"][0]["overlay"] == name
    journal = tmp_path / "l.sqlite3"
    Ledger(journal, clock=FakeClock()).close()
    offline = ["--site", str(site), "--ledger", str(journal), "--by", "Ann"]
    assert main(["site", "promote", name, *offline]) == 0
    assert Service.load(site).of("gate") == name
    assert main(["site", "promote", name, *offline]) == 2  # it is in service already
    assert main(["site", "rollback", "--camera", "gate", *offline]) == 0
    assert Service.load(site).of("gate") == ""
    assert main(["site", "rollback", "--camera", "gate", *offline]) == 2
    ledger = Ledger(journal, clock=FakeClock())
    events = [json.loads(text) for text in ledger.since("v1/site/gate/", "first", 0, 10)[0]]
    ledger.close()
    assert [(e["type"], e["by"]) for e in events] == [("promoted", "Ann"), ("rolled_back", "Ann")]
    assert all(e["author"].startswith("file:") for e in events)


def test_what_is_missing_is_said_in_one_sentence(
    tmp_path: Path, anchored: None, capsys: pytest.CaptureFixture[str]
) -> None:
    empty = tmp_path / "site"
    for command in (["adapt", "--site", str(empty)], ["site", "show", "--site", str(empty)]):
        assert main(command) == 2
        assert capsys.readouterr().err.count("\n") == 1
    memory = Memory(empty / "memory.sqlite3")
    memory.close()
    assert main(["adapt", "--site", str(empty)]) == 2
    assert "site.keep" in capsys.readouterr().err
    assert main(["site", "export", "--site", str(empty), "--out", str(tmp_path / "x.npz")]) == 2


def test_export_and_prune(site: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "gate.npz"
    assert main(["site", "export", "--site", str(site), "--camera", "gate", "--out", str(out)]) == 0
    with np.load(out) as arrays:
        assert len(arrays["raw"]) == len(arrays["features"]) > 20_000
        assert json.loads(str(arrays["alarms_json"]))[0]["by"] == "Ann"
    copy = tmp_path / "copy"
    remember(copy, days=1)
    assert main(["site", "prune", "--site", str(copy), "--camera", "gate", "--forget", "--json"]) == 0
    assert main(["site", "show", "--site", str(copy), "--camera", "gate"]) == 2
