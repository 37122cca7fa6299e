"""The recipe from nothing to a bundle, in small: what is packed, what is kept out, and what comes out."""

from __future__ import annotations

import argparse
import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from recipe_rig import TINY, teacher, tiny
from rich.console import Console
from small_judgement import judge_little
from torch import nn

from stream_detector.errors import DataError, UsageError
from stream_detector.models.bundle import Bundle
from stream_detector.models.heads import Head
from trainer.__main__ import main as trainer_main
from trainer.data.clips import read_frames
from trainer.evaluation.command import kept_paths
from trainer.recipes.labelfree import command, ship
from trainer.recipes.labelfree.bank import HeldBank, ReadingBank
from trainer.recipes.labelfree.material import COLUMNS, encode, make_pack, read_pack
from trainer.recipes.labelfree.options import add_parser

SETS = ("cctv_crashes", "cctv_fights")
INDEX = ("path", "set", "label", "category", "group", "split", "fps", "frames", "width", "height", "licence")


def film(seed: int, frames: int, moving: bool) -> NDArray[np.uint8]:
    """A place of its own, with something that moves or does not. uint8 (n, 48, 64, 3)."""
    rng = np.random.default_rng(seed)
    place = np.kron(rng.integers(0, 200, (6, 8, 3)), np.ones((8, 8, 1))).astype(np.uint8)
    shown = np.repeat(place[None], frames, axis=0)
    for k in range(frames):
        x = (5 * k) % 48 if moving else 20
        shown[k, 16:32, x : x + 16] = 255
    return shown


def write(path: Path, seed: int, frames: int, moving: bool) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    encode(film(seed, frames, moving), path, 18)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Clips of two sets with labels, unlabelled ones of which one shows the place of a kept clip, quiet recordings."""
    root = tmp_path_factory.mktemp("data")
    rows: dict[str, list[dict[str, Any]]] = {"clips": [], "more_clips": []}
    seeds: dict[str, int] = {}
    for name in SETS:
        for label in ("abnormal", "normal"):
            for k in range(10):
                path = f"{name}/{label}/fi{20 * k + 1:03}.mp4"
                seeds[path] = len(seeds)
                write(root / "clips" / path, seeds[path], 20, label == "abnormal")
                facts = {"path": path, "set": name, "label": label, "category": "fight", "frames": 20}
                rows["clips"].append(facts)
    index(root / "clips", rows["clips"])
    write(root / "more_clips/wild/w1.mp4", 500, 20, True)
    wild = {"path": "wild/w1.mp4", "set": "wild_clips", "label": "abnormal", "category": "fight", "group": "w"}
    index(root / "more_clips", [{**wild, "frames": 20}])
    kept = sorted(kept_paths(root / "clips", root / "more_clips", root / "protocol"))
    assert kept
    double = next(path for path in kept if path.startswith("cctv"))
    rows["more_clips"].append({**wild, "frames": 20})
    for name, place in (("u1", 901), ("u2", 902), ("double", seeds[double])):
        write(root / f"more_clips/unlabelled/{name}.mp4", place, 24, True)
        facts = {"path": f"unlabelled/{name}.mp4", "set": "unlabelled", "label": "unlabelled", "group": name}
        rows["more_clips"].append({**facts, "category": "unlabelled", "frames": 24})
    index(root / "more_clips", rows["more_clips"])
    for k in range(4):
        write(root / f"long_normal/hour{k}.mp4", 700 + k, 70, False)
    return root


def index(folder: Path, rows: list[dict[str, Any]]) -> None:
    with (folder / "index.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, INDEX)
        writer.writeheader()
        writer.writerows({"group": "", "split": "train", "fps": 25.0, "licence": "none", **row} for row in rows)


@pytest.fixture(scope="module")
def pack(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("root") / "pack"
    make_pack(data, folder, data / "protocol", tiny(), Console(quiet=True))
    return folder


def test_no_label_no_kept_clip_and_none_that_looks_like_one_gets_into_the_pack(pack: Path, data: Path) -> None:
    with (pack / "index.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert tuple(rows[0]) == COLUMNS and "label" not in rows[0]
    kept = [p for p in kept_paths(data / "clips", data / "more_clips", data / "protocol") if p.startswith("cctv")]
    sets = [row["set"] for row in rows]
    assert sum(sets.count(name) for name in SETS) == 40 - len(kept) and "wild_clips" not in sets
    assert {row["group"] for row in rows if row["set"] == "unlabelled"} == {"u1", "u2"}  # and not the double
    assert {row["group"] for row in rows if row["set"] == "long_normal"} == {"hour0", "hour2"}
    packed = {clip.file.name: read_frames(clip.file, (32, 40)) for clip in read_pack(pack)}
    assert all(frames.shape[1:] == (32, 40, 3) for frames in packed.values())
    for path in kept:
        gone = read_frames(data / "clips" / path, (32, 40)).astype(float)[0]
        assert all(np.abs(frames[0].astype(float) - gone).mean() > 10 for frames in packed.values())


def test_a_stopped_pack_goes_on_and_a_large_one_is_refused(pack: Path, data: Path) -> None:
    clips = read_pack(pack)
    times = {clip.file: clip.file.stat().st_mtime_ns for clip in clips}
    clips[0].file.unlink()
    clips[0].file.with_suffix(".json").unlink()
    with pytest.raises(DataError, match="lacks 1"):
        read_pack(pack)
    make_pack(data, pack, data / "protocol", tiny(), Console(quiet=True))
    assert read_pack(pack) == clips
    assert all(file.stat().st_mtime_ns == when for file, when in times.items() if file != clips[0].file)
    with pytest.raises(DataError, match="most_mb"):
        make_pack(data, pack, data / "protocol", tiny("most_mb=0.001"), Console(quiet=True))


def test_both_banks_give_the_same_pixels(pack: Path) -> None:
    clips = read_pack(pack)
    places = np.array([np.arange(16), np.arange(15, -1, -1)])
    read = ReadingBank(clips, (32, 40)).windows([3, 0], places)
    assert read.shape == (2, 16, 32, 40, 3)
    assert torch.equal(read, HeldBank(clips, (32, 40), "cpu").windows([3, 0], places))


def arguments(*words: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    add_parser(parser.add_subparsers(required=True))
    return parser.parse_args(["recipe", "embedded", *words])


@pytest.fixture()
def one_teacher(monkeypatch: pytest.MonkeyPatch) -> None:
    """A teacher that needs no weights from anywhere."""

    def place(name: str, folder: Path) -> Path:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(name)
        return folder / name

    monkeypatch.setattr(command.teachers, "place", place)
    monkeypatch.setattr(command.teachers, "load", lambda name, file: nn.Identity())
    monkeypatch.setattr(command.teachers, "asker", lambda name, network, device, side: teacher(name))


@pytest.fixture()
def small_judgement(monkeypatch: pytest.MonkeyPatch) -> None:
    judge_little(monkeypatch, ship)


def test_one_command_goes_from_nothing_to_a_bundle(
    data: Path, pack: Path, tmp_path: Path, one_teacher: None, small_judgement: None
) -> None:
    words = ["--data", str(data), "--root", str(pack.parent), "--run", str(tmp_path / "run"), "--threads", "1"]
    assert command.main(arguments(*words, "--set", *TINY, "watch_share=0.3")) == 0
    bundle = Bundle.load(tmp_path / "run/bundle")
    manifest = bundle.manifest
    assert manifest.preprocess.size == (32, 32) and manifest.backbone.arch == "resnet3d-10-b-w0.125-s3"
    facts = manifest.training["backbone"]
    assert facts["steps"] == 8 and facts["distinct"] == 32 and -1 <= facts["watch"]["i3d"] <= 1
    assert set(manifest.results["outer"]) == {*SETS, "pooled"} and "kept" in manifest.results
    assert "streams" in manifest.results
    head = bundle.build()[1]
    assert isinstance(head, Head) and bool(torch.isfinite(head(torch.randn(5, 64))).all())
    card = (tmp_path / "run/bundle/card.md").read_text()
    assert "saw no label" in card and f"{manifest.results['kept']['pooled']['value']:.3f}" in card
    log = [json.loads(line) for line in (tmp_path / "run/log.jsonl").read_text().splitlines()]
    assert [line["step"] for line in log] == list(range(1, 9))
    assert command.main(arguments(*words, "--until", "train", "--set", *TINY, "watch_share=0.3")) == 0
    assert len((tmp_path / "run/log.jsonl").read_text().splitlines()) == 8  # nothing was left
    for name in ("student-0.safetensors", "student-1.safetensors", "student.json"):  # come back from another machine
        (tmp_path / name).write_bytes((tmp_path / "run" / name).read_bytes())
    words = ["--data", str(data), "--root", str(pack.parent), "--run", str(tmp_path), "--only", "ship"]
    assert command.main(arguments(*words, "--set", *TINY)) == 0
    again = Bundle.load(tmp_path / "bundle")
    assert again.fingerprint == bundle.fingerprint and again.manifest.results == manifest.results


def test_a_pack_alone_is_enough_to_train(pack: Path, tmp_path: Path, one_teacher: None) -> None:
    words = ["--root", str(pack.parent), "--run", str(tmp_path), "--minutes", "0.001", "--threads", "1", "--set", *TINY]
    assert command.main(arguments(*words)) == 0
    assert (tmp_path / "student.json").exists() and not (tmp_path / "bundle").exists()
    with pytest.raises(UsageError, match="--data"):
        command.main(arguments("--root", str(tmp_path / "empty"), "--set", *TINY))


def test_help_and_refusals_need_no_network(capsys: pytest.CaptureFixture[str]) -> None:
    assert trainer_main(["recipe", "embedded", "--set", "nothing=1"]) == 2
    assert "nothing=1" in capsys.readouterr().err
    with pytest.raises(SystemExit) as stopped:
        trainer_main(["recipe", "--help"])
    assert stopped.value.code == 0 and "--minutes" in capsys.readouterr().out
