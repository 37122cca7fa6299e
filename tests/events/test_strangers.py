"""What strangers ask for: bounded work, in fair order, whatever they do and however many they are."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence

import zmq
from event_bench import Bench, MakeBench, an_event
from hypothesis import given, settings
from hypothesis import strategies as st

from stream_detector.events import protocol
from stream_detector.events.current_state import CurrentState, StateReplayer, below, replayed
from stream_detector.events.fair_queue import FairQueue
from stream_detector.events.ledger_file import OpenRow
from stream_detector.types import CameraStatus

TOPICS = st.builds("v1/{}/{}/".format, st.sampled_from(("alarm", "status")), st.text("a1_-", min_size=1, max_size=5))


class Nothing:
    """A journal with so many open alarms."""

    def __init__(self, count: int) -> None:
        text = '{"type":"start"}'
        self.texts = {f"v1/alarm/cam{n}/": [OpenRow("", text, text)] for n in range(count)}

    def open_texts(self) -> Mapping[str, Sequence[OpenRow]]:
        return self.texts


@settings(deadline=None)
@given(st.lists(st.sampled_from(["v1/", "", "v1/alarm/", "v1/alarm/cam7/", "x"]), max_size=300), st.integers(0, 1500))
def test_greeting_is_sliced_and_its_rate_is_bounded(prefixes: list[str], count: int) -> None:
    present = CurrentState(Nothing(count))
    greeter, now_s, sent = StateReplayer(present, 0.0), 0.0, 0
    for _ in range(100):  # ten seconds of churn
        for prefix in prefixes[:50]:
            greeter.wanted(prefix)
        part = list(greeter.slice(now_s))
        assert len(part) <= 64
        sent += len(part)
        now_s += 0.1
    assert sent <= 500 + 10 * 1000


def test_everybody_is_greeted_in_the_end() -> None:
    greeter, now_s = StateReplayer(CurrentState(Nothing(1000)), 0.0), 0.0
    greeter.wanted("v1/alarm/")
    told: list[str] = []
    for _ in range(60):
        told += [topic for topic, _ in greeter.slice(now_s)]
        now_s += 0.05
    assert sorted(told) == sorted(f"v1/alarm/cam{n}/" for n in range(1000))


@settings(deadline=None)
@given(st.lists(TOPICS, unique=True), st.data())
def test_prefixes_are_found_in_the_sorted_topics(topics: list[str], data: st.DataObject) -> None:
    topics.sort()
    whole = data.draw(st.sampled_from([*topics, "v1/alarm/", "v2/"]))
    prefix = whole[: data.draw(st.integers(0, len(whole)))]
    assert list(below(topics, prefix)) == [topic for topic in topics if topic.startswith(prefix)]


def test_a_replayed_text_is_the_body_marked() -> None:
    body = {"schema": protocol.ALARM_SCHEMA, "note": '"}', "unjournalled": True}
    assert json.loads(replayed(protocol.encode(body).decode())) == {**body, "replayed": True}


@settings(deadline=None)
@given(st.integers(1, 300), st.floats(0.0001, 0.1), st.integers(0, 200))
def test_who_asks_for_little_is_served_next(greedy: int, cost_s: float, served: int) -> None:
    """All greedy peers have a request waiting at any time; somebody comes with a small one."""
    queue: FairQueue[int] = FairQueue()
    for peer in range(greedy):
        for _ in range(4):
            assert queue.put(b"greedy %d" % peer, peer, 100, cost_s)
        assert not queue.put(b"greedy %d" % peer, peer, 100, cost_s)
    for _ in range(served):
        taken = queue.take()
        if taken:
            queue.spent(taken[0], cost_s)
            queue.put(taken[0], taken[1], 100, cost_s)
    assert queue.put(b"decent", -1, 100, cost_s / 4)
    order = []
    for _ in range(2):
        taken = queue.take()
        assert taken
        order.append(taken[0])
        queue.spent(taken[0], cost_s)
    assert b"decent" in order


def test_the_fair_queue_is_bounded_in_peers_and_bytes() -> None:
    queue: FairQueue[int] = FairQueue(peers=3, each=2, most_bytes=1000)
    assert [queue.put(b"%d" % n, n, 100, 1.0) for n in range(4)] == [True, True, True, False]
    assert queue.put(b"0", 0, 700, 1.0) and not queue.put(b"1", 1, 100, 1.0)
    for _ in range(4):
        taken = queue.take()
        assert taken
        queue.spent(taken[0], 1.0)
    assert queue.take() is None and len(queue) == 0 and queue.put(b"9", 9, 1000, 1.0)


def a_thousand(bench: Bench) -> None:
    for n in range(1000):
        bench.publisher.status(CameraStatus(f"cam{n}", "rtsp://h/x", "online"))
        bench.publisher.alarm(an_event(camera=f"cam{n}", id=f"{n:032x}"))


def test_a_churning_subscriber_costs_the_thread_little_a_call(make_bench: MakeBench) -> None:
    """Of the thread's own time: 863 ms a call at 1,000 cameras once."""
    bench = make_bench()
    a_thousand(bench)
    churner = bench.joined()
    spent_s, calls, busy = 0.0, 0, 0
    prefixes = ["v1/", "", "v1/status/", "v1/alarm/", *(f"v1/status/cam{n}" for n in range(60))]
    end_s = time.monotonic() + 30.0
    while calls < 100 and time.monotonic() < end_s:
        for prefix in prefixes:
            churner.subscribe(prefix)
            churner.unsubscribe(prefix)
        bench.clock.advance(0.05)
        begun_s = time.thread_time()
        bench.publisher.service()
        took_s = time.thread_time() - begun_s
        calls += 1
        busy += took_s > 0.001
        spent_s = max(spent_s, took_s)
    assert busy and spent_s < 0.25


def test_peers_that_never_read_are_left_alone_and_a_decent_one_is_served(make_bench: MakeBench) -> None:
    bench = make_bench()
    a_thousand(bench)
    deaf = [bench.socket(zmq.DEALER, rcvhwm=1, sndhwm=50) for _ in range(40)]
    decent = bench.socket(zmq.DEALER)
    answered: list[int] = []

    def flood() -> None:
        for peer in deaf:
            try:
                peer.send(b'{"snapshot":["v1/"]}', zmq.NOBLOCK)
            except zmq.Again:
                continue

    def known_deaf() -> bool:
        flood()
        bench.clock.advance(0.01)
        return len(bench.publisher._answering._backoff) >= 20

    bench.until(known_deaf)
    for _ in range(5):
        decent.send(b'{"from":{"v1/alarm/cam5/":0}}')

        def served() -> bool:
            flood()
            return bool(decent.poll(1))

        bench.until(served)
        answered.append(len(json.loads(decent.recv())["events"]))
    assert answered == [1] * 5


def test_a_heartbeat_goes_before_what_strangers_want(bench: Bench) -> None:
    order: list[str] = []
    bench.publisher._heartbeat = lambda closing=False: order.append("heartbeat")  # type: ignore[method-assign]
    bench.publisher._serve_peers = lambda: order.append("strangers")  # type: ignore[method-assign]
    bench.clock.advance(1.0)
    bench.publisher.service()
    assert order[:1] == ["heartbeat"]
