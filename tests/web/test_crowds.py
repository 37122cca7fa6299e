"""Many connections that ask and never read, never finish, or never speak: others are served, descriptors are left."""

from __future__ import annotations

import contextlib
import inspect
import socket
import ssl
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stream_detector.config import WebConfig
from stream_detector.web import connections, middleware, write_routes
from stream_detector.web.auth import AccessControl

from .conftest import Page, running, until

SILENT = 620
GET = b"GET %s HTTP/1.1\r\nHost: localhost\r\n\r\n"


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    with running(tmp_path_factory.mktemp("crowd")) as found:
        found.alarm()
        yield found


def connect(page: Page, source: str = "127.0.0.1") -> socket.socket:
    return socket.create_connection(("127.0.0.1", page.server.port), timeout=20, source_address=(source, 0))


def say(peer: socket.socket, data: bytes) -> None:
    with contextlib.suppress(OSError):  # it had to make room already: that is what is tested
        peer.sendall(data)


def answered(page: Page, source: str, path: bytes = b"/api/run") -> bytes:
    with connect(page, source) as peer:
        peer.sendall(GET % path)
        return peer.recv(12)


ASKED = (b"/api/run", b"/static/css/base.css", b"/api/alarms.json", b"/api/stream?cameras=gate")


@pytest.mark.parametrize("path", ASKED)
def test_peers_that_ask_and_never_read_keep_nobody_out(page: Page, path: bytes) -> None:
    crowd = f"127.0.0.{10 + ASKED.index(path)}"  # each its own: arrivals of one peer are limited as well
    with contextlib.ExitStack() as stack:
        for _ in range(SILENT):
            say(stack.enter_context(connect(page, crowd)), GET % path)
        for source in (crowd, "127.0.0.1"):  # one of the same address, and another
            assert answered(page, source) == b"HTTP/1.1 200"
        assert page.server._connections.connections <= page.server._connections.room.most
    until(lambda: page.server._connections.connections == 0, "everybody left")


def test_a_peer_that_reads_nothing_is_let_go(page: Page, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "WRITE_S", 0.5)
    with connect(page) as peer:
        say(peer, (GET % b"/static/css/base.css") * 700)  # some 6 MB of answers: more than the kernel takes
        until(lambda: page.server._connections.connections == 0, "it was let go")
    with connect(page) as slow:  # who reads slowly, but reads, is served to the end
        slow.sendall(
            (GET % b"/static/css/base.css") * 100 + GET.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n") % b"/"
        )
        whole = b""
        while part := slow.recv(20_000):
            whole += part
    assert whole.count(b"HTTP/1.1 200") == 101


def test_a_body_and_a_head_that_trickle_are_timed(page: Page, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(middleware, "REQUEST_S", 0.5)
    head = b"POST /login HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 99\r\n\r\n{"
    for begun in (b"GET /api/run HTTP/1.1\r\nX: ", head):
        with connect(page) as peer:
            peer.sendall(begun)
            peer.settimeout(0.05)
            for _ in range(400):
                try:
                    peer.sendall(b" ")
                    if not peer.recv(1000):
                        break
                except TimeoutError:
                    continue
                except OSError:
                    break
            else:
                raise AssertionError("a trickle was never cut off")


def test_the_head_of_a_stream_ends_and_others_than_get_are_refused(page: Page) -> None:
    assert page.ask("/api/stream", method="HEAD").status == 200
    assert page.ask("/api/stream", {}).status == 405
    assert page.server.viewers == 0


def test_huge_heads_are_refused(page: Page) -> None:
    many = "".join(f"x{i}: y\r\n" for i in range(middleware.MAX_HEADERS + 1))
    for head, wanted in ((many, b"431"), (f"Cookie: {'a=b; ' * 50_000}\r\n", b"400"), ("X: " + "\\" * 90_000, b"400")):
        with connect(page) as peer:
            say(peer, f"GET /api/run HTTP/1.1\r\nHost: localhost\r\n{head}\r\n\r\n".encode())
            with contextlib.suppress(ConnectionResetError):  # it does not read the rest
                assert peer.recv(12)[9:] == wanted
    assert page.ask("/api/run", headers={"cookie": "a=b; stream-detector=x\\\\; c"}).status == 200


def test_a_request_that_a_proxy_may_see_as_two_is_refused(page: Page) -> None:
    both = (
        b"POST /login HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n"
    )
    with connect(page) as peer:
        peer.sendall(both + GET % b"/api/run")
        whole = b""
        while part := peer.recv(65536):
            whole += part
    assert whole.startswith(b"HTTP/1.1 400") and whole.count(b"HTTP/1.1 ") == 1


def test_descriptors_are_kept_for_the_cameras(page: Page, monkeypatch: pytest.MonkeyPatch) -> None:
    few = connections.ConnectionLimits(most=40, most_a_peer=30, highest=0)  # every descriptor is one of the reserve
    with monkeypatch.context() as patch:
        patch.setattr(page.server._connections, "room", few)
        with connect(page) as peer:
            say(peer, GET % b"/api/run")
            with contextlib.suppress(ConnectionResetError):
                assert peer.recv(100) == b""
    assert page.ask("/api/run").status == 200


@given(st.integers(64, 70_000), st.integers(1, 500))
def test_the_page_s_share_leaves_some(descriptors: int, cameras: int) -> None:
    room = connections.connection_limits(cameras, descriptors)
    assert 0 < room.most_a_peer < room.most <= connections.MAX_CONNECTIONS
    assert room.highest + min(descriptors * 3 // 4, 128 + 8 * cameras) == descriptors


@pytest.mark.parametrize(
    ("a", "b", "same"),
    [
        ("192.0.2.1", "::ffff:192.0.2.1", True),
        ("192.0.2.1", "192.0.2.2", False),
        ("2001:db8::1", "2001:db8::ffff:1", True),
        ("2001:db8::1", "2001:db8:0:1::1", False),
        ("fe80::1%eth0", "fe80::2", True),
        ("?", "?", True),
    ],
)
def test_who_counts_as_one_peer(a: str, b: str, same: bool) -> None:
    assert (middleware.peer_of(a) == middleware.peer_of(b)) is same


def make_certificate(folder: Path) -> tuple[Path, Path]:
    cert, key = folder / "c.pem", folder / "k.pem"
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost"]
    try:
        subprocess.run([*command, "-keyout", str(key), "-out", str(cert)], check=True, capture_output=True)
    except FileNotFoundError:
        pytest.skip("openssl is not here to make a certificate")
    return cert, key


def test_idle_and_half_open_tls_connections_do_not_use_up_descriptors(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cert, key = make_certificate(tmp_path)
    context = ssl.create_default_context(cafile=str(cert))
    context.check_hostname = False
    with (
        running(tmp_path, web=WebConfig(bind="127.0.0.1:0", cert=cert, key=key)) as page,
        contextlib.ExitStack() as all_,
    ):
        page.server._connections.room = connections.ConnectionLimits(most=60, most_a_peer=50, highest=1 << 30)
        for number in range(400):
            peer = all_.enter_context(connect(page, f"127.0.0.{2 + number % 3}"))
            if number % 10 == 0:  # agreed on, then idle; the others never, or only begin
                with contextlib.suppress(OSError):
                    all_.enter_context(context.wrap_socket(peer))
            elif number % 2:
                say(peer, b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03")
            assert page.server._connections.connections <= 60
        for source in ("127.0.0.2", "127.0.0.1"):
            with context.wrap_socket(connect(page, source)) as decent:
                decent.sendall(GET % b"/api/run")
                assert decent.recv(12) == b"HTTP/1.1 200"
        monkeypatch.setattr(connections, "HANDSHAKE_S", 0.5)
        with connect(page, "127.0.0.77") as half:
            half.sendall(b"\x16\x03\x01\x02\x00\x01")
            with contextlib.suppress(ConnectionResetError):
                assert half.recv(100) == b""


def test_a_right_guess_after_too_many_wrong_ones_is_stopped_too() -> None:
    found = middleware.SecurityMiddleware(
        lambda *_: None, AccessControl("the-right-token-it-is", local=True), tls=False
    )  # type: ignore[arg-type, return-value]
    assert [found.guess("eve", f"wrong{i}", 100.0) for i in range(10)] == [False] * 10
    assert found.guess("eve", "the-right-token-it-is", 100.0) is None
    assert found.guess("ann", "the-right-token-it-is", 100.0) is True
    assert [found.guess("eve", "wrong", 100.0 + i / 10) for i in range(40)] == [
        None
    ] * 40  # asking on costs nothing more
    assert found.guess("eve", "the-right-token-it-is", 106.0) is True


def test_wrong_tokens_of_one_peer_stop_it_everywhere_and_nobody_else(tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.write_text("the-right-token-it-is\n")
    token.chmod(0o600)
    bearer = {"authorization": "Bearer the-right-token-it-is"}
    with running(tmp_path, web=WebConfig(bind="127.0.0.1:0", token_file=token)) as page:
        session = {"cookie": page.ask("/login", {"token": "the-right-token-it-is"}).headers["set-cookie"].split(";")[0]}
        assert [page.ask("/login", {"token": "x"}).status for _ in range(8)] == [401] * 8
        assert 429 in [page.ask("/api/run", headers={"authorization": "Bearer x"}).status for _ in range(20)]
        assert page.ask("/api/run", headers=bearer).status == 429
        assert page.ask("/login", {"token": "the-right-token-it-is"}).status == 429
        assert page.ask("/api/run", headers=session).status == 200  # who is in already stays in
        assert page.ask("/livez", headers=bearer).status in (200, 503)
        with connect(page, "127.0.0.5") as other:
            other.sendall(
                b"GET /api/run HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer the-right-token-it-is\r\n\r\n"
            )
            assert other.recv(12) == b"HTTP/1.1 200"


def test_an_acknowledgement_that_takes_long_is_told_and_still_noted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import threading

    monkeypatch.setattr(write_routes, "WRITE_S", 0.05)
    go_on, held = threading.Event(), threading.Event()

    def hold() -> None:
        held.set()
        go_on.wait(60)

    with running(tmp_path) as page:
        alarm = page.alarm()
        page.run.pipeline.decision_queue.submit(hold)
        assert held.wait(20)
        late = page.ask(f"/api/alarms/{alarm['id']}/ack", {"note": "slow"})
        assert late.status == 504 and late.json() == {"error": write_routes.LATE}
        for _ in range(100):  # more than may wait
            last = page.ask(f"/api/alarms/{alarm['id']}/ack", {"note": "more"})
            if last.status != 504:
                break
        assert last.status in (429, 503) and last.json()["error"]
        go_on.set()
        until(lambda: page.ask(f"/api/alarms/{alarm['id']}").json()["ack"], "it was noted in the end")
        until(lambda: (page.ask("/livez").json()["decided_age_s"] or 99.0) < 5.0, "it decides")
        monkeypatch.setattr(write_routes, "WRITE_S", 20.0)
        until(lambda: page.ask(f"/api/alarms/{alarm['id']}/ack", {"note": "quick"}).status == 200, "the next is noted")


def test_what_is_relied_on_of_uvicorn() -> None:
    """`doors` and `server` use a class that uvicorn does not document; pyproject.toml pins what this was tried with."""
    names: dict[str, Any] = dict(inspect.signature(connections.H11Protocol.__init__).parameters)
    assert {"config", "server_state", "app_state"} <= names.keys()
    for name in ("connection_made", "data_received", "connection_lost", "on_response_complete", "resume_writing"):
        assert callable(getattr(connections.H11Protocol, name))
    assert callable(connections.H11Protocol._unset_keepalive_if_required)
