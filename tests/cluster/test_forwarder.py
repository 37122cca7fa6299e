"""One endpoint over several shards: live, late, after losses, and while a shard is replaced."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from stream_detector.client.subscriber import Subscriber
from stream_detector.cluster.forwarder import Forwarder
from stream_detector.cluster.messages import shard_of
from stream_detector.cluster.shard import Shard
from stream_detector.config import PublishConfig
from stream_detector.errors import EndpointError
from stream_detector.events.protocol import Message
from tests.cluster.bench import EPOCH, MODEL, config, items, plan

SHARDS = 3
NAMES = ("gate", "yard", "hall", "dock")
ASK_S = 10.0
pytestmark = pytest.mark.integration


def shard(number: int, folder: Path) -> Shard:
    plans = [plan(name) for name in NAMES if shard_of(name, SHARDS) == number]
    return Shard(number, config(folder), plans, MODEL, EPOCH)


@pytest.fixture
def shards(tmp_path: Path) -> Iterator[dict[int, Shard]]:
    made = {number: shard(number, tmp_path) for number in range(SHARDS)}
    yield made
    for one in made.values():
        if one.error is None and not one._over.is_set():
            one.finish("shutdown").result(ASK_S)


@pytest.fixture
def forwarder(shards: dict[int, Shard]) -> Iterator[Forwarder]:
    made = Forwarder(PublishConfig(bind="tcp://127.0.0.1:*"), SHARDS, EPOCH)
    for number, one in shards.items():
        made.connect(number, one.endpoint)
    yield made
    made.close()


def alarm(shards: dict[int, Shard], name: str, first: int = 0) -> None:
    """Eight windows above, eight below: a start, updates, an end."""
    one = shards[shard_of(name, SHARDS)]
    generation = one.adopt(name).result(ASK_S).generation
    one.submit(items(name, generation, [0.9] * 8 + [0.0] * 8, first)).result(ASK_S)


def take(subscriber: Subscriber, ends: int) -> list[Message]:
    found: list[Message] = []
    while sum(message.body["type"] == "end" for message in found) < ends:
        message = subscriber.receive(ASK_S)
        assert message is not None, f"{len(found)} events came"
        found.append(message)
    return found


def whole(found: list[Message]) -> None:
    """Every topic from 1 on, without a hole or a double."""
    for topic in {message.topic for message in found}:
        assert [m.seq for m in found if m.topic == topic] == list(range(1, sum(m.topic == topic for m in found) + 1))


def test_all_shards_reach_a_subscriber_as_one_detector(shards: dict[int, Shard], forwarder: Forwarder) -> None:
    assert len({shard_of(name, SHARDS) for name in NAMES}) > 1
    with Subscriber(forwarder.endpoint, kinds=("alarm",), from_start=True) as subscriber:
        for name in NAMES:
            alarm(shards, name)
        found = take(subscriber, len(NAMES))
        whole(found)
        assert {message.camera for message in found} == set(NAMES)
        assert {message.epoch for message in found} == {EPOCH}
        assert subscriber.lost == 0


def test_who_comes_late_fetches_from_all_shards(shards: dict[int, Shard], forwarder: Forwarder) -> None:
    for name in NAMES:
        alarm(shards, name)
    with Subscriber(forwarder.endpoint, kinds=("alarm",), from_start=True) as subscriber:
        found = take(subscriber, len(NAMES))
        whole(found)
        assert subscriber.recovered == len(found)


def test_a_replaced_shard_goes_on_where_it_was(shards: dict[int, Shard], forwarder: Forwarder, tmp_path: Path) -> None:
    number = shard_of("gate", SHARDS)
    with Subscriber(forwarder.endpoint, kinds=("alarm",), from_start=True) as subscriber:
        alarm(shards, "gate")
        found = take(subscriber, 1)
        shards[number].close()  # killed
        shards[number] = shard(number, tmp_path)
        alarm(shards, "gate", 16)  # while nobody reads it: a hole, to be fetched
        forwarder.connect(number, shards[number].endpoint)
        alarm(shards, "gate", 32)
        found += take(subscriber, 2)
        whole(found)
        assert len({message.body["id"] for message in found}) == 3
        assert (subscriber.lost, {m.epoch for m in found}) == (0, {EPOCH})


def test_a_public_bind_without_keys_is_refused() -> None:
    with pytest.raises(EndpointError, match="CURVE"):
        Forwarder(PublishConfig(bind="tcp://0.0.0.0:5999"), 1, EPOCH)
