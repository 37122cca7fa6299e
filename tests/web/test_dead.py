"""What is dead looks dead, in a real browser: a lost connection, a detector that hangs, a camera; alarms come first."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("starlette", reason="the extra 'web' is not installed")
pytest.importorskip("uvicorn", reason="the extra 'web' is not installed")
sync_api = pytest.importorskip("playwright.sync_api", reason="Playwright is not installed: .ci/install-web-test.sh")

from stream_detector.config import WebConfig  # noqa: E402
from stream_detector.types import CameraStatus, Preview  # noqa: E402
from stream_detector.web.server import WebServer  # noqa: E402

from .browser_rig import CHROMIUM, FLAGS, WAIT_MS  # noqa: E402
from .conftest import Page, running, until  # noqa: E402

NAMES = ("entrance", "gate", "stairs", "yard")
FIRST = "() => document.querySelector('article.card h2').textContent"
pytestmark = pytest.mark.integration


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with sync_api.sync_playwright() as play:
        chromium = play.chromium.launch(executable_path=str(CHROMIUM), args=FLAGS)
        yield chromium
        chromium.close()


def settled(page: Page, names: tuple[str, ...]) -> None:
    """Every window is decided on; from here on the test says what the cameras do."""
    until(lambda: all(s.stalled.is_set() for s in page.sources.values()), "the last frame")
    for name in names:
        page.alarm(name)
        page.live_state.preview(name, Preview(1.0, np.full((90, 160, 3), 90, np.uint8)))
        page.run.telemetry.status(CameraStatus(name, name, "online", ""))


def look(browser: Any, page: Page, scheme: str = "light") -> Any:
    tab = browser.new_context(base_url=page.server.url, color_scheme=scheme, bypass_csp=True).new_page()
    tab.set_default_timeout(WAIT_MS)
    tab.goto("/")
    tab.wait_for_selector(".link.on")
    tab.wait_for_selector(".face img:not([hidden])")
    return tab


def card(name: str, rest: str = "") -> str:
    return f'article[aria-label="Camera {name}"]{rest}'


def serious(tab: Any) -> list[Any]:
    axe = os.environ.get("STREAM_DETECTOR_AXE", "")
    if not Path(axe).is_file():
        return []
    tab.add_script_tag(path=axe)
    found = tab.evaluate("() => axe.run(document).then((r) => r.violations)")
    return [(v["id"], [n["html"][:160] for n in v["nodes"]]) for v in found if v["impact"] in ("serious", "critical")]


def begin_alarm(page: Page, camera: str, kind: str = "start") -> None:
    page.run.telemetry.event(
        {"id": "f" * 32, "camera": camera, "type": kind, "start_s": 9.0, "peak_score": 0.9, "threshold": 0.5}
    )


@pytest.fixture
def page(tmp_path: Path) -> Iterator[Page]:
    with running(tmp_path, NAMES, telemetry={"live_age_s": 3.0}, capture={"stall_after_s": 3600.0}) as found:
        settled(found, NAMES)
        yield found


def test_a_dead_camera_is_grey_and_says_how_old_its_picture_is(browser: Any, page: Page) -> None:
    tab = look(browser, page)
    page.run.telemetry.status(CameraStatus("stairs", "stairs", "offline", "no route to host"))
    tab.wait_for_selector(card("stairs", " .face.old"))
    tab.wait_for_selector(card("stairs", " .age:has-text('last picture')"))
    assert "grayscale(1)" in tab.eval_on_selector(card("stairs", " img"), "(img) => getComputedStyle(img).filter")
    assert tab.locator(card("stairs", " .chip")).inner_text() == "offline"
    assert "no alarm on the working cameras" in tab.locator(".summary").inner_text()
    assert tab.locator("#banner").is_hidden()
    page.live_state.preview("stairs", Preview(2.0, np.full((90, 160, 3), 90, np.uint8)))
    page.run.telemetry.status(CameraStatus("stairs", "stairs", "online", ""))
    tab.wait_for_selector(card("stairs", " .face:not(.old)"))
    tab.context.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_detector_that_hangs_is_told_and_nothing_looks_watched(browser: Any, page: Page, scheme: str) -> None:
    go_on = threading.Event()
    tab = look(browser, page, scheme)
    page.run.pipeline.decision_queue.submit(lambda: go_on.wait(120))
    try:
        tab.wait_for_selector("#banner:has-text('detector hangs')")
        tab.wait_for_selector(card("gate", " .chip:has-text('not monitored')"))
        assert tab.locator(".face.old").count() == len(NAMES) and page.ask("/livez").status == 503
        assert "alarm state unknown" in tab.locator(".summary").inner_text()
        assert not serious(tab)
    finally:
        go_on.set()
    tab.wait_for_selector("#banner", state="hidden")
    tab.wait_for_selector(card("gate", " .chip:has-text('online')"))
    tab.context.close()


def test_a_lost_connection_greys_everything_until_it_is_back(browser: Any, page: Page) -> None:
    tab = look(browser, page)
    begin_alarm(page, "yard")
    tab.wait_for_selector(card("yard", " .chip:has-text('ALARM')"))
    port = page.server.port
    page.server.close()
    tab.wait_for_selector("#banner:has-text('connection to the detector is lost')")
    tab.wait_for_selector(card("yard", " .chip:has-text('was in alarm')"))
    tab.wait_for_selector(card("gate", " .chip:has-text('unknown')"))
    tab.wait_for_selector(card("gate", " .age:has-text('last picture')"))
    assert tab.locator(".face.old").count() == len(NAMES)
    assert tab.locator(".summary").inner_text() == "alarm state unknown"
    assert not serious(tab)
    with WebServer(WebConfig(bind=f"127.0.0.1:{port}"), page.run, page.live_state):
        tab.wait_for_selector("#banner", state="hidden")
        tab.wait_for_selector(card("gate", " .face:not(.old)"))
        tab.context.close()


def test_a_server_that_falls_silent_is_noticed_though_the_connection_stands(browser: Any, page: Page) -> None:
    tab = look(browser, page)
    go_on = threading.Event()
    loop = page.server._loop
    assert loop is not None
    loop.call_soon_threadsafe(go_on.wait, 120)  # as if the process were stopped
    try:
        tab.wait_for_selector("#banner:has-text('sends nothing')")
        tab.wait_for_selector(card("gate", " .chip:has-text('unknown')"))
    finally:
        go_on.set()
    tab.wait_for_selector("#banner", state="hidden")
    tab.context.close()


def test_alarming_cameras_come_first_from_any_page(browser: Any, tmp_path: Path) -> None:
    names = tuple(f"camera-{i:02d}" for i in range(20))
    with running(tmp_path, names, steps=(*("frame",) * 40, "stall"), capture={"stall_after_s": 3600.0}) as page:
        for name in names:
            page.live_state.preview(name, Preview(1.0, np.full((90, 160, 3), 90, np.uint8)))
        tab = look(browser, page)
        assert tab.evaluate(FIRST) == "camera-00" and tab.locator(card("camera-18")).count() == 0
        begin_alarm(page, "camera-18")
        tab.wait_for_function(f"() => ({FIRST})() === 'camera-18'")
        tab.wait_for_selector(card("camera-18", " img:not([hidden])"), state="attached")
        begin_alarm(page, "camera-05")
        tab.wait_for_function("() => document.querySelectorAll('article.card h2')[1].textContent === 'camera-05'")
        assert tab.locator("article.card").count() == 16
        for name in ("camera-18", "camera-05"):
            begin_alarm(page, name, "end")
        tab.wait_for_function(f"() => ({FIRST})() === 'camera-00'")
        tab.context.close()
