"""bridges.toml: every mistake is one sentence, and no sentence shows a secret."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from stream_detector.bridges.process import check_targets
from stream_detector.bridges.settings import build_bridges, load_bridges
from stream_detector.cli.main import main
from stream_detector.errors import ConfigError

SECRET = "hunter2-very-secret"


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"webhok": {"a": {}}}, "did you mean 'webhook'?"),
        ({"webhook": {"url": "https://x.example"}}, "every webhook has a name"),
        ({"webhook": {"A b": {"url": "https://x.example"}}}, "a name in"),
        ({"webhook": {"a": {}}}, "url is missing"),
        ({"webhook": {"a": {"url": f"https://x.example/{SECRET}", "tries": 0}}}, "tries must be between 1 and 1000"),
        ({"webhook": {"a": {"url": f"https://x.example/{SECRET}", "secert": SECRET}}}, "did you mean 'secret'"),
        ({"webhook": {"a": {"url": f"https://{SECRET}/", "allow": ["10.0.0/99"]}}}, "is no network"),
        ({"webhook": {"a": {"url": "https://x.example/${NOT_SET_HERE}"}}}, "NOT_SET_HERE is not set"),
        ({"webhook": {"a": {"url": f"http://x.example/{SECRET}"}}}, "https://HOST/PATH"),
        ({"webhook": {"a": {"url": f"https://me:{SECRET}@x.example/"}}}, "token"),
        ({"webhook": {"a": {"url": "https://127.0.0.1/"}}}, "private address"),
        ({"webhook": {"a": {"url": f"https://x.example/{SECRET}", "url_file": "x"}}}, "exclude each other"),
        ({"webhook": {"a": {"url_file": f"/nowhere/{SECRET}"}}}, "does not exist"),
        ({"mqtt": {"a": {"host": "h", "password": SECRET}}}, "username"),
        ({"notify": {"a": {"url": f"nosuchthing://{SECRET}"}}}, "Apprise"),
        ({"notify": {"a": {"url": f"json://{SECRET}", "quiet": "25:00-07:00"}}}, "22:00-07:00"),
        ({"notify": {"a": {"url": f"json://{SECRET}", "time_zone": "Mars/Olympus"}}}, "no time zone"),
        ({"command": {"a": {"argv": ["/no/such/program"]}}}, "program"),
        ({"command": {"a": {"argv": []}}}, "argv"),
        ({"detector": {"key": "x"}, "command": {"a": {"argv": ["true"]}}}, "belong together"),
    ],
)
def test_a_mistake_is_one_sentence_without_secrets(values: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError) as caught:
        config = build_bridges(values, "bridges.toml")
        for kind in config.kinds:
            check_targets(kind, config)
    sentence = str(caught.value)
    assert words in sentence and SECRET not in sentence and "\n" not in sentence


def test_secrets_come_from_variables_and_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    secret = tmp_path / "secret"
    secret.write_text("${as it is}\n")
    secret.chmod(0o600)
    monkeypatch.setenv("HOOK_TOKEN", SECRET)
    config = build_bridges(
        {"webhook": {"a": {"url": "https://x.example/", "token": "${HOOK_TOKEN}", "secret_file": str(secret)}}}
    )
    settings: Any = config.kinds["webhook"]["a"]
    assert settings.token.get_secret_value() == SECRET and settings.secret.get_secret_value() == "${as it is}"
    assert SECRET not in repr(settings) and SECRET not in repr(config)


def test_the_command_checks_a_file_and_shows_no_secret(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "bridges.toml"
    file.write_text(f'[webhook.vms]\nurl = "https://hooks.example.com/{SECRET}"\nsecret = "{SECRET}"\n')
    assert main(["bridge", "webhook", "--config", str(file), "--check"]) == 0
    assert main(["bridge", "mqtt", "--config", str(file), "--check"]) == 2
    assert main(["bridge", "pigeon", "--config", str(file)]) == 2
    out, err = capfd.readouterr()
    assert "webhook is usable, targets: vms" in out and "no [mqtt.NAME]" in err and "pigeon" in err
    assert SECRET not in out + err


def test_a_bridge_loads_no_network() -> None:
    kinds = "stream_detector.cli.bridge, stream_detector.bridges.webhook, stream_detector.bridges.command"
    code = f"import sys, {kinds}; print(sorted({{'torch', 'cv2', 'av', 'numpy'}} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() in ("[]", "['numpy']")


def test_a_file_that_is_not_there_or_not_toml(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="does not exist"):
        load_bridges(tmp_path / "none.toml")
    (tmp_path / "bad.toml").write_text("[webhook.a\n")
    with pytest.raises(ConfigError, match="not valid TOML"):
        load_bridges(tmp_path / "bad.toml")
