"""Heads that remember, in the running detector: per camera, cut at discontinuities, equal to scoring whole videos."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from model_samples import DIM, edit, noise_windows, replace_tensors, small_bundle
from pipeline_rig import ALARM, make
from temporal_samples import SPECS, feature_rows, small_checkpoint, temporal_bundle

from stream_detector.cli.main import main as detector
from stream_detector.config import BatchConfig, Config, EngineConfig, SmoothingConfig
from stream_detector.engines import load_engine
from stream_detector.errors import BundleError
from stream_detector.models.bundle import Bundle
from stream_detector.models.heads import TemporalHead
from stream_detector.models.streaming_heads import StreamingHead
from stream_detector.runtime.decider import CameraPlan, Decider
from stream_detector.telemetry.collector import Telemetry
from stream_detector.testing import ConstantEngine, FakeSource
from stream_detector.types import Decision, EngineOutput, Score, SystemClock, Timing, UInt8Array, WindowRef
from trainer.__main__ import main as trainer


class RowEngine(ConstantEngine):
    """Features: a row of `rows` picked by the number that the window's first frame carries (see `numbered_image`)."""

    def __init__(self, rows: torch.Tensor, max_batch: int = 16) -> None:
        super().__init__(0.9, max_batch=max_batch)
        self.rows = rows.numpy()

    def infer(self, frames: UInt8Array) -> EngineOutput:
        return replace(super().infer(frames), features=self.rows[frames[:, 0, 0, 0, 0] // 16])


def offline(arch: str, rows: np.ndarray, cuts: tuple[int, ...] = ()) -> np.ndarray:
    return small_checkpoint(arch).head().score_rows(rows, cuts)


@pytest.mark.parametrize("arch", SPECS)
def test_a_stored_head_streams_what_the_checkpoint_scores_offline(arch: str, tmp_path: Path) -> None:
    bundle = temporal_bundle(tmp_path / "b", arch)
    head = bundle.build_head()
    assert isinstance(head, TemporalHead)
    rows = feature_rows(30)
    stream = head.stream()
    streamed = np.array([stream.step(row) for row in rows.numpy()])
    wanted = offline(arch, rows.numpy())
    assert np.abs(streamed - wanted).max() < 1e-5
    assert np.ptp(wanted) > 0.1 and np.abs(wanted - [offline(arch, row[None])[0] for row in rows.numpy()]).max() > 0.05
    with torch.inference_mode():
        alone = head(rows).numpy()  # what the engine computes: every window as the first of its camera
    assert np.abs(alone - [offline(arch, row[None])[0] for row in rows.numpy()]).max() < 1e-5


def test_convolutions_are_those_of_the_definition() -> None:
    checkpoint = small_checkpoint("causal-conv")
    spec, w = replace(checkpoint.spec, views=("rows",), members=1), checkpoint.networks[0]
    rows = feature_rows(25, 4).numpy()
    x = torch.relu(
        torch.from_numpy(checkpoint.scaling.apply(rows)) @ torch.tensor(w["dense_0/kernel"])
        + torch.tensor(w["dense_0/bias"])
    )
    for i, dilation in enumerate(spec.dilations):
        taps = torch.tensor(w[f"conv_{i}/kernel"]).permute(2, 1, 0)
        padded = torch.nn.functional.pad(x.T[None], ((spec.kernel - 1) * dilation, 0))
        y = torch.nn.functional.conv1d(padded, taps, torch.tensor(w[f"conv_{i}/bias"]), dilation=dilation)
        x = x + torch.relu(y[0].T)
    wanted = (x @ torch.tensor(w["logit/kernel"]) + torch.tensor(w["logit/bias"]))[:, 0].numpy()
    head = StreamingHead(spec, checkpoint.scaling, [w])
    assert np.abs(np.array([head.logit(row) for row in rows]) - wanted).max() < 1e-5


@pytest.mark.parametrize("arch", SPECS)
def test_cameras_interleaved_in_one_batch_keep_their_own_past(arch: str) -> None:
    rows = feature_rows(16)
    engine = RowEngine(rows)
    sources = {"one": FakeSource(["frame"] * 160), "two": FakeSource(["frame"] * 240)}
    pipeline, sink = make(sources, engine=engine, config=Config(pace="max", batch=BatchConfig(max_wait_ms=200)))
    pipeline.decider = decider(sink, ("one", "two"), arch)
    assert pipeline.run().error is None
    assert max(engine.batches) >= 2
    for name, count in (("one", 10), ("two", 15)):
        found = [d.score.raw for d in sink.scores if d.score.ref.camera == name]
        assert np.abs(np.array(found) - offline(arch, rows.numpy()[:count])).max() < 1e-5
        assert all(d.score.features is None for d in sink.scores)


def decider(sink: Any, names: tuple[str, ...], arch: str) -> Decider:
    plans = tuple(CameraPlan(n, n, False, 16, SmoothingConfig(kind="none"), ALARM, 0.5, evidence=False) for n in names)
    telemetry = Telemetry(list(names), SystemClock())
    make_head = small_checkpoint(arch).head
    return Decider(plans, "f00d", sink=sink, telemetry=telemetry, clock=SystemClock(), make_head=make_head)


@pytest.mark.parametrize(
    ("causes", "forgets"),
    [
        (("reconnect",), True),
        (("gap",), True),
        (("seek",), True),
        (("corrupt",), True),
        (("black", "gap"), True),
        (("cut",), True),
        (("dropped",), False),
        (("blurred",), False),
        ((), False),
    ],
)
def test_a_discontinuity_cuts_the_past_of_its_camera_only(causes: tuple[str, ...], forgets: bool) -> None:
    rows, kept = feature_rows(8).numpy(), list[Decision]()
    sink = make({"one": FakeSource()})[1]
    sink.score = kept.append  # type: ignore[method-assign]
    both = decider(sink, ("one", "two"), "causal-conv")
    for i, row in enumerate(rows):
        for name in ("one", "two"):
            degraded = causes if i == 5 and name == "one" else ()
            ref = WindowRef(name, name, i, 16 * i, 16 * i + 15, i * 0.64, i * 0.64 + 0.6, 0.0, 0.0, 0.0, degraded)
            both.score(Score(ref, 0.9, 0.0, Timing(0, 0, 0, 0), features=row))
    one, two = ([d.score.raw for d in kept if d.score.ref.camera == name] for name in ("one", "two"))
    assert np.abs(np.array(two) - offline("causal-conv", rows)).max() < 1e-5
    assert np.abs(np.array(one) - offline("causal-conv", rows, (5,) if forgets else ())).max() < 1e-5
    assert (max(abs(a - b) for a, b in zip(one, two, strict=True)) > 1e-3) is forgets


def test_a_broken_picture_in_a_file_cuts_in_the_stream_as_offline() -> None:
    rows = feature_rows(16)
    source = FakeSource(["frame"] * 64 + ["broken"] + ["frame"] * 79)
    pipeline, sink = make({"one": source}, engine=RowEngine(rows))
    pipeline.decider = decider(sink, ("one",), "causal-gru")
    assert pipeline.run().error is None
    picked = [d.score.ref.start_frame // 16 for d in sink.scores]
    assert picked == [0, 1, 2, 3, 4, 5, 6, 7] and sink.scores[4].score.ref.degraded == ("corrupt",)
    found = np.array([d.score.raw for d in sink.scores])
    assert np.abs(found - offline("causal-gru", rows.numpy()[:8], cuts=(4,))).max() < 1e-5
    assert np.abs(found - offline("causal-gru", rows.numpy()[:8])).max() > 1e-3


@pytest.mark.parametrize("arch", SPECS)
def test_every_engine_takes_such_a_bundle(arch: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STREAM_DETECTOR_CACHE", str(tmp_path / "cache"))
    bundle, frames = temporal_bundle(tmp_path / "b", arch), noise_windows(3)
    outputs = []
    for name in ("torch", "openvino"):
        if name == "openvino":
            pytest.importorskip("openvino")
        engine = load_engine(bundle, EngineConfig(engine=name, device="cpu", precision="fp32"))
        outputs.append(engine.infer(frames))
        engine.close()
    assert np.abs(outputs[0].features - outputs[1].features).max() < 1e-3
    assert np.abs(outputs[0].scores - outputs[1].scores).max() < 1e-4


# --- the whole way: extract → evaluate → export → score ---------------------------------------------------------------


def film(path: Path, frames: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    out = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"mp4v"), 25.0, (64, 48))
    for _ in range(frames):
        out.write(cv2.resize(rng.integers(0, 256, (6, 8, 3), np.uint8), (64, 48)))
    out.release()


def read_scores(path: Path) -> dict[tuple[str, int], float]:
    with path.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    return {(Path(r["source"]).stem, int(r["window"])): float(r["raw"]) for r in rows}


@pytest.mark.parametrize("arch", SPECS)
def test_score_equals_evaluate_and_repeats_itself(arch: str, tmp_path: Path) -> None:
    (tmp_path / "films").mkdir()
    lines = ["path,label,split"]
    for i, frames in enumerate((170, 100, 9, 64)):
        film(tmp_path / "films" / f"v{i}.mp4", frames, i)
        lines.append(f"films/v{i}.mp4,{'abnormal' if i % 2 else 'normal'},val")
    (tmp_path / "list.csv").write_text("\n".join(lines) + "\n")
    base, features = small_bundle(tmp_path / "base").directory, tmp_path / "features"
    engine = ["--engine", "torch", "--device", "cpu", "--precision", "fp32"]
    command = ["extract", "--list", str(tmp_path / "list.csv"), "--bundle", str(base), "--out", str(features)]
    assert trainer([*command, *engine]) == 0
    made = json.loads((features / "manifest.json").read_text())
    (tmp_path / "head").mkdir()
    small_checkpoint(arch, made).save(tmp_path / "head" / "head.safetensors")
    command = ["evaluate", str(features), "--checkpoint", str(tmp_path / "head"), "--clip-labels", "--split", "val"]
    assert trainer([*command, "--bootstrap", "5", "--out", str(tmp_path / "evaluation")]) == 0
    command = ["export", "--checkpoint", str(tmp_path / "head"), "--bundle", str(base), "--out", str(tmp_path / "new")]
    assert trainer(command) == 0
    for out in ("first.csv", "second.csv"):
        command = ["score", str(tmp_path / "films"), "--bundle", str(tmp_path / "new"), "--out", str(tmp_path / out)]
        assert detector([*command, *engine]) == 0
    wanted, first, second = (
        read_scores(tmp_path / name) for name in ("evaluation/scores.csv", "first.csv", "second.csv")
    )
    assert first.keys() == wanted.keys() and len(first) == 10 + 6 + 1 + 4
    assert max(abs(first[key] - wanted[key]) for key in wanted) < 1e-4
    assert max(abs(first[key] - second[key]) for key in first) < 1e-6
    assert max(first.values()) - min(first.values()) > 0.05


# --- bundles ----------------------------------------------------------------------------------------------------------

EDITS: dict[str, Callable[[dict[str, Any]], Any]] = {
    "unknown arch": lambda h: h.update(arch="causal-transformer"),
    "no arch": lambda h: h.pop("arch"),
    "other arch": lambda h: h.update(arch="causal-gru"),
    "mlp with these keys": lambda h: h.update(arch="mlp"),
    "unknown key": lambda h: h.update(dropout=0.5),
    "dim": lambda h: h.update(dim=DIM - 1),
    "width": lambda h: h.update(widths=[13]),
    "no width": lambda h: h.update(widths=[]),
    "kernel": lambda h: h.update(kernel=4),
    "kernel huge": lambda h: h.update(kernel=10**9),
    "more dilations": lambda h: h.update(dilations=[1, 2, 4]),
    "dilation zero": lambda h: h.update(dilations=[0, 1]),
    "dilation huge": lambda h: h.update(dilations=[1, 10**12]),
    "projection": lambda h: h.update(projection=21),
    "projection beyond": lambda h: h.update(projection=DIM + 1),
    "no projection": lambda h: h.update(projection=0),
    "view unknown": lambda h: h.update(views=["rows", "future:3"]),
    "view swapped in": lambda h: h.update(views=["rows", "rows+change:4"]),
    "view horizon huge": lambda h: h.update(views=["rows", "mean:" + "9" * 50]),
    "no views": lambda h: h.update(views=[]),
    "members": lambda h: h.update(members=3),
    "members huge": lambda h: h.update(members=10**9),
    "all memory": lambda h: h.update(widths=[16_384], kernel=64, members=64),
}


@pytest.mark.parametrize("name", EDITS)
def test_impossible_heads_are_refused(name: str, tmp_path: Path) -> None:
    folder = temporal_bundle(tmp_path / "b", "causal-conv").directory
    edit(folder, lambda manifest: EDITS[name](manifest["head"]))
    with pytest.raises(BundleError) as caught:
        Bundle.load(folder)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 600


@pytest.mark.parametrize(
    "change",
    [
        lambda s: s.pop("network_3/conv_1/bias"),
        lambda s: s.update({"network_4/logit/bias": torch.zeros(1)}),
        lambda s: s.update(axes=s["axes"].T.contiguous()),
        lambda s: s.update({"network_0/dense_0/kernel": s["network_0/dense_0/kernel"] * float("nan")}),
        lambda s: s.update(feature_std=torch.zeros(DIM)),
        lambda s: s.update(temperature=torch.tensor(0.0)),
    ],
)
def test_wrong_tensors_are_refused(change: Callable[[dict[str, torch.Tensor]], Any], tmp_path: Path) -> None:
    folder = temporal_bundle(tmp_path / "b", "causal-conv").directory
    replace_tensors(folder, "head", lambda state: change(state))
    with pytest.raises(BundleError):
        Bundle.load(folder)


def test_the_fingerprint_covers_the_shape_of_the_head(tmp_path: Path) -> None:
    bundle = temporal_bundle(tmp_path / "b", "causal-conv")
    assert bundle.save(tmp_path / "copy").fingerprint == bundle.fingerprint
    edit(bundle.directory, lambda m: m["head"].update(dilations=[2, 1]))  # the same tensors, another meaning
    assert Bundle.load(bundle.directory).fingerprint != bundle.fingerprint


def test_models_show_prints_the_head(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = temporal_bundle(tmp_path / "b", "causal-conv").directory
    assert detector(["models", "show", str(folder)]) == 0
    text = capsys.readouterr().out
    assert "causal-conv" in text and "head.dilations" in text and "change:4" in text
    assert detector(["models", "show", str(folder), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["head"]["views"] == ["rows", "change:4"]
