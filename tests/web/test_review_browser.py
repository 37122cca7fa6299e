"""The review of alarms in a real browser: keys, verdicts, filters that stay in the address, phone and dark."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from .browser_rig import chromium, needs_chromium, serious_issues, shot, sideways, tab_of

needs_chromium()
pytest.importorskip("starlette", reason="the extra 'web' is not installed")
pytest.importorskip("uvicorn", reason="the extra 'web' is not installed")

from .conftest import Page, running, until  # noqa: E402
from .test_review import alarm_body  # noqa: E402

pytestmark = pytest.mark.integration
MANY = 60  # more than the list shows at once


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with chromium() as found:
        yield found


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    """A journal with alarms of an earlier run and of this one, some of them with a kind."""
    folder = tmp_path_factory.mktemp("review")
    with running(folder, steps=(*("frame",) * 600, "stall")) as first:
        ended = lambda: first.ask("/api/alarms?camera=gate&state=ended").json()["alarms"]  # noqa: E731
        until(lambda: len(ended()) >= 2, "two alarms of the gate")
    with running(folder, steps=(*("frame",) * 20, "stall")) as found:
        for number in range(1, MANY + 1):
            extra = {"kind": "fight" if number % 2 else "crash", "severity": "low"}
            found.live_state.event(alarm_body(number, camera="yard", **extra))
        until(lambda: len(found.ask("/api/alarms?kind=fight").json()["alarms"]) == MANY // 2, "the alarms with a kind")
        yield found


def test_a_review_by_keys_judges_all_alarms_of_an_earlier_run(browser: Any, page: Page) -> None:
    alarms = page.ask("/api/alarms?camera=gate").json()["alarms"]
    with tab_of(browser, page.server.url) as tab:
        tab.goto("/alarms?camera=gate&verdict=none")
        tab.wait_for_selector("ol.list a")
        tab.keyboard.press("j")  # the first of the list gets the focus
        tab.keyboard.press("Enter")
        for number, alarm in enumerate(alarms):
            tab.wait_for_url(f"**/alarms/{alarm['key']}?*")
            assert parse_qs(urlsplit(tab.url).query) == {"camera": ["gate"], "verdict": ["none"]}
            left = len(alarms) - 1 - number
            tab.wait_for_function(f"() => document.querySelector('.place')?.textContent.includes(', {left} older')")
            assert "gate, not judged" in tab.locator(".place").inner_text()
            if number == 0:
                tab.get_by_label("Show the next alarm after a verdict").check()
                tab.locator("h1").click()
            tab.keyboard.press("b")
        tab.wait_for_selector("[data-verdict=benign][aria-pressed=true]")  # the last one stays open
        told = page.ask("/api/alarms?camera=gate&verdict=benign").json()["alarms"]
        assert [alarm["key"] for alarm in told] == [alarm["key"] for alarm in alarms]
        tab.keyboard.press("j")
        tab.wait_for_selector("text=No older alarm matches: gate, not judged")
        tab.keyboard.press("l")
        tab.wait_for_url("**/alarms?camera=gate&verdict=none")
        tab.wait_for_selector("text=No alarm matches")


def test_the_list_filters_by_kind_only_where_alarms_have_one(browser: Any, page: Page, tmp_path: Path) -> None:
    with tab_of(browser, page.server.url) as tab:
        tab.goto("/alarms")
        tab.get_by_label("Kind").select_option("crash")
        tab.wait_for_url("**/alarms?kind=crash")
        tab.wait_for_function(f"() => document.querySelectorAll('ol.list li').length === {MANY // 2}")
        tab.get_by_label("Verdict").select_option("none")
        tab.wait_for_url("**/alarms?verdict=none&kind=crash")
        tab.get_by_label("Severity").select_option("low")
        tab.reload()  # the address holds it all
        tab.wait_for_function(f"() => document.querySelectorAll('ol.list li').length === {MANY // 2}")
        assert tab.get_by_label("Kind").input_value() == "crash" and tab.get_by_label("Severity").input_value() == "low"
        shot(tab, "review-list-1280")
    bare = tmp_path / "bare"
    with running(bare, steps=("stall",), names=("gate",)) as other, tab_of(browser, other.server.url) as tab:
        tab.goto("/alarms")
        tab.wait_for_selector("text=No alarm matches")
        assert not tab.get_by_label("Kind").is_visible() and not tab.get_by_label("Severity").is_visible()


def test_keys_reach_older_alarms_than_the_list_shows(browser: Any, page: Page) -> None:
    with tab_of(browser, page.server.url) as tab:
        tab.goto("/alarms?camera=yard")
        tab.wait_for_function("() => document.querySelectorAll('ol.list li').length === 50")
        tab.locator("ol.list a").last.focus()
        tab.keyboard.press("j")
        tab.wait_for_function("() => document.querySelectorAll('ol.list li').length > 50")
        tab.wait_for_function(
            "() => [...document.querySelectorAll('ol.list a')].indexOf(document.activeElement) === 50"
        )


def test_the_keys_are_listed_and_can_be_turned_off(browser: Any, page: Page) -> None:
    with tab_of(browser, page.server.url) as tab:
        tab.goto(f"/alarms/{1:032x}?kind=fight")
        tab.wait_for_selector(".review")
        tab.keyboard.press("?")
        dialog = tab.get_by_role("dialog", name="Keys")
        for key in ("j", "k", "t", "f", "b", "u", "n", "l", "?"):
            assert dialog.locator("kbd", has_text=key).count() >= 1, key
        dialog.get_by_label("Enable these keys").uncheck()
        tab.keyboard.press("Escape")
        tab.wait_for_selector("dialog", state="hidden")
        tab.keyboard.press("t")
        tab.keyboard.press("k")
        tab.wait_for_function("() => document.querySelector('.place').textContent.startsWith('29 newer, 0 older')")
        assert tab.url.endswith(f"/alarms/{1:032x}?kind=fight")  # nothing happened
        tab.get_by_role("button", name="Keys").click()
        tab.get_by_label("Enable these keys").check()
        tab.keyboard.press("Escape")
        tab.keyboard.press("k")
        tab.wait_for_url(f"**/alarms/{3:032x}-*?kind=fight")
        tab.wait_for_function("() => document.querySelector('.place').textContent.startsWith('28 newer')")
        tab.get_by_label("Note").fill("text")
        tab.keyboard.press("k")  # a letter in a field is a letter
        assert tab.get_by_label("Note").input_value() == "textk"
    judged = page.ask(f"/api/alarms/{1:032x}").json()["verdict"]
    assert judged is None


@pytest.mark.parametrize(("width", "scheme"), [(1280, "light"), (390, "dark")])
def test_the_review_is_accessible_and_fits(browser: Any, page: Page, width: int, scheme: str) -> None:
    options = {"color_scheme": scheme, "bypass_csp": True}
    key = page.ask("/api/alarms?camera=gate").json()["alarms"][0]["key"]
    with tab_of(browser, page.server.url, width=width, **options) as tab:
        for path, name in (("/alarms?kind=fight", "list"), (f"/alarms/{key}?camera=gate", "alarm")):
            tab.goto(path)
            tab.wait_for_selector("main h1")
            tab.wait_for_selector(".link.on")
            shot(tab, f"review-{name}-{width}-{scheme}")
            assert not serious_issues(tab) and sideways(tab) <= 0, path
        tab.keyboard.press("?")
        tab.wait_for_selector("dialog[open]")
        shot(tab, f"review-keys-{width}-{scheme}")
        assert not serious_issues(tab) and sideways(tab) <= 0
