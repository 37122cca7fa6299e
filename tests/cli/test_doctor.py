"""The doctor: what it finds, what it advises, and its exit code."""

from __future__ import annotations

import argparse
import importlib
import json
import socket
import sys
import threading
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
from event_bench import MakeBench

from stream_detector.cli import doctor
from stream_detector.config import Config, WebConfig, build_config
from stream_detector.errors import BundleError, ConfigError
from stream_detector.types import EngineOutput


def run(*words: str) -> int:
    parser = argparse.ArgumentParser()
    doctor.add_parser(parser.add_subparsers())
    return doctor.main(parser.parse_args(["doctor", *words]))


@dataclass
class OneScoreEngine:
    """An engine that gives one score and remembers what it saw."""

    score: float = 0.25
    name: str = "torch"
    device: str = "cpu"
    precision: str = "fp32"
    reason: str = "nothing faster is installed"
    max_batch: int = 4
    good_batch: int = 4
    good_wait_s: float = 0.0
    company: float = 0.0  # what further windows in a batch add to every score
    shape: tuple[int, ...] = ()
    closed: bool = False

    def infer(self, frames: np.ndarray) -> EngineOutput:
        self.shape = self.shape or frames.shape
        scores = np.full(len(frames), self.score + self.company * (len(frames) - 1), np.float32)
        return EngineOutput(np.zeros((len(frames), 8), np.float32), scores, 0.001, 0.01)

    def close(self) -> None:
        self.closed = True


@pytest.fixture
def engine(monkeypatch: pytest.MonkeyPatch) -> OneScoreEngine:
    """A bundle and an engine in place of the real ones."""
    fake = OneScoreEngine()
    bundle = SimpleNamespace(
        name="embedded", fingerprint="abc", threshold=0.5, recipe=SimpleNamespace(size=(96, 128), frames=16), load=None
    )
    for module in ("batch_dependence", "bundle_choice"):  # before their package is replaced
        importlib.import_module(f"stream_detector.engines.{module}")
    bundles, engines = ModuleType("stream_detector.models.bundle"), ModuleType("stream_detector.engines")

    def load(name: str) -> Any:
        if name != "embedded":
            raise BundleError(f"bundle {name!r} does not exist; give an existing folder")
        return bundle

    bundles.Bundle = SimpleNamespace(load=load)  # type: ignore[attr-defined]
    engines.load_engine = lambda _bundle, _config: fake  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "stream_detector.models.bundle", bundles)
    monkeypatch.setitem(sys.modules, "stream_detector.engines", engines)
    return fake


def config_in(folder: Path, **publish: Any) -> Config:
    return build_config(
        {
            "evidence": {"directory": folder / "evidence"},
            "publish": {"bind": "none", "ledger": folder / "l.sqlite3", **publish},
        }
    )


def test_a_sound_machine_can_run(engine: OneScoreEngine, tmp_path: Path) -> None:
    checks = {check.name: check for check in doctor.examine(config_in(tmp_path))}
    assert [check for check in checks.values() if check.state == "fail"] == []
    assert {"python", "packages", "cpu", "gpu", "bundle", "engine", "decoder", "encoders"} <= set(checks)
    assert checks["engine"].detail == "torch on cpu in fp32: nothing faster is installed"
    assert engine.shape == (1, 16, 96, 128, 3)
    assert engine.closed
    assert "score 0.250" in checks["first window"].detail
    assert checks["one score"].detail == "promised: within 1e-06 in any batch; found here: bit-equal"
    assert not (tmp_path / "evidence").exists()  # looking changes nothing


def test_an_engine_whose_scores_move_with_their_company_is_told(engine: OneScoreEngine, tmp_path: Path) -> None:
    engine.company = 1e-3
    check = {check.name: check for check in doctor.examine(config_in(tmp_path))}["one score"]
    assert check.state == "warn" and "differs by 3.0e-03" in check.detail and "--engine torch" in check.advice


@pytest.mark.parametrize("score", [float("nan"), 1.5])
def test_an_engine_that_gives_no_score_fails(engine: OneScoreEngine, tmp_path: Path, score: float) -> None:
    engine.score = score
    (failed,) = (check for check in doctor.examine(config_in(tmp_path)) if check.state == "fail")
    assert failed.name == "first window"
    assert "--engine torch" in failed.advice


def test_a_bad_bundle_fails_with_its_sentence_and_the_rest_goes_on(engine: OneScoreEngine, tmp_path: Path) -> None:
    config = config_in(tmp_path).model_copy(update={"bundle": "no"})
    checks = {check.name: check for check in doctor.examine(config)}
    assert checks["bundle and engine"].state == "fail"
    assert "bundle 'no' does not exist" in checks["bundle and engine"].detail
    assert "encoders" in checks


def test_exit_code_and_json(
    engine: OneScoreEngine, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run("--bind", "none", "--json") == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["schema"], told["can_run"]) == ("stream-detector.doctor/1", True)
    assert {"name", "state", "detail", "advice"} == set(told["checks"][0])
    assert run("--bind", "none", "--bundle", "no", "--json") == 1
    assert json.loads(capsys.readouterr().out)["can_run"] is False


def test_the_table_says_what_to_do(
    engine: OneScoreEngine, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert run("--bind", f"tcp://127.0.0.1:{port}") == 1
    text = capsys.readouterr().out
    assert "cannot be bound" in text
    assert "choose another with --bind" in text
    assert "The detector cannot run here" in text
    assert run("--bind", "none") == 0
    assert "The detector can run here." in capsys.readouterr().out


def test_a_taken_port_fails_and_a_free_one_does_not(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        events, _ = doctor.ports(config_in(tmp_path, bind=f"tcp://127.0.0.1:{port}", heartbeat_s=0.1))
        assert (events.name, events.state) == ("events port", "fail")
        assert "another program holds it" in events.detail
    events, _ = doctor.ports(config_in(tmp_path, bind=f"tcp://127.0.0.1:{port}"))
    assert (events.state, events.advice) == ("ok", "")


def test_a_running_detector_is_named_and_no_failure(make_bench: MakeBench, tmp_path: Path) -> None:
    bench = make_bench(heartbeat_s=0.1)
    stop = threading.Event()

    def serve() -> None:
        while not stop.wait(0.01):
            bench.clock.advance(0.1)
            bench.publisher.service()

    where = bench.publisher.endpoint.removeprefix("tcp://")
    thread = threading.Thread(target=serve)
    thread.start()
    try:
        checks = doctor.ports(config_in(tmp_path, bind=f"tcp://{where}"))
    finally:
        stop.set()
        thread.join()
    assert [check.state for check in checks] == ["warn", "warn"]
    assert checks[0].detail == f"a running stream-detector holds {where}"
    assert "--bind" in checks[0].advice


def test_the_port_of_the_page_is_looked_at(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
        config = config_in(tmp_path).model_copy(update={"web": WebConfig(bind=f"127.0.0.1:{port}")})
        (page,) = doctor.ports(config)
    (free,) = doctor.ports(config)
    assert free.state == "ok"
    assert (free.name, page.name, page.state) == ("page port", "page port", "fail")
    assert "--web" in page.advice


def test_an_odd_port_fails_without_a_traceback(tmp_path: Path) -> None:
    states = [check.state for check in doctor.ports(config_in(tmp_path, bind="tcp://127.0.0.1:99999"))]
    assert states == ["fail", "fail"]


def test_a_folder_that_cannot_be_written_fails(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    checks = {check.name: check for check in doctor.folders(config_in(tmp_path / "file"))}
    assert (checks["evidence folder"].state, checks["ledger folder"].state) == ("fail", "fail")
    assert "make it writable" in checks["evidence folder"].advice


@pytest.mark.parametrize(("free", "state"), [(10_000_000_000, "ok"), (500_000_000, "warn"), (1_000_000, "fail")])
def test_disk_space(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, free: int, state: str) -> None:
    monkeypatch.setattr(doctor.shutil, "disk_usage", lambda _path: SimpleNamespace(free=free))
    checks = {check.name: check for check in doctor.folders(config_in(tmp_path))}
    assert checks["evidence folder"].state == state
    assert checks["cache folder"].state in ("ok", "warn")  # a full cache is no reason not to run


def test_encoders_are_really_tried_and_ffmpeg_stays_quiet(capfd: pytest.CaptureFixture[str]) -> None:
    decoder, encoders = doctor.video()
    assert (decoder.state, encoders.state) == ("ok", "ok")
    assert "H.264" in encoders.detail
    assert capfd.readouterr().err == ""


def test_an_encoder_that_writes_nothing_does_not_count(tmp_path: Path) -> None:
    assert not doctor._writes(tmp_path / "no" / "clip.webm", "libvpx")
    assert not doctor._writes(tmp_path / "clip.webm", "no-such-encoder")
    assert doctor._writes(tmp_path / "clip.webm", "libvpx")


def test_missing_packages_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "_version", lambda package: None if package in ("pyzmq", "openvino") else "1.0")
    checks = {check.name: check for check in doctor.packages()}
    assert (checks["missing packages"].state, checks["missing packages"].detail) == ("fail", "pyzmq")
    assert "stream-detector[openvino]" in checks["extras"].advice


def test_a_check_that_breaks_is_a_finding(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def broken() -> list[doctor.Check]:
        raise RuntimeError("libcudart.so is missing")

    for name in ("packages", "machine", "video"):
        monkeypatch.setattr(doctor, name, list)
    monkeypatch.setattr(doctor, "gpu", broken)
    monkeypatch.setattr(doctor, "model", lambda _config: [])
    (failed,) = (check for check in doctor.examine(config_in(tmp_path)) if check.state == "fail")
    assert (failed.name, failed.detail) == ("gpu", "RuntimeError: libcudart.so is missing")


def test_a_bad_configuration_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "cameras.toml"
    path.write_text("treshold = 0.5\n")
    with pytest.raises(ConfigError, match="treshold"):
        run("--config", str(path))


@pytest.mark.parametrize(
    ("free_gb", "own_gb", "state", "told"),
    [
        (79.0, 0.0, "ok", "79.0 of 80.0 GB free"),
        (20.0, 1.0, "warn", "other processes hold about 59.0 GB"),
        (75.0, 4.5, "ok", "75.0 of 80.0 GB free"),  # its own
        (1.0, 78.5, "warn", "1.0 of 80.0 GB free"),
    ],
)
def test_a_gpu_tells_its_free_memory_and_other_users(
    monkeypatch: pytest.MonkeyPatch, free_gb: float, own_gb: float, state: str, told: str
) -> None:
    import torch

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    named = SimpleNamespace(name="H100", major=9, minor=0)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _index: named)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _index: (int(free_gb * 1e9), 80_000_000_000))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda _index: int(own_gb * 1e9))
    (check,) = doctor.gpu()
    assert (
        (check.name, check.state) == ("gpu", state) and told in check.detail and bool(check.advice) == (state != "ok")
    )


@pytest.mark.parametrize("where", ["is_available", "device_count", "get_device_properties", "mem_get_info"])
def test_a_gpu_that_cannot_be_used_is_told(monkeypatch: pytest.MonkeyPatch, where: str) -> None:
    import torch

    def broken(*_: Any) -> Any:
        raise RuntimeError("CUDA error: CUDA-capable device(s) is/are busy or unavailable\nmore")

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    named = SimpleNamespace(name="H100", major=9, minor=0)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _index: named)
    monkeypatch.setattr(torch.cuda, where, broken)
    (check,) = doctor.gpu()
    assert check.state == "warn" and "cannot be used (CUDA error: CUDA-capable" in check.detail
    assert "\n" not in check.detail and "--device cpu" in check.advice
