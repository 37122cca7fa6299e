"""Scores recordings with many workers: the work of `score` for one file, as a function of that file.

Each worker keeps the model and runs the pipeline of a single machine over one file after the other. The driver writes
the rows and alarms of each file into `<out>.parts/`, one part per recording, whole or not at all. A run that was
stopped continues, and scores again only what changed. The final table has the order of the list.
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from stream_detector.capture.picture import make_views
from stream_detector.config import CameraConfig, Config
from stream_detector.engines import load_engine
from stream_detector.engines.feeding import infer_windows
from stream_detector.errors import DataError, SourceError
from stream_detector.events.protocol import encode
from stream_detector.models.bundle import Bundle
from stream_detector.reports.scores_file import ScoresFile
from stream_detector.runtime.pipeline import Pipeline
from stream_detector.runtime.stages import DecisionModel, UnpublishedEvents, make_decider, plan_camera
from stream_detector.telemetry.collector import Telemetry
from stream_detector.types import AlarmEvent, Engine, EngineOutput, SystemClock, UInt8Array


@dataclass(frozen=True, slots=True)
class FileScores:
    """The result of one file. rows: its part of scores.csv without the header.  events: JSON lines.  failure: as in
    `RunResult.failed`.
    """

    rows: str
    events: str
    windows: int
    failure: str


class _SharedEngine:
    """An engine that outlives the pipelines that use it. Implements `types.Engine`."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._follow()

    def infer(self, frames: UInt8Array) -> EngineOutput:
        try:
            return self._engine.infer(frames)
        finally:
            self._follow()

    def infer_windows(self, windows: Sequence[UInt8Array]) -> EngineOutput:
        try:
            return infer_windows(self._engine, windows)
        finally:
            self._follow()

    def close(self) -> None:
        pass

    def _follow(self) -> None:
        engine = self._engine  # it changes when it is replaced by another one
        self.name, self.device, self.precision = engine.name, engine.device, engine.precision
        self.reason, self.max_batch = engine.reason, engine.max_batch
        self.good_batch, self.good_wait_s = engine.good_batch, engine.good_wait_s


class _EventLines(UnpublishedEvents):
    """Collects events as lines in memory."""

    def __init__(self) -> None:
        super().__init__(SystemClock())
        self.text = ""

    def keep(self, event: AlarmEvent, body: dict[str, Any]) -> None:
        self.text += encode(body).decode() + "\n"


class Scorer:
    """Scores one file after the other. config: made by `score`; its cameras are not used.

    Raises the errors of Bundle.load and load_engine.
    """

    def __init__(self, config: Config) -> None:
        self._config = config
        self._bundle = Bundle.load(config.bundle)
        self._model = DecisionModel.of(self._bundle)
        self._engine = load_engine(self._bundle, config.engine)

    def work(self, camera: CameraConfig) -> FileScores:
        """Score one file. Raises SourceError if nothing of it can be played."""
        clock, sink = SystemClock(), _EventLines()
        config = self._config.model_copy(update={"cameras": (camera,)})
        plan = plan_camera(camera, config, self._bundle)
        telemetry = Telemetry([plan.name], clock)
        with tempfile.TemporaryDirectory() as folder:
            table = Path(folder) / "scores.csv"
            scores = ScoresFile(table)
            decider = make_decider(
                config,
                self._model,
                (plan,),
                sink=sink,
                telemetry=telemetry,
                clock=clock,
                scores=scores,
            )
            result = Pipeline(
                config=config,
                cameras=((camera, plan),),
                engine=_SharedEngine(self._engine),
                resize=partial(make_views, recipe=self._bundle.recipe),
                frame_fps=self._bundle.recipe.fps,
                decider=decider,
                sink=sink,
                telemetry=telemetry,
                clock=clock,
            ).run()
            scores.close()
            rows = table.read_bytes().decode().partition("\n")[2]
        if result.error is not None:
            raise result.error
        failure = result.failed.get(plan.name, "")
        if failure and not result.windows:
            raise SourceError(failure)
        return FileScores(rows, sink.text, result.windows, failure)


class PartialResults:
    """The folder of partial results. key: everything that a result depends on, except the file. Raises DataError."""

    def __init__(self, out: Path, key: str) -> None:
        self._folder = out.with_name(out.name + ".parts")
        self._key = key
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise DataError(f"folder {str(self._folder)!r} cannot be made ({error.strerror}); give another") from None

    def load(self, camera: CameraConfig) -> FileScores | str | None:
        """Return the result of an earlier run, the sentence for a file that failed, or None if it is still to be
        scored.
        """
        try:
            body = json.loads(self._path(camera).read_text(encoding="utf-8"))
            return str(body["error"]) if body["error"] else FileScores(**body["value"])
        except FileNotFoundError:
            return None
        except (OSError, ValueError, KeyError, TypeError):
            return None  # a disk that lost the end of the file: score again

    def save(self, camera: CameraConfig, value: FileScores | None, error: str) -> None:
        """Store a result, whole or not at all."""
        found = value and {
            "rows": value.rows,
            "events": value.events,
            "windows": value.windows,
            "failure": value.failure,
        }
        path = self._path(camera)
        aside = path.with_suffix(".new")
        aside.write_text(json.dumps({"value": found, "error": error}), encoding="utf-8")
        os.replace(aside, path)

    def clear(self) -> None:
        """Delete the parts: the table contains everything."""
        for path in self._folder.glob("*.json"):
            path.unlink()
        self._folder.rmdir()

    def _path(self, camera: CameraConfig) -> Path:
        """Return the path of a part. A changed file or setting gives another name, so the file is scored again."""
        path = camera.source.path
        try:
            status = path.stat()
            facts = [camera.name, camera.source.shown, status.st_size, status.st_mtime_ns, self._key]
        except OSError:
            facts = [camera.name, camera.source.shown, self._key]
        return self._folder / f"{hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:32]}.json"
