"""Fewer thresholds to choose among than in service."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from stream_detector.adaptation import adapt


@pytest.fixture(scope="module", autouse=True)
def few_thresholds() -> Iterator[None]:
    """The choice takes a time that grows with them, and the made-up sites leave plenty of room between the scores."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(adapt, "LEVELS", 20)
        yield
