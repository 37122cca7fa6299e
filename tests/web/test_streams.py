"""The live stream's hub without a server: what is made once however many look on."""

from __future__ import annotations

import asyncio
from typing import Any

import numpy as np
import pytest

pytest.importorskip("starlette", reason="the extra 'web' is not installed")

from stream_detector.telemetry import Telemetry
from stream_detector.types import Preview, SystemClock
from stream_detector.web import streams
from stream_detector.web.board import Board

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
        board = Board(len(NAMES))
        hub = streams.Hub(board, Telemetry(NAMES, SystemClock()).snapshot, NAMES)
        ticking = asyncio.create_task(hub.run())
        crowd = Crowd(hub)
        for value in range(ROUNDS):
            for place, name in enumerate(NAMES):
                board.preview(name, picture(10 * value + place))
            await crowd.reach((value + 1) * len(NAMES))
        crowd.leave.set()
        await asyncio.gather(*crowd.tasks)
        found = crowd.pictures()
        hub.close()
        await ticking
        return found

    assert asyncio.run(main()) == [ROUNDS * len(NAMES)] * VIEWERS
    assert sorted(encoded) == sorted(10 * value + place for value in range(ROUNDS) for place in range(len(NAMES)))
