"""The live stream's hub without a server: what is made once however many look on."""

from __future__ import annotations

import asyncio
from typing import Any

import numpy as np
import pytest

pytest.importorskip("starlette", reason="the extra 'web' is not installed")

from stream_detector.errors import EndpointError
from stream_detector.telemetry.collector import Telemetry
from stream_detector.testing import FakeClock
from stream_detector.types import Preview, SystemClock
from stream_detector.web import streams
from stream_detector.web.live_state import LiveState

NAMES = ("gate", "yard", "hall")
VIEWERS = 20
ROUNDS = 4


def picture(value: int) -> Preview:
    return Preview(float(value), np.full((48, 64, 3), value, np.uint8))


class Crowd:
    """Viewers that read at once, each with its own list of messages."""

    def __init__(self, hub: streams.Hub) -> None:
        self.hub = hub
        self.told: list[list[bytes]] = [[] for _ in range(VIEWERS)]
        self.leave = asyncio.Event()
        self.tasks = [asyncio.create_task(self._look(mine)) for mine in self.told]

    async def _look(self, mine: list[bytes]) -> None:
        async def receive() -> dict[str, Any]:
            await self.leave.wait()
            return {"type": "http.disconnect"}

        async def send(message: Any) -> None:
            mine.append(message.get("body", b""))

        await self.hub.serve(self.hub.viewer(list(NAMES), 5.0), {}, receive, send)

    def pictures(self) -> list[int]:
        return [b"".join(mine).count(b"event: picture") for mine in self.told]

    async def reach(self, number: int) -> None:
        async with asyncio.timeout(20.0):
            while min(self.pictures()) < number:
                await asyncio.sleep(0.01)


def test_a_picture_is_encoded_once_for_all_viewers(monkeypatch: pytest.MonkeyPatch) -> None:
    encoded: list[int] = []
    encode = streams.encode_picture

    def counted(image: Any) -> bytes:
        encoded.append(int(image[0, 0, 0]))
        return encode(image)

    monkeypatch.setattr(streams, "encode_picture", counted)

    async def main() -> list[int]:
        live_state = LiveState(len(NAMES))
        hub = streams.Hub(live_state, Telemetry(NAMES, SystemClock()).snapshot, lambda: NAMES)
        ticking = asyncio.create_task(hub.run())
        crowd = Crowd(hub)
        for value in range(ROUNDS):
            for place, name in enumerate(NAMES):
                live_state.preview(name, picture(10 * value + place))
            await crowd.reach((value + 1) * len(NAMES))
        crowd.leave.set()
        await asyncio.gather(*crowd.tasks)
        found = crowd.pictures()
        hub.close()
        await ticking
        return found

    assert asyncio.run(main()) == [ROUNDS * len(NAMES)] * VIEWERS
    assert sorted(encoded) == sorted(10 * value + place for value in range(ROUNDS) for place in range(len(NAMES)))


def make_hub() -> streams.Hub:
    return streams.Hub(LiveState(len(NAMES)), Telemetry(NAMES, SystemClock()).snapshot, lambda: NAMES)


def test_in_a_full_house_the_oldest_of_the_largest_peer_makes_room(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streams, "MAX_VIEWERS", 4)
    hub = make_hub()
    came = [hub.viewer([], 0, peer) for peer in ("ann", "eve", "eve", "eve")]
    hub._viewers.update(came)
    with pytest.raises(EndpointError, match="try again"):  # all of them have only just come
        hub.viewer([], 0, "bob")
    for place, viewer in enumerate(came):
        viewer.came_s -= 100.0 - place
    bob = hub.viewer([], 0, "bob")
    assert [viewer.over for viewer in came] == [False, True, False, False] and hub.viewers == 3
    hub._viewers.add(bob)
    hub.viewer([], 0, "ann")
    assert [viewer.over for viewer in came] == [False, True, True, False]


def test_no_stream_lasts_for_ever_and_every_second_something_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> list[bytes]:
        hub = make_hub()
        ticking = asyncio.create_task(hub.run())
        crowd = Crowd(hub)
        async with asyncio.timeout(20.0):
            while min(b"".join(mine).count(b'"at_s":') for mine in crowd.told) < 3:  # though nothing happens
                await asyncio.sleep(0.01)
            monkeypatch.setattr(streams, "STREAM_S", 0.0)
            await asyncio.gather(*crowd.tasks)
        hub.close()
        await ticking
        return [b"".join(mine) for mine in crowd.told]

    told = asyncio.run(main())
    assert all(text.endswith(b"event: again\ndata: {}\n\n") and b"event: bye" not in text for text in told)


def test_the_state_tells_how_old_a_picture_is_and_whether_the_detector_decides() -> None:
    telemetry = Telemetry(NAMES, clock := FakeClock())
    hub = streams.Hub(LiveState(3), telemetry.snapshot, lambda: NAMES, 5.0, "e" * 16)
    telemetry.decision_loop_passed()
    head = hub._overall(telemetry.snapshot())
    assert head["live"] and head["epoch"] == "e" * 16 and head["decided_age_s"] == 0
    clock.advance(6.0)
    assert not hub._overall(telemetry.snapshot())["live"]
    camera = telemetry.snapshot().cameras[0]
    assert [streams.state_of(camera, age)["picture_age_s"] for age in (None, 1.0, 3.5, 90.9)] == [None, None, 3, 90]
