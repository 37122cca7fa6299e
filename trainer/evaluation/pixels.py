"""Pixels of clips and recordings for evaluation; the only module of this package that decodes files.

    file ──pictures──▶ uint8 RGB pictures ──windows──▶ 16 frames every 16, as the running detector cuts them

`probe` identifies what the decoder and the filter give for a few files. Features are stored under that name, so a
change of the pixels makes new features.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Generator, Iterator, Sequence
from contextlib import closing
from itertools import islice
from pathlib import Path

import cv2
import numpy as np

from stream_detector.capture import recordings
from stream_detector.errors import DataError, SourceError
from stream_detector.models.recipe import RECIPES
from stream_detector.types import WINDOW_FRAMES, UInt8Array
from trainer.data.clips import sides, small_rgb
from trainer.data.sizes import Size

RECIPE = RECIPES["stream-112"]  # its rate and filter; the size is the network's


def pictures(path: Path, size: Size) -> Iterator[UInt8Array]:
    """Yield the frames of a file that the detector would use: uint8 (rows, columns, 3) RGB, stretched to `size`.

    Raises DataError if there is none.
    """
    found = False
    try:
        with closing(recordings.pictures(Path(path), RECIPE.fps)) as seen:
            for each in seen:
                found = True
                yield small_rgb(each.picture, size)
    except SourceError as error:
        raise DataError(f"{str(path)!r} gives no frame: {error}") from None
    if not found:
        raise DataError(f"{str(path)!r} gives no frame; check that it is a video")


def rate(path: Path) -> float:
    """Return the frames per second that the detector would use, as the file states them. Raises DataError if it states
    none.
    """
    state = recordings.DecodeState()
    try:
        with closing(recordings.pictures(Path(path), RECIPE.fps, state)) as seen:
            next(seen, None)
    except SourceError as error:
        raise DataError(f"{str(path)!r} gives no frame: {error}") from None
    if not 0 < state.fps < 1000:
        raise DataError(f"{str(path)!r} states no frame rate; check that it is a video")
    return seen_rate(state.fps)


def seen_rate(fps: float) -> float:
    """Return how many of `fps` frames per second are used: every second of 50 and 60, all of 30."""
    return fps / max(1, int(fps / RECIPE.fps + 1e-3))


def windows(path: Path, size: Size) -> Generator[UInt8Array]:
    """Yield full windows: uint8 (16, rows, columns, 3) RGB, as the detector cuts them from the file.

    The last frame of a file that is too short is repeated.  Raises DataError if the file gives no frame.
    """
    recipe = dataclasses.replace(RECIPE, size=sides(size), views=())
    given = 0
    try:
        for window in recordings.windows(Path(path), recipe):
            if "short" not in window.ref.degraded:
                given += 1
                yield window.frames
    except SourceError as error:
        raise DataError(f"{str(path)!r} gives no window: {error}") from None
    if not given:
        frames = list(islice(pictures(path, size), WINDOW_FRAMES))
        yield np.stack(frames + frames[-1:] * (WINDOW_FRAMES - len(frames)))


def background(path: Path, rows: int = 18, columns: int = 32, samples: int = 9) -> UInt8Array:
    """Return the static part of the picture: the median over time of `samples` frames, uint8 (rows, columns, 3) RGB."""
    seen = list(pictures(path, (rows * 4, columns * 4)))
    chosen = np.stack([seen[round(k * (len(seen) - 1) / max(1, samples - 1))] for k in range(samples)])
    still = np.median(chosen, axis=0).astype(np.uint8)
    result: UInt8Array = cv2.resize(still, (columns, rows), interpolation=cv2.INTER_AREA)
    return result


def probe(files: Sequence[Path], size: Size) -> str:
    """Return 16 hexadecimal digits that change when the pixels of the first windows of these files change."""
    digest = hashlib.sha256()
    for file in files:
        with closing(windows(file, size)) as seen:
            digest.update(next(seen).tobytes())
    return digest.hexdigest()[:16]


def file_digest(path: Path) -> str:
    """24 hexadecimal digits of the file's content. Raises DataError if it cannot be read."""
    digest = hashlib.sha256()
    try:
        with path.open("rb") as file:
            while block := file.read(1 << 20):
                digest.update(block)
    except OSError as error:
        raise DataError(f"{str(path)!r} cannot be read ({error}); check the folder that was given") from None
    return digest.hexdigest()[:24]
