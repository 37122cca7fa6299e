"""From a trained student to a bundle, on tiny footage; and the model card, which is written from the manifest alone."""

from __future__ import annotations

import argparse
import json
import re
import shutil
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from rich.console import Console

from stream_detector.errors import DataError
from stream_detector.models.bundle import EMBEDDED, Bundle
from trainer.__main__ import main as trainer
from trainer.data.clips import Clip, PackWriter, load_clips, pack_clips, read_index
from trainer.recipes.embedded import adapt_bundle, embed, extra_footage, footage, options
from trainer.recipes.embedded.card import render_card
from trainer.recipes.embedded.distill import Run
from trainer.recipes.embedded.novelty import ODD
from trainer.recipes.embedded.settings import TrainConfig
from trainer.recipes.embedded.teacher import Targets, plan
from trainer.recipes.embedded.view_pool import Pack, Pool

SIDE = 48


def _clip(path: Path, moving: bool, seed: int, frames: int = 20) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), 25.0, (SIDE, SIDE))
    still = rng.integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8)
    for _ in range(frames):
        writer.write(rng.integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8) if moving else still)
    writer.release()


def scenes(cache: Path, name: str, first: int, incidents: int, quiet: int, **_: Any) -> Iterator[tuple[int, int]]:
    """In place of rendered scenes: noise that stands still, and changes where there is an incident."""
    writer = PackWriter(cache / f"{name}.u8", 112)
    rng = np.random.default_rng(first)
    for number in range(incidents + quiet):
        frames = np.repeat(rng.integers(0, 256, (1, 112, 112, 3), dtype=np.uint8), 96, axis=0)
        loud = number < incidents
        if loud:
            frames[48:] = rng.integers(0, 256, (48, 112, 112, 3), dtype=np.uint8)
        clip = {"path": f"{number}", "set": "rendered", "abnormal": loud, "category": "scene", "group": f"{number}"}
        times = {"incident_start_s": 48 / 25 if loud else None, "incident_end_s": 96 / 25 if loud else None}
        writer.add(frames, {**clip, "split": "val", "fps": 25.0, "licence": "", **times})
        yield number + 1, incidents + quiet
    writer.close()


def command_in(folder: Path) -> argparse.Namespace:
    """The command on a folder of clips."""
    parser = argparse.ArgumentParser()
    options.add_parser(parser.add_subparsers())
    words = ["embed", "--clips", folder, "--cache", folder / "cache", "--run", folder / "run", "--scenes", 2]
    words += [
        "--quiet-scenes",
        8,
        "--out",
        folder / "bundle",
        "--check-scenes",
        2,
        "--card",
        folder / "docs" / "card.md",
        "--name",
        "tiny",
    ]
    return parser.parse_args([str(word) for word in [*words, "--device", "cpu"]])


@pytest.fixture(scope="module")
def looked_at(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with clips (abnormal ones flicker), a student trained for two steps, and what it sees in all footage."""
    tmp_path = tmp_path_factory.mktemp("made")
    rows = ["path,set,label,category,group,split,fps,licence"]
    for k in range(8):
        _clip(tmp_path / f"c/{k}.avi", k % 2 == 1, k)
        split, label = ("val" if k >= 4 else "train"), ("normal", "abnormal")[k % 2]
        rows.append(f"c/{k}.avi,c,{label},x,g{k},{split},25,CC0")
    (tmp_path / "index.csv").write_text("\n".join(rows) + "\n", encoding="utf-8")
    cache = tmp_path / "cache"
    clips = read_index(tmp_path)
    list(pack_clips(clips, tmp_path, cache))
    targets = Targets(cache / "teacher-160", plan(clips, [20] * 8), "k")

    torch.manual_seed(0)
    targets.put(range(len(targets.jobs)), torch.randn(len(targets.jobs), 1024), torch.randn(len(targets.jobs), 400))
    config = TrainConfig(arch="resnet3d-10-b-w0.125", steps=2, batch=4, warmup=1, sizes=((32, 1.0),))
    run = Run(config, Pool([Pack(*load_clips(cache), targets)], seed=0), tmp_path / "run", "cpu", None)
    assert len(list(run.train())) == 2

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(extra_footage, "pack_scenes", scenes)
        embed.build(command_in(tmp_path), Console(quiet=True))
    shutil.rmtree(tmp_path / "bundle")
    return tmp_path


@pytest.fixture()
def prepared(looked_at: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> argparse.Namespace:
    """A copy of it: no network looks at the same footage again."""
    shutil.copytree(looked_at, tmp_path, dirs_exist_ok=True)
    monkeypatch.setattr(extra_footage, "pack_scenes", scenes)
    return command_in(tmp_path)


def test_a_bundle_comes_out_whole_and_with_its_figures(prepared: argparse.Namespace) -> None:
    assert embed.main(prepared) == 0
    bundle = Bundle.load(prepared.out)
    manifest = bundle.manifest
    assert manifest.name == "tiny" and 0 < bundle.threshold < 1 and bundle.smoothing.kind == "ema"
    assert manifest.results["val_clip_auc"]["c"]["abnormal"] == 2
    assert manifest.results["rendered_scenes"]["check"]["incident_scenes"] == 2
    assert manifest.results["teacher_probe_val_clip_auc"].keys() == {"c", "pooled"}
    assert manifest.licences["c"] == "CC0" and manifest.training["train_clips"] == {"c/abnormal": 2, "c/normal": 2}
    assert prepared.card.read_text(encoding="utf-8") == render_card(manifest.model_dump(mode="json", by_alias=True))
    card = prepared.card.read_text(encoding="utf-8")
    worth = card.partition("## What it is worth")[2].partition("## Threshold")[0]
    assert "benchmark:heldout" in worth and "| c |" not in worth  # no figure of clips that something was chosen on
    again = card.partition("## Make it again")[2]
    assert again.count(f"--teacher-size {manifest.training['teacher_size']}") == 2  # of distill and of embed


def test_the_bundle_is_taught_which_pictures_it_knows(prepared: argparse.Namespace, tmp_path: Path) -> None:
    assert embed.main(prepared) == 0
    before, card = Bundle.load(prepared.out), tmp_path / "again.md"
    words = ["novelty", "--bundle", prepared.out, "--clips", tmp_path, "--cache", prepared.cache, "--axes", 2]
    assert trainer([*map(str, words), "--out", str(prepared.out), "--card", str(card)]) == 0
    after = Bundle.load(prepared.out)
    assert after.fingerprint == before.fingerprint and after.manifest.threshold == before.manifest.threshold
    assert after.manifest.novelty is not None and after.manifest.novelty.axes == 2
    assert after.manifest.results["changed_windows_beyond_limit"].keys() == ODD.keys()
    assert card.read_text(encoding="utf-8") == render_card(after.manifest.model_dump(mode="json", by_alias=True))
    assert "the cause `novelty`" in card.read_text(encoding="utf-8")
    assert trainer([*map(str, words), "--out", str(prepared.out), "--share", "0.7"]) == 2


def test_the_head_is_adapted_and_everything_else_of_the_bundle_stays(
    prepared: argparse.Namespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    before, card, out = embed.build(prepared, Console(quiet=True)), tmp_path / "adapted.md", tmp_path / "adapted"
    words = ["adapt", "--bundle", prepared.out, "--clips", tmp_path, "--cache", prepared.cache, "--out", out]
    words += ["--run", tmp_path / "run-adapt", "--quiet-scenes", 2, "--incident-scenes", 2, "--scenes", 2]
    words += ["--check-scenes", 2, "--card", card, "--device", "cpu", "--note", "Tried on a Monday."]
    assert trainer([str(word) for word in words]) == 0
    after = Bundle.load(out)
    assert after.fingerprint != before.fingerprint
    assert after.manifest.backbone == before.manifest.backbone and after.name == before.name
    kept = ("heads_tried", "leave_one_set_out_head_only", "teacher_probe_val_clip_auc")
    assert all(after.manifest.results[name] == before.manifest.results[name] for name in kept)
    facts = after.manifest.training["adapted"]
    assert facts["from"] == before.fingerprint and facts["calm"] == 4 and facts["loud_windows"] >= 2
    text = card.read_text(encoding="utf-8")
    assert text == render_card(after.manifest.model_dump(mode="json", by_alias=True))
    assert facts["notes"] == ["Tried on a Monday."] and "python -m trainer adapt --bundle" in text
    assert trainer([*map(str, words), "--device", "gpu"]) == 2 and "device" in capsys.readouterr().err
    monkeypatch.setattr(adapt_bundle, "PACK_SIZE", 64)
    assert trainer([str(word) for word in words]) == 2 and "looks at more than 64 pixels" in capsys.readouterr().err


def test_head_and_features_of_the_bundle_give_the_scores_that_were_measured(prepared: argparse.Namespace) -> None:
    bundle = embed.build(prepared, Console(quiet=True))
    backbone, head, recipe = bundle.build()
    frames, clips = load_clips(prepared.cache, "val")
    found = footage.features_of(
        partial(footage.backbone_features, backbone, recipe), recipe.size[0], frames, range(len(clips))
    )
    assert [len(f) for f in found] == [1, 1, 1, 1]  # 20 frames: one full window
    scores: dict[bool, list[float]] = {True: [], False: []}
    for clip, features in zip(clips, found, strict=True):
        scores[clip.abnormal].append(float(footage.raw_scores(head, features).max()))
    table = bundle.manifest.results["mean_score"]
    assert table["c/abnormal"] == pytest.approx(np.mean(scores[True]), abs=0.01)  # stored in half precision
    assert table["c/normal"] == pytest.approx(np.mean(scores[False]), abs=0.01)


def test_rendered_training_scenes_never_use_the_demos_seeds(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="start at seed 1000"):
        next(extra_footage.pack_rendered(extra_footage.RenderPlan(first=42), tmp_path))


def test_packs_of_scenes_keep_to_their_seeds(tmp_path: Path) -> None:
    seen = footage.Footage(lambda windows: windows.mean(axis=(1, 2, 3)), 112, tmp_path, tmp_path, ["n"])
    with pytest.raises(DataError, match="scenes-incident has seeds for 300 rendered scenes, got 301"):
        seen.pack_scenes(footage.INCIDENTS, 300, 1, 16.0, Console(quiet=True))


def test_segments_lie_before_and_in_the_incident() -> None:
    class Scene:
        fps, frame_count, incident_start_s, incident_end_s = 25.0, 400, 8.0, 15.0

    plan_ = extra_footage.RenderPlan(frames=26)
    for seed in range(20):
        for first, abnormal in extra_footage.segments(Scene(), plan_, np.random.default_rng(seed)):  # type: ignore[arg-type]
            begin, end = first / 25, (first + plan_.frames) / 25
            assert (begin > 8.0 and end <= 15.0) if abnormal else (begin >= 0 and end <= 8.05)


def test_quiet_recordings_are_shared_between_train_and_val(tmp_path: Path) -> None:
    for k in range(3):
        _clip(tmp_path / f"v/{k}.avi", True, k, frames=60)
    (tmp_path / "v" / "notes.txt").write_text("x", encoding="utf-8")
    assert list(extra_footage.pack_normal(tmp_path / "v", tmp_path, per_file=2, frames=20, size=16))[-1] == (3, 3)
    packed, clips = load_clips(tmp_path, "long_normal")
    assert [clip.split for clip in clips] == ["train"] * 2 + ["val"] * 2 + ["train"] * 2
    assert packed.frames(0).shape == (20, 16, 16, 3) and not any(clip.abnormal for clip in clips)
    with pytest.raises(DataError, match="holds no video"):
        extra_footage.video_files(tmp_path / "run")


def test_the_card_of_the_shipped_bundle_is_the_one_in_docs() -> None:
    manifest = json.loads((EMBEDDED / "bundle.json").read_text(encoding="utf-8"))
    card = Path(__file__).parents[2] / "docs" / "models" / "embedded.md"
    text = re.sub(
        r"(<!-- benchmark:\w+ -->\n).*?(<!-- /benchmark -->)",
        r"\1\2",
        card.read_text(encoding="utf-8"),
        flags=re.DOTALL,
    )
    assert text == render_card(manifest)  # `python -m benchmarks readme` fills the tables in


def test_the_shipped_bundle_is_small_and_better_than_chance_by_its_own_account() -> None:
    assert sum(file.stat().st_size for file in EMBEDDED.iterdir()) <= 25_000_000
    manifest = Bundle.load("embedded").manifest
    pooled = manifest.results["val_clip_auc"]["pooled"]
    assert pooled["low"] > 0.5, "the lower end of the interval must be above chance"
    assert set(manifest.training["train_clips"]) >= {"cctv_fights/abnormal", "cctv_crashes/abnormal"}


def test_licences_name_every_set_that_was_trained_on() -> None:
    clips = [Clip("1", "a", True, "", "", "train", 25.0, "MIT"), Clip("2", "b", True, "", "", "val", 25.0, "X")]
    found = embed.licences([*clips, Clip("3", "c", False, "", "", "train", 25.0)])
    assert found["a"] == "MIT" and found["c"] == "none stated by its source" and "b" not in found


def test_a_manifest_names_what_training_started_from_without_a_path(tmp_path: Path) -> None:
    student = tmp_path / "student.pt"
    assert embed.origin("") == ""
    assert embed.origin(str(student)) == "an earlier student of the same architecture, not kept"
    student.write_bytes(b"weights")
    assert embed.origin(str(student)).startswith("an earlier student, digest ")
    assert embed.origin(str(EMBEDDED)) == "bundle embedded, fingerprint 2d624ac3049768e9"
    assert str(tmp_path) not in embed.origin(str(student))


@pytest.mark.parametrize("manifest", sorted(EMBEDDED.parent.glob("*/bundle.json")), ids=lambda path: path.parent.name)
def test_no_manifest_names_a_folder_of_a_run(manifest: Path) -> None:
    assert "runs/" not in manifest.read_text(encoding="utf-8")
