"""Schedules and controls in a decider and a publisher: effective at once, journalled, and there after a restart."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import zmq
from event_bench import Bench, MakeBench

from stream_detector.alarms.schedule import Controls
from stream_detector.cli.control import changes_of
from stream_detector.cli.main import build_parser, main
from stream_detector.config import DETECTOR, AlarmConfig, Config, SmoothingConfig, build_config
from stream_detector.errors import ConfigError, ProtocolError, UsageError
from stream_detector.events.writes import ControlWrite, parse_write
from stream_detector.runtime.controls import make_controls, restore_controls
from stream_detector.runtime.decider import CameraPlan, Decider
from stream_detector.telemetry.collector import Telemetry
from stream_detector.types import Score, Timing, WindowRef

MONDAY_NOON = 1_783_332_000.0  # 2026-07-06 10:00 UTC, 12:00 in Berlin
ALARM = AlarmConfig(threshold=0.6, min_length_s=0.0, cooldown_s=0.0, hold_s=0.0, update_interval_s=1000.0)


def config_of(schedule: list[dict[str, Any]], **section: Any) -> Config:
    camera = {"source": "rtsp://h/x", "schedule": schedule}
    return build_config({"cameras": {"gate": camera}, "schedule": {"time_zone": "Europe/Berlin", **section}})


def plan(live: bool = True) -> CameraPlan:
    return CameraPlan("gate", "rtsp://h", live, 16, SmoothingConfig(kind="none"), ALARM, 0.6, evidence=False)


class Rig:
    """A decider on a bench's publisher."""

    def __init__(self, bench: Bench, config: Config) -> None:
        self.bench = bench
        self.controls: Controls = make_controls(config, (plan(),))
        bench.publisher.last_controls = restore_controls(self.controls, bench.ledger)
        bench.publisher.controls = self.controls
        self.events: list[dict[str, Any]] = []
        telemetry = Telemetry(["gate"], bench.clock)
        self.decider = Decider(
            (plan(),),
            "f00d",
            sink=bench.publisher,
            telemetry=telemetry,
            clock=bench.clock,
            epoch=bench.ledger.epoch,
            on_event=self.events.append,
            controls=self.controls,
        )
        self.window = 0

    def score(self, raw: float, utc: float = MONDAY_NOON) -> None:
        n = self.window
        self.window += 1
        ref = WindowRef("gate", "rtsp://h", n, 16 * n, 16 * n + 15, n * 1.0, n + 1.0, 0.0, utc, 0.0)
        self.decider.score(Score(ref, raw, 0.0, Timing(0, 0, 0, 0)))

    def write(self, **changes: Any) -> dict[str, Any]:
        camera = changes.pop("camera", "")
        return self.bench.publisher.write(ControlWrite(camera, changes, "Ann"), "key:ann")


def test_a_threshold_of_the_schedule_decides_by_the_windows_own_time(bench: Bench) -> None:
    rig = Rig(bench, config_of([{"days": "mon-fri", "from": "08:00", "to": "18:00", "threshold": 0.8}]))
    rig.score(0.7)
    assert not rig.events
    rig.score(0.7, MONDAY_NOON + 6 * 3600)  # at 18:00 the camera's own threshold holds again
    assert [(e["type"], e["threshold"], e["mode"]) for e in rig.events] == [("start", 0.6, "home")]


def test_a_rise_of_the_threshold_ends_an_open_alarm_in_order(bench: Bench) -> None:
    rig = Rig(bench, config_of([]))
    rig.score(0.7)
    rig.write(camera="gate", threshold=1.0)
    rig.score(0.65)
    assert [e["type"] for e in rig.events] == ["start", "end"] and rig.events[0]["id"] == rig.events[1]["id"]
    assert "mode" not in rig.events[0] and "muted" not in rig.events[0]


def test_a_mode_mutes_at_once_and_is_journalled_with_its_author_and_place(bench: Bench) -> None:
    rig = Rig(bench, config_of([{"modes": ["away"], "mute": True, "notify": "high"}]))
    rig.score(0.9)
    body = rig.write(mode="away")
    assert (body["mode"], body["by"], body["author"], body["after"]) == ("away", "Ann", "key:ann", {"gate": 0})
    rig.score(0.0)
    rig.score(0.9)
    told = [(e["type"], e.get("muted"), e.get("notify"), e["mode"], e["severity"]) for e in rig.events]
    assert told == [
        ("start", None, None, "home", "high"),
        ("end", True, "high", "away", "high"),
        ("start", True, "high", "away", "high"),
    ]
    texts, _ = bench.ledger.since(f"v1/control/{DETECTOR}/", bench.ledger.epoch, 0, 10)
    assert [json.loads(text)["mode"] for text in texts] == ["away"]


def test_the_next_run_begins_as_the_last_one_ended(make_bench: MakeBench) -> None:
    bench = make_bench()
    rig = Rig(bench, config_of([]))
    rig.write(mode="away")
    rig.write(camera="gate", threshold=0.9, mute_s=3600)
    bench.stop()
    bench.start()
    again = Rig(bench, config_of([]))
    found = again.controls.at("gate", 0, 1.0, bench.clock.utc())
    assert (again.controls.mode, found.threshold, found.muted) == ("away", 0.9, True)


def test_what_was_set_is_journalled_again_so_that_retention_does_not_forget_it(make_bench: MakeBench) -> None:
    bench = make_bench()
    rig = Rig(bench, config_of([]))
    rig.write(mode="away")
    for _ in range(3):
        bench.clock.advance(86_400)
        bench.publisher.service()
    texts, _ = bench.ledger.since(f"v1/control/{DETECTOR}/", bench.ledger.epoch, 0, 10)
    bodies = [json.loads(text) for text in texts]
    assert len(bodies) >= 3 and {(b["mode"], b["author"]) for b in bodies} == {("away", "key:ann")}


def test_a_write_over_the_wire_takes_effect_or_is_refused(make_bench: MakeBench) -> None:
    bench = make_bench(local_writes=True)
    rig = Rig(bench, config_of([]))
    socket = bench.socket(zmq.DEALER)
    reply = bench.ask(socket, {"write": {"kind": "control", "mode": "away"}, "request": "a"})
    assert reply["written"]["mode"] == "away" and rig.controls.mode == "away"
    reply = bench.ask(socket, {"write": {"kind": "control", "mode": "holiday"}, "request": "b"})
    assert "home, away" in reply["error"] and rig.controls.mode == "away"


def test_who_may_only_read_changes_nothing(bench: Bench) -> None:
    rig = Rig(bench, config_of([]))
    socket = bench.socket(zmq.DEALER)
    reply = bench.ask(socket, {"write": {"kind": "control", "mode": "away"}, "request": "a"})
    assert "may read but not write" in reply["error"] and rig.controls.mode == "home"


@pytest.mark.parametrize(
    "value",
    [
        {"kind": "control"},
        {"kind": "control", "mute_s": -1},
        {"kind": "control", "mute_s": True},
        {"kind": "control", "threshold": 2},
        {"kind": "control", "mode": 5},
        {"kind": "control", "camera": "Gate!", "mute_s": 1},
    ],
)
def test_a_malformed_control_is_refused(value: dict[str, Any]) -> None:
    with pytest.raises(ProtocolError):
        parse_write(value)


def test_a_schedule_that_cannot_work_is_refused_at_the_start() -> None:
    with pytest.raises(ConfigError, match="mode 'night'"):
        make_controls(config_of([{"modes": ["night"], "mute": True}]), (plan(),))


def test_the_command_says_what_it_changes(capsys: pytest.CaptureFixture[str]) -> None:
    def value(*words: str) -> dict[str, Any]:
        return changes_of(build_parser("control").parse_args(["control", *words]))

    muted = {"kind": "control", "by": "", "camera": "gate", "mute_s": 7200.0}
    assert value("--camera", "gate", "--mute", "2h") == muted
    assert value("--threshold", "default", "--mode", "away")["threshold"] is None
    for words in (["--mute", "soon"], ["--threshold", "2"], [], ["--mute", "1h", "--unmute"]):
        with pytest.raises(UsageError):
            value(*words)
    assert main(["control", "--camera", "gate"]) == 2 and "nothing to change" in capsys.readouterr().err


def test_the_command_changes_a_running_detector(
    make_bench: MakeBench, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import threading

    bench = make_bench(local_writes=True)
    rig = Rig(bench, config_of([]))
    codes: list[int] = []
    command = threading.Thread(
        target=lambda: codes.append(main(["control", "--mode", "away", "--endpoint", bench.publisher.endpoint]))
    )
    command.start()
    bench.until(lambda: codes)
    command.join()
    assert codes == [0] and rig.controls.mode == "away"
    assert "all cameras: mode away, not muted, threshold as configured; recorded for local" in capsys.readouterr().out
