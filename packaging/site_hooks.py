"""Hooks of the documentation's site: generated pages, and links to files that are not part of it."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

import reference


def on_config(config: Any) -> Any:
    """Write the generated pages before the site's files are listed."""
    reference.write(Path(config["docs_dir"]) / "reference")
    return config
