"""The version of the installed distribution, without importing the package."""

from __future__ import annotations

from importlib import metadata


def version() -> str:
    """For instance "0.1.0"; "unknown" in a folder that was copied and never installed."""
    try:
        return metadata.version("stream-detector")
    except metadata.PackageNotFoundError:
        return "unknown"
