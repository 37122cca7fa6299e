"""What strangers may send: no crash, no leak, no way out of the folder, and a detection that feels nothing."""

from __future__ import annotations

import random
import socket
import ssl
import subprocess
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from stream_detector.cli import main
from stream_detector.config import WebConfig
from stream_detector.errors import ConfigError, EndpointError
from stream_detector.web import guard
from stream_detector.web.auth import place_of, read_token
from stream_detector.web.streams import MAX_CAMERAS

from .conftest import Page, running, until

REQUESTS = 5000
TOKEN = "correct-horse-battery-staple"


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    folder = tmp_path_factory.mktemp("target")
    (folder / "secret.txt").write_text("TOPSECRET")
    with running(folder) as page:
        yield page


def raw(page: Page, data: bytes, timeout_s: float = 5.0) -> bytes:
    """Everything that the server answers to these bytes until it closes or falls silent."""
    with closing(socket.create_connection(("127.0.0.1", page.server.port), timeout=timeout_s)) as peer:
        found = b""
        try:
            peer.sendall(data)
            peer.shutdown(socket.SHUT_WR)
            while chunk := peer.recv(65536):
                found += chunk
                if len(found) > 2_000_000:
                    break
        except OSError:
            pass
        return found


def statuses(answer: bytes) -> list[int]:
    return [int(part[:3]) for part in answer.split(b"HTTP/1.1 ")[1:] if part[:3].isdigit()]


def test_mutated_requests_never_crash_it(target: Page) -> None:
    page = target
    alarm = page.alarm()
    before = page.assembly.telemetry.snapshot().scored
    chance = random.Random(7)
    paths = ["/", "/api/run", "/api/alarms?limit=5", f"/api/alarms/{alarm['id']}", "/api/replay/gate", "/metrics"]
    paths += [f"/api/alarms/{alarm['id']}/clip.webm", "/api/picture/gate.jpg", "/static/js/app.js", "/api/alarms.csv"]
    posts = [f"/api/alarms/{alarm['id']}/ack", "/api/tune/gate", "/api/tune/gate/write", "/login", "/logout"]
    bodies = ['{"note":"x"}', '{"threshold":0.5,"smoothing":{"kind":"ema"}}', '{"token":"x"}', "[]", '{"note":' * 400]
    seen: dict[int, int] = {}
    for _ in range(REQUESTS // 25):
        wire = b""
        for _ in range(25):
            if chance.random() < 0.4:
                body = chance.choice(bodies).encode()
                head = f"POST {chance.choice(posts)} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
                one = (head + f"Content-Length: {len(body)}\r\n\r\n").encode() + body
            else:
                one = f"GET {chance.choice(paths)} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode()
            if chance.random() < 0.5:
                mutated = bytearray(one)
                for _ in range(chance.randint(1, 6)):
                    at = chance.randrange(len(mutated))
                    action = chance.random()
                    if action < 0.5:
                        mutated[at] = chance.randrange(256)
                    elif action < 0.75:
                        mutated[at:at] = bytes(chance.choices(b"%2e/\\.\x00\r\n?&=\xff;<>", k=chance.randint(1, 9)))
                    else:
                        del mutated[at : at + chance.randint(1, 12)]
                    if not mutated:
                        break
                one = bytes(mutated)
            wire += one
        for status in statuses(raw(page, wire)):
            seen[status] = seen.get(status, 0) + 1
    assert sum(seen.values()) > REQUESTS / 20, seen  # a broken request ends its connection, so many go unanswered
    assert not [status for status in seen if status >= 500], seen
    assert page.ask("/api/run").status == 200
    assert page.assembly.telemetry.snapshot().scored >= before
    assert page.ask(f"/api/alarms/{alarm['id']}").json()["start_s"] == alarm["start_s"]


@pytest.mark.parametrize(
    "path",
    [
        "/static/../../pyproject.toml",
        "/static/%2e%2e/%2e%2e/api.py",
        "/static/..%2f..%2fapi.py",
        "/static//etc/passwd",
        "/api/alarms/..%2f..%2fsecret.txt/clip.webm",
        "/api/alarms/%2e%2e/snapshot.jpg",
        "/api/picture/..%2f..%2fsecret.jpg",
        "/api/replay/..%2fsecret.txt/frame.jpg?t=0",
        "/api/replay/%2fetc%2fpasswd",
    ],
)
def test_no_path_leads_out(target: Page, path: str) -> None:
    answer = raw(target, f"GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode())
    assert statuses(answer)[0] in (400, 404)
    assert b"TOPSECRET" not in answer and b"root:" not in answer and b"[project]" not in answer


def test_a_link_out_of_the_evidence_folder_is_not_followed(target: Page) -> None:
    alarm = target.alarm("yard")
    path = target.folder / "evidence" / "yard" / f"{alarm['id']}.jpg"
    until(path.exists, "a snapshot")
    path.unlink()
    path.symlink_to(target.folder / "secret.txt")
    assert target.ask(f"/api/alarms/{alarm['id']}/snapshot.jpg").status == 404


def test_foreign_names_origins_and_methods_are_refused(target: Page) -> None:
    for host in ("evil.example", "127.0.0.1.evil.example", "localhost@evil", ""):
        assert target.ask("/api/run", headers={"host": host}).status in (400, 421), host
    alarm = target.alarm()
    for headers in ({"origin": "https://evil.example"}, {"sec-fetch-site": "cross-site"}, {"origin": "null"}):
        assert target.ask(f"/api/alarms/{alarm['id']}/ack", {"note": "x"}, headers=headers).status == 403, headers
    plain = {"content-type": "text/plain"}
    assert target.ask(f"/api/alarms/{alarm['id']}/ack", {"note": "x"}, headers=plain).status == 400
    assert target.ask("/api/run", method="DELETE").status == 405
    names = ",".join(f"c{i}" for i in range(500)) + ",gate"
    assert len(target.server._hub.viewer(names.split(","), 9e9).cameras) <= MAX_CAMERAS  # type: ignore[union-attr]


def test_200_slow_connections_are_let_go_and_others_served(target: Page, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guard, "REQUEST_S", 1.0)
    peers = []
    try:
        for number in range(200):
            peer = socket.create_connection(("127.0.0.1", target.server.port), timeout=10)
            if number % 2:
                peer.sendall(b"GET / HTTP/1.1\r\nHost: loc")
            peers.append(peer)
        assert target.ask("/api/run").status == 200
        for peer in peers:
            assert peer.recv(1000) == b""  # the server closed it; otherwise the timeout raises
    finally:
        for peer in peers:
            peer.close()
    assert target.ask("/api/run").status == 200


def test_rates_are_limited(tmp_path: Path) -> None:
    with running(tmp_path, rate=1.0, burst=20.0) as page:
        found = [page.ask("/api/run").status for _ in range(40)]
        assert found.count(200) >= 15 and 429 in found


def test_a_token_is_needed_and_wrong_ones_are_slowed(tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.write_text(TOKEN + "\n")
    token.chmod(0o600)
    with running(tmp_path, web=WebConfig(bind="127.0.0.1:0", token_file=token)) as page:
        assert page.ask("/api/run").status == 401 and page.ask("/metrics").status == 401
        assert page.ask("/").status == 303 and page.ask("/").headers["location"] == "/login"
        assert page.ask("/login").status == 200 and page.ask("/static/js/login.js").status == 200
        assert "cameras" not in page.ask("/healthz").json()
        assert page.ask("/api/run", headers={"authorization": f"Bearer {TOKEN}"}).status == 200
        assert page.ask("/login", {"token": "wrong"}).status == 401
        entered = page.ask("/login", {"token": TOKEN})
        cookie = entered.headers["set-cookie"]
        assert "HttpOnly" in cookie and "samesite=strict" in cookie.lower() and TOKEN not in cookie
        session = {"cookie": cookie.split(";")[0]}
        found = page.ask("/api/run", headers=session)
        assert found.status == 200 and TOKEN.encode() not in found.body
        page.ask("/logout", {}, headers=session)
        assert page.ask("/api/run", headers=session).status == 401
        tried = [page.ask("/api/run", headers={"authorization": f"Bearer wrong{i}"}).status for i in range(30)]
        assert tried[0] == 401 and 429 in tried


def test_beyond_loopback_a_token_and_tls_are_needed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    token = tmp_path / "token"
    for bind in ("0.0.0.0:8080", "[::]:8080", "192.0.2.1:8080", "cameras.example:80"):
        with pytest.raises(EndpointError, match="other machines"):
            place_of(WebConfig(bind=bind))
        with pytest.raises(EndpointError, match="other machines"):
            place_of(WebConfig(bind=bind, token_file=token))
    for bind in ("8080", "127.0.0.1", "127.0.0.1:99999", "http://127.0.0.1:80"):
        with pytest.raises(EndpointError, match="HOST:PORT"):
            place_of(WebConfig(bind=bind))
    token.write_text(TOKEN)
    token.chmod(0o644)
    with pytest.raises(ConfigError, match="chmod 600"):
        read_token(token)
    token.write_text("short")
    with pytest.raises(ConfigError, match="at least"):
        read_token(token)
    assert main(["run", "demo", "--web", "0.0.0.0:8080"]) == 2
    assert "other machines" in capsys.readouterr().err


def test_with_tls_the_page_is_served_encrypted(tmp_path: Path) -> None:
    cert, key, token = tmp_path / "c.pem", tmp_path / "k.pem", tmp_path / "token"
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost"]
    try:
        subprocess.run([*command, "-keyout", str(key), "-out", str(cert)], check=True, capture_output=True)
    except FileNotFoundError:
        pytest.skip("openssl is not here to make a certificate")
    token.write_text(TOKEN)
    token.chmod(0o600)
    with running(tmp_path, web=WebConfig(bind="127.0.0.1:0", token_file=token, cert=cert, key=key)) as page:
        context = ssl.create_default_context(cafile=str(cert))
        context.check_hostname = False
        with (
            socket.create_connection(("127.0.0.1", page.server.port), timeout=10) as plain,
            context.wrap_socket(plain) as peer,
        ):
            peer.sendall(b"GET /login HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
            found = b""
            while chunk := peer.recv(65536):
                found += chunk
        assert b"200 OK" in found and b"strict-transport-security" in found
        assert page.server.url.startswith("https://")
