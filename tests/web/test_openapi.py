"""The description of the HTTP interface: valid, complete, true of the page, and enough to generate a client from."""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest

pytest.importorskip("starlette", reason="the extra 'web' is not installed")
pytest.importorskip("uvicorn", reason="the extra 'web' is not installed")

from starlette.routing import Route

from stream_detector.config import WebConfig
from stream_detector.web.openapi import describe
from stream_detector.web.operations import OPERATIONS

from .conftest import Answer, Page, running, until

VIEWER, OPERATOR = "viewer-0123456789abcdef", "operator-0123456789abcdef"
QUERIES = {"get_frame": "?t=1", "stream": "?cameras=gate&rate=1"}
BODIES: dict[str, dict[str, Any]] = {
    "Login": {"token": VIEWER},
    "Acknowledgement": {"note": "seen", "by": "Ann"},
    "Verdict": {"verdict": "benign", "by": "Ann"},
    "Miss": {"at_s": 3.0, "lasting_s": 2.0},
    "Control": {"mute_s": 60},
    "By": {"by": "Ann"},
    "Command": {"command": "adapt"},
    "Tuning": {"threshold": 0.5, "smoothing": {"kind": "none"}},
    "SettingsChange": {"mask": [[0, 0], [1, 0], [1, 0.2]]},
    "": {},
}


def secret(path: Path, text: str) -> Path:
    path.write_text(text)
    path.chmod(0o600)
    return path


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    """A page that asks for tokens, with a viewer and an operator, and a configuration to write to."""
    folder = tmp_path_factory.mktemp("openapi")
    toml = folder / "cameras.toml"
    toml.write_text('[cameras]\ngate = "gate.mp4"\nyard = "yard.mp4"\n')
    viewer, operator = secret(folder / "viewer", VIEWER), secret(folder / "operator", f"ann {OPERATOR}")
    web = WebConfig(bind="127.0.0.1:0", token_file=viewer, operator_token_file=operator)
    with running(folder, web=web, config_path=toml, access={"local_writes": False}) as found:
        yield found


def ask(page: Page, method: str, path: str, token: str, body: dict[str, Any] | None) -> Answer:
    headers = {"authorization": f"Bearer {token}"} if token else {}
    return page.ask(path, body, method=method, headers=headers)


@pytest.fixture(scope="module")
def alarm(page: Page) -> dict[str, Any]:
    path = "/api/alarms?camera=gate&state=ended"
    return dict(until(lambda: ask(page, "GET", path, VIEWER, None).json()["alarms"], "an alarm ended")[0])


@pytest.fixture(scope="module")
def description(page: Page) -> dict[str, Any]:
    return dict(ask(page, "GET", "/openapi.json", VIEWER, None).json())


def test_the_description_is_valid_openapi(description: dict[str, Any]) -> None:
    validator = pytest.importorskip("openapi_spec_validator", reason="openapi-spec-validator is not installed")
    validator.validate(description)
    assert description["openapi"].startswith("3.1")


def test_a_route_without_description_is_an_error_and_so_is_the_reverse() -> None:
    async def nothing(_request: Any) -> Any: ...

    with pytest.raises(LookupError, match="/api/unheard-of"):
        describe([Route("/api/unheard-of", nothing)])
    with pytest.raises(LookupError, match="not served"):
        describe([Route("/api/run", nothing)])


def operations() -> list[Any]:
    return [pytest.param(method, path, id=operation.id) for (method, path), operation in OPERATIONS.items()]


@pytest.mark.parametrize(("method", "path"), operations())
def test_every_operation_answers_as_described(
    page: Page, alarm: dict[str, Any], description: dict[str, Any], method: str, path: str
) -> None:
    """Its roles let in whom they say and nobody else; its status and JSON are among those described."""
    operation = OPERATIONS[method, path]
    told = description["paths"][path][method.lower()]
    place = (
        path.replace("{name}", "gate")
        .replace("{id}", alarm["key"])
        .replace("{path}", "js/app.js")
        .replace("{file}", "x.mp4")
    )
    place += QUERIES.get(operation.id, "")
    body = BODIES[operation.body] if method == "POST" else None
    roles = [found["token"][0] for found in told["security"] if "token" in found]
    assert roles == ([operation.role] if operation.role else [])
    if operation.role:
        assert ask(page, method, place, "", body).status in (401, 303)
    if operation.role == "operator":
        assert ask(page, method, place, VIEWER, body).status == 403
    if operation.id == "stream":  # it does not end by itself
        assert ask(page, "HEAD", place, VIEWER, None).headers["content-type"].startswith("text/event-stream")
        return
    answer = ask(
        page, method, place, OPERATOR if operation.role == "operator" else VIEWER if operation.role else "", body
    )
    response = told["responses"].get(str(answer.status))
    assert response is not None, (answer.status, answer.body[:300])
    media = answer.headers.get("content-type", "").partition(";")[0]
    content = response.get("content", {})
    assert media in content or "*/*" in content, (media, answer.body[:300])
    if media == "application/json" and media in content:
        schema = {**content[media]["schema"], "components": description["components"]}
        jsonschema.Draft202012Validator(schema).validate(answer.json())


def test_most_operations_were_asked_successfully(page: Page, alarm: dict[str, Any]) -> None:
    """So that the test before this one did not look at refusals only."""
    for path in ("/api/run", "/api/alarms", f"/api/alarms/{alarm['key']}", f"/api/alarms/{alarm['key']}/around"):
        assert ask(page, "GET", path, VIEWER, None).status == 200
    for path in ("/api/site/gate", "/api/replay/gate", "/api/picture/gate.jpg", "/metrics", "/openapi.json"):
        assert ask(page, "GET", path, VIEWER, None).status == 200


def test_a_generated_client_reads_cameras_and_events_and_posts_a_verdict(
    page: Page, alarm: dict[str, Any], description: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("openapi_python_client", reason="openapi-python-client is not installed")
    document, config, target = (
        tmp_path / "openapi.json",
        tmp_path / "config.yaml",
        tmp_path / "made" / "detector_client",
    )
    target.parent.mkdir()
    document.write_text(json.dumps(description))
    pictures = {media: "application/octet-stream" for media in ("image/jpeg", "video/mp4", "*/*")}
    config.write_text(json.dumps({"post_hooks": [], "content_type_overrides": pictures}))
    command = [sys.executable, "-m", "openapi_python_client", "generate", "--path", str(document), "--meta", "none"]
    command += ["--output-path", str(target), "--config", str(config), "--fail-on-warning"]
    made = subprocess.run(command, capture_output=True, text=True, timeout=240)
    assert made.returncode == 0, made.stdout + made.stderr
    monkeypatch.syspath_prepend(str(target.parent))
    client_module = importlib.import_module("detector_client")
    api = {
        name: importlib.import_module(f"detector_client.api.{tag}.{name}")
        for tag, name in (
            ("cameras", "get_run"),
            ("alarms", "list_alarms"),
            ("alarms", "get_alarm"),
            ("alarms", "judge"),
        )
    }
    models = importlib.import_module("detector_client.models")
    base = f"http://127.0.0.1:{page.server.port}"
    with client_module.AuthenticatedClient(base_url=base, token=OPERATOR) as client:
        run = api["get_run"].sync(client=client)
        assert [camera.name for camera in run.cameras] == ["gate", "yard"] and run.may_write is True
        listed = api["list_alarms"].sync(client=client, camera="gate")
        found = next(item for item in listed.alarms if item.key == alarm["key"])
        assert found.peak_score == alarm["peak_score"] and found.start_utc.year >= 2026
        detail = api["get_alarm"].sync(alarm["key"], client=client)
        assert detail.windows and detail.windows[0].raw > 0.5
        verdict = models.Verdict(verdict=models.VerdictVerdict.FALSE, note="a cat", by="generated")
        judged = api["judge"].sync(alarm["key"], client=client, body=verdict)
        assert judged.verdict.verdict == "false" and judged.verdict.author == "http:ann"
    with client_module.AuthenticatedClient(base_url=base, token=VIEWER) as client:
        refused = api["judge"].sync_detailed(alarm["key"], client=client, body=verdict)
        assert refused.status_code == 403 and isinstance(refused.parsed, models.Error)
    again = ask(page, "GET", f"/api/alarms/{alarm['key']}", VIEWER, None).json()
    assert again["verdict"]["note"] == "a cat"
