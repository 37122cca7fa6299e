"""A real Chromium for tests of the page, and what is asked of every view in it.

`pytest.importorskip` and skips happen in the modules that use it: `pytestmark` and `needs_chromium()` at their top.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

CHROMIUM = Path("/usr/bin/chromium")
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--autoplay-policy=no-user-gesture-required",
]
WAIT_MS = 90_000


def needs_chromium() -> None:
    """Skip a whole module where Playwright or Chromium is absent."""
    pytest.importorskip("playwright.sync_api", reason="Playwright is not installed: .ci/install-web-test.sh")
    if not CHROMIUM.exists():
        pytest.skip("Chromium is not installed: .ci/install-web-test.sh", allow_module_level=True)


@contextmanager
def chromium() -> Iterator[Any]:
    """A browser; one at a time, as Playwright's own loop allows."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as play:
        browser = play.chromium.launch(executable_path=str(CHROMIUM), args=FLAGS)
        try:
            yield browser
        finally:
            browser.close()


@contextmanager
def tab_of(browser: Any, url: str, *, width: int = 1280, height: int = 850, **options: Any) -> Iterator[Any]:
    """A tab on the page at `url`; fails if the page raised, broke its policy, or asked another host for anything."""
    context = browser.new_context(base_url=url, viewport={"width": width, "height": height}, **options)
    page = context.new_page()
    page.set_default_timeout(WAIT_MS)
    wrong: list[str] = []
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.on("console", lambda line: wrong.append(line.text) if "Content Security" in line.text else None)
    own = (url, "data:", "blob:")
    page.on("request", lambda asked: None if asked.url.startswith(own) else wrong.append(f"asked {asked.url}"))
    try:
        yield page
    finally:
        context.close()
    assert not wrong


def shot(tab: Any, name: str) -> None:
    """Keep a picture of the whole page, if STREAM_DETECTOR_SHOTS names a folder."""
    folder = os.environ.get("STREAM_DETECTOR_SHOTS")
    if folder:
        tab.screenshot(path=str(Path(folder) / f"{name}.png"), full_page=True)


def serious_issues(tab: Any) -> list[Any]:
    """What axe-core finds serious or critical in the page as it is; skips where axe-core is absent.

    The tab must have been made with `bypass_csp=True`.
    """
    axe = os.environ.get("STREAM_DETECTOR_AXE", "")
    if not Path(axe).is_file():
        pytest.skip("axe-core is not here: .ci/install-web-test.sh, then set STREAM_DETECTOR_AXE")
    tab.add_script_tag(path=axe)
    found = tab.evaluate("() => axe.run(document).then((r) => r.violations)")
    return [(v["id"], [n["html"][:160] for n in v["nodes"]]) for v in found if v["impact"] in ("serious", "critical")]


def sideways(tab: Any) -> int:
    """How many pixels the page is wider than its window."""
    return int(tab.evaluate("() => document.documentElement.scrollWidth - innerWidth"))
