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
from stream_detector.types import UInt8Array

_QUALITY = 90


def write_snapshot(path: Path, image: UInt8Array, caption: str) -> None:
    """image: uint8 (h, w, 3) BGR. Raises OSError."""
    import cv2  # here, not above: a capture host's process starts without it

    width = image.shape[1]
    scale = max(0.4, width / 1100)
    (text_width, text_height), base = cv2.getTextSize(caption, cv2.FONT_HERSHEY_SIMPLEX, scale, 1)
    scale *= min(1.0, (width - 12) / max(text_width, 1))
    bar = np.full((text_height + base + 8, width, 3), 28, np.uint8)
    cv2.putText(bar, caption, (6, text_height + 4), cv2.FONT_HERSHEY_SIMPLEX, scale, (235, 235, 235), 1, cv2.LINE_AA)
    done, data = cv2.imencode(".jpg", np.vstack([image, bar]), [cv2.IMWRITE_JPEG_QUALITY, _QUALITY])
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
