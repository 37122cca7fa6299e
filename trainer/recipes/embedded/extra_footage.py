"""Footage in addition to the clips: scenes of the demo generator, and segments of a camera where nothing happens.

    DemoScene(seed ≥ FIRST_SEED) ──pack_rendered──▶ rendered.u8     segments before and in the incident
    hours of one camera          ──pack_normal────▶ long_normal.u8  segments spread over the files

The demo and the tests use seeds below `FIRST_SEED`; training never uses those. Of the long recordings, every second
file goes to `train`, the rest to `val`, where the threshold is found.
"""

from __future__ import annotations

import hashlib
import inspect
import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

import stream_detector.demo as demo
from stream_detector.capture.recordings import pictures
from stream_detector.demo import DemoScene
from stream_detector.errors import DataError, SourceError
from stream_detector.types import UInt8Array
from trainer.data.clips import PACK_SIZE, Clip, PackedFrames, PackWriter, small_rgb
from trainer.data.content_hash import files_digest
from trainer.data.sizes import Size
from trainer.data.videos import video_files

FIRST_SEED = 1000
RECIPE_FPS = 25.0


@dataclass(frozen=True, slots=True)
class RenderPlan:
    """Which scenes to render. incidents, quiet: number of scenes with and without an incident, from seed `first` on.

    frames: of a segment.  normal, abnormal: segments of a scene.  settle_s: after the start of the incident until a
    segment counts as abnormal.
    """

    incidents: int = 30
    quiet: int = 15
    first: int = FIRST_SEED
    duration_s: float = 24.0
    frames: int = 26
    normal: int = 3
    abnormal: int = 3
    settle_s: float = 0.6


def segments(scene: DemoScene, plan: RenderPlan, rng: np.random.Generator) -> list[tuple[int, bool]]:
    """(first frame, abnormal) of the segments to take from one scene. The time after the incident is left out."""
    fps, start, end = scene.fps, scene.incident_start_s, scene.incident_end_s
    quiet_end = scene.frame_count if start is None else int(start * fps)
    room = max(1, quiet_end - plan.frames)
    count = plan.normal if start is not None else plan.normal + 1
    found = [(int((k + rng.random()) * room / count), False) for k in range(count)]
    if start is not None and end is not None:
        first, last = int((start + plan.settle_s) * fps), int(end * fps) - plan.frames
        steps = max(1, last - first)
        found += [(first + int((k + rng.random()) * steps / plan.abnormal), True) for k in range(plan.abnormal)]
    return [(min(first, scene.frame_count - plan.frames), abnormal) for first, abnormal in found]


def pack_rendered(plan: RenderPlan, cache: Path, *, size: int = PACK_SIZE) -> Iterator[tuple[int, int]]:
    """Render the scenes once into `cache`/rendered.u8; yields (done, all). Made again when the generator changes."""
    if plan.first < FIRST_SEED:
        raise DataError(f"rendered scenes for training start at seed {FIRST_SEED}, got {plan.first}; raise the seed")
    path = Path(cache) / "rendered.u8"
    key = hashlib.sha256(json.dumps([asdict(plan), size, _generator_digest()]).encode()).hexdigest()[:16]
    if path.with_suffix(".json").exists() and PackedFrames(path).key == key:
        return
    writer = PackWriter(path, size)
    total = plan.incidents + plan.quiet
    for number in range(total):
        seed = plan.first + number
        scene = DemoScene(seed, duration_s=plan.duration_s, incident=number < plan.incidents)
        for first, abnormal in segments(scene, plan, np.random.default_rng([seed, 99])):
            frames = np.stack([small_rgb(scene.frame(i), size) for i in range(first, first + plan.frames)])
            category = "incident" if abnormal else "street"
            clip = Clip(f"seed {seed} from {first}", "rendered", abnormal, category, f"seed-{seed}", "train", scene.fps)
            writer.add(frames, asdict(clip))
        yield number + 1, total
    writer.close(key)


def _generator_digest() -> str:
    folder = Path(inspect.getfile(demo)).parent
    digest = hashlib.sha256()
    for file in sorted(folder.glob("*.py")):
        digest.update(file.read_bytes())
    return digest.hexdigest()


def pack_normal(
    folder: Path, cache: Path, *, per_file: int = 12, frames: int = 40, size: int = PACK_SIZE
) -> Iterator[tuple[int, int]]:
    """Take segments, evenly spread, of every video in `folder` into `cache`/long_normal.u8; yields (done, all)."""
    files = video_files(folder)
    path = Path(cache) / "long_normal.u8"
    key = json.dumps([[f.name for f in files], files_digest(files), per_file, frames, size])
    if path.with_suffix(".json").exists() and PackedFrames(path).key == key:
        return
    writer = PackWriter(path, size)
    for number, file in enumerate(files):
        split = ("train", "val")[number % 2]
        for start, part in spread(file, per_file, frames, size):
            clip = Clip(f"{file.name} from {start}", "long_normal", False, "quiet", file.stem, split, 25.0)
            writer.add(part, asdict(clip))
        yield number + 1, len(files)
    writer.close(key)


def spread(file: Path, count: int, frames: int, size: Size) -> Iterator[tuple[int, UInt8Array]]:
    """Yield (first frame, pictures) of `count` segments of a video, evenly spread over its length at the recipe's rate.

    The video is read twice, because its length is unknown before it was decoded.
    """
    try:
        total = sum(1 for _ in pictures(file, RECIPE_FPS))
        starts = sorted({int((k + 0.5) * max(1, total - frames) / count) for k in range(count)})
        parts: dict[int, list[UInt8Array]] = {start: [] for start in starts}
        for number, seen in enumerate(pictures(file, RECIPE_FPS)):
            wanted = [start for start in starts if start <= number < start + frames]
            if wanted:
                small = small_rgb(seen.picture, size)
                for start in wanted:
                    parts[start].append(small)
    except SourceError as error:
        raise DataError(f"{str(file)!r} gives no frame: {error}") from None
    for start in starts:
        yield start, np.stack(parts[start])


def pack_scenes(
    cache: Path, name: str, first: int, incidents: int, quiet: int, *, size: int = 112, duration_s: float = 16.0
) -> Iterator[tuple[int, int]]:
    """Render whole scenes into `cache`/`name`.u8, for calibration and checks: `incidents`, then `quiet` ones.

    Each item's meta has `incident_start_s` and `incident_end_s` (None without an incident).
    """
    path = Path(cache) / f"{name}.u8"
    key = json.dumps([first, incidents, quiet, size, duration_s, _generator_digest()])
    if path.with_suffix(".json").exists() and PackedFrames(path).key == key:
        return
    writer = PackWriter(path, size)
    for number in range(incidents + quiet):
        scene = DemoScene(first + number, duration_s=duration_s, incident=number < incidents)
        frames = np.stack([small_rgb(image, size) for image in scene])
        group = f"seed-{first + number}"
        clip = Clip(group, "rendered", number < incidents, "scene", group, "val", scene.fps)
        times = {"incident_start_s": scene.incident_start_s, "incident_end_s": scene.incident_end_s}
        writer.add(frames, asdict(clip) | times)
        yield number + 1, incidents + quiet
    writer.close(key)
