"""Smaller choices than in service."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from stream_detector.adaptation import adapt


@pytest.fixture(scope="module", autouse=True)
def few_choices() -> Iterator[None]:
    """The time of `adapt` grows with what it tries; a made-up site leaves plenty of room between the scores."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(adapt, "LEVELS", 20)
        yield
