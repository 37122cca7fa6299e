"""Hooks of the documentation's site: generated pages, and pages that its navigation does not name yet."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

import reference


def on_config(config: Any) -> Any:
    """Write the generated pages before the site's files are listed, and put pages that nobody named under "More"."""
    docs = Path(config["docs_dir"])
    reference.write(docs / "reference")
    named = set(_pages(config["nav"]))
    others = sorted(path.relative_to(docs).as_posix() for path in docs.rglob("*.md"))
    rest = [name for name in others if name not in named]
    if rest:
        config["nav"] = [*config["nav"], {"More": rest}]
    return config


def _pages(nav: Any) -> Iterator[str]:
    if isinstance(nav, str):
        yield nav
    elif isinstance(nav, dict):
        for each in nav.values():
            yield from _pages(each)
    else:
        for each in nav:
            yield from _pages(each)
