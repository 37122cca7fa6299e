"""Identifies recordings by their content, not by their names.

Caches of features and frames use these digests as keys: a new recording with an old name is another recording, and an
old one with a new name is the same.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from stream_detector.errors import DataError
from stream_detector.types import Float32Array


def file_digest(path: Path) -> str:
    """SHA-256 of a file's bytes, in hexadecimal. Raises DataError when it cannot be read."""
    try:
        with Path(path).open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise DataError(f"{str(path)!r} cannot be read ({error.strerror or error}); check that it is there") from None


def files_digest(paths: Iterable[Path]) -> str:
    """Return one digest of several files, in order."""
    return hashlib.sha256("\n".join(file_digest(path) for path in paths).encode()).hexdigest()


def rows_digest(rows: Float32Array) -> str:
    """Return the SHA-256 of features (T, D); it replaces the recording's digest where that is unknown."""
    return hashlib.sha256(np.ascontiguousarray(rows, np.float32).tobytes()).hexdigest()
