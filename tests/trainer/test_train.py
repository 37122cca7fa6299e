"""Training to a bundle on made-up features whose events are known, and bad input through the command line."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
import warnings
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

if importlib.util.find_spec("keras") is None:  # importing it here would fix its backend for the whole process
    pytest.skip("keras is not installed (extra: train)", allow_module_level=True)

from stream_detector.errors import CheckpointError, DataError
from stream_detector.models.heads import TemporalHead, build_head
from trainer.__main__ import main
from trainer.data.features import FeatureSet, load_features
from trainer.evaluate import evaluate, score_videos
from trainer.export import head_state
from trainer.mil.backend import use_backend
from trainer.mil.checkpoint import load_checkpoint
from trainer.mil.train import PRESETS, head_spec, parse_setting, train

FRAMES, SEGMENTS, DIM = 320, 8, 12
QUICK = replace(
    PRESETS["topk"], segments=SEGMENTS, steps=60, check_every=20, widths=(16,), val_share=0.25, k=2, learning_rate=0.02
)


@pytest.fixture(autouse=True)
def torch_backend() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Keras' own deprecations
        use_backend("torch")
        yield


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """features.npz and annotations.csv: two segments of every abnormal video point another way."""
    folder, rng = tmp_path_factory.mktemp("data"), np.random.default_rng(0)
    rows = rng.normal(size=(60, SEGMENTS, DIM)).astype(np.float32)
    lines, category = ["video,category,frames,start_1,end_1,start_2,end_2"], []
    for i in range(60):
        abnormal, at = i % 2 == 1, int(rng.integers(0, SEGMENTS - 2))
        category.append("Fighting" if abnormal else "Normal")
        if abnormal:
            rows[i, at : at + 2, :3] += 4
        step = FRAMES // SEGMENTS
        event = f"{at * step + 1},{(at + 2) * step}" if abnormal else "-1,-1"
        lines.append(f"v{i},{category[-1]},{FRAMES},{event},-1,-1")
    split = ["test" if i >= 40 else "train" for i in range(60)]
    np.savez(folder / "features.npz", features=rows, names=[f"v{i}" for i in range(60)], category=category, split=split)
    (folder / "annotations.csv").write_text("\n".join(lines) + "\n")
    return folder


def test_all_the_way(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    features, out = str(data / "features.npz"), tmp_path / "head"
    settings = ["segments=8", "steps=60", "check_every=20", "widths=16", "val_share=0.25", "k=2", "learning_rate=0.02"]
    assert main(["train", features, "--out", str(out), "--preset", "topk", *(f"--set={s}" for s in settings)]) == 0
    assert (out / "curves.png").stat().st_size > 1000
    told = json.loads(capsys.readouterr().out)
    assert told["validation"] > 0.7  # top three of eight where two are events: even perfection stays below 1
    checkpoint = load_checkpoint(out)
    assert checkpoint.hyper["k"] == 2 and checkpoint.hyper["steps"] == 60 and checkpoint.versions["torch"]
    assert not {f"v{i}" for i in range(40, 60)} & set(checkpoint.validation_videos)
    report = tmp_path / "report"
    command = ["evaluate", features, "--checkpoint", str(out), "--annotations", str(data / "annotations.csv")]
    assert main([*command, "--out", str(report), "--bootstrap", "20"]) == 0
    results = json.loads((report / "results.json").read_text())
    assert results["content"]["auc"]["value"] > 0.9 and results["content"]["auc_abnormal"]["value"] > 0.85
    assert results["content"]["auc"]["low"] <= results["content"]["auc"]["value"] <= results["content"]["auc"]["high"]
    assert results["emission"]["auc"]["value"] < results["content"]["auc"]["value"]  # being late costs
    assert results["oracles"]["perfect score per window"]["auc"]["value"] == 1.0
    page = (report / "report.html").read_text()
    assert page.count("data:image/png;base64,") == 2 and "http" not in page.replace("data:", "")
    assert len((report / "scores.csv").read_text().splitlines()) == 1 + 20 * SEGMENTS


def test_a_checkpoint_survives_the_disk(data: Path, tmp_path: Path) -> None:
    features = load_features(data / "features.npz").of_split("train")
    hyper = replace(QUICK, head="causal", dilations=(1,), views=("rows", "change:4"), members=2, projection=6, steps=20)
    checkpoint = train(features, hyper, "torch")
    checkpoint.save(tmp_path / "head.safetensors")
    again = load_checkpoint(tmp_path)
    rows = features.videos[1].rows
    assert np.array_equal(checkpoint.head().score_rows(rows), again.head().score_rows(rows))
    assert again.spec == head_spec(hyper, DIM) and again.curves == checkpoint.curves
    rows, stream = features.videos[2].rows, build_bundle_head(*head_state(again)).stream()
    assert np.abs(again.head().score_rows(rows) - [stream.step(row) for row in rows]).max() < 1e-5


def build_bundle_head(part: dict[str, Any], state: dict[str, Any]) -> TemporalHead:
    head = build_head(part)
    assert isinstance(head, TemporalHead) and part["arch"] == "causal-conv"
    head.load_state_dict(state, strict=True)
    return head


def test_a_snapshot_of_weights_does_not_move_with_training() -> None:
    from trainer.mil.heads import build_head, weights_of

    model = build_head(head_spec(QUICK, DIM), "rows")
    kept = weights_of(model)
    before = {k: v.copy() for k, v in kept.items()}
    for variable in model.trainable_variables:
        variable.assign(variable + 1.0)
    assert all(np.array_equal(kept[k], before[k]) for k in kept)


def test_equal_seeds_give_equal_heads(data: Path) -> None:
    features = load_features(data / "features.npz").of_split("train")
    short = replace(QUICK, steps=5, check_every=5)
    first, second, other = (train(features, replace(short, seed=s), "torch").networks[0] for s in (3, 3, 4))
    assert all(np.array_equal(first[k], second[k]) for k in first)
    assert not np.array_equal(first["logit/kernel"], other["logit/kernel"])


@pytest.mark.parametrize("preset", ["paper", "sultani"])
def test_ranking_losses_learn_too(data: Path, preset: str) -> None:
    features = load_features(data / "features.npz").of_split("train")
    hyper = replace(QUICK, loss=PRESETS[preset].loss, optimizer="adagrad", learning_rate=0.05, mu3=1e-4, steps=80)
    checkpoint = train(features, hyper, "torch")
    assert checkpoint.validation > 0.75 and checkpoint.curves[0].loss[-1] < checkpoint.curves[0].loss[0]


def test_an_exported_head_scores_the_same(data: Path) -> None:
    import torch

    from stream_detector.models.heads import Head

    features = load_features(data / "features.npz").of_split("train")
    checkpoint = train(features, replace(QUICK, steps=20, projection=7, widths=(9, 4)), "torch")
    part, state = head_state(checkpoint)
    head = Head(part["dims"]).eval()
    head.load_state_dict(state, strict=True)
    rows = features.videos[0].rows
    with torch.no_grad():
        found = head(torch.from_numpy(rows)).numpy()
    assert np.abs(found - checkpoint.head().score_rows(rows)).max() < 1e-6


def test_a_layer_without_relu_is_folded_away_and_the_scores_stay(data: Path) -> None:
    from trainer.mil.heads import build_head as keras_head
    from trainer.mil.heads import merged, weights_of
    from trainer.mil.step import predict

    spec = head_spec(replace(QUICK, widths=(9, 4)), DIM)
    model = keras_head(spec, "rows", SEGMENTS, "glorot_normal", True)
    shorter, (folded,) = merged(spec, [weights_of(model)])
    rows = np.random.default_rng(0).normal(size=(1, SEGMENTS, DIM)).astype(np.float32)
    hidden = np.maximum(rows[0] @ folded["dense_0/kernel"] + folded["dense_0/bias"], 0)
    assert shorter.widths == (9,) and set(folded) == {"dense_0/kernel", "dense_0/bias", "logit/kernel", "logit/bias"}
    assert np.abs((hidden @ folded["logit/kernel"] + folded["logit/bias"])[:, 0] - predict(model, rows)[0]).max() < 1e-5
    features = load_features(data / "features.npz").of_split("train")
    checkpoint = train(features, replace(QUICK, widths=(9, 4), linear_last=True, steps=20), "torch")
    assert checkpoint.spec.widths == (9,) and checkpoint.hyper["widths"] == (9, 4)
    assert head_state(checkpoint)[0]["dims"] == [DIM, 9, 1]
    with pytest.raises(DataError, match="linear_last"):
        train(features, replace(QUICK, linear_last=True), "torch")


def test_the_test_split_is_never_trained_on(data: Path) -> None:
    from trainer.mil.train import training_videos

    features = load_features(data / "features.npz")
    assert {v.split for v in training_videos(features).videos} == {"train"}
    renamed = tuple(replace(v, split="val") if v.split == "test" else v for v in features.videos)
    assert {v.split for v in training_videos(replace(features, videos=renamed)).videos} == {"train"}


def test_a_video_without_annotation_is_an_error(data: Path) -> None:
    features = load_features(data / "features.npz")
    checkpoint = train(features.of_split("train"), replace(QUICK, steps=5, check_every=5), "torch")
    with pytest.raises(DataError, match="v0 has no annotation"):
        score_videos(features, checkpoint, {})
    narrow = FeatureSet(tuple(replace(v, rows=v.rows[:, :5]) for v in features.videos), "narrow", {})
    with pytest.raises(DataError, match="takes 12 features but narrow has 5"):
        score_videos(narrow, checkpoint, None)
    with pytest.raises(DataError, match="no video"):
        evaluate([], 1)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("stepz=3", "unknown setting"),
        ("steps", "unknown setting"),
        ("steps=many", "cannot be"),
        ("standardise=2", "cannot"),
    ],
)
def test_bad_settings_are_one_sentence(text: str, words: str) -> None:
    with pytest.raises(DataError, match=words):
        parse_setting(text)


def test_settings_are_typed() -> None:
    assert parse_setting("widths=64,8") == ("widths", (64, 8))
    assert parse_setting("views=rows,change:8") == ("views", ("rows", "change:8"))
    assert parse_setting("standardise=true") == ("standardise", True)
    assert parse_setting("learning_rate=1e-2") == ("learning_rate", 0.01)


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"loss": "focal"}, "unknown loss"),
        ({"optimizer": "lion"}, "unknown optimizer"),
        ({"head": "transformer"}, "unknown head"),
        ({"views": ("future:3",)}, "unknown view"),
        ({"sparsity_on": "both", "loss": "milr"}, "sparsity_on"),
        ({"val_share": -0.1}, "between 0 and 1"),
        ({"dropout": 1.0}, "dropout"),
        ({"segments": 2}, "at least 3"),
    ],
)
def test_unknown_names_are_one_sentence(data: Path, changed: dict[str, object], words: str) -> None:
    features = load_features(data / "features.npz").of_split("train")
    with pytest.raises(DataError, match=words):
        train(features, replace(QUICK, **changed), "torch")  # type: ignore[arg-type]


def test_the_command_line_says_one_sentence(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    nan = tmp_path / "nan.npz"
    rows = np.zeros((4, 8, 3), np.float32)
    rows[1, 2, 0] = np.nan
    np.savez(nan, features=rows, names=["a1", "b1", "Normal1", "Normal2"])
    one = tmp_path / "one.npz"
    np.savez(one, features=np.zeros((2, 8, 3)), names=["Normal1", "Normal2"])
    head = tmp_path / "head.safetensors"
    head.write_bytes(b"junk")
    out = ["--out", str(tmp_path / "out")]
    cases = {
        "not finite": ["train", str(nan), *out],
        "are normal": ["train", str(one), *out],
        "does not exist": ["train", str(tmp_path / "none.npz"), *out],
        "unknown command": ["trane"],
        "cannot be read": ["evaluate", str(nan), "--checkpoint", str(head), "--clip-labels", "--split", "all", *out],
    }
    for words, command in cases.items():
        assert main(command) == 2
        error = capsys.readouterr().err.strip()
        assert words in error and error.count("\n") == 0, error
    with pytest.raises(CheckpointError):
        load_checkpoint(head)


def test_help_needs_no_framework() -> None:
    code = (
        "import sys; from trainer.__main__ import main; main(['--help']); main(['audit', '/none.npz']); "
        "assert not {'keras', 'tensorflow'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "import-seed" in done.stdout and "does not exist" in done.stderr


def test_without_held_out_videos_all_are_trained_on_for_the_steps_asked(data: Path) -> None:
    features = load_features(data / "features.npz").of_split("train")
    checkpoint = train(features, replace(QUICK, val_share=0.0), "torch")
    assert checkpoint.validation_videos == () and np.isnan(checkpoint.validation)
    assert [curve.best_step for curve in checkpoint.curves] == [QUICK.steps]
    test = load_features(data / "features.npz").of_split("test")
    scores = [checkpoint.head().score_rows(v.rows).max() for v in test.videos]
    labels = test.labels()
    assert np.median(np.array(scores)[labels == 1]) > np.median(np.array(scores)[labels == 0])
