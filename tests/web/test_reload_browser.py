"""The page while cameras come and go: the button of operators, and every open page."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from .browser_rig import chromium, needs_chromium, serious_issues, shot, sideways, tab_of

needs_chromium()
pytest.importorskip("starlette", reason="the extra 'web' is not installed")
pytest.importorskip("uvicorn", reason="the extra 'web' is not installed")

from stream_detector.testing import FakeSource  # noqa: E402

from .conftest import make_config, running, until  # noqa: E402

pytestmark = pytest.mark.integration


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with chromium() as found:
        yield found


def test_cameras_appear_and_disappear_on_the_open_page(browser: Any, tmp_path: Path) -> None:
    toml = tmp_path / "cameras.toml"
    toml.write_text('[cameras]\ngate = "gate.mp4"\n')
    current = [("gate", "yard")]
    load = lambda: make_config(tmp_path, current[0])  # noqa: E731
    with running(tmp_path, steps=(*("frame",) * 70, "stall"), config_path=toml, reload=load) as page:
        cards = lambda tab: [card.get_attribute("aria-label") for card in tab.locator("article.card").all()]  # noqa: E731
        with tab_of(browser, page.server.url, bypass_csp=True) as tab, tab_of(browser, page.server.url) as other:
            tab.goto("/")
            other.goto("/camera/yard")
            other.wait_for_selector("article.card")
            tab.wait_for_function("() => document.querySelectorAll('article.card').length === 2")
            page.sources["hall"] = FakeSource((*("frame",) * 70, "stall"))
            current[0] = ("gate", "hall")
            page.sources["yard"].release()
            tab.get_by_role("button", name="Reload cameras").click()
            tab.wait_for_selector("text=added: hall · removed: yard")
            tab.wait_for_selector("article.card[aria-label='Camera hall']")
            tab.wait_for_function("() => document.querySelectorAll('article.card').length === 2")
            assert cards(tab) == ["Camera gate", "Camera hall"]
            tab.wait_for_selector("text=added: hall · removed: yard")  # still there after the view was drawn anew
            tab.wait_for_function("() => document.activeElement.textContent === 'Reload cameras'")
            tab.wait_for_selector("article[aria-label='Camera hall'] img:not([hidden])")
            other.wait_for_selector("text=There is no camera “yard”.")
            shot(tab, "reload-1280")
            assert not serious_issues(tab)
            tab.set_viewport_size({"width": 390, "height": 800})
            shot(tab, "reload-390")
            assert sideways(tab) <= 0
            assert page.ask("/api/replay/yard").status == 400 and page.ask("/api/replay/hall").status == 200
        assert page.ask("/api/cameras/yard/control", {"mute_s": 5}).status == 400
        assert page.ask("/api/cameras/hall/control", {"mute_s": 5}).status == 200
        text = until(lambda: (t := page.ask("/metrics").body.decode()) and 'camera="hall"' in t and t, "its metrics")
        assert 'camera="yard"' not in text
        page.sources["hall"].release()


def test_a_run_without_a_file_has_no_button(browser: Any, tmp_path: Path) -> None:
    with running(tmp_path, ("gate",), steps=("stall",)) as page, tab_of(browser, page.server.url) as tab:
        tab.goto("/")
        tab.wait_for_selector("article.card")
        assert tab.get_by_role("button", name="Reload cameras").count() == 0
