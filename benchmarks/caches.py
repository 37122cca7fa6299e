"""A cache for compiled graphs alone, so that a benchmark leaves nothing behind and finds nothing that an older version
left.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

from stream_detector.models.known_weights import cache_directory

VARIABLE = "STREAM_DETECTOR_CACHE"
KEPT = ("models", "bundles")  # what the user fetched; everything else of the cache is made anew


@contextlib.contextmanager
def compiled_apart() -> Iterator[Path]:
    """Return a context with an empty cache in which the user's weights and bundles are still found; yields its folder,
    which is removed at the end. Subprocesses use it as well.
    """
    users, before = cache_directory().absolute(), os.environ.get(VARIABLE)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for part in KEPT:
            if (users / part).is_dir():
                (folder / part).symlink_to(users / part, target_is_directory=True)
        os.environ[VARIABLE] = name
        try:
            yield folder
        finally:
            if before is None:
                del os.environ[VARIABLE]
            else:
                os.environ[VARIABLE] = before
