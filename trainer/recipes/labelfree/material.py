"""All available videos, without their labels, in small files; distillation uses nothing else.

    DATA/clips, DATA/more_clips ──minus the kept-out fold, and clips that look like it──┐
    DATA/long_normal, every other recording ──segments──────────────────────────────────┤──▶ PACK/index.csv
    rendered scenes ──segments──────────────────────────────────────────────────────────┘    PACK/*.mp4

The name of a packed clip contains the digest of its source and of the settings, so a run that was stopped continues
where it stopped. index.csv has the columns path, set, group, frames, role; role is learn or watch (not trained on; for
the cosine).
"""

from __future__ import annotations

import csv
import hashlib
import json
import os
import random
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
from rich.console import Console

from stream_detector.demo import DemoScene
from stream_detector.errors import DataError
from stream_detector.types import WINDOW_FRAMES, UInt8Array
from trainer.data.clips import read_frames, small_rgb, stretch
from trainer.data.content_hash import file_digest
from trainer.data.videos import video_files
from trainer.evaluation.command import BACKGROUND, judged_clips
from trainer.evaluation.folds import KEPT
from trainer.evaluation.groups import ALIKE, signature
from trainer.recipes.embedded.extra_footage import RECIPE_FPS, RenderPlan, segments, spread
from trainer.recipes.labelfree.settings import UNJUDGED, Settings

COLUMNS = ("path", "set", "group", "frames", "role")
_JUDGED = ("normal", "abnormal")


@dataclass(frozen=True, slots=True)
class Source:
    """One video to pack. frames: returns uint8 (n, rows, columns, 3) RGB.  content: identifies it.  judged: it is in a
    fold of the protocol, so its look-alikes of kept-out clips are known already.
    """

    set: str
    group: str
    content: str
    frames: Callable[[], UInt8Array]
    judged: bool = False


@dataclass(frozen=True, slots=True)
class Packed:
    """A clip of a pack. file: its video.  frames: number of frames.  watched: never trained on."""

    file: Path
    set: str
    group: str
    frames: int
    watched: bool


def make_pack(data: Path, pack: Path, cache: Path, settings: Settings, console: Console) -> None:
    """Pack all videos that are missing, then write the index. Raises DataError if the pack grows too large."""
    pieces, labels, backgrounds = judged_clips(data / "clips", data / "more_clips", cache, console, UNJUDGED)
    kept = {p.path for p, fold in zip(pieces, labels.folds.tolist(), strict=True) if fold == KEPT}
    never = [p.path in kept or p.set in settings.never for p in pieces]
    unseen = signature(backgrounds[np.array(never)]) if any(never) else None
    sources = [*indexed(data / "clips", kept, settings), *indexed(data / "more_clips", kept, settings)]
    sources += [*quiet(data / "long_normal", settings), *rendered(settings)]
    random.Random(settings.seed).shuffle(sources)  # so that a part of a pack has videos of every kind
    pack.mkdir(parents=True, exist_ok=True)
    rows: list[list[Any]] = []
    alike = total = 0
    for number, source in enumerate(sources, start=1):
        file = pack / f"{_name(source, settings)}.mp4"
        facts = file.with_suffix(".json")
        if not facts.exists():
            frames = source.frames()
            looks = not source.judged and unseen is not None and _looks_like(frames, unseen)
            if not looks:
                encode(frames, file, settings.crf)
            _write(facts, json.dumps({"frames": len(frames), "alike": looks}))
        known = json.loads(facts.read_text(encoding="utf-8"))
        if known["alike"]:
            alike += 1
        elif known["frames"] >= WINDOW_FRAMES:
            total += file.stat().st_size
            role = "watch" if _watched(source, settings.watch_share) else "learn"
            rows.append([file.name, source.set, source.group, known["frames"], role])
        if number % 100 == 0 or number == len(sources):
            console.print(f"pack: {number} of {len(sources)} videos, {total / 1e6:.1f} MB")
    lines = [COLUMNS, *sorted(rows)]
    _write(pack / "index.csv", "".join(",".join(str(cell) for cell in line) + "\n" for line in lines))
    mine = {row[0].removesuffix(".mp4") for row in rows}
    for file in pack.iterdir():  # files of an earlier recipe
        if file.suffix == ".mp4" and file.stem not in mine:
            file.unlink()
    console.print(f"packed {len(rows)} clips; {len(kept)} are kept out for good, {alike} look like those")
    if total > settings.most_mb * 1e6:
        raise DataError(
            f"the pack has {total / 1e6:.1f} MB, at most {settings.most_mb:g} were asked for; raise crf, lower limits, "
            "or raise most_mb if it need not travel"
        )


def read_pack(pack: Path) -> list[Packed]:
    """The clips of a pack, by name. Raises DataError if it cannot be read or a file is missing."""
    try:
        with (pack / "index.csv").open(newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
        found = [Packed(pack / r["path"], r["set"], r["group"], int(r["frames"]), r["role"] == "watch") for r in rows]
    except (OSError, UnicodeDecodeError, KeyError, TypeError, ValueError, csv.Error) as error:
        raise DataError(f"{str(pack)!r} holds no pack ({error}); give --data, from which it is made") from None
    missing = [clip.file.name for clip in found if not clip.file.is_file()]
    if missing or not found:
        raise DataError(f"{str(pack)!r} lacks {len(missing) or 'all'} of its clips; delete its index.csv, give --data")
    return sorted(found, key=lambda clip: clip.file.name)


def pack_digest(clips: Sequence[Packed]) -> str:
    """Return 16 hexadecimal digits that identify the content of a pack."""
    text = json.dumps([[clip.file.name, clip.set, clip.frames, clip.watched] for clip in clips])
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def indexed(root: Path, kept: Iterable[str], settings: Settings) -> list[Source]:
    """Return the videos of an index without the kept-out ones, at most `settings.limits` of a set, spread over the
    list.

    Raises DataError for what cannot be read.
    """
    try:
        with (root / "index.csv").open(newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
        away = set(kept)
        by_set: dict[str, list[dict[str, str]]] = {}
        for row in rows:
            if row["path"] not in away and row["set"] not in settings.never:
                by_set.setdefault(row["set"], []).append(row)
        found = []
        for name, mine in by_set.items():
            most = min(len(mine), settings.limits.get(name, len(mine)))
            for row in (mine[k * len(mine) // most] for k in range(most)):
                path = root / row["path"]
                group = row["group"] or row["path"]
                count = int(float(row["frames"]) * min(1.0, RECIPE_FPS / max(1.0, float(row["fps"]))))
                first = max(0, count - settings.most_frames) // 2
                judged = row["label"] in _JUDGED
                found.append(Source(name, group, file_digest(path), _middle(path, first, settings), judged))
    except (OSError, UnicodeDecodeError, KeyError, TypeError, ValueError, csv.Error) as error:
        raise DataError(f"{str(root / 'index.csv')!r} cannot be used ({error}); see docs/models/embedded.md") from None
    return found


def quiet(folder: Path, settings: Settings) -> list[Source]:
    """Return segments of every other recording in which nothing happens: the recordings that the streams are not judged
    on.
    """
    size, frames, found = (settings.rows, settings.columns), min(40, settings.most_frames), []
    for file in video_files(folder)[0::2]:
        digest, parts = file_digest(file), _Once(file, settings.quiet_segments, frames, size)
        for k in range(settings.quiet_segments):
            found.append(Source("long_normal", file.stem, f"{digest} {k} of {settings.quiet_segments}", parts.part(k)))
    return found


def rendered(settings: Settings) -> list[Source]:
    """Return segments of rendered scenes, from the seeds of training."""
    plan, found = RenderPlan(settings.rendered, settings.rendered // 2), []
    for number in range(plan.incidents + plan.quiet):
        seed = plan.first + number
        scene = DemoScene(seed, duration_s=plan.duration_s, incident=number < plan.incidents)
        for first, _ in segments(scene, plan, np.random.default_rng([seed, 99])):
            render = _rendering(scene, first, plan.frames, settings)
            found.append(Source("rendered", f"seed-{seed}", f"{seed} {number < plan.incidents} {first}", render))
    return found


def encode(frames: UInt8Array, path: Path, crf: int) -> None:
    """Write frames (n, rows, columns, 3) RGB as H.264 at 25 frames per second, atomically. Raises DataError."""
    partial = path.with_suffix(f".{os.getpid()}.partial.mp4")
    try:
        with av.open(str(partial), "w") as container:
            options = {"crf": str(crf), "preset": "veryfast"}
            stream = container.add_stream("libx264", rate=Fraction(int(RECIPE_FPS)), options=options)
            stream.height, stream.width = frames.shape[1:3]
            stream.pix_fmt = "yuv420p"
            stream.codec_context.thread_count = 1
            for picture in frames:
                container.mux(stream.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), format="rgb24")))
            container.mux(stream.encode(None))
        os.replace(partial, path)
    except (OSError, av.FFmpegError) as error:
        partial.unlink(missing_ok=True)
        raise DataError(f"{str(path)!r} cannot be written as H.264 ({error}); check the disk and PyAV") from None


class _Once:
    """Segments of one recording, decoded together at the first use of one of them."""

    def __init__(self, file: Path, count: int, frames: int, size: tuple[int, int]) -> None:
        self._decode: Callable[[], Iterator[tuple[int, UInt8Array]]] = lambda: spread(file, count, frames, size)
        self._parts: list[UInt8Array] = []

    def part(self, number: int) -> Callable[[], UInt8Array]:
        def frames() -> UInt8Array:
            if not self._parts:
                self._parts = [part for _, part in self._decode()]
            return self._parts[min(number, len(self._parts) - 1)]

        return frames


def _middle(path: Path, first: int, settings: Settings) -> Callable[[], UInt8Array]:
    size, most = (settings.rows, settings.columns), settings.most_frames
    return lambda: read_frames(path, size, limit=first + most)[-most:]


def _rendering(scene: DemoScene, first: int, count: int, settings: Settings) -> Callable[[], UInt8Array]:
    size = (settings.rows, settings.columns)
    return lambda: np.stack([small_rgb(scene.frame(k), size) for k in range(first, first + count)])


def _looks_like(frames: UInt8Array, unseen: Any) -> bool:
    """Return whether the background is that of a clip that must not be trained on."""
    chosen = frames[np.linspace(0, len(frames) - 1, min(9, len(frames))).astype(int)]
    small = np.stack([stretch(picture, (BACKGROUND[0] * 4, BACKGROUND[1] * 4)) for picture in chosen])
    still = cv2.resize(np.median(small, axis=0).astype(np.uint8), BACKGROUND[::-1], interpolation=cv2.INTER_AREA)
    both = signature(np.stack([still, still[:, ::-1]]))
    return bool((both @ unseen.T >= ALIKE).any())


def _name(source: Source, s: Settings) -> str:
    how = [source.set, source.content, s.rows, s.columns, s.most_frames, s.crf, "pack/1"]
    return hashlib.sha256(json.dumps(how).encode()).hexdigest()[:16]


def _watched(source: Source, share: float) -> bool:
    digest = hashlib.sha256(f"watch/{source.set}/{source.group}".encode()).digest()
    return int.from_bytes(digest[:8], "big") / 2**64 < share


def _write(path: Path, text: str) -> None:
    partial = path.with_name(f"{path.name}.{os.getpid()}.partial")
    partial.write_text(text, encoding="utf-8")
    os.replace(partial, path)
