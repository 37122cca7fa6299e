"""The examples of docs/library.md and docs/extending.md, run as they are printed."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from model_samples import small_bundle
from video_rig import make_video

import stream_detector as sd
from stream_detector.alarms.smoothing import SMOOTHERS
from stream_detector.alarms.state_machine import ALARM_RULES
from stream_detector.capture.readers import READERS
from stream_detector.config.source import Source
from stream_detector.engines import ENGINES
from stream_detector.errors import BundleError, ConfigError, SourceError
from stream_detector.models.backbones import BACKBONES, build_backbone
from stream_detector.models.bundle import Bundle, write_bundle
from stream_detector.models.preprocess import recipe_named
from stream_detector.sinks.sink_threads import SINKS
from stream_detector.system.registry import Registry
from stream_detector.testing import ConstantEngine

DOCS = Path(__file__).parents[1] / "docs"
QUIET: dict[str, Any] = {"publish": {"bind": "none", "ledger": None}, "evidence": {"enabled": False}}
BLOCK = re.compile(r"^```(\w+)( skip)?\n(.*?)^```$", re.DOTALL | re.MULTILINE)


def blocks(name: str, language: str) -> list[str]:
    text = (DOCS / name).read_text(encoding="utf-8")
    return [body for kind, skip, body in BLOCK.findall(text) if kind == language and not skip]


@pytest.fixture(autouse=True)
def forget() -> Iterator[None]:
    """What an example registers is gone after its test."""
    yield
    for registry, name in (
        (SMOOTHERS, "highest"),
        (ALARM_RULES, "not-in-the-dark"),
        (SINKS, "csv"),
        (BACKBONES, "tiny"),
        (READERS, "jpegs"),
        (ENGINES, "double"),
    ):
        registry.unregister(name)  # type: ignore[attr-defined]


@pytest.mark.parametrize("number", range(len(blocks("library.md", "python"))))
def test_library(number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    make_video(tmp_path / "clip.mp4", 3.0)
    exec(compile(blocks("library.md", "python")[number], f"library.md, example {number + 1}", "exec"), {})


def test_the_frames_of_a_clip_score_as_the_clip(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    make_video(tmp_path / "clip.mp4", 3.0)
    (example,) = (text for text in blocks("library.md", "python") if "read_frames" in text)
    told: list[tuple[float, ...]] = []
    exec(compile(example, "library.md, read_frames", "exec"), {"print": lambda *values: told.append(values)})
    assert told == [(row.end_s, row.raw, row.smoothed) for row in sd.score("clip.mp4")]
    assert len(told) >= 4


def run_example(name: str) -> None:
    (source,) = (text for text in blocks("extending.md", "python") if name in text)
    exec(compile(source, f"extending.md, {name}", "exec"), {"__name__": "example"})


def settings_of(name: str) -> dict[str, Any]:
    (text,) = (text for text in blocks("extending.md", "toml") if name in text)
    return tomllib.loads(text)


def still(count: int = 48) -> np.ndarray[Any, np.dtype[np.uint8]]:
    picture = np.random.default_rng(0).integers(0, 256, (112, 112, 3), dtype=np.uint8)
    return np.stack([picture] * count)


def test_a_smoother_of_ones_own() -> None:
    run_example("class Highest")
    scores = iter([0.2, 0.9, 0.1])
    engine = ConstantEngine(score_of=lambda _: next(scores))
    with sd.Session(engine=engine, settings=settings_of('kind = "highest"')) as session:
        smoothed = [d.smoothed for n, f in enumerate(still()) for d in session.push("a", f, n / 25)]
    assert smoothed == pytest.approx([0.2, 0.9, 0.9])


def test_an_alarm_rule_of_ones_own() -> None:
    run_example("class NotInTheDark")
    lamps_out = np.concatenate([still(80), np.zeros((80, 112, 112, 3), np.uint8)])
    starts: list[float] = []
    for rule in ("hysteresis", "not-in-the-dark"):
        alarm = {"rule": rule, "threshold": 0.5, "min_length_s": 0.5}
        settings = {"alarm": alarm, "smoothing": {"kind": "none"}, "picture_quality": {"min_duration_s": 0.5}}
        with sd.Session(engine=ConstantEngine(score_of=lambda f: float(f.mean() < 1)), settings=settings) as session:
            for n, frame in enumerate(lamps_out):
                session.push("a", frame, n / 25)
            session.finish("a")
            starts.append(sum(event.type == "start" and event.end_s is None for event in session.events("a")))
    assert starts == [1, 0]


def test_a_sink_of_ones_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    run_example("class CsvSink")
    settings = {
        **settings_of('kind = "csv"'),
        "pace": "max",
        "publish": {"bind": "none", "ledger": None},
        "evidence": {"enabled": False},
        "alarm": {"threshold": 0.5},
    }
    with sd.Detector({"gate": "demo:duration=3,incident=0"}, settings=settings, engine=ConstantEngine(0.9)) as detector:
        assert detector.run().exit_code == 0
    (row,) = (tmp_path / "alarms.csv").read_text().splitlines()
    assert row.startswith("gate,")


def test_a_kind_of_source_of_ones_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SourceError):
        Source.parse("jpegs:archive/")
    run_example("class JpegFolder")
    (tmp_path / "archive").mkdir()
    for n, frame in enumerate(still(80)):
        cv2.imwrite(str(tmp_path / "archive" / f"{n:04}.jpg"), frame)
    (source,) = (camera["source"] for camera in settings_of("jpegs:archive/")["cameras"].values())
    assert (Source.parse(source).shown, Source.parse(source).live) == ("jpegs:archive/", False)
    settings = {"pace": "max", **QUIET, "alarm": {"threshold": 0.5}}
    with sd.Detector({"archive": source}, settings=settings, engine=ConstantEngine(0.9)) as detector:
        result = detector.run()
    assert (result.exit_code, result.windows, result.alarms) == (0, 5, 1)
    with sd.Detector({"none": "jpegs:nowhere/"}, settings=settings, engine=ConstantEngine(0.9)) as detector:
        result = detector.run()
    assert result.exit_code == 2 and "holds no .jpg file" in result.failed["none"]


def test_a_source_of_ones_own_kind_shows_no_password(monkeypatch: pytest.MonkeyPatch) -> None:
    run_example("class JpegFolder")
    for text in ("jpegs:user:hunter22@host/cam", "jpegs://user:hunter22@host", "jpegs:x?key=hunter22"):
        source = Source.parse(text)
        assert (source.shown, source.reveal()) == ("jpegs:…", text)
        assert "hunter22" not in repr(source)
        assert "hunter22" not in source.hide(f"cannot open {text} or {source.rest}")
        assert "hunter22" not in str(source.fault(ValueError(text)))
    told = Source.parse("jpegs:${WHERE}", {"WHERE": "hunter22"})
    assert (told.shown, told.rest) == ("jpegs:…", "hunter22")


def test_an_engine_of_ones_own(tmp_path: Path) -> None:
    folder = small_bundle(tmp_path / "small").directory
    with pytest.raises(ConfigError, match=r"engine 'double' does not exist.*openvino, torch"):
        sd.load_bundle(folder, engine="double")
    run_example("class DoubleEngine")
    engine = settings_of('engine = "double"')["engine"]["engine"]
    size = Bundle.load(folder).recipe.size
    frames = np.random.default_rng(0).integers(0, 256, (2, 16, *size, 3), np.uint8)
    with (
        sd.load_bundle(folder, engine=engine) as own,
        sd.load_bundle(folder, engine="torch", device="cpu", precision="fp32") as usual,
    ):
        assert own.score(frames) == pytest.approx(usual.score(frames), abs=1e-5)
        assert own.features(frames) == pytest.approx(usual.features(frames), abs=1e-3)


def test_a_backbone_of_ones_own(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="tiny"):
        build_backbone("tiny")
    run_example("class TinyNet")
    backbone = build_backbone("tiny")
    head = {
        "feature_mean": torch.zeros(8),
        "feature_std": torch.ones(8),
        "temperature": torch.tensor(1.0),
        "bias": torch.tensor(0.0),
        "layers.0.weight": torch.ones(1, 8),
        "layers.0.bias": torch.zeros(1),
    }
    parts = {
        "name": "tiny",
        "backbone": {"arch": "tiny"},
        "preprocess": recipe_named("stream-112"),
        "head": {"dims": [8, 1]},
        "threshold": {"value": 0.5, "calibrated": "on nothing", "false_alarms_per_hour": 1.0},
        "training": {"sets": ["none"]},
        "licences": {"none": "none"},
    }
    folder = write_bundle(tmp_path / "tiny", parts, backbone.state_dict(), head).directory
    with sd.load_bundle(folder, engine="torch", device="cpu", precision="fp32") as model:
        assert model.features(np.zeros((2, 16, 112, 112, 3), np.uint8)).shape == (2, 8)


def test_what_is_not_registered_is_named_with_what_is() -> None:
    wrong = (({"smoothing": {"kind": "kalman"}}, "ema, median, none"), ({"alarm": {"rule": "x"}}, "hysteresis"))
    for settings, names in wrong:
        with pytest.raises(ConfigError, match=names), sd.Session(engine=ConstantEngine(), settings=settings) as session:
            session.push("a", still(1)[0], 0.0)
    detector = sd.Detector("demo:duration=1,incident=0", settings={"sinks": {"t": {"kind": "nothing"}}, **QUIET})
    with pytest.raises(ConfigError, match="jsonl"), detector:
        pass


def test_an_entry_point_that_cannot_be_loaded_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    from importlib.metadata import EntryPoint

    point = EntryPoint("broken", "no_such_module:thing", "group")
    monkeypatch.setattr("stream_detector.system.registry.entry_points", lambda group: [point])
    registry: Registry[Any] = Registry("thing", "group", {})
    assert registry.names() == ("broken",)
    with pytest.raises(ConfigError, match=r"no_such_module.*cannot be loaded"):
        registry.get("broken")
    with pytest.raises(ConfigError, match="not allowed"):
        registry.register("Not This")


def test_the_tests_that_hold_the_faults_exist() -> None:
    named = set(re.findall(r"`(test_\w+)`", (DOCS / "faults.md").read_text()))
    written = {
        name
        for path in Path(__file__).parent.rglob("test_*.py")
        for name in re.findall(r"def (test_\w+)", path.read_text())
    }
    assert len(named) > 60 and named <= written, named - written
