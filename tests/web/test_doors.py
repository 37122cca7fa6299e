"""Who is let in: token, sessions, rates, TLS, and what is refused before anything is served."""

from __future__ import annotations

import re
import socket
import ssl
import subprocess
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from stream_detector.cli.main import main
from stream_detector.config import EvidenceConfig, WebConfig
from stream_detector.errors import ConfigError, EndpointError
from stream_detector.web.api import Api
from stream_detector.web.auth import AccessControl, parse_bind, read_token
from stream_detector.web.live_state import LiveState

from .conftest import running, until

TOKEN = "correct-horse-battery-staple"


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


def test_no_route_is_open_without_the_token(tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.write_text(TOKEN + "\n")
    token.chmod(0o600)
    run = SimpleNamespace(plans=(), config=SimpleNamespace(evidence=EvidenceConfig()), site=None)
    rooms: Any = SimpleNamespace(
        run=run, history=None, hub=None, live_state=LiveState(1), scores=None, config_path=None
    )
    routes: list[Any] = list(Api(rooms).app().routes)
    with running(tmp_path, web=WebConfig(bind="127.0.0.1:0", token_file=token)) as page:
        assert len(routes) > 20
        for route in routes:
            path = route.path.replace("{path:path}", "js/app.js").replace("{id}", "0" * 32).replace("{name}", "gate")
            path = path.replace("{file}", "20260101T000000Z.mp4")
            assert not re.search(r"[{}]", path)
            post = bool(route.methods) and "POST" in route.methods
            answer = page.ask(path, {"token": "wrong"} if post else None)
            if path in ("/livez", "/readyz", "/healthz", "/static/js/app.js") or (path == "/login" and not post):
                assert answer.status in (200, 503)
            else:
                assert answer.status in (303, 401), (path, answer.status)
            assert b"gate" not in answer.body or path.startswith("/static/")


def test_host_names_are_checked() -> None:
    local = AccessControl("", local=True, hosts=("cams.example",))
    for host in ("localhost:1", "127.0.0.1", "[::1]:8080", "cams.example", "CAMS.example:443"):
        assert local.host_allowed(host), host
    for host in ("", "evil.example", "localhost@evil", "cams.example.evil", "a b", "x" * 300, "cams.example:"):
        assert not local.host_allowed(host), host
    assert not AccessControl("", local=True).host_allowed("cams.example")
    named, any_name = (
        AccessControl("t" * 16, local=False, hosts=("cams.example",)),
        AccessControl("t" * 16, local=False),
    )
    assert named.host_allowed("cams.example:8443") and not named.host_allowed("192.0.2.1:8443")
    assert (
        any_name.host_allowed("192.0.2.1:8443") and not any_name.host_allowed("a/b") and not any_name.host_allowed("")
    )


def test_health_is_answered_to_strangers_without_names(tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.write_text(TOKEN + "\n")
    token.chmod(0o600)
    with running(tmp_path, web=WebConfig(bind="127.0.0.1:0", token_file=token)) as page:
        until(lambda: page.ask("/livez").json()["decided_age_s"] is not None, "the decision thread went round")
        for path in ("/livez", "/readyz", "/healthz"):
            stranger, known = page.ask(path), page.ask(path, headers={"authorization": f"Bearer {TOKEN}"})
            assert b"gate" not in stranger.body and b"gate" in known.body
            head = page.ask(path, method="HEAD")
            assert head.status == page.ask(path).status and head.body == b""
            assert page.ask(path, headers={"host": "evil.example"}).status == 421
        assert page.ask("/livez").status == 200 and page.ask("/livez").json()["live"]
        assert page.ask("/metrics", headers={"host": "evil.example"}).status == 421


def test_beyond_loopback_a_token_and_tls_are_needed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    token = tmp_path / "token"
    for bind in ("0.0.0.0:8080", "[::]:8080", "192.0.2.1:8080", "cameras.example:80"):
        with pytest.raises(EndpointError, match="other machines"):
            parse_bind(WebConfig(bind=bind))
        with pytest.raises(EndpointError, match="other machines"):
            parse_bind(WebConfig(bind=bind, token_file=token))
    for bind in ("8080", "127.0.0.1", "127.0.0.1:99999", "http://127.0.0.1:80"):
        with pytest.raises(EndpointError, match="HOST:PORT"):
            parse_bind(WebConfig(bind=bind))
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
