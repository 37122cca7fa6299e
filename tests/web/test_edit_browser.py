"""Regions and schedule drawn and chosen in a real browser, by pointer and by keyboard."""

from __future__ import annotations

import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from .browser_rig import chromium, needs_chromium, serious_issues, shot, sideways, tab_of

needs_chromium()
pytest.importorskip("starlette", reason="the extra 'web' is not installed")
pytest.importorskip("uvicorn", reason="the extra 'web' is not installed")

from .conftest import Page, running, until  # noqa: E402
from .test_settings_routes import TEXT, loader  # noqa: E402

pytestmark = pytest.mark.integration


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with chromium() as found:
        yield found


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    folder: Path = tmp_path_factory.mktemp("edit")
    toml = folder / "cameras.toml"
    toml.write_text(TEXT)
    steps = (*("frame",) * 70, "stall")
    with running(folder, steps=steps, config_path=toml, reload=loader(folder, toml)) as found:
        until(lambda: found.ask("/api/picture/gate.jpg").status == 200, "a picture of the gate")
        until(lambda: found.ask("/api/picture/yard.jpg").status == 200, "a picture of the yard")
        yield found


@pytest.mark.parametrize(("width", "scheme"), [(1280, "light"), (390, "dark")])
def test_the_editor_is_accessible_and_fits(browser: Any, page: Page, width: int, scheme: str) -> None:
    with tab_of(browser, page.server.url, width=width, color_scheme=scheme, bypass_csp=True) as tab:
        tab.goto("/camera/yard/edit")
        tab.wait_for_function("() => document.querySelector('.sketch img')?.naturalWidth > 0")
        tab.wait_for_selector(".link.on")
        tab.get_by_role("button", name="Add a rule").click()
        shot(tab, f"edit-{width}-{scheme}")
        assert not serious_issues(tab) and sideways(tab) <= 0


def test_a_mask_is_drawn_and_a_rule_chosen_and_both_take_effect(browser: Any, page: Page) -> None:
    page.sources["gate"].release()  # its film ends; the yard's goes on, and so does the run
    toml = page.folder / "cameras.toml"
    with tab_of(browser, page.server.url) as tab:
        tab.goto("/camera/gate")
        tab.get_by_role("link", name="Regions and schedule").click()
        tab.wait_for_function("() => document.querySelector('.sketch img')?.naturalWidth > 0")
        box = tab.locator(".sketch svg").bounding_box()
        for x, y in ((0.2, 0.2), (0.8, 0.2), (0.5, 0.6)):
            tab.mouse.click(box["x"] + x * box["width"], box["y"] + y * box["height"])
        tab.mouse.move(box["x"] + 0.5 * box["width"], box["y"] + 0.6 * box["height"])
        tab.mouse.down()
        tab.mouse.move(box["x"] + 0.5 * box["width"], box["y"] + 0.9 * box["height"])
        tab.mouse.up()
        tab.get_by_role("button", name="New ignored region").click()
        for place, (x, y) in enumerate(((0, 0), (10, 0), (10, 10)), 1):  # by keyboard alone
            tab.get_by_role("button", name="Add a point").press("Enter")
            tab.get_by_label(f"Ignored region 1, point {place}, from the left in percent").fill(str(x))
            tab.get_by_label(f"Ignored region 1, point {place}, from the top in percent").fill(str(y))
        tab.get_by_role("button", name="Add a rule").click()
        tab.get_by_label("Threshold").fill("0.8")
        tab.get_by_label("Mute").select_option("")
        text = tab.get_by_label("The same as text for the configuration file")
        tab.wait_for_function("() => document.querySelector('textarea').value.includes('threshold = 0.8')")
        shown = tomllib.loads(text.input_value())["cameras"]["gate"]
        tab.get_by_role("button", name="Save and apply").click()
        tab.wait_for_selector("text=Written to cameras.toml; in effect: mask, ignore, schedule")
        shot(tab, "edit-written-1280")
        written = tomllib.loads(toml.read_text())["cameras"]["gate"]
        assert written == {"source": "gate.mp4", **shown}
        assert written["mask"][2] == pytest.approx([0.5, 0.9], abs=0.01)
        assert written["ignore"] == [[[0, 0], [0.1, 0], [0.1, 0.1]]]
        assert written["schedule"] == [{"days": "mon-fri", "from": "08:00", "to": "18:00", "threshold": 0.8}]
        held = lambda: page.ask("/api/cameras/gate/settings").json()["mask"]  # noqa: E731
        until(lambda: held() == written["mask"], "the camera is opened again with its mask")
        tab.locator(".points button").first.click()  # two points are no polygon
        tab.get_by_role("button", name="Save and apply").click()
        tab.wait_for_selector("[role=alert]:has-text('at least 3 points')")
    assert tomllib.loads(toml.read_text())["cameras"]["gate"] == written
