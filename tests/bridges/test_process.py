"""The bridge process against a real publisher: nothing lost or doubled across its restarts, and a watched heartbeat."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import pytest
from bridge_rig import Scripted, until
from event_bench import Bench, an_event, online

from stream_detector.bridges.kinds import BRIDGES, TargetSettings
from stream_detector.bridges.notice import Notice
from stream_detector.bridges.process import BridgeProcess
from stream_detector.bridges.settings import build_bridges
from stream_detector.errors import ConfigError, UsageError
from stream_detector.types import CameraStatus


class Keeper(Scripted):
    """Keeps what it took across lives."""

    Settings = TargetSettings
    all: ClassVar[list[Notice]] = []

    def wants(self, notice: Notice) -> bool:
        return super().wants(notice)

    def deliver(self, notice: Notice) -> Any:
        facts = super().deliver(notice)
        self.all.append(notice)
        return facts


@pytest.fixture(autouse=True)
def keeper() -> Iterator[None]:
    Keeper.all = []
    Life.lives = []
    BRIDGES.register("keeper")(Keeper)
    yield
    BRIDGES.unregister("keeper")
    for life in Life.lives:
        life.close()


class Life:
    """A bridge in this thread, beside the bench's publisher, on the bench's clock."""

    def __init__(self, bench: Bench, folder: Path, **detector: Any) -> None:
        values = {"endpoint": bench.publisher.endpoint, "state": str(folder), "dead_s": 5, **detector}
        config = build_bridges({"detector": values, "keeper": {"one": {"notices": ["alarm", "camera", "detector"]}}})
        self.bench, self.bridge = bench, BridgeProcess("keeper", config, bench.clock)
        self.open = True
        self.lives.append(self)

    lives: ClassVar[list[Life]] = []

    def close(self) -> None:
        if self.open:
            self.open = False
            self.bridge.close()

    def until(self, count: int) -> list[Notice]:
        def enough() -> bool:
            self.bench.tick(0.1)
            self.step()
            return len(Keeper.all) >= count

        self.bench.until(enough)
        return Keeper.all

    def join(self) -> Life:
        """Until it surely hears everything; what came before is forgotten."""
        self.bench.publisher.status(online("yard"))
        wanted = {("camera", "yard"), ("detector", "")}

        def joined() -> bool:
            self.bench.tick(0.1)
            self.step()
            return wanted <= {(n.kind, n.camera) for n in Keeper.all}

        self.bench.until(joined)
        Keeper.all.clear()
        return self

    def step(self) -> None:
        self.bridge.subscriber._socket.poll(2)  # real time for the wire; the bridge's own clock stands still
        self.bridge.step(0.0)
        for delivery in self.bridge.deliveries.values():
            while delivery.step():
                pass

    def quiet(self, seconds: float) -> None:
        """Time goes by while the publisher speaks."""
        for _ in range(int(seconds)):
            self.bench.tick(1.0)
            self.bench.publisher.service()
            self.step()

    def silent(self, seconds: float) -> None:
        """Time goes by while nobody speaks."""
        for _ in range(int(seconds)):
            self.bench.tick(1.0)
            self.step()


def words(notices: list[Notice]) -> list[tuple[str, str]]:
    return [(n.kind, n.what) for n in notices]


def test_events_go_through_in_order_and_the_detector_is_told_to_run(bench: Bench, tmp_path: Path) -> None:
    life = Life(bench, tmp_path / "state").join()
    bench.publisher.alarm(an_event())
    bench.publisher.alarm(an_event(type="update"))
    bench.publisher.alarm(an_event(type="end", reason="normal"))
    life.until(2)
    assert words(Keeper.all) == [("alarm", "start"), ("alarm", "end")]
    life.close()


def test_what_came_while_no_bridge_ran_is_delivered_afterwards_once(bench: Bench, tmp_path: Path) -> None:
    first = Life(bench, tmp_path / "state").join()
    bench.publisher.alarm(an_event(id="a" * 32))
    first.until(1)
    first.close()
    for number in range(5):
        bench.publisher.alarm(an_event(id=f"{number:032x}"))
        bench.publisher.service()
    second = Life(bench, tmp_path / "state")
    second.until(6)
    second.quiet(5)
    assert [n.seq for n in Keeper.all if n.kind == "alarm"] == [1, 2, 3, 4, 5, 6]
    assert second.bridge.subscriber.lost == 0
    second.close()


def test_events_stored_but_not_passed_by_the_cursor_are_not_doubled(bench: Bench, tmp_path: Path) -> None:
    life = Life(bench, tmp_path / "state").join()
    bench.publisher.alarm(an_event())
    life.until(1)
    before = life.bridge.paths.cursor.read_bytes()
    bench.publisher.alarm(an_event(type="update"))
    bench.publisher.alarm(an_event(type="end", reason="normal"))
    life.until(2)
    life.close()
    life.bridge.paths.cursor.write_bytes(before)  # killed after the outbox, before the cursor
    again = Life(bench, tmp_path / "state")
    bench.publisher.alarm(an_event(id="b" * 32))
    again.until(3)
    again.quiet(5)
    assert [n.seq for n in Keeper.all if n.kind == "alarm"] == [1, 3, 4]
    again.close()


def test_a_silent_detector_is_told_once_and_its_return_too_across_a_restart_of_the_bridge(
    bench: Bench, tmp_path: Path
) -> None:
    life = Life(bench, tmp_path / "state").join()
    life.quiet(10)
    life.silent(20)
    assert words(Keeper.all) == [("detector", "silent")]
    life.close()
    life = Life(bench, tmp_path / "state")
    life.silent(20)
    assert len(Keeper.all) == 1  # it was told before
    life.until(2)
    assert words(Keeper.all)[1] == ("detector", "running") and Keeper.all[1].body["before"] == "silent"
    assert [n.seq for n in Keeper.all] == [2, 3] and len({n.epoch for n in Keeper.all}) == 1
    life.close()


def test_a_detector_that_ends_in_order_is_stopped_and_not_silent(bench: Bench, tmp_path: Path) -> None:
    life = Life(bench, tmp_path / "state").join()
    bench.publisher._heartbeat(closing=True)
    until(lambda: life.step() or Keeper.all, "the word of the end")
    life.silent(60)
    assert words(Keeper.all) == [("detector", "stopped")]
    life.close()


def test_a_bridge_that_never_heard_the_detector_tells_so(bench: Bench, tmp_path: Path) -> None:
    life = Life(bench, tmp_path / "state", endpoint="tcp://127.0.0.1:9")
    life.silent(4)
    assert not Keeper.all
    life.silent(10)
    assert words(Keeper.all) == [("detector", "silent")]
    life.close()


def test_changes_of_cameras_are_told_once_also_across_a_restart(bench: Bench, tmp_path: Path) -> None:
    def status(state: Any, detail: str = "") -> None:
        bench.publisher.status(CameraStatus("gate", "rtsp://h/x", state, detail))

    life = Life(bench, tmp_path / "state").join()
    for state, detail in (
        ("online", ""),
        ("stalled", "no frame for 3 s"),
        ("offline", ""),
        ("connecting", ""),
        ("online", ""),
        ("online", "picture_quality: covered"),
    ):
        status(state, detail)
    life.until(6)
    told = [n.what for n in Keeper.all if n.kind == "camera"]
    assert told == ["", "offline", "", "", "online", "covered"]
    life.close()
    life = Life(bench, tmp_path / "state")
    status("online", "picture_quality: covered, frozen")
    status("online", "picture and coverage are good again")
    life.until(8)
    assert [n.what for n in Keeper.all if n.kind == "camera"][-2:] == ["", "clear"]
    life.close()


def test_a_full_outbox_stops_reading_and_loses_nothing(bench: Bench, tmp_path: Path) -> None:
    life = Life(bench, tmp_path / "state").join()
    delivery = life.bridge.deliveries["one"]
    settings = delivery.target.settings.model_copy(update={"max_waiting": 3})
    delivery.target.settings = settings
    delivery.target.script.extend(["unreachable"] * 3)
    for number in range(10):
        bench.publisher.alarm(an_event(id=f"{number:032x}"))

    def is_full() -> bool:
        bench.tick(0.05)
        life.bridge.subscriber._socket.poll(2)
        life.bridge.step(0.0)
        return life.bridge.outbox.waiting("one") >= 3

    bench.until(is_full)
    for _ in range(20):
        life.bridge.step(0.0)
    held = life.bridge.outbox.waiting("one")
    assert 3 <= held <= 3 + 64
    life.until(10)
    assert [n.seq for n in Keeper.all if n.kind == "alarm"] == list(range(1, 11))
    life.close()


def test_two_bridges_of_a_kind_do_not_share_their_state(bench: Bench, tmp_path: Path) -> None:
    life = Life(bench, tmp_path / "state")
    with pytest.raises(UsageError, match="in use"):
        Life(bench, tmp_path / "state")
    life.close()
    Life(bench, tmp_path / "state").close()


def test_a_kind_without_targets_is_refused(bench: Bench, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"no \[webhook.NAME\]"):
        BridgeProcess("webhook", build_bridges({"detector": {"state": str(tmp_path)}}), bench.clock)


def test_first_start_gets_what_is_open_now(bench: Bench, tmp_path: Path) -> None:
    bench.publisher.alarm(an_event(id="over"))
    bench.publisher.alarm(an_event(id="over", type="end", reason="normal"))
    bench.publisher.alarm(an_event(id="open"))
    bench.publisher.status(online())
    life = Life(bench, tmp_path / "state")
    life.until(3)
    assert {(n.kind, n.what, n.seq) for n in Keeper.all} >= {("alarm", "start", 3), ("camera", "", 1)}
    assert len([n for n in Keeper.all if n.kind == "alarm"]) == 1
    assert not any("replayed" in n.body for n in Keeper.all)
    life.close()
