"""The examples of docs/bridges.md and of the bridge in docs/extending.md are usable as they are printed."""

from __future__ import annotations

import json
import re
import shlex
import time
import tomllib
from pathlib import Path
from typing import Any

import pytest
from bridge_rig import Lab, alarm

from stream_detector.bridges.kinds import BRIDGES
from stream_detector.bridges.process import check_targets
from stream_detector.bridges.settings import build_bridges
from stream_detector.bridges.webhook import sign
from stream_detector.cli.main import build_parser, main

DOCS = Path(__file__).parents[2] / "docs"
TEXT = (DOCS / "bridges.md").read_text(encoding="utf-8")
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
COMMANDS = [line.strip() for line in TEXT.splitlines() if line.startswith("    stream-detector ")]


def blocks(language: str, text: str = TEXT) -> list[str]:
    return [body for kind, body in BLOCK.findall(text) if kind == language]


@pytest.fixture
def secrets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("VMS_SECRET", "NTFY_TOPIC", "MAIL_USER", "MAIL_PASSWORD"):
        monkeypatch.setenv(name, "x" * 12)
    (tmp_path / "guard.url").write_text("json://localhost")
    (tmp_path / "mqtt.password").write_text("x")
    (tmp_path / "siren").write_text("#!/bin/sh\n")
    for path in tmp_path.iterdir():
        path.chmod(0o700)
    return tmp_path


@pytest.mark.parametrize("text", blocks("toml"))
def test_every_configuration_is_usable(text: str, secrets: Path) -> None:
    pytest.importorskip("apprise")
    pytest.importorskip("paho.mqtt")
    text = text.replace("/etc/stream-detector", str(secrets)).replace("/usr/local/bin", str(secrets))
    config = build_bridges(tomllib.loads(text))
    assert config.kinds
    for kind in config.kinds:
        check_targets(kind, config)


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_is_understood(command: str) -> None:
    words = shlex.split(command)[1:]
    assert build_parser(words[0]).parse_args(words).command == words[0]


@pytest.mark.parametrize("kind", ["webhook", "mqtt", "notify", "command"])
def test_the_check_passes_on_the_printed_file(kind: str, secrets: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("apprise")
    pytest.importorskip("paho.mqtt")
    text = blocks("toml")[0].replace("/etc/stream-detector", str(secrets)).replace("/usr/local/bin", str(secrets))
    file = secrets / "bridges.toml"
    file.write_text(text)
    assert main(["bridge", kind, "--config", str(file), "--check"]) == 0
    assert f"{kind} is usable" in capsys.readouterr().out


def test_the_printed_check_of_a_signature_takes_ours_and_nothing_else() -> None:
    (source,) = blocks("python")
    names: dict[str, Any] = {}
    exec(compile(source, "bridges.md", "exec"), names)
    from pydantic import SecretStr

    now = str(int(time.time()))
    good = sign(SecretStr("s"), now, b"body")
    assert names["genuine"]("s", now, b"body", good)
    assert not names["genuine"]("t", now, b"body", good) and not names["genuine"]("s", now, b"bodz", good)
    old = str(int(time.time()) - 3600)
    assert not names["genuine"]("s", old, b"body", sign(SecretStr("s"), old, b"body"))


def test_the_printed_webhook_body_has_the_keys_that_are_sent(tmp_path: Path) -> None:
    from stream_detector.bridges.webhook import Webhook, WebhookSettings

    lab = Lab(tmp_path, Webhook, WebhookSettings.model_validate({"url": "https://x.example/"}))
    sent = json.loads(lab.target.body(alarm(12), picture=False))
    (printed,) = blocks("json")
    assert set(json.loads(printed)) == set(sent)
    lab.outbox.close()


def test_a_bridge_of_ones_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    text = (DOCS / "extending.md").read_text(encoding="utf-8")
    (source,) = (body for body in blocks("python", text) if "class Pager(" in body)
    (settings,) = (body for body in blocks("toml", text) if "[pager." in body)
    try:
        exec(compile(source, "extending.md", "exec", dont_inherit=True), {"__name__": "example"})
        config = build_bridges(tomllib.loads(settings))
        lab = Lab(tmp_path, BRIDGES.get("pager"), config.kinds["pager"]["night"])
        lab.add(alarm(1), alarm(2, what="end"))
        lab.run()
        assert (tmp_path / "pager.txt").read_text() == "117 gate alarm start\n117 gate alarm end\n"
        lab.outbox.close()
    finally:
        BRIDGES.unregister("pager")
