"""Reads whole recordings without a capture thread, for the trainer, calibration and quantisation.

    file ──FileReader──▶ FrameSampler ──▶ SampledPicture ──views──▶ Windower ──▶ Window

Reader, sampling, scaling, scene cuts and windower are those of the stream, so a window made here equals the window that
the stream would score.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator
from dataclasses import dataclass
from pathlib import Path

from stream_detector.capture.counters import FrameSampler
from stream_detector.capture.picture import Picture, UnreadablePictureError, as_picture, make_views
from stream_detector.capture.readers import FileReader
from stream_detector.capture.scene_cuts import SceneCutDetector
from stream_detector.capture.windower import Windower
from stream_detector.config import CaptureConfig, WindowConfig
from stream_detector.models.recipe import Recipe
from stream_detector.types import Frame, SystemClock, Window


@dataclass
class DecodeState:
    """The state of decoding one video.

    frames: grabbed so far.  fps: declared by the file; at the end, measured over the whole file.  detail: damage, or
    "". error: why the file could not be read, or "".
    """

    frames: int = 0
    fps: float = 0.0
    detail: str = ""
    error: str = ""


@dataclass(frozen=True, slots=True)
class SampledPicture:
    """A picture that the recipe needs. index: frame number in its file.  causes: why it does not continue the previous
    one.
    """

    index: int
    media_s: float
    picture: Picture
    causes: tuple[str, ...]


def pictures(path: Path, frame_fps: float, state: DecodeState | None = None) -> Generator[SampledPicture]:
    """Yield the pictures of one file that a recipe of `frame_fps` needs, in order. Fills `state`. Raises
    SourceError."""
    state = state if state is not None else DecodeState()
    reader = FileReader(path, CaptureConfig())
    sampler = FrameSampler(frame_fps)
    pending: set[str] = set()
    first_s = media_s = 0.0
    try:
        reader.open()
        state.fps = reader.fps
        while (grabbed := reader.grab()).status != "end":
            if grabbed.status != "frame":
                pending.add("corrupt")
                continue
            index, media_s = state.frames, grabbed.media_s or 0.0
            first_s = first_s if index else media_s
            state.frames += 1
            if grabbed.cause:
                pending.add(grabbed.cause)
            if not sampler.wanted(media_s):
                continue
            found = reader.retrieve()
            if found is None:
                pending.add("corrupt")
                continue
            sampler.taken(media_s)
            causes = tuple(sorted(pending))
            pending.clear()
            yield SampledPicture(index, media_s, as_picture(found), causes)
        if state.frames > 1 and media_s > first_s:
            state.fps = (state.frames - 1) / (media_s - first_s)
        state.detail = reader.detail
    finally:
        reader.close()


def frames(path: Path, recipe: Recipe, camera: str = "video", state: DecodeState | None = None) -> Iterator[Frame]:
    """Yield the pictures of one file as frames with the recipe's views, in order. Fills `state`. Raises SourceError.

    captured_s and captured_utc are 0, because no camera films them now.
    """
    unreadable: set[str] = set()
    for seen in pictures(path, recipe.fps, state):
        try:
            views = make_views(seen.picture, recipe)
        except UnreadablePictureError:
            unreadable = {"corrupt"}
            continue
        causes = tuple(sorted(unreadable.union(seen.causes)))
        unreadable = set()
        yield Frame(camera, seen.index, seen.media_s, 0.0, 0.0, views[0], None, causes, views[1:])


def windows(
    path: Path, recipe: Recipe, stride_frames: int | None = None, state: DecodeState | None = None
) -> Iterator[Window]:
    """Yield the windows of one file in order, made as in a run with default settings. Fills `state`. Raises
    SourceError.

    stride_frames: recipe frames between the starts of two windows; None: the length of a window.
    """
    settings = WindowConfig()
    windower = Windower(
        "video", path.name, stride_frames or recipe.frames, settings.max_gap_s, SystemClock(), SceneCutDetector()
    )
    for frame in frames(path, recipe, state=state):
        window = windower.push(frame)
        if window is not None:
            yield window
    last = windower.finish()
    if last is not None:
        yield last
