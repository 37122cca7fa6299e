"""Checks the inputs of viewers, and the cells of their files. Raises DataError with one sentence."""

from __future__ import annotations

from typing import Any

from pydantic import ValidationError

from stream_detector.config import SmoothingConfig
from stream_detector.errors import DataError


def cell(value: Any) -> Any:
    """Return a CSV cell that no spreadsheet takes for a formula."""
    return "'" + value if isinstance(value, str) and value[:1] in ("=", "+", "-", "@", "\t", "\r") else value


def whole_number(text: str, what: str, low: int, high: int) -> int | None:
    """Parse `text` as a number from `low` to `high`; None if it is empty."""
    if not text:
        return None
    if not text.isascii() or not text.isdigit() or len(text) > 16 or not low <= int(text) <= high:
        raise DataError(f"{what} must be a whole number from {low} to {high}")
    return int(text)


def text_of(body: dict[str, Any], name: str, most: int) -> str:
    """Return a text of at most `most` printable characters; "" if it is missing."""
    value = body.get(name, "")
    clean = isinstance(value, str) and len(value) <= most and all(c.isprintable() or c == "\n" for c in value)
    if not clean:
        raise DataError(f"{name} must be text of at most {most} characters")
    return str(value).strip()


def settings_of(body: dict[str, Any]) -> tuple[float, SmoothingConfig]:
    """Return (threshold, smoothing) of a tuning request."""
    threshold = body.get("threshold")
    if isinstance(threshold, bool) or not isinstance(threshold, int | float) or not 0.0 <= threshold <= 1.0:
        raise DataError("threshold must be a number from 0 to 1")
    try:
        smooth = SmoothingConfig.model_validate(body.get("smoothing"))
    except ValidationError as error:
        raise DataError(f"smoothing: {error.errors()[0]['msg']}") from None
    if smooth.time_constant_s > 3600:
        raise DataError("smoothing: a time constant is at most 3600 s")
    return float(threshold), smooth
