"""Caches arrays in a file until the values they depend on change."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from stream_detector.types import Float32Array


def cached_arrays(path: Path, key: str, make: Callable[[], Sequence[Float32Array]]) -> list[Float32Array]:
    """Return the arrays of `make`, or those in `path` if they were written under the same `key`.

    key: names everything that the arrays depend on, for instance the network and the footage.
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
