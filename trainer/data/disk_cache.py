"""Arrays that took long to make, kept in a file until what they depend on changes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from stream_detector.types import Float32Array


def kept(path: Path, key: str, make: Callable[[], Sequence[Float32Array]]) -> list[Float32Array]:
    """What `make` gives; read from `path` instead if that was written under the same `key`.

    key: names all that the arrays depend on, the network and the footage for instance.
    """
    if path.exists():
        with np.load(path) as arrays:
            if str(arrays["key"]) == key:
                return [arrays[f"arr_{k}"] for k in range(len(arrays.files) - 1)]
    made = list(make())
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(".part")
    with part.open("wb") as file:
        np.savez(file, *made, key=np.array(key))
    part.replace(path)
    return made
