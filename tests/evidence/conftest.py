"""The rig of evidence, closed after each test."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from evidence_rig import WAIT_S, Rig


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[Callable[..., Rig]]:
    made: list[Rig] = []

    def make(epoch: str = "", **settings: Any) -> Rig:
        made.append(Rig(tmp_path / "evidence", epoch, **settings))
        return made[-1]

    yield make
    for one in made:
        one.recorder.close(WAIT_S)
        one.writer.close(WAIT_S)
