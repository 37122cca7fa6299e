"""Frame-level ground truth of UCF-Crime's test list (or anyone's list in the same form), joined to videos by name.

Two forms are read:
    CSV  video,category,frames,start_1,end_1,start_2,end_2      -1: no such event
    TXT  the official Temporal_Anomaly_Annotation file: name.mp4  Category  start  end  start  end   (no frame counts)

Frames are 1-based and inclusive in both, as MATLAB has them; here events are half-open (start, end), 0-based, clipped
to the video (two official events end one frame after their video does).
"""

from __future__ import annotations

import csv
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from stream_detector.errors import DataError

Event = tuple[int, int]


@dataclass(frozen=True, slots=True)
class Annotation:
    """The ground truth of one video. frames: its length, 0 if unknown.  events: half-open frame intervals, sorted."""

    name: str
    category: str
    frames: int
    events: tuple[Event, ...]

    def clipped(self, frames: int) -> tuple[Event, ...]:
        """Return the events inside a video of `frames` frames; an event completely outside is dropped."""
        inside = ((max(0, a), min(b, frames)) for a, b in self.events)
        return tuple((a, b) for a, b in inside if a < b)


def video_stem(name: str) -> str:
    """Map `Abuse/Abuse028_x264.mp4` to `Abuse028_x264`, the key by which videos are joined."""
    last = name.replace("\\", "/").rsplit("/", 1)[-1]
    stem, dot, suffix = last.rpartition(".")
    return stem if dot and suffix.lower() in {"mp4", "avi", "mkv", "mov", "webm", "txt", "npy", "npz"} else last


def read_annotations(path: Path) -> dict[str, Annotation]:
    """Read all annotations of a file, by video stem. Raises DataError, which names the line."""
    if not path.is_file():
        raise DataError(f"annotation file {path} does not exist; give the path of the test annotations")
    found: dict[str, Annotation] = {}
    with path.open(newline="", encoding="utf-8-sig") as file:
        is_csv = "," in file.readline()
        file.seek(0)
        lines = csv.reader(file) if is_csv else (line.split() for line in file)
        for number, fields in enumerate(lines, 1):
            if not fields or fields[0] == "video":
                continue
            one = _parse(fields, is_csv, f"{path.name} line {number}")
            if one.name in found:
                raise DataError(f"{path.name} line {number}: video {one.name} is annotated twice; remove one line")
            found[one.name] = one
    if not found:
        raise DataError(f"annotation file {path} holds no video; it needs lines of name, category and event frames")
    return found


def _parse(fields: list[str], has_frames: bool, where: str) -> Annotation:
    try:
        numbers = [int(x) for x in fields[2:]]
        frames = numbers.pop(0) if has_frames else 0
    except (ValueError, IndexError):
        raise DataError(f"{where}: expected a name, a category and whole numbers, got {fields}; correct it") from None
    if len(fields) < 3 or len(numbers) % 2:
        raise DataError(f"{where}: event frames come in pairs of start and end, got {numbers}; correct it")
    pairs = [(a - 1, b) for a, b in zip(numbers[::2], numbers[1::2], strict=True) if a >= 0 and b >= 0]
    if any(b <= a for a, b in pairs):
        raise DataError(f"{where}: an event ends before it starts ({numbers}); correct it")
    annotation = Annotation(video_stem(fields[0]), fields[1], frames, tuple(sorted((max(0, a), b) for a, b in pairs)))
    return annotation if not frames else Annotation(annotation.name, fields[1], frames, annotation.clipped(frames))


def annotation_of(annotations: Mapping[str, Annotation], name: str) -> Annotation:
    """Return the annotation of one video. Raises DataError if there is none, because leaving it out would change the
    figure.
    """
    if name not in annotations:
        raise DataError(f"video {name} has no annotation; add it to the annotation file, or leave it out of the list")
    return annotations[name]
