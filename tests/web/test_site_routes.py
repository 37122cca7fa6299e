"""A camera's site on the page: what is promised and in service, reports, and commands for operators only."""

from __future__ import annotations

from pathlib import Path

from stream_detector.adaptation.gate import Side, Verdict
from stream_detector.adaptation.overlay import Overlay
from stream_detector.adaptation.report import write_report
from stream_detector.adaptation.service import Service

from .conftest import running, until


def an_overlay(bundle: str, accepted: bool) -> Overlay:
    facts = {"gate": {"accepted": accepted, "sentence": "as <asked>"}}
    return Overlay(bundle, "gate", 0.3 if accepted else 0.2, 1.0, None, None, facts)


def put(folder: Path, bundle: str, accepted: bool) -> str:
    """An overlay and its report on disk."""
    overlay, now = an_overlay(bundle, accepted), Overlay(bundle, "", 0.5, 1.0)
    side = Side(1, 1, 0, 0, 0, 1.0, 0.0, None, 0.9)
    write_report(folder / "site" / "overlays", overlay, now, Verdict(accepted, "win", "<b>won</b>", side, side, ()), ())
    overlay.save(Service(folder / "site").path(overlay.fingerprint))
    return overlay.fingerprint


def test_an_operator_promotes_and_rolls_back_on_the_page(tmp_path: Path) -> None:
    with running(tmp_path, ("gate",), site={"keep": True}) as page:
        page.alarm()
        bundle = page.run.bundle.fingerprint
        good, bad = put(tmp_path, bundle, True), put(tmp_path, bundle, False)
        found = page.ask("/api/site/gate").json()
        assert found["kept"] and found["in_service"] is None and found["alarms"]
        assert {o["overlay"]: o["accepted"] for o in found["overlays"]} == {good: True, bad: False}
        report = page.ask(f"/api/reports/{good}")
        assert report.status == 200 and b"&lt;b&gt;won" in report.body and b"<b>won" not in report.body
        assert "script-src" not in report.headers["content-security-policy"]
        refused = page.ask("/api/site/gate/command", {"command": "promote", "overlay": bad})
        assert refused.status == 503 and "as <asked>" in refused.json()["error"]
        told = page.ask("/api/site/gate/command", {"command": "promote", "overlay": good, "by": "Ann"})
        assert told.status == 200 and told.json()["author"] == "http:local"
        assert page.ask("/api/site/gate").json()["in_service"] == good
        assert page.ask("/api/site/gate/command", {"command": "rollback"}).status == 200
        assert page.ask("/api/site/gate").json()["in_service"] is None
        assert page.ask("/api/site/gate/command", {"command": "reboot"}).status == 400
        assert page.ask("/api/site/gate/command", {"command": "rollback", "path": "/etc"}).status == 400
        for path in ("/api/site/attic", "/api/reports/..%2f..%2fsecret", f"/api/reports/{'0' * 16}"):
            assert page.ask(path).status in (400, 404), path
        until(lambda: page.ask("/site/gate").status == 200, "the page of the view")


def test_a_reader_sees_the_site_and_changes_nothing(tmp_path: Path) -> None:
    with running(tmp_path, ("gate",), site={"keep": True}, access={"local_writes": False}) as page:
        good = put(tmp_path, page.run.bundle.fingerprint, True)
        assert page.ask("/api/site/gate").status == 200
        assert page.ask("/api/site/gate/command", {"command": "promote", "overlay": good}).status == 403
        assert page.ask("/api/site/gate").json()["in_service"] is None


def test_a_run_without_a_site_says_so(tmp_path: Path) -> None:
    with running(tmp_path, ("gate",), site={"keep": False}) as page:
        found = page.ask("/api/site/gate").json()
        assert not found["kept"] and found["rate"] is None and found["overlays"] == []
        command = page.ask("/api/site/gate/command", {"command": "rollback"})
        assert command.status == 503 and "site" in command.json()["error"]
