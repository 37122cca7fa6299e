"""What subscribers may send, and that a socket in use is never closed."""

from __future__ import annotations

import threading

import pytest
import zmq
from event_bench import Bench, MakeBench

from stream_detector.events import connection_guard, endpoint, protocol, publisher


def test_peers_that_send_too_many_prefixes_are_cut_and_the_others_hear_on(
    make_bench: MakeBench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One by one, and together: seven peers stay below the limit of one, and above that of all."""
    monkeypatch.setattr(connection_guard, "ALL_BYTES", 3 * connection_guard.PEER_BYTES)
    bench = make_bench()
    decent = bench.joined(protocol.HEARTBEAT_TOPIC)
    greedy = bench.socket(zmq.SUB)
    for number in range(3000):
        greedy.subscribe(f"v1/{number}/{'x' * 100}")
    bench.until(lambda: bench.publisher._guard.cut >= 1)
    assert bench.publisher._guard.cut == 1 and len(bench.publisher._guard._held) == 1
    for _ in range(7):
        many = bench.socket(zmq.SUB)
        for number in range(500):
            many.subscribe(f"v1/{number}/{'x' * 100}")
    bench.until(lambda: bench.publisher._guard.cut >= 4)
    decent.subscribe(protocol.HEARTBEAT_TOPIC)
    bench.until(lambda: bench.tick(1.0) or decent.poll(1))


def test_a_prefix_longer_than_any_topic_ends_the_connection(bench: Bench) -> None:
    long = bench.socket(zmq.SUB)
    lost = long.get_monitor_socket(zmq.Event.DISCONNECTED)
    try:
        long.subscribe("v1/" + "x" * 1000)
        bench.until(lambda: lost.poll(1))
    finally:
        long.disable_monitor()
        lost.close(0)


def test_there_are_not_more_connections_than_the_limit(make_bench: MakeBench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection_guard, "_CONNECTIONS", 3)
    bench = make_bench()
    for _ in range(6):
        bench.subscriber("v1/")
    bench.until(lambda: bench.publisher._guard.cut >= 3)


def test_only_connections_of_the_guarded_port_are_touched() -> None:
    """A number may stand for another file by now, for instance for the connection to a camera."""
    import socket

    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        with socket.create_connection(("127.0.0.1", port)) as camera, server.accept()[0] as accepted:
            assert connection_guard._connection(camera.fileno(), port) is None
            found = connection_guard._connection(accepted.fileno(), port)
            assert found is not None
            found.close()
            camera.sendall(b"x" * 1000)
            accepted.recv(1000, socket.MSG_WAITALL)
            assert connection_guard._received(accepted) in (0, 1000)
        with open("/dev/null") as file:
            assert connection_guard._connection(file.fileno(), port) is None
    assert connection_guard._connection(1 << 20, port) is None


def test_a_socket_that_another_thread_is_using_is_left_open(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """libzmq has no protection: it ends the process with SIGSEGV."""
    monkeypatch.setattr(publisher, "CLOSE_WAIT_S", 0.05)
    inside, go_on = threading.Event(), threading.Event()
    send = endpoint.send_or_drop

    def slow(*arguments: object) -> bool:
        inside.set()
        assert go_on.wait(30.0)
        return send(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(endpoint, "send_or_drop", slow)
    busy = threading.Thread(target=bench.publisher._heartbeat)
    busy.start()
    try:
        assert inside.wait(30.0)
        bench.publisher.close()
        assert not bench.publisher._events.closed and publisher._left_open.pop() is bench.publisher
    finally:
        go_on.set()
        busy.join(30.0)
    bench.publisher.close()
    assert bench.publisher._events.closed
    bench.publisher._heartbeat()  # a sender that comes late
