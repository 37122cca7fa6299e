"""A configuration that is read again: thresholds and schedules at once, the rest named, a wrong one changes nothing."""

from __future__ import annotations

import json
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

import pytest
from event_bench import Bench
from model_samples import small_bundle
from test_controls import MONDAY_NOON, Rig

from stream_detector.config import Config, load_config
from stream_detector.errors import ProtocolError
from stream_detector.events.writes import ReloadWrite
from stream_detector.models.bundle import Bundle
from stream_detector.runtime.reload import Reloader
from stream_detector.runtime.roster import Member, Roster
from stream_detector.runtime.stages import plan_camera
from stream_detector.telemetry.collector import Telemetry
from stream_detector.types import SystemClock

BASE = 'threshold = 0.6\n[cameras.gate]\nsource = "rtsp://h/x"\n'


@pytest.fixture
def bundle(tmp_path: Path) -> Bundle:
    return small_bundle(tmp_path / "bundle")


class Watched:
    """Stands for the pipeline: keeps what it was asked for."""

    def __init__(self, config: Config, bundle: Bundle) -> None:
        members = [(camera, plan_camera(camera, config, bundle)) for camera in config.cameras]
        self.roster = Roster(members, Telemetry([camera.name for camera in config.cameras], SystemClock()))
        self.asked: list[tuple[list[str], list[str]]] = []

    def change_cameras(self, gone: Collection[str], come: Sequence[Member]) -> None:
        self.asked.append((list(gone), [config.name for config, _ in come]))


class Reloading(Rig):
    """A rig whose configuration is a file."""

    def __init__(self, bench: Bench, folder: Path, bundle: Bundle, text: str = BASE) -> None:
        self.file = folder / "cameras.toml"
        self.file.write_text(text)
        config = load_config(self.file)
        super().__init__(bench, config)
        self.watching = Watched(config, bundle)
        bench.publisher.on_reload = Reloader(
            config, bundle, self.controls, self.decider, lambda: load_config(self.file), watching=self.watching
        )

    def reload(self, text: str) -> dict[str, Any]:
        self.file.write_text(text)
        return self.bench.publisher.write(ReloadWrite(by="Ann"), "key:ann")


def test_a_threshold_and_a_schedule_take_effect_at_the_next_window(
    bench: Bench, tmp_path: Path, bundle: Bundle
) -> None:
    rig = Reloading(bench, tmp_path, bundle)
    rig.score(0.5)
    body = rig.reload(BASE.replace("0.6", "0.4"))
    assert body["reloaded"] == {"gate": ["threshold"]} and body["restart"] == []
    rig.score(0.5)
    assert [(e["type"], e["threshold"]) for e in rig.events] == [("start", 0.4)]
    rule = '{ days = "mon", from = "10:00", to = "14:00", mute = true }'
    body = rig.reload(f'{BASE}schedule = [{rule}]\n[schedule]\ntime_zone = "Europe/Berlin"\n')
    assert body["reloaded"] == {"gate": ["threshold", "schedule"]}
    rig.score(0.0, MONDAY_NOON)
    assert rig.events[-1]["type"] == "end" and rig.events[-1]["muted"] is True
    assert rig.reload(rig.file.read_text())["reloaded"] == {}


def test_what_needs_a_restart_is_named_and_the_rest_takes_effect(bench: Bench, tmp_path: Path, bundle: Bundle) -> None:
    rig = Reloading(bench, tmp_path, bundle)
    gate, yard = '[cameras.gate]\nsource = "rtsp://h/y"\n', '[cameras.yard]\nsource = "0"\n'
    body = rig.reload(f"threshold = 0.5\n[alarm]\ncooldown_s = 3\n{gate}{yard}")
    assert body["restart"] == ["[alarm] changed"] and body["reloaded"] == {}
    assert body["added"] == ["yard"] and body["reopened"] == {"gate": ["source"]} and "removed" not in body
    assert rig.watching.asked == [(["gate"], ["yard", "gate"])]
    body = rig.reload(f"threshold = 0.4\n[alarm]\ncooldown_s = 3\n{gate}")
    assert body["removed"] == ["yard"] and body["reloaded"] == {"gate": ["threshold"]}
    assert rig.watching.asked[1:] == [(["yard"], [])]


def test_what_a_run_has_no_folder_for_needs_a_restart(bench: Bench, tmp_path: Path, bundle: Bundle) -> None:
    rig = Reloading(bench, tmp_path, bundle)
    config = load_config(rig.file)
    load = lambda: load_config(rig.file)  # noqa: E731
    bench.publisher.on_reload = Reloader(
        config, bundle, rig.controls, rig.decider, load, watching=rig.watching, evidence=False, recordings=False
    )
    yard = '[cameras.yard]\nsource = "rtsp://h/z"\nrecord = "always"\n'
    body = rig.reload(f"{BASE}{yard}[cameras.door]\nsource = 'rtsp://h/d'\nevidence = false\n")
    assert body["added"] == ["door"] and len(body["restart"]) == 1 and "yard" in body["restart"][0]


@pytest.mark.parametrize(
    "text", ["threshold = 7\n" + BASE[16:], "[cameras.gate\n", BASE + 'schedule = [{ mute = "x" }]\n']
)
def test_a_wrong_configuration_is_one_sentence_and_changes_nothing(
    bench: Bench, tmp_path: Path, bundle: Bundle, text: str
) -> None:
    rig = Reloading(bench, tmp_path, bundle)
    with pytest.raises(ProtocolError, match=r"cameras\.toml"):
        rig.reload(text)
    rig.score(0.59)
    rig.score(0.61)
    assert [(e["type"], e["threshold"]) for e in rig.events] == [("start", 0.6)]
    texts, _ = bench.ledger.since("v1/control/_detector/", bench.ledger.epoch, 0, 10)
    assert texts == []


def test_a_reload_is_journalled_and_keeps_what_operators_set(bench: Bench, tmp_path: Path, bundle: Bundle) -> None:
    rig = Reloading(bench, tmp_path, bundle)
    rig.write(mode="away")
    rig.write(threshold=0.9)
    rig.reload(BASE.replace("0.6", "0.4"))
    rig.score(0.8)
    assert rig.controls.mode == "away" and not rig.events
    texts, _ = bench.ledger.since("v1/control/_detector/", bench.ledger.epoch, 0, 10)
    newest = json.loads(texts[-1])
    assert (newest["mode"], newest["threshold"], newest["by"]) == ("away", 0.9, "Ann")
    assert newest["reloaded"] == {"gate": ["threshold"]}


def test_a_run_without_a_file_has_nothing_to_read_again(bench: Bench) -> None:
    with pytest.raises(ProtocolError, match="--config"):
        bench.publisher.write(ReloadWrite(), "key:ann")
