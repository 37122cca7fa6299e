"""The public functions and classes of `import stream_detector as sd`; value types and errors are in other modules.

`stream_detector/__init__.py` imports this module when one of its names is first used.
"""

from __future__ import annotations

import contextlib
import queue
import threading
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Literal

import numpy as np

from stream_detector.capture.recordings import frames
from stream_detector.capture.sources import parse_sources
from stream_detector.config import CameraConfig, Config, build_config, load_config, merge
from stream_detector.engines import load_engine
from stream_detector.engines.bundle_choice import settled
from stream_detector.errors import SourceError, StageError, UsageError
from stream_detector.events.published_alarm import PublishedAlarm
from stream_detector.models.bundle import Bundle, find_bundle, read_manifest
from stream_detector.models.preprocess import Recipe
from stream_detector.reports.scores_file import ScoreRow
from stream_detector.runtime.build import Run, build_run
from stream_detector.runtime.pipeline import RunResult
from stream_detector.runtime.session import alarm_of, refuse_arguments
from stream_detector.types import Decision, Engine, Float32Array, Frame, UInt8Array

QUEUE_ITEMS = 1000  # rows or events that may wait between the run and the caller's loop
POLL_S = 0.1

SourceLike = str | Path | CameraConfig


class Model:
    """A bundle and the engine that runs it; scores windows that the caller provides. One thread uses it; a context
    manager.
    """

    def __init__(self, bundle: Bundle, engine: Engine) -> None:
        self.bundle = bundle
        self.engine = engine

    @property
    def name(self) -> str:
        """The bundle's name."""
        return self.bundle.name

    @property
    def fingerprint(self) -> str:
        """The 16 hexadecimal digits that identify the exact content of the bundle; events carry them."""
        return self.bundle.fingerprint

    @property
    def recipe(self) -> Recipe:
        """How pictures become the input of the network: size, frame rate, mean and deviation."""
        return self.bundle.recipe

    @property
    def threshold(self) -> float:
        """The default threshold: the smoothed score, 0 to 1, at which an alarm starts."""
        return self.bundle.threshold

    def features(self, windows: UInt8Array) -> Float32Array:
        """Return the features of the backbone, float32 (B, D).

        windows: uint8 (B, 16, H, W, 3) RGB; H and W as the recipe says, any B.  Raises EngineError for another shape,
        and when the device fails.
        """
        return self._infer(windows)[0]

    def score(self, windows: UInt8Array) -> Float32Array:
        """Return the probability that each window is abnormal, before smoothing: float32 (B,) in [0, 1].

        windows: uint8 (B, 16, H, W, 3) RGB, as for `features`.  A head with a state scores each window as the first one
        of a stream.  Raises EngineError for another shape, and when the device fails.
        """
        return self._infer(windows)[1]

    def close(self) -> None:
        """Release the engine. Safe to call twice."""
        self.engine.close()

    def __enter__(self) -> Model:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _infer(self, windows: UInt8Array) -> tuple[Float32Array, Float32Array]:
        dim = self.bundle.manifest.backbone.feature_dim
        if not len(windows):
            return np.empty((0, dim), np.float32), np.empty(0, np.float32)
        size = self.engine.max_batch
        outputs = [self.engine.infer(windows[first : first + size]) for first in range(0, len(windows), size)]
        return np.concatenate([o.features for o in outputs]), np.concatenate([o.scores for o in outputs])


def load_bundle(
    name_or_dir: str | Path = "embedded", *, engine: str = "auto", device: str = "auto", precision: str = "auto"
) -> Model:
    """Load a model bundle and the engine that runs it.

    name_or_dir: "embedded", "auto" (the accurate one on a CUDA device), a name that `stream-detector models list`
    shows, or a folder with a bundle.json. engine, device, precision: as for the options of `stream-detector run`.
    Raises BundleError, CheckpointError (weights that are not in the cache), ConfigError, EngineError or
    MissingExtraError.
    """
    values = {"bundle": str(name_or_dir), "engine": {"engine": engine, "device": device, "precision": precision}}
    config = build_config(values, "load_bundle")
    bundle = Bundle.load(settled(config, name_or_dir))
    return Model(bundle, load_engine(bundle, config.engine))


def read_frames(path: str | Path, *, bundle: str | Path = "embedded") -> Iterator[Frame]:
    """Read the frames of a recording at the frame rate and input size of a bundle, with the same pixels as the stream.

    Yields `Frame`: `image` is uint8 (H, W, 3) RGB; `media_s` is the presentation time in seconds; `index` is the number
    in the file; `discontinuity` holds the reasons why the frame does not continue the previous one. A `Session` with
    the same bundle gives these frames the same scores as `score`, bit for bit. bundle: as for `load_bundle`. Raises
    SourceError, BundleError, or ConfigError (a bundle that is an address).
    """
    bundle = settled(build_config({"bundle": str(bundle)}, "read_frames"), bundle)
    recipe = read_manifest(find_bundle(bundle)).preprocess.to_recipe()
    return frames(Path(path), recipe)


def score(
    sources: SourceLike | Sequence[SourceLike],
    *,
    bundle: str = "embedded",
    stride: int = 16,
    threshold: float | None = None,
    settings: dict[str, Any] | None = None,
) -> Generator[ScoreRow, None, None]:
    """Score recordings as fast as possible; yield one row per window, in order within each recording.

    sources: files, folders, globs, "demo", or `CameraConfig`s; several are read at the same time. settings: any other
    settings, nested as in cameras.toml. Raises the errors of the run, and SourceError for a recording that cannot be
    played (after the rows of the others). If the caller leaves the loop early, the run ends.
    """
    values = {"pace": "max", "window": {"stride": stride}, **alarm_of(threshold)}
    config = _config(sources, bundle, _merged(values, _OFFLINE, settings))
    if any(camera.source.live for camera in config.cameras):
        raise UsageError("score takes recordings; use watch, or a Detector, for live cameras")
    yield from _iterate(config, lambda put: {"on_decision": lambda decision: put(row_of(decision))})


def watch(
    sources: SourceLike | Sequence[SourceLike],
    *,
    bundle: str = "embedded",
    pace: Literal["realtime", "max"] = "realtime",
    threshold: float | None = None,
    settings: dict[str, Any] | None = None,
) -> Generator[PublishedAlarm, None, None]:
    """Watch cameras or recordings; yield every alarm event (start, update, end) when it is decided.

    Nothing is published, journalled or recorded; use `Detector` for that.  sources, settings: as for `score`; live
    cameras are also allowed.  pace: of recordings; "max" plays them as fast as possible.  If the caller leaves the loop
    early, the run ends.  Raises the errors of the run, and StageError if the caller does not read the events of a live
    camera in time.
    """
    values = {"pace": pace, **alarm_of(threshold)}
    config = _config(sources, bundle, _merged(values, _OFFLINE, settings))
    yield from _iterate(config, lambda put: {"on_event": lambda body: put(PublishedAlarm.from_dict(body))})


class Detector:
    """A whole run: cameras, journal, publisher, evidence, as `stream-detector run` builds it. A context manager.

        with sd.Detector({"gate": "rtsp://10.0.0.7/live"}, settings={"events": "e.jsonl"}) as detector:
            detector.run()

    cameras: sources, or sources by name, or `CameraConfig`s.  config: a cameras.toml; what is given here wins over it.
    settings: any settings, nested as in cameras.toml.  on_event: called with every alarm event by the decision thread;
    it must return quickly.
    Raises the errors of every stage's set-up when the context is entered.
    """

    def __init__(
        self,
        cameras: SourceLike | Sequence[SourceLike] | dict[str, str] = (),
        *,
        bundle: str | None = None,
        config: Path | str | None = None,
        settings: dict[str, Any] | None = None,
        on_event: Callable[[PublishedAlarm], None] | None = None,
        engine: Engine | None = None,
    ) -> None:
        values = dict(settings or {})
        if bundle is not None:
            values["bundle"] = bundle
        base = load_config(Path(config), values) if config is not None else build_config(values, "settings")
        given = _cameras(cameras)
        self.config: Config = base.model_copy(update={"cameras": (*base.cameras, *given)}) if given else base
        self._on_event = on_event
        self._engine = engine
        self._stack = contextlib.ExitStack()
        self._run: Run | None = None

    def __enter__(self) -> Detector:
        told = self._on_event
        self._run = self._stack.enter_context(
            build_run(
                self.config,
                engine=self._engine,
                on_event=(lambda body: told(PublishedAlarm.from_dict(body))) if told else None,
            )
        )
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()
        self._run = None

    @property
    def endpoint(self) -> str | None:
        """The endpoint to which subscribers connect; None without a socket."""
        endpoint = self._inside().publisher.endpoint
        return None if endpoint == "none" else endpoint

    def run(self) -> RunResult:
        """Run until every source has ended, `stop` is called, or a stage fails. Blocks; call it once.

        A source that cannot be played, and the error of a stage (StageError, EngineError, LedgerError), are in the
        result: `failed`, `error`. Raises UsageError outside the with statement.
        """
        return self._inside().pipeline.run()

    def stop(self) -> None:
        """End the run in order: open alarms end with the reason `shutdown`. Any thread and any signal handler may call
        it.
        """
        self._inside().pipeline.stop()

    def _inside(self) -> Run:
        if self._run is None:
            raise UsageError("the detector is not open; use it in a with statement")
        return self._run


def row_of(decision: Decision) -> ScoreRow:
    """Convert a decision to a row of scores.csv."""
    ref = decision.score.ref
    return ScoreRow(
        source=ref.source,
        camera=ref.camera,
        window=ref.index,
        start_frame=ref.start_frame,
        end_frame=ref.end_frame,
        start_s=ref.start_s,
        end_s=ref.end_s,
        raw=decision.score.raw,
        smoothed=decision.smoothed,
        degraded=ref.degraded,
    )


# Nothing is written, bound or recorded.
_OFFLINE: dict[str, Any] = {
    "publish": {"bind": "none", "ledger": None},
    "evidence": {"enabled": False},
    "site": {"keep": False},
}


@dataclass(frozen=True, slots=True)
class _Over:
    """The mark that the run has ended."""

    result: RunResult | None
    error: BaseException | None


def _merged(*parts: dict[str, Any] | None) -> dict[str, Any]:
    merged: dict[str, Any] = {}
    for part in parts:
        merged = merge(merged, part or {})
    return merged


def _cameras(sources: SourceLike | Sequence[SourceLike] | dict[str, str]) -> tuple[CameraConfig, ...]:
    if isinstance(sources, dict):
        return parse_sources([f"{name}={source}" for name, source in sources.items()])
    if isinstance(sources, str | Path | CameraConfig):
        sources = [sources]
    texts: list[str] = [str(source) for source in sources if not isinstance(source, CameraConfig)]
    return (*parse_sources(texts), *(source for source in sources if isinstance(source, CameraConfig)))


def _config(sources: SourceLike | Sequence[SourceLike], bundle: str, values: dict[str, Any]) -> Config:
    refuse_arguments(values, bundle="bundle", cameras="sources")
    return build_config({**values, "bundle": bundle, "cameras": _cameras(sources)}, "settings")


def _iterate(config: Config, callbacks: Callable[[Callable[[Any], None]], dict[str, Any]]) -> Generator[Any]:
    """Run in a separate thread and yield the values that the callbacks put. When the queue is full, recordings wait."""
    live = any(camera.source.live for camera in config.cameras)
    waiting: queue.Queue[Any] = queue.Queue(QUEUE_ITEMS)
    left = threading.Event()

    def put(item: Any) -> None:
        while not left.is_set():
            try:
                return waiting.put(item, timeout=POLL_S)
            except queue.Full:
                if live:  # a live camera cannot wait, and no event may be lost silently
                    raise StageError(
                        f"{QUEUE_ITEMS} events wait unread; read them faster, or use a Detector with a sink"
                    ) from None

    with build_run(config, **callbacks(put)) as run:

        def play() -> None:
            error: BaseException | None = None
            result: RunResult | None = None
            try:
                result = run.pipeline.run()
            except BaseException as raised:
                error = raised
            put_last(_Over(result, error))

        def put_last(over: _Over) -> None:
            while not left.is_set():
                with contextlib.suppress(queue.Full):
                    return waiting.put(over, timeout=POLL_S)

        thread = threading.Thread(target=play, name="run", daemon=True)
        thread.start()
        try:
            while not isinstance(item := waiting.get(), _Over):
                yield item
            _raise(item)
        finally:
            left.set()
            run.pipeline.stop()
            thread.join()


def _raise(over: _Over) -> None:
    if over.error is not None:
        raise over.error
    if over.result is not None and over.result.error is not None:
        raise over.result.error
    if over.result is not None and over.result.failed:
        raise SourceError("; ".join(f"{name}: {reason}" for name, reason in over.result.failed.items()))
