"""The public names: lazy, sorted, documented; and what they do."""

from __future__ import annotations

import ast
import inspect
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from model_samples import noise_windows, small_bundle
from video_rig import make_video

import stream_detector as sd
from stream_detector import errors
from stream_detector.engines import Hardware, bundle_choice
from stream_detector.errors import SourceError, UsageError
from stream_detector.testing import ConstantEngine
from stream_detector.types import UInt8Array

SHORT = "demo:seed=3,duration=3,incident=0"


def bright(frames: UInt8Array) -> float:
    return float(frames.mean() > 0)


def test_the_names_are_sorted_and_there() -> None:
    assert sd.__all__ == sorted(sd.__all__)
    assert set(sd.__all__) == {*sd._MODULES, "__version__"}
    assert list(sd._MODULES) == sorted(sd._MODULES)
    for name in sd.__all__:
        assert getattr(sd, name) is not None
    assert dir(sd) == sorted(sd.__all__)
    with pytest.raises(AttributeError, match="nothing_like_it"):
        _ = sd.nothing_like_it  # type: ignore[attr-defined, unused-ignore]


@pytest.mark.parametrize("name", [name for name in sd.__all__ if name != "__version__"])
def test_every_name_has_a_docstring_and_so_have_its_methods(name: str) -> None:
    thing = getattr(sd, name)
    assert inspect.getdoc(thing)
    if inspect.isclass(thing):
        for method, value in vars(thing).items():
            if not method.startswith("_") and callable(value):
                assert inspect.getdoc(getattr(thing, method)), f"{name}.{method}"


@pytest.mark.parametrize("statement", ["import stream_detector", "from stream_detector import Subscriber, Message"])
def test_importing_loads_neither_torch_nor_opencv(statement: str) -> None:
    code = f"{statement}\nimport sys\nprint(sorted({{'torch', 'cv2', 'av', 'openvino'}} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_a_model_scores_any_number_of_windows_alike(tmp_path: Path) -> None:
    folder = small_bundle(tmp_path / "small").directory
    windows = noise_windows(5)
    with sd.load_bundle(folder, engine="torch", device="cpu", precision="fp32") as model:
        assert model.threshold == 0.4
        assert model.features(windows).shape == (5, model.bundle.manifest.backbone.feature_dim)
        scores = model.score(windows)
        assert scores.shape == (5,)
        assert scores.dtype == np.float32
        assert np.abs(np.concatenate([model.score(windows[i : i + 1]) for i in range(5)]) - scores).max() <= 1e-6
        assert model.score(windows[:0]).shape == (0,)
        assert model.features(windows[:0]).shape[0] == 0


def test_score_gives_a_row_a_window_in_order(tmp_path: Path) -> None:
    folder = str(small_bundle(tmp_path / "small").directory)
    rows = list(sd.score(SHORT, bundle=folder))
    assert [row.window for row in rows] == [0, 1, 2, 3]
    assert [row.start_frame for row in rows] == [0, 16, 32, 48]
    assert all(0 <= row.raw <= 1 for row in rows)


def test_leaving_score_early_ends_the_run(tmp_path: Path) -> None:
    folder = str(small_bundle(tmp_path / "small").directory)
    rows = sd.score("demo:seed=3,duration=40", bundle=folder)
    assert next(rows).window == 0
    rows.close()


def test_what_cannot_be_played_is_told_after_the_rows_of_the_others(tmp_path: Path) -> None:
    folder = str(small_bundle(tmp_path / "small").directory)
    bad = tmp_path / "bad.mp4"
    bad.write_bytes(b"no video")
    rows = []
    with pytest.raises(SourceError, match=r"bad\.mp4"):
        for row in sd.score([SHORT, bad], bundle=folder):
            rows.append(row)
    assert len(rows) == 4
    with pytest.raises(UsageError, match="recordings"):
        next(sd.score("rtsp://127.0.0.1/live", bundle=folder))


def test_watch_yields_typed_alarms(tmp_path: Path) -> None:
    folder = str(small_bundle(tmp_path / "small").directory)
    events = list(sd.watch(SHORT, bundle=folder, pace="max", threshold=0.0, settings={"alarm": {"min_length_s": 0.1}}))
    assert events[0].type == "start"
    assert events[-1].type == "end"
    assert len({event.id for event in events}) == 1
    assert all(event.threshold == 0.0 for event in events)


def test_a_detector_runs_and_stops(tmp_path: Path) -> None:
    told: list[sd.PublishedAlarm] = []
    settings = {
        "events": tmp_path / "events.jsonl",
        "pace": "max",
        "publish": {"bind": "none", "ledger": tmp_path / "ledger.sqlite3"},
        "evidence": {"enabled": False},
        "alarm": {"threshold": 0.5},
    }
    detector = sd.Detector({"gate": SHORT}, settings=settings, on_event=told.append, engine=ConstantEngine(1.0))
    with pytest.raises(UsageError, match="with statement"):
        detector.run()
    with detector:
        assert detector.endpoint is None
        result = detector.run()
    assert result.exit_code == 0
    assert [event.type for event in told] == ["start", "end"]
    assert {event.camera for event in told} == {"gate"}
    assert len((tmp_path / "events.jsonl").read_text().splitlines()) == 2


def test_every_error_is_a_public_name() -> None:
    defined = {name for name, kind in vars(errors).items() if inspect.isclass(kind) and issubclass(kind, Exception)}
    assert defined <= set(sd.__all__)


def test_what_the_type_checker_reads_is_what_is_imported() -> None:
    tree = ast.parse(Path(sd.__file__).read_text(encoding="utf-8"))
    (block,) = (node for node in tree.body if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING")
    read = {
        alias.name: node.module
        for node in block.body
        if isinstance(node, ast.ImportFrom) and node.module != "typing"
        for alias in node.names
    }
    assert read == sd._MODULES


def test_auto_means_the_same_bundle_everywhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bundle_choice, "detect_hardware", lambda: Hardware(cuda=(), openvino=False, bf16=False))
    with sd.load_bundle("embedded") as plain, sd.load_bundle("auto") as model, sd.Session("auto") as session:
        assert model.fingerprint == session.bundle.fingerprint == plain.fingerprint
    video = tmp_path / "video.mp4"
    make_video(video, 1.0)
    assert [f.image.shape for f in sd.read_frames(video, bundle="auto")] == [
        f.image.shape for f in sd.read_frames(video)
    ]


@pytest.mark.parametrize("settings", [{"bundle": "accurate"}, {"cameras": {"gate": "demo"}}])
def test_settings_that_are_arguments_are_refused(settings: dict[str, Any]) -> None:
    for iterate in (sd.score, sd.watch):
        with pytest.raises(sd.ConfigError, match=r"argument '(bundle|sources)'"):
            next(iterate(SHORT, settings=settings))


def test_a_published_alarm_is_checked() -> None:
    with pytest.raises(sd.ProtocolError, match="type"):
        sd.PublishedAlarm.from_dict({"type": "begin"})
