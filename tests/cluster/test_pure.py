"""The parts of the cluster that need no Ray: placement, numbering, merging."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from stream_detector.cluster import merge
from stream_detector.cluster.messages import (
    CameraEnded,
    ScoredWindow,
    ShardItem,
    item_from_list,
    item_to_list,
    shard_of,
)
from stream_detector.cluster.placement import Node, place
from stream_detector.cluster.shard_log import ShardLog
from stream_detector.errors import LedgerError, ProtocolError
from stream_detector.events.protocol import decode_reply, decode_request
from stream_detector.types import CameraStatus, Timing, WindowRef

A, B, C = (Node(name, 4.0) for name in "abc")
CAMERAS = [f"cam{index:02d}" for index in range(12)]
REF = WindowRef("gate", "gate.mp4", 7, 112, 127, 4.48, 5.08, 1.5, 1_700_000_000.123, 1.6, ("gap",))


def counts(placed: dict[str, str]) -> dict[str, int]:
    return {node: list(placed.values()).count(node) for node in sorted(set(placed.values()))}


def test_cameras_spread_evenly_and_by_the_weight_of_nodes() -> None:
    assert counts(place(CAMERAS, [A, B, C], {})) == {"a": 4, "b": 4, "c": 4}
    assert counts(place(CAMERAS, [A, Node("big", 8.0)], {})) == {"a": 4, "big": 8}


def test_a_lost_node_moves_its_own_cameras_only() -> None:
    before = place(CAMERAS, [A, B, C], {})
    after = place(CAMERAS, [A, B], before)
    assert {c for c in CAMERAS if before[c] != after[c]} == {c for c in CAMERAS if before[c] == "c"}
    assert counts(after) == {"a": 6, "b": 6}


def test_a_new_node_gets_its_share_and_then_nothing_moves_any_more() -> None:
    before = place(CAMERAS, [A, B], {})
    after = place(CAMERAS, [A, B, C], before)
    assert counts(after)["c"] >= 3
    assert sum(before[c] != after[c] for c in CAMERAS) == counts(after)["c"]
    assert place(CAMERAS, [A, B, C], after) == after


def test_a_camera_stays_near_its_tag_or_is_left_out() -> None:
    site = Node("site", 1.0, tags=frozenset({"site_a"}))
    placed = place(CAMERAS, [A, site], {}, {"cam03": "site_a", "cam04": "site_b"})
    assert placed["cam03"] == "site"
    assert "cam04" not in placed
    assert place(CAMERAS, [], {}) == {}


@pytest.mark.parametrize(
    "what",
    [
        ScoredWindow(REF, 0.12345678901234567, Timing(1.0, 2.0, 0.5, 9.25)),
        ScoredWindow(REF, 0.5, Timing(1.0, 2.0, 0.5, 9.25), b"\0\1\2\3"),
        ScoredWindow(REF, 0.5, Timing(1.0, 2.0, 0.5, 9.25), b"", b"\0\1\2\3" * 20, 5),
        CameraEnded("gate", "it broke"),
        CameraStatus("gate", "gate.mp4", "online", "", 3.25, 9.0),
    ],
)
def test_items_go_through_json_exactly(what: Any) -> None:
    item = ShardItem("gate", 3, 17, what)
    assert item_from_list(json.loads(json.dumps(item_to_list(item)))) == item


def test_the_shard_log_gives_back_what_was_written(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "ledger.shard"
    item = ShardItem("gate", 3, 17, ScoredWindow(REF, 0.5, Timing(1.0, 2.0, 0.5, 9.25)))
    log = ShardLog(path)
    log.write({"gate": {"n": 16}, "yard": {"n": -1}}, [item], "ab" * 8, 123)
    log.close()
    again = ShardLog(path)
    assert (again.epoch, again.scores_bytes, again.pending) == ("ab" * 8, 123, (item,))
    assert again.states == {"gate": {"n": 16}, "yard": {"n": -1}}
    again.forget(["gate"])
    again.close()
    last = ShardLog(path)
    assert set(last.states) == {"gate"}
    last.clear()
    last.close()
    assert ShardLog(path).states == {}


def test_a_file_that_is_no_shard_log_is_refused_in_one_sentence(tmp_path: Path) -> None:
    path = tmp_path / "ledger.shard"
    path.write_bytes(b"not a database, not at all" * 100)
    with pytest.raises(LedgerError, match="is no file of this program and stays unchanged"):
        ShardLog(path)


def test_a_question_goes_to_the_shards_it_is_about() -> None:
    topics = {f"v1/alarm/{name}/": 3 for name in CAMERAS} | {"v1/status/_detector-1/": 1, "v1/status/_detector/": 2}
    request = decode_request(json.dumps({"from": topics, "epoch": "ab" * 8, "limit": 9, "request": "x"}).encode())
    parts = {shard: json.loads(data) for shard, data in merge.split(request, "7", 3).items()}
    assert {topic: seq for part in parts.values() for topic, seq in part["from"].items()} == topics
    for shard, part in parts.items():
        assert (part["request"], part["epoch"], part["limit"]) == ("7", "ab" * 8, 3)
        for topic in part["from"]:
            camera = topic.split("/")[2]
            expected = {"_detector": 0, "_detector-1": 1}.get(camera, shard_of(camera, 3))
            assert expected == shard
    with pytest.raises(ProtocolError):
        merge.topic_shard("v2/alarm/gate/", 3)


def event(camera: str, seq: int) -> list[Any]:
    body = {"schema": "stream-detector.alarm/1", "camera": camera, "epoch": "ab" * 8, "seq": seq}
    return [f"v1/alarm/{camera}/", body]


def test_replies_become_one_that_a_subscriber_takes() -> None:
    request = decode_request(b'{"from":{"v1/alarm/gate/":1,"v1/alarm/yard/":1},"request":"mine"}')
    parts = [
        {"request": "7", "events": [event("gate", 2)], "more": False, "unknown_epoch": False},
        {"request": "7", "events": [event("yard", 2), event("yard", 3)], "more": True, "unknown_epoch": False},
    ]
    reply = decode_reply(merge.join(request, "ab" * 8, parts))
    assert (reply.request, reply.more, reply.unknown_epoch, len(reply.events)) == ("mine", True, False, 3)
    snapshot = decode_request(b'{"snapshot":["v1/alarm/"],"request":"s"}')
    parts = [{"last": {"v1/alarm/gate/": ["ab" * 8, 2]}, "events": [event("gate", 1)]}, {"last": {}, "events": []}]
    reply = decode_reply(merge.join(snapshot, "ab" * 8, parts))
    assert reply.last == {"v1/alarm/gate/": ("ab" * 8, 2)}
    refused = decode_reply(merge.join(request, "ab" * 8, [*parts, {"error": "wait", "retry_after_s": 1.5}]))
    assert (refused.error, refused.retry_after_s) == ("wait", 1.5)
