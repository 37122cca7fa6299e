"""The five commands of docs/training.md on the simplest list: no `split`, no `group`, a few small videos."""

from __future__ import annotations

import csv
import importlib.util
import json
import warnings
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

if importlib.util.find_spec("keras") is None:
    pytest.skip("keras is not installed (extra: train)", allow_module_level=True)

from stream_detector.models.bundle import Bundle
from trainer.__main__ import main
from trainer.data.features import load_features
from trainer.data.videos import LabelledVideo, read_list, with_splits
from trainer.mil.backend import use_backend

FRAMES, VIDEOS = 40, 8


@pytest.fixture(autouse=True)
def torch_backend() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Keras' own deprecations
        use_backend("torch")
        yield


def film(path: Path, seed: int, hectic: bool) -> None:
    """A picture of coloured blocks in which one block drifts (calm), or jumps about in every frame (hectic)."""
    rng = np.random.default_rng(seed)
    ground = cv2.resize(rng.integers(0, 255, (4, 5, 3), dtype=np.uint8), (112, 112), interpolation=cv2.INTER_NEAREST)
    out = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"mp4v"), 25.0, (112, 112))
    for number in range(FRAMES):
        picture, at = ground.copy(), (rng.integers(0, 80, 2) if hectic else np.array([number, 40]))
        picture[at[1] : at[1] + 30, at[0] : at[0] + 30] = rng.integers(0, 255, 3) if hectic else 255
        out.write(picture)
    out.release()


@pytest.fixture(scope="module")
def listed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("simple")
    rows = ["path,label"]
    for number in range(VIDEOS):
        film(folder / f"v{number}.mp4", number, hectic=bool(number % 2))
        rows.append(f"v{number}.mp4,{'abnormal' if number % 2 else 'normal'}")
    (folder / "videos.csv").write_text("\n".join(rows) + "\n")
    return folder / "videos.csv"


def test_the_five_commands_on_the_simplest_list(
    listed: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    features, head, evaluation, bundle = (str(tmp_path / n) for n in ("features", "head", "evaluation", "bundle"))
    assert main(["extract", "--list", str(listed), "--out", features]) == 0
    assert "splits: 6 train, 2 val" in capsys.readouterr().err
    assert main(["audit", features]) == 0
    assert main(["train", features, "--out", head, "--preset", "causal", "--backend", "torch", "--set", "steps=5"]) == 0
    words = ["evaluate", features, "--checkpoint", head, "--clip-labels", "--bootstrap", "10"]
    capsys.readouterr()
    assert main([*words, "--split", "val", "--out", evaluation]) == 0
    assert "seen in training" not in capsys.readouterr().err
    results = Path(evaluation, "results.json")
    assert json.loads(results.read_text())["seen_in_training"] == {
        "known": True,
        "videos": 0,
        "share": 0.0,
        "names": [],
    }
    assert main(["export", "--checkpoint", head, "--results", str(results), "--out", bundle]) == 0
    assert Bundle.load(bundle).manifest.results["seen_in_training"]["videos"] == 0

    capsys.readouterr()
    assert main([*words, "--split", "all", "--out", str(tmp_path / "all")]) == 0
    told = json.loads((tmp_path / "all" / "results.json").read_text())["seen_in_training"]
    assert told["videos"] == 6 and told["share"] == 0.75 and len(told["names"]) == 6
    assert "6 of the 8 videos evaluated were seen in training" in capsys.readouterr().err
    assert "6 of the 8 videos evaluated were seen in training" in (tmp_path / "all" / "report.html").read_text()


def test_a_training_video_under_another_name_is_recognised(listed: Path, tmp_path: Path) -> None:
    from trainer.mil import training_overlap
    from trainer.mil.train import PRESETS, replace, train

    features = tmp_path / "features"
    assert main(["extract", "--list", str(listed), "--out", str(features)]) == 0
    known = load_features(features)
    hyper = replace(PRESETS["topk"], steps=2, check_every=2, pairs=2, widths=(4,))
    checkpoint = train(known.of_split("train"), hyper, "torch")
    trained = next(v for v in known.videos if v.split == "train")
    unseen = next(v for v in known.videos if v.split == "val")
    renamed = replace(known, videos=(replace(trained, name="holiday"), replace(unseen, name=trained.name)))
    found = training_overlap.seen_in_training(renamed, checkpoint)
    assert found is not None and found.tolist() == [True, False]
    rows_alone = replace(known, videos=(replace(trained, name="other", sha256=""),))
    assert training_overlap.overlap(rows_alone, checkpoint)["videos"] == 1
    older = replace(checkpoint, training_videos={})
    unknown = training_overlap.overlap(renamed, older)
    assert unknown["known"] is False and "older checkpoint" in training_overlap.warning(unknown, 2)


def test_a_new_recording_under_an_old_name_gets_features_of_its_own(listed: Path, tmp_path: Path) -> None:
    folder, out = tmp_path / "films", tmp_path / "features"
    folder.mkdir()
    film(folder / "a.mp4", 100, hectic=True)
    (folder / "videos.csv").write_text("path,label\na.mp4,abnormal\n")
    words = ["extract", "--list", str(folder / "videos.csv"), "--out", str(out)]
    assert main(words) == 0
    (first,) = load_features(out).videos
    film(folder / "a.mp4", 101, hectic=False)
    assert main(words) == 0
    (second,) = load_features(out).videos
    assert first.sha256 != second.sha256 and not np.array_equal(first.rows, second.rows)
    (folder / "a.mp4").unlink()
    assert main(words) == 0  # a recording that is gone: what is known of it stays
    assert np.array_equal(load_features(out).videos[0].rows, second.rows)


def test_lists_without_splits_are_parted_by_label_and_group(tmp_path: Path) -> None:
    def videos(count: int) -> list[LabelledVideo]:
        return [LabelledVideo(Path(f"{n}.mp4"), f"v{n}", "Normal" if n % 2 else "Fight", "") for n in range(count)]

    parted = with_splits(videos(40))
    val = [v for v in parted if v.split == "val"]
    assert len(val) == 10 and sum(v.category == "Normal" for v in val) == 5
    assert with_splits(videos(40)[::-1])[::-1] == parted  # the order of the list does not matter
    by_group = with_splits([replace(v, group=str(n // 8)) for n, v in enumerate(videos(40))])
    assert {v.split for v in by_group} == {"train", "val"}
    for group in {v.group for v in by_group}:
        assert len({v.split for v in by_group if v.group == group}) == 1
    assert {v.split for v in with_splits(videos(2))} == {"train"}
    path = tmp_path / "videos.csv"
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([["path", "label", "split"], ["a.mp4", "normal", "test"], ["b.mp4", "abnormal", ""]])
    assert [v.split for v in read_list(path)] == ["test", ""]  # a list that names splits keeps what it says
