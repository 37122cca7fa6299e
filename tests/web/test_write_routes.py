"""Who may write on the page, and what an operator writes: roles, verdicts, misses."""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from stream_detector.config import WebConfig
from stream_detector.errors import ConfigError
from stream_detector.web.auth import read_operators

from .conftest import Page, running

VIEWER, ANN, BO = "viewer-token-0123456789", "operator-token-of-ann-01", "operator-token-of-bo-012"


def secret(path: Path, text: str) -> Path:
    path.write_text(text)
    path.chmod(0o600)
    return path


def bearer(token: str) -> dict[str, str]:
    return {"authorization": f"Bearer {token}"}


def journalled(folder: Path, kind: str) -> list[dict[str, Any]]:
    with closing(sqlite3.connect(folder / "ledger.sqlite3")) as db:
        rows = db.execute("SELECT body FROM events WHERE topic LIKE ? ORDER BY n", (f"v1/{kind}/%",)).fetchall()
    return [json.loads(text) for (text,) in rows]


def writes(page: Page, alarm: dict[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    return [
        (f"/api/alarms/{alarm['key']}/ack", {"note": "seen"}),
        (f"/api/alarms/{alarm['key']}/verdict", {"verdict": "false"}),
        ("/api/cameras/gate/miss", {"at_s": 1.0}),
        ("/api/control", {"mode": "away"}),
        ("/api/cameras/gate/control", {"mute_s": 60}),
        ("/api/reload", {}),
        ("/api/tune/gate/write", {"threshold": 0.5, "smoothing": {"kind": "none"}}),
    ]


def test_on_loopback_too_nobody_writes_unless_it_is_allowed(tmp_path: Path) -> None:
    with running(tmp_path, access={"local_writes": False}) as page:
        alarm = page.alarm()
        run = page.ask("/api/run").json()
        assert (run["may_write"], run["can_sign_in"]) == (False, False)
        for path, body in writes(page, alarm):
            answer = page.ask(path, body)
            assert answer.status == 403 and "may read but not write" in answer.json()["error"], path
        tuned = page.ask("/api/tune/gate", {"threshold": 0.5, "smoothing": {"kind": "none"}})
        assert tuned.status == 200  # replaying scores writes nothing
        assert journalled(tmp_path, "ack") == journalled(tmp_path, "verdict") == []


def test_viewers_read_and_operators_write_under_their_names(tmp_path: Path) -> None:
    web = WebConfig(
        bind="127.0.0.1:0",
        token_file=secret(tmp_path / "viewer", VIEWER),
        operator_token_file=secret(tmp_path / "operators", f"# who may write\nann {ANN}\nbo {BO}\n"),
    )
    with running(tmp_path, web=web, access={"local_writes": False}) as page:
        alarms = page.ask("/api/alarms", headers=bearer(VIEWER))
        assert alarms.status == 200 and page.ask("/api/alarms").status == 401
        for word, token in (("true", ANN), ("benign", BO)):
            for alarm in alarms.json()["alarms"]:
                path = f"/api/alarms/{alarm['key']}/verdict"
                assert page.ask(path, {"verdict": word}).status == 401
                assert page.ask(path, {"verdict": word}, headers=bearer(VIEWER)).status == 403
                assert page.ask(path, {"verdict": word}, headers=bearer(token)).status == 200
        assert page.ask("/api/run", headers=bearer(ANN)).json()["may_write"] is True
        assert page.ask("/api/run", headers=bearer(VIEWER)).json()["may_write"] is False
        session = page.ask("/login", {"token": BO}).headers["set-cookie"].split(";")[0]
        miss = page.ask("/api/cameras/gate/miss", {"at_s": 1.0, "by": "Bo"}, headers={"cookie": session})
        assert miss.status == 200 and miss.json()["author"] == "http:bo" and miss.json()["verdict"] == "missed"
        authors = {body["author"] for body in journalled(tmp_path, "verdict")}
        assert authors <= {"http:ann", "http:bo"} and "http:bo" in authors


def test_a_session_of_a_viewer_does_not_write(tmp_path: Path) -> None:
    web = WebConfig(
        bind="127.0.0.1:0",
        token_file=secret(tmp_path / "viewer", VIEWER),
        operator_token_file=secret(tmp_path / "operators", ANN),
    )
    with running(tmp_path, web=web, access={"local_writes": False}) as page:
        session = page.ask("/login", {"token": VIEWER}).headers["set-cookie"].split(";")[0]
        assert page.ask("/api/alarms", headers={"cookie": session}).status == 200
        assert page.ask("/api/cameras/gate/miss", {"at_s": 1.0}, headers={"cookie": session}).status == 403
        raised = {"cookie": session, **bearer(ANN)}
        assert page.ask("/api/cameras/gate/miss", {"at_s": 1.0}, headers=raised).json()["author"] == "http:operator"


def test_an_operator_sets_mode_mute_and_threshold_and_reads_the_file_again(tmp_path: Path) -> None:
    with running(tmp_path) as page:
        answer = page.ask("/api/control", {"mode": "away", "by": "Ann"})
        assert answer.status == 200 and answer.json()["mode"] == "away" and answer.json()["author"]
        told = page.ask("/api/cameras/gate/control", {"mute_s": 60, "threshold": 0.9}).json()
        assert told["camera"] == "gate" and told["threshold"] == 0.9 and told["muted_until_utc"]
        for path, body in (
            ("/api/control", {"mode": "holiday"}),
            ("/api/control", {}),
            ("/api/cameras/gate/control", {"mode": "home"}),
            ("/api/cameras/gate/control", {"threshold": 7}),
            ("/api/reload", {}),  # this run has no file
        ):
            answer = page.ask(path, body)
            assert answer.status in (400, 503) and answer.json()["error"], path
        assert [body["mode"] for body in journalled(tmp_path, "control")] == ["away", None]


def test_a_verdict_shows_is_filtered_exported_and_survives_a_restart(tmp_path: Path) -> None:
    with running(tmp_path, ("gate",)) as page:
        alarm = page.alarm()
        before = [body for body in journalled(tmp_path, "alarm") if body["id"] == alarm["id"]]
        path = f"/api/alarms/{alarm['key']}/verdict"
        for word in ("true", "false"):
            told = page.ask(path, {"verdict": word, "note": "=a cat", "by": "Ann"})
            assert told.status == 200 and told.json()["verdict"]["verdict"] == word
        assert page.ask(path, {"verdict": "maybe"}).status == 400
        assert page.ask("/api/alarms?state=judged").json()["alarms"][0]["key"] == alarm["key"]
        assert alarm["key"] not in {a["key"] for a in page.ask("/api/alarms?state=unjudged").json()["alarms"]}
        assert (
            ",false," in page.ask("/api/alarms.csv").body.decode()
            and "'=a cat" in page.ask("/api/alarms.csv").body.decode()
        )
        after = [body for body in journalled(tmp_path, "alarm") if body["id"] == alarm["id"]]
        assert after[: len(before)] == before  # no event was changed
    with running(tmp_path, ("gate",), steps=("stall",)) as page:
        assert page.ask(f"/api/alarms/{alarm['key']}").json()["verdict"]["verdict"] == "false"


@pytest.mark.parametrize("text", ["", "# only a remark\n", "ann short", f"a/b {ANN}", f"ann {ANN}\nann {BO}"])
def test_a_malformed_file_of_operators_is_refused(tmp_path: Path, text: str) -> None:
    with pytest.raises(ConfigError):
        read_operators(secret(tmp_path / "operators", text))
    open_to_all = secret(tmp_path / "open", f"ann {ANN}\n")
    open_to_all.chmod(0o644)
    with pytest.raises(ConfigError, match="chmod 600"):
        read_operators(open_to_all)
