"""Scores frames that a program already has, with the windows, smoothing and alarms of the stream, without capture.

Everything runs in the caller's thread: `push` returns the decisions that the frame caused. A session uses the same
stages as the stream (`stages`), so the frames of `read_frames` give the same scores as `score`, bit for bit.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from numbers import Integral, Real
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from stream_detector.capture.counters import FrameSampler
from stream_detector.capture.picture import resize_frame
from stream_detector.capture.stage import CameraStage
from stream_detector.config import CameraConfig, Config, build_config, merge
from stream_detector.config.source import Source
from stream_detector.engines import load_engine
from stream_detector.engines.bundle_choice import settled
from stream_detector.errors import ConfigError, DataError
from stream_detector.models.bundle import Bundle
from stream_detector.runtime.decider import Decider
from stream_detector.runtime.stages import (
    DecisionModel,
    UnpublishedEvents,
    make_decider,
    plan_camera,
    scored,
)
from stream_detector.telemetry.collector import Telemetry
from stream_detector.types import (
    AlarmEvent,
    Clock,
    Decision,
    Engine,
    Frame,
    SystemClock,
    UInt8Array,
    Window,
)


def alarm_of(threshold: float | None) -> dict[str, Any]:
    """The settings of a `threshold` argument; none where the bundle's counts, so that `settings` may give one."""
    return {} if threshold is None else {"alarm": {"threshold": threshold}}


def refuse_arguments(settings: Mapping[str, Any], **arguments: str) -> None:
    """Raise ConfigError for a key of `settings` that is an argument. arguments: name of the argument by key."""
    for key, argument in arguments.items():
        if key in settings:
            raise ConfigError(
                f"settings: {key} is not taken from the settings here; give it as the argument {argument!r}"
            )


class _Events(UnpublishedEvents):
    """Keeps alarm events until the caller takes them."""

    def __init__(self, clock: Clock) -> None:
        super().__init__(clock)
        self.new: list[AlarmEvent] = []

    def keep(self, event: AlarmEvent, body: dict[str, Any]) -> None:
        self.new.append(event)


class _Camera:
    """What a session holds of one camera."""

    def __init__(
        self, name: str, config: Config, bundle: Bundle, model: DecisionModel, clock: Clock, novelty: bool
    ) -> None:
        camera = CameraConfig(name=name, source=Source.of_file(name))
        plan = plan_camera(camera, config, bundle)
        self.stage = CameraStage(plan.name, plan.source, plan.stride_frames, config, clock)
        self.sampler = FrameSampler(bundle.recipe.fps)
        self.frames = 0
        self.events = _Events(clock)
        self.decisions: list[Decision] = []
        self.decider: Decider = make_decider(
            config,
            model,
            (plan,),
            sink=self.events,
            telemetry=Telemetry([name], clock),
            clock=clock,
            coverage=False,
            novelty=novelty,
            on_decision=self.decisions.append,
        )


class Session:
    """Scores frames that the caller pushes, camera by camera. One thread uses it; a context manager.

    bundle: "embedded", "auto" (the accurate one on a CUDA device), a name that `stream-detector models list` shows, a
    folder, or a loaded `Bundle`. threshold: of the smoothed score, 0 to 1; None: that of the bundle.  stride: frames
    between the starts of two 16-frame windows. engine, device, precision: as for the options of `stream-detector run`;
    `engine` may be an engine object. settings: any other settings, nested as in cameras.toml, for instance
    `{"alarm": {"cooldown_s": 30}}`. Raises BundleError, CheckpointError (weights that are not in the cache),
    ConfigError, EngineError or MissingExtraError.
    """

    def __init__(
        self,
        bundle: str | Path | Bundle = "embedded",
        *,
        threshold: float | None = None,
        stride: int = 16,
        engine: str | Engine = "auto",
        device: str = "auto",
        precision: str = "auto",
        settings: dict[str, Any] | None = None,
    ) -> None:
        refuse_arguments(settings or {}, bundle="bundle", cameras="camera of push")
        values: dict[str, Any] = {
            **alarm_of(threshold),
            "window": {"stride": stride},
            "engine": {"device": device, "precision": precision},
        }
        if isinstance(engine, str):
            values["engine"]["engine"] = engine
        if not isinstance(bundle, Bundle):
            values["bundle"] = str(bundle)
        values = merge(merge(values, settings or {}), {"evidence": {"enabled": False}})
        self._config = build_config(values, "settings")
        self._bundle = bundle if isinstance(bundle, Bundle) else Bundle.load(settled(self._config, bundle))
        self._model = DecisionModel.of(self._bundle)
        self._engine = load_engine(self._bundle, self._config.engine) if isinstance(engine, str) else engine
        self._novelty = isinstance(engine, str)  # the features of another engine may be of another kind
        self._clock: Clock = SystemClock()
        self._cameras: dict[str, _Camera] = {}

    @property
    def bundle(self) -> Bundle:
        """The model that scores."""
        return self._bundle

    def push(
        self,
        camera: str,
        image: UInt8Array,
        media_s: float,
        *,
        index: int | None = None,
        discontinuity: tuple[str, ...] = (),
    ) -> tuple[Decision, ...]:
        """Push the next frame of a camera; return the decisions that it caused: none, or one when a window is complete.

        camera: 1 to 64 of a-z, 0-9, "_" and "-"; the first frame of a new name adds the camera. image: uint8 (H, W, 3)
        RGB. An image of the recipe's size (as from `read_frames`) is used unchanged; others are resized by the recipe's
        filter. The stream scales before it converts to RGB, so its pixels differ slightly; the raw scores differ by
        at most 0.05 (tested with H.264 footage that OpenCV decodes). media_s: media time in
        seconds, of any origin, rising; a step back or a gap begins a new window. Frames that come faster than the
        bundle's frame rate are skipped, as in the stream. index: number of the frame in its source; None: counted here.
        discontinuity: reasons why this frame does not continue the previous one. Raises DataError (an image, time or
        number of the wrong kind), ConfigError (camera name) or EngineError.
        """
        media_s = _checked(image, media_s, index, discontinuity)
        held = self._held(camera)
        number = held.frames if index is None else int(index)
        held.frames = number + 1
        if not held.sampler.wanted(media_s):
            return ()
        held.sampler.taken(media_s)
        if image.shape[:2] != self._bundle.recipe.size:
            image = resize_frame(np.ascontiguousarray(image[:, :, ::-1]), self._bundle.recipe)
        frame = Frame(camera, number, media_s, self._clock.monotonic(), self._clock.utc(), image, None, discontinuity)
        return self._decide(held, held.stage.push(frame))

    def finish(self, camera: str) -> tuple[Decision, ...]:
        """Finish the footage of a camera: an open alarm ends, and the name is free for other footage.

        Returns the decision on footage that was too short for a whole window (its last frame is then repeated).
        """
        held = self._held(camera)
        decisions = self._decide(held, held.stage.finish())
        held.decider.ended(camera, failed=False)
        self._cameras[camera] = _Camera(camera, self._config, self._bundle, self._model, self._clock, self._novelty)
        self._cameras[camera].events.new = held.events.new
        return decisions

    def events(self, camera: str) -> tuple[AlarmEvent, ...]:
        """The camera's alarm events (start, update, end) since the last call, oldest first."""
        held = self._held(camera)
        taken, held.events.new = tuple(held.events.new), []
        return taken

    def close(self) -> None:
        """Release the engine. Safe to call twice."""
        self._engine.close()

    def __enter__(self) -> Session:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _held(self, camera: str) -> _Camera:
        if not isinstance(camera, str):
            raise DataError(f"a camera is named by a text, got {_kind(camera)}; give for instance 'gate'")
        if camera not in self._cameras:
            build_config({"cameras": [{"name": camera, "source": "demo"}]}, "session")  # checks the name
            self._cameras[camera] = _Camera(camera, self._config, self._bundle, self._model, self._clock, self._novelty)
        return self._cameras[camera]

    def _decide(self, held: _Camera, window: Window | None) -> tuple[Decision, ...]:
        if window is None:
            return ()
        taken_s = self._clock.monotonic()
        output = self._engine.infer(window.frames[None])
        (score,) = scored((window,), output, taken_s, self._clock.monotonic())
        held.decider.score(score)
        decisions = tuple(held.decisions)
        held.decisions.clear()
        return decisions


def _checked(image: UInt8Array, media_s: float, index: int | None, discontinuity: tuple[str, ...]) -> float:
    """Return media_s as a float. Raises DataError for an argument of `push` that is of the wrong kind."""
    if not isinstance(image, np.ndarray):
        raise DataError(f"a frame must be a NumPy array, uint8 (H, W, 3) RGB, got {_kind(image)}; convert it first")
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or not image.size:
        raise DataError(f"a frame must be uint8 (H, W, 3) RGB, got {image.dtype} {image.shape}; convert it first")
    if not isinstance(media_s, Real):
        raise DataError(f"media_s must be a number of seconds, got {_kind(media_s)}; give the time of the frame")
    try:
        seconds = float(media_s)
    except OverflowError:  # an integer of more digits than a float takes
        seconds = math.inf
    if not math.isfinite(seconds):
        raise DataError(f"media_s must be a finite number of seconds, got {seconds}; give the time of the frame")
    if index is not None and (not isinstance(index, Integral) or index < 0):
        raise DataError(f"index must be a whole number from 0, got {_kind(index)}; give the number of the frame")
    if not isinstance(discontinuity, tuple) or not all(isinstance(reason, str) for reason in discontinuity):
        raise DataError(
            f"discontinuity must be a tuple of texts, got {_kind(discontinuity)}; give for instance ('gap',)"
        )
    return seconds


def _kind(value: object) -> str:
    """The type of a value and its beginning, for a sentence."""
    return f"{type(value).__name__} {str(value)[:40]!r}"
