"""Pixels of clips and recordings for evaluation: the one place here that decodes a file.

    file ──pictures──▶ uint8 RGB pictures ──windows──▶ 16 frames every 16, as the running detector cuts them

`probe` names what decoder and filter make of a few files. Features are kept under that name, so they are made anew as
soon as the product reads pixels otherwise.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from pathlib import Path

import cv2
import numpy as np

from stream_detector.errors import DataError
from stream_detector.types import WINDOW_FRAMES, UInt8Array
from trainer.clips import Size, small_rgb

PROBE_FRAMES = 8


def pictures(path: Path, size: Size) -> Iterator[UInt8Array]:
    """Every frame of a file: uint8 (rows, columns, 3) RGB, stretched to `size`. Raises DataError if there is none."""
    capture = cv2.VideoCapture(str(path), cv2.CAP_FFMPEG)
    found = False
    try:
        while True:
            good, image = capture.read()
            if not good:
                break
            found = True
            yield small_rgb(image, size)
    finally:
        capture.release()
    if not found:
        raise DataError(f"{str(path)!r} gives no frame; check that it exists and is a video")


def rate(path: Path) -> float:
    """Frames a second, as the file states them. Raises DataError where it states none."""
    capture = cv2.VideoCapture(str(path), cv2.CAP_FFMPEG)
    fps = float(capture.get(cv2.CAP_PROP_FPS))
    capture.release()
    if not 0 < fps < 1000:
        raise DataError(f"{str(path)!r} states no frame rate; check that it is a video")
    return fps


def windows(path: Path, size: Size) -> Iterator[UInt8Array]:
    """Full windows: uint8 (16, rows, columns, 3) RGB. The last frame of a file that is shorter is repeated."""
    frames: list[UInt8Array] = []
    given = 0
    for picture in pictures(path, size):
        frames.append(picture)
        if len(frames) == WINDOW_FRAMES:
            given += 1
            yield np.stack(frames)
            frames = []
    if not given:
        yield np.stack(frames + frames[-1:] * (WINDOW_FRAMES - len(frames)))


def background(path: Path, rows: int = 18, columns: int = 32, samples: int = 9) -> UInt8Array:
    """What stays in the picture: the median over time of `samples` frames, uint8 (rows, columns, 3) RGB."""
    seen = list(pictures(path, (rows * 4, columns * 4)))
    chosen = np.stack([seen[round(k * (len(seen) - 1) / max(1, samples - 1))] for k in range(samples)])
    still = np.median(chosen, axis=0).astype(np.uint8)
    result: UInt8Array = cv2.resize(still, (columns, rows), interpolation=cv2.INTER_AREA)
    return result


def probe(files: Sequence[Path], size: Size) -> str:
    """16 hexadecimal digits that change when the pixels of the first frames of these files do."""
    digest = hashlib.sha256()
    for file in files:
        for number, picture in enumerate(pictures(file, size)):
            if number == PROBE_FRAMES:
                break
            digest.update(picture.tobytes())
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
