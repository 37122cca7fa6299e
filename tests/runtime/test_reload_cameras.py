"""Cameras that come, go and change during a run: the others do not notice, and nothing of a former camera stays."""

from __future__ import annotations

import itertools
import json
import sqlite3
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from pipeline_rig import DEADLINE_S
from test_same_with_hosts import film

from stream_detector import events
from stream_detector.capture import host as capture_host
from stream_detector.capture.readers import make_reader
from stream_detector.config import Config, build_config
from stream_detector.errors import ProtocolError
from stream_detector.events.writes import ReloadWrite
from stream_detector.runtime.build import Run, build_run
from stream_detector.testing import ConstantEngine, FakeClock, FakeSource
from stream_detector.types import Clock, Decision, UInt8Array

FILM = (*("frame",) * 300, "stall", *("frame",) * 400)  # alarms from frames 64, 320 and 576 on, all of which end


def bright(frames: UInt8Array) -> float:
    return 1.0 if 64 <= int(frames[0, 0, 0, 0]) <= 127 else 0.1


class Watch:
    """A running detector whose configuration can be changed; `sources` are opened by camera name, newest last."""

    def __init__(self, run: Run, seen: list[Decision], told: list[dict[str, Any]], current: list[Config]) -> None:
        self.run, self.seen, self.told, self._current = run, seen, told, current
        self.changed: list[tuple[str, bool]] = []

    def reload(self, config: Config) -> dict[str, Any]:
        self._current[0] = config
        write = lambda: self.run.publisher.write(ReloadWrite(by="Ann"), "key:ann")  # noqa: E731
        return dict(self.run.pipeline.decision_queue.submit(write).result(DEADLINE_S))

    def until(self, holds: Callable[[], Any], what: str) -> None:
        pause, left = threading.Event(), 20.0
        while not holds():
            assert left > 0, what
            pause.wait(0.02)
            left -= 0.02

    def of(self, camera: str) -> list[tuple[Any, ...]]:
        refs = [(d.score.ref, d.smoothed, d.alarmed) for d in list(self.seen) if d.score.ref.camera == camera]
        return [(r.index, r.start_frame, r.start_s, r.end_s, r.degraded, smoothed, on) for r, smoothed, on in refs]

    def alarms(self, camera: str) -> list[tuple[Any, ...]]:
        keys = ("id", "type", "reason", "start_s", "end_s", "peak_score")
        return [tuple(e[key] for key in keys) for e in list(self.told) if e["camera"] == camera]


def config_of(folder: Path, cameras: dict[str, dict[str, Any]], **changes: Any) -> Config:
    values: dict[str, Any] = {
        "cameras": [{"name": name, "source": f"{name}.mp4", **given} for name, given in cameras.items()],
        "pace": "max",
        "smoothing": {"kind": "none"},
        "alarm": {"threshold": 0.5, "min_length_s": 0.5, "cooldown_s": 0.5},
        "evidence": {"enabled": False},
        "publish": {"bind": "none", "ledger": folder / "ledger.sqlite3"},
        "picture_quality": {"enabled": False},
        "site": {"keep": False},
    }
    return build_config({**values, **changes})


@contextmanager
def watching(config: Config, open_reader: Callable[..., Any], clock: Clock | None = None) -> Iterator[Watch]:
    seen: list[Decision] = []
    told: list[dict[str, Any]] = []
    current, changed = [config], []
    with build_run(
        config,
        clock=clock,
        engine=ConstantEngine(score_of=bright),
        on_event=told.append,
        on_decision=seen.append,
        on_camera=lambda name, came: changed.append((name, came)),
        reload=lambda: current[0],
    ) as run:
        run.pipeline.open_reader = open_reader
        thread = threading.Thread(target=run.pipeline.run)
        thread.start()
        watch = Watch(run, seen, told, current)
        watch.changed = changed
        try:
            yield watch
        finally:
            run.pipeline.stop()
            thread.join(DEADLINE_S)
        assert not thread.is_alive()


def story(folder: Path, reloads: bool) -> tuple[Watch, dict[str, Any]]:
    """The gate plays to its end; beside it a camera comes, one goes and one changes, or nothing happens."""
    folder.mkdir()
    made: dict[str, list[FakeSource]] = {}

    def open_reader(camera: Any, _config: Any) -> FakeSource:
        made.setdefault(camera.name, []).append(FakeSource(FILM))
        return made[camera.name][-1]

    before = {"gate": {}, "yard": {}, "door": {"threshold": 0.7}}
    facts: dict[str, Any] = {}
    with watching(config_of(folder, before), open_reader) as watch:
        for name in before:
            watch.until(lambda name=name: name in made and made[name][0].stalled.is_set(), f"{name} is in its stall")
            watch.until(lambda name=name: len(watch.of(name)) == 18, f"{name} is decided up to there")
        if reloads:
            after = {"gate": {}, "hall": {}, "door": {"threshold": 0.7, "mask": ((0, 0), (1, 0), (1, 0.1))}}
            made["yard"][0].release()  # it is asked to end in the middle of its film
            made["door"][0].release()
            facts["body"] = watch.reload(config_of(folder, after))
            watch.until(lambda: ("yard", False) in watch.changed and ("door", True) in watch.changed, "they changed")
            watch.until(lambda: "hall" in made and made["hall"][0].stalled.is_set(), "the hall plays")
            made["hall"][0].release()
            watch.until(lambda: len(made["door"]) == 2 and made["door"][1].stalled.is_set(), "the door plays anew")
            made["door"][1].release()
            watch.until(lambda: len(watch.of("hall")) == 43, "the hall is decided to its end")
            facts["heartbeat"] = sorted(watch.run.publisher._scored_s)
            facts["names"] = [plan.name for plan in watch.run.plans]
            facts["health"] = sorted(watch.run.telemetry.snapshot().health()["cameras"])
        made["gate"][0].release()
        watch.until(lambda: len(watch.of("gate")) == 43, "the gate is decided to its end")
    return watch, facts


def test_the_others_are_the_same_with_and_without_a_reload(tmp_path: Path) -> None:
    quiet, _ = story(tmp_path / "quiet", False)
    busy, facts = story(tmp_path / "busy", True)
    assert busy.of("gate") == quiet.of("gate") and len(busy.of("gate")) == 43
    assert busy.alarms("gate") == quiet.alarms("gate") and len(busy.alarms("gate")) >= 6
    body = facts["body"]
    assert (body["added"], body["removed"], body["reopened"]) == (["hall"], ["yard"], {"door": ["mask"]})
    assert body["restart"] == [] and body["by"] == "Ann"
    assert facts["names"] == ["gate", "hall", "door"]  # in the order of the configuration
    assert facts["heartbeat"] == facts["health"] == ["door", "gate", "hall"]
    assert [row[:1] + row[2:] for row in busy.of("hall")] == [row[:1] + row[2:] for row in quiet.of("gate")]
    assert [row[1:] for row in busy.alarms("hall")] == [row[1:] for row in quiet.alarms("gate")]


def test_a_reload_of_cameras_is_journalled_with_the_last_status_of_who_left(tmp_path: Path) -> None:
    watch, _ = story(tmp_path / "busy", True)
    with sqlite3.connect(tmp_path / "busy" / "ledger.sqlite3") as db:
        query = "SELECT body FROM events WHERE topic = ? ORDER BY n DESC LIMIT 1"
        newest = lambda topic: json.loads(db.execute(query, (topic,)).fetchone()[0])  # noqa: E731
        body, last = newest("v1/control/_detector/"), newest("v1/status/yard/")
    db.close()
    schemas = Path(events.__file__).parent / "schemas"
    schema = json.loads((schemas / "control-1.schema.json").read_text(encoding="utf-8"))
    jsonschema.validate(body, schema)
    assert body["added"] == ["hall"] and body["removed"] == ["yard"] and body["reopened"] == {"door": ["mask"]}
    assert last["state"] == "ended" and "no longer watched" in last["detail"]
    ids = [(row[0], row[1]) for row in watch.alarms("door") if row[1] == "start"]
    assert len(ids) == len(set(ids)) >= 2, "the film that is played again has alarms of its own"


def test_an_open_alarm_of_a_camera_that_leaves_ends(tmp_path: Path) -> None:
    source = FakeSource((*("frame",) * 100, "stall"))  # an alarm begins at frame 64
    other = FakeSource(("stall",))
    sources = {"gate": source, "yard": other}
    with watching(config_of(tmp_path, {"gate": {}, "yard": {}}), lambda camera, _: sources[camera.name]) as watch:
        watch.until(lambda: watch.alarms("gate"), "an alarm begins")
        source.stalled.wait(DEADLINE_S)
        watch.reload(config_of(tmp_path, {"yard": {}}))
        source.release()
        watch.until(lambda: ("gate", False) in watch.changed, "the gate has left")
        assert watch.alarms("gate")[-1][1:3] == ("end", "shutdown")
        assert [plan.name for plan in watch.run.plans] == ["yard"]
        other.release()


def test_a_live_camera_that_comes_back_goes_on_with_its_numbers(tmp_path: Path) -> None:
    clock = FakeClock()
    made: list[FakeSource] = []

    def open_reader(camera: Any, _config: Any) -> FakeSource:
        if camera.name == "yard":
            return FakeSource(("stall",))
        made.append(FakeSource(("frame",) * 160, live=True, clock=clock))
        return made[-1]

    gate, yard, room = {"source": "rtsp://fake/a"}, {"yard": {}}, {"buffer_windows": 32, "max_wait_ms": 0}
    with watching(config_of(tmp_path, {"gate": gate, **yard}, batch=room), open_reader, clock) as watch:
        watch.until(lambda: len(watch.of("gate")) >= 9, "the gate was decided")
        made[0].release()
        changed = {**gate, "mask": ((0, 0), (1, 0), (1, 0.1))}
        body = watch.reload(config_of(tmp_path, {"gate": changed, **yard}, batch=room))
        assert body["reopened"] == {"gate": ["mask"]}
        watch.until(lambda: ("gate", True) in watch.changed, "it is opened again")
        watch.until(lambda: len(watch.of("gate")) >= 18, "it was decided again")
        made[1].release()
        watch.run.pipeline.stop()
    rows = watch.of("gate")
    assert all(later[0] > earlier[0] and later[2] >= earlier[2] for earlier, later in itertools.pairwise(rows))
    starts = [row[0] for row in watch.alarms("gate") if row[1] == "start"]
    assert len(starts) == len(set(starts)) >= 2


def test_a_camera_that_is_stuck_in_its_reader_is_left_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(capture_host, "END_S", 0.2)
    stuck, other = FakeSource(("stall",)), FakeSource(("stall",))
    sources = {"gate": stuck, "yard": other}
    with watching(config_of(tmp_path, {"gate": {}, "yard": {}}), lambda camera, _: sources[camera.name]) as watch:
        assert stuck.stalled.wait(DEADLINE_S)
        watch.reload(config_of(tmp_path, {"yard": {}}))
        watch.until(lambda: ("gate", False) in watch.changed, "the gate was left")
        assert list(watch.run.telemetry.snapshot().health()["cameras"]) == ["yard"]
        stuck.release()
        other.release()


def test_a_run_that_has_ended_takes_no_camera(tmp_path: Path) -> None:
    with watching(
        config_of(tmp_path, {"gate": {}}), lambda _camera, _: FakeSource(("frame",) * 40 + ("stall",))
    ) as watch:
        watch.until(lambda: watch.of("gate"), "it runs")
        watch.run.pipeline.roster.close()
        with pytest.raises(ProtocolError, match="ending"):
            watch.reload(config_of(tmp_path, {"gate": {}, "yard": {}}))
        assert [plan.name for plan in watch.run.plans] == ["gate"]
        watch.run.pipeline.stop()


@pytest.mark.integration
def test_cameras_come_and_go_in_a_capture_process(tmp_path: Path) -> None:
    """A lane of the process is used again; a camera for which no lane is free runs beside it."""
    films = tmp_path / "films"
    films.mkdir()
    for number, name in enumerate(("hall", "door")):
        film(films / f"{name}.mp4", number)
    # Nothing listens there: both are offline, and tried again and again.
    live = {name: {"source": f"http://127.0.0.1:9/{name}.jpg"} for name in ("gate", "yard")}
    of = lambda cameras: config_of(tmp_path, cameras, capture={"hosts": 1})  # noqa: E731
    hall, door = ({"source": str(films / f"{name}.mp4")} for name in ("hall", "door"))
    with watching(of(live), make_reader) as watch:
        watch.until(lambda: getattr(watch.run.pipeline, "_host", None) is not None, "the hosts are there")
        assert watch.run.pipeline._host.plan.processes == 1
        states = lambda: {c.name: c.state for c in watch.run.telemetry.snapshot().cameras}  # noqa: E731
        watch.until(lambda: states().get("gate") == states().get("yard") == "offline", "both are offline")
        watch.reload(of({**live, "hall": hall}))
        watch.until(lambda: len(watch.of("hall")) == 3, "the hall runs beside the process")
        watch.reload(of({"gate": live["gate"], "hall": hall}))
        watch.until(lambda: ("yard", False) in watch.changed, "the yard has left the process")
        watch.reload(of({"gate": live["gate"], "hall": hall, "door": door}))
        watch.until(lambda: len(watch.of("door")) == 3, "the door runs")
        assert watch.run.pipeline._host._hosts[0].has("door") and not watch.run.pipeline._host._hosts[0].has("yard")
        assert not watch.run.pipeline._host._hosts[0].has("hall") and watch.run.pipeline.host_restarts == 0
