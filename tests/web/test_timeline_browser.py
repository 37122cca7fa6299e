"""The timeline in a real browser: axes, cursor by pointer and keyboard, recordings and clips, phone and dark."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from video_rig import make_video

from .browser_rig import chromium, needs_chromium, serious_issues, shot, sideways, tab_of

needs_chromium()
pytest.importorskip("starlette", reason="the extra 'web' is not installed")
pytest.importorskip("uvicorn", reason="the extra 'web' is not installed")

from .conftest import Page, running, until  # noqa: E402

pytestmark = pytest.mark.integration


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with chromium() as found:
        yield found


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    """A camera with an alarm and its clip now, scores of the last ten hours, and a recording three hours ago."""
    folder = tmp_path_factory.mktemp("timeline")
    recordings = folder / "recordings"
    with running(folder, recording={"directory": recordings}) as found:
        alarm = found.alarm()
        until(lambda: found.ask(f"/api/alarms/{alarm['key']}").json()["clip"], "its clip")
        now_s = time.time()
        for minute in range(600):
            if not 200 < minute < 260:  # an hour without scores
                score = 0.15 + 0.1 * ((minute // 7) % 5) + (0.35 if minute % 97 < 3 else 0.0)
                found.live_state.minutes.add("gate", now_s - 60.0 * minute, score, score > 0.6)
        begun_s = now_s - 3 * 3600
        path = recordings / "gate" / time.strftime("%Y%m%dT%H%M%SZ.mp4", time.gmtime(begun_s))
        path.parent.mkdir(parents=True)
        make_video(path, 15)
        os.utime(path, (begun_s + 15, begun_s + 15))
        yield found


def test_the_cursor_shows_what_was_kept_of_its_moment(browser: Any, page: Page) -> None:
    with tab_of(browser, page.server.url) as tab:
        tab.goto("/timeline?camera=gate&hours=24")
        tab.wait_for_selector("ol.marks button")
        label = tab.locator("canvas.timeline").get_attribute("aria-label")
        assert label.startswith("gate: 1 alarms, highest score 1.00") and "1 recorded spans" in label
        clip = tab.wait_for_selector("video").get_attribute("src")  # the cursor begins at the newest alarm
        assert clip.endswith("/clip.mp4")
        found = page.ask("/api/timeline/gate").json()["recorded"][0]["files"][0]
        tab.get_by_role("slider", name="Moment").evaluate(
            "(s, at) => { s.value = at; s.dispatchEvent(new Event('input')); }", (found[1] + 9) * 1000
        )
        tab.wait_for_function("() => document.querySelector('video').src.includes('/api/recordings/gate/')")
        tab.wait_for_function("() => Math.abs(document.querySelector('video').currentTime - 9) < 1.1")
        shot(tab, "timeline-recording-1280")
        tab.get_by_role("slider", name="Moment").focus()
        tab.keyboard.press("ArrowRight")
        tab.wait_for_function("() => Math.abs(document.querySelector('video').currentTime - 10) < 1.1")
        at = parse_qs(urlsplit(tab.url).query)["at"]
        tab.reload()
        tab.wait_for_function("() => document.querySelector('video')?.src.includes('/api/recordings/gate/')")
        assert parse_qs(urlsplit(tab.url).query)["at"] == at
        box = tab.locator("canvas.timeline").bounding_box()
        tab.mouse.click(box["x"] + 0.3 * box["width"], box["y"] + 50)
        tab.wait_for_selector("text=No recording for this moment.")
        tab.wait_for_selector("output:has-text('nothing was scored')")
        tab.locator("ol.marks button").first.click()
        tab.wait_for_function("() => document.querySelector('video')?.src.endsWith('/clip.mp4')")
        tab.locator("ol.marks a").first.click()
        tab.wait_for_url("**/alarms/*?camera=gate")


def test_earlier_and_later(browser: Any, page: Page) -> None:
    with tab_of(browser, page.server.url) as tab:
        tab.goto("/timeline?camera=yard&hours=6")
        tab.wait_for_selector("ol.marks button")
        assert tab.get_by_role("button", name="Later ›").is_disabled()
        tab.get_by_role("button", name="‹ Earlier").click()
        tab.wait_for_selector("ol.marks >> text=none")
        assert "until" in parse_qs(urlsplit(tab.url).query)
        tab.get_by_role("button", name="Now").click()
        tab.wait_for_selector("ol.marks button")


@pytest.mark.parametrize(("width", "scheme"), [(1280, "light"), (390, "dark")])
def test_the_timeline_is_accessible_and_fits(browser: Any, page: Page, width: int, scheme: str) -> None:
    with tab_of(browser, page.server.url, width=width, color_scheme=scheme, bypass_csp=True) as tab:
        tab.goto("/timeline?camera=gate")
        tab.wait_for_selector("ol.marks button")
        tab.wait_for_selector(".link.on")
        shot(tab, f"timeline-{width}-{scheme}")
        assert not serious_issues(tab) and sideways(tab) <= 0
