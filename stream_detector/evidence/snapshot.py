"""Snapshots: a whole picture as JPEG, with a line of text below it."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

import av
import numpy as np

from stream_detector.capture.packets import EncodedPacket
from stream_detector.capture.stream_form import open_form
from stream_detector.evidence.part_files import finish_part, forget_part, new_part
from stream_detector.types import Box, UInt8Array, Where

_QUALITY = 90
_AMBER = (46, 157, 255)  # BGR
_FAINT = 0.25  # cells below are not drawn


def caption_rows(width: int) -> int:
    """The rows that a caption adds below a picture of this width; web/static/js/where.js counts alike."""
    return max(22, round(width / 32))


def write_snapshot(path: Path, image: UInt8Array, caption: str) -> None:
    """image: uint8 (h, w, 3) BGR. Raises OSError."""
    import cv2  # here, not above: a capture host's process starts without it

    width = image.shape[1]
    rows = caption_rows(width)
    (text_width, text_height), base = cv2.getTextSize(caption, cv2.FONT_HERSHEY_SIMPLEX, 1.0, 1)
    scale = min((rows - 6) / (text_height + base), (width - 12) / max(text_width, 1))
    bar = np.full((rows, width, 3), 28, np.uint8)
    line = (rows + round(scale * (text_height - base / 2))) // 2
    cv2.putText(bar, caption, (6, line), cv2.FONT_HERSHEY_SIMPLEX, scale, (235, 235, 235), 1, cv2.LINE_AA)
    _write_jpeg(path, np.vstack([image, bar]))


def draw_where(path: Path, where: Where) -> None:
    """Write a copy of a snapshot, NAME.where.jpg, with cells and boxes of `where` over it. Raises OSError."""
    import cv2  # here, not above: a capture host's process starts without it

    found = cv2.imread(str(path), cv2.IMREAD_COLOR)
    if found is None:
        raise OSError("the snapshot cannot be read")
    image = np.asarray(found, np.uint8)
    width = image.shape[1]
    picture = image[: max(1, image.shape[0] - caption_rows(width))]
    left, top, right, bottom = _pixels(where.region, picture)
    grid = np.array(where.grid, np.float32)
    loud = cv2.resize(grid, (right - left, bottom - top), interpolation=cv2.INTER_NEAREST)[..., None]
    share = np.where(loud >= _FAINT, 0.45 * loud, 0.0)
    part = picture[top:bottom, left:right]
    part[:] = (part * (1 - share) + np.array(_AMBER, np.float32) * share).astype(np.uint8)
    for box in where.boxes:
        x0, y0, x1, y1 = _pixels(box, picture)
        cv2.rectangle(picture, (x0, y0), (x1 - 1, y1 - 1), _AMBER, max(2, width // 400))
    _write_jpeg(path.with_suffix(".where.jpg"), image)


def _pixels(box: Box, picture: UInt8Array) -> tuple[int, int, int, int]:
    """Left, top, right, bottom in pixels, at least one pixel wide and high."""
    height, width = picture.shape[:2]
    x0, y0 = min(round(box[0] * width), width - 1), min(round(box[1] * height), height - 1)
    return x0, y0, max(x0 + 1, round(box[2] * width)), max(y0 + 1, round(box[3] * height))


def _write_jpeg(path: Path, image: UInt8Array) -> None:
    import cv2

    done, data = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, _QUALITY])
    if not done:
        raise OSError("the picture cannot be compressed")
    part = new_part(path)
    try:
        part.write_bytes(data.tobytes())
        finish_part(part, path)
    except OSError:
        forget_part(part)
        raise


def decode_key(packet: EncodedPacket) -> UInt8Array | None:
    """The picture of a key frame: uint8 (h, w, 3) BGR; None where it cannot be decoded."""
    with contextlib.suppress(av.FFmpegError, ValueError, OSError):
        with open_form(packet.run.form) as container:
            context: Any = container.streams.video[0].codec_context
            context.thread_count = 1
            made: Any = av.Packet(packet.data)
            frames = [*context.decode(made), *context.decode(None)]
        if frames:
            return np.asarray(frames[0].to_ndarray(format="bgr24"), np.uint8)
    return None
