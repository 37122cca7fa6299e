"""The whole protocol on made-up clips with a known answer, and its command on small files."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import zlib
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest

from stream_detector.capture import recordings
from stream_detector.errors import DataError, UsageError
from stream_detector.models.recipe import Recipe
from stream_detector.types import Float32Array, Window
from trainer import __main__ as trainer_main
from trainer.evaluation import command, networks, novelty_worth, pixels, standard
from trainer.evaluation.folds import KEPT
from trainer.evaluation.logistic import Choice, Logistic
from trainer.evaluation.nested import Labels
from trainer.evaluation.networks import FrozenNetwork, Store
from trainer.evaluation.pieces import Piece, limited, read_pieces
from trainer.evaluation.standard import Quiet, StreamPlan, evaluate_bundle, evaluate_network, judged_of, labelled

SETS = ("cctv_fights", "cctv_crashes", "wild_clips")
CHOICES = ((1.0, "clips"), (0.1, "sets"))


def world(strength: float, seed: int = 0):  # type: ignore[no-untyped-def]
    """Twelve blocks of ten clips a set; features that tell abnormal windows apart by `strength` deviations."""
    rng = np.random.default_rng(seed)
    pieces, features = [], []
    for name in SETS:
        for k in range(120):
            abnormal = (k // 10) % 2 == 0
            kind = ("crash" if "crash" in name else "fight") if abnormal else ""
            path = f"{name}/{'abnormal' if abnormal else 'normal'}/c{k // 10 * 20 + k % 10}.mp4"
            pieces.append(Piece(Path(path), path, name, abnormal, kind, "", 25.0))
            rows = rng.normal(size=(3, 8)).astype(np.float32)
            rows[:, 0] += strength if abnormal else 0.0
            features.append(rows)
    backgrounds = rng.integers(0, 256, (len(pieces), 18, 32, 3)).astype(np.uint8)
    quiet = [Quiet(f"h{k}", rng.normal(size=(60, 8)).astype(np.float32), 5.0) for k in range(5)]
    return pieces, labelled(pieces, backgrounds), features, quiet


def learner(labels: Labels, features: list[Float32Array], choices: tuple[Choice, ...] = CHOICES) -> Logistic:
    return Logistic(features, labels.abnormal, labels.sets, choices)


@pytest.fixture()
def one_draw(monkeypatch: pytest.MonkeyPatch) -> None:
    """Streams are drawn once, not three times."""
    monkeypatch.setattr(standard, "SEEDS", (0,))


def test_noise_gives_a_half_everywhere_and_finds_no_more_than_chance(one_draw: None) -> None:
    pieces, labels, features, quiet = world(0.0)
    found = evaluate_network(pieces, labels, learner(labels, features), quiet, StreamPlan(1, 200.0, 2))
    assert found["outer"]["pooled"]["low"] < 0.5 < found["outer"]["pooled"]["high"]
    for row in found["left_out"]["sources"].values():
        assert 0.3 < row["own"]["value"] < 0.7
        assert 0.3 < row["against_others"]["value"] < 0.7
    assert found["streams"]["budgets"]["0.1"]["recall"]["value"] < 0.2


def test_what_can_be_seen_is_seen_everywhere(one_draw: None) -> None:
    pieces, labels, features, quiet = world(4.0)
    found = evaluate_network(pieces, labels, learner(labels, features), quiet, StreamPlan(1, 300.0, 2))
    assert found["outer"]["pooled"]["value"] > 0.97
    assert found["kept"]["pooled"]["value"] > 0.97
    assert set(found["kinds"]) == {"fight", "crash"}
    assert set(found["left_out"]["sources"]) == set(SETS)
    assert found["left_out"]["spread"]["own"]["lowest"] > 0.95
    assert found["streams"]["budgets"]["1"]["recall"]["value"] > 0.6
    assert found["streams"]["budgets"]["1"]["quiet"]["hours"] == pytest.approx(5 * 60 * 3.2 / 3600, abs=1e-3)
    assert found["groups"]["cctv_fights"] == {"abnormal": 6, "abnormal_clips": 60, "normal": 6, "normal_clips": 60}
    assert json.loads(json.dumps(found)) == found


def test_a_part_that_knows_nothing_is_not_chosen_and_the_head_sees_the_chosen_one_alone() -> None:
    pieces, labels, features, _ = world(4.0)
    parts = {"seeing": (0, 4), "blind": (4, 8), "both": (0, 8)}
    choosing = Logistic(features, labels.abnormal, labels.sets, tuple((1.0, "clips", part) for part in parts), parts)
    found = evaluate_network(pieces, labels, choosing)
    assert {row["part"] for row in found["choices"]} <= {"seeing", "both"}
    blind = choosing.rows(np.arange(len(pieces)), (1.0, "clips", "blind"))
    other = features[0].copy()
    other[:, :4] += 100.0
    assert np.allclose(blind(other), blind(features[0]))
    assert not np.allclose(blind(-features[0]), blind(features[0]))


def test_what_lies_beside_everything_known_is_marked_as_novel() -> None:
    rng = np.random.default_rng(0)
    pieces, labels, _, _ = world(0.0)
    plane = rng.normal(size=(3, 20))
    strange = np.array([s == "wild_clips" and k % 3 == 0 for k, s in enumerate(labels.sets)])
    features = [
        (rng.normal(size=(3, 3)) @ plane + (4.0 if odd else 0.1) * rng.normal(size=(3, 20))).astype(np.float32)
        for odd in strange
    ]
    scores = np.where(labels.abnormal, 0.8, 0.2)
    scores[strange] = 1.0 - scores[strange]  # what is strange is judged wrongly
    mine = np.array([s == "wild_clips" for s in labels.sets])
    found = novelty_worth.worth(judged_of(pieces, labels, scores), labels, features, mine, axes=3)
    assert found["of"] == 120 and 0 <= found["marked"] - int(strange.sum()) <= 3  # one in a hundred by chance
    assert found["not_marked"]["value"] == 1.0 and 0.3 < found["near"]["value"] < 1.0


def test_streams_need_hours_to_settle_on_and_others_to_judge_on() -> None:
    pieces, labels, features, quiet = world(1.0)
    with pytest.raises(DataError, match="at least 2"):
        evaluate_network(pieces, labels, learner(labels, features), quiet[:1], StreamPlan(1, 200.0, 1))


def test_a_bundle_is_judged_only_on_what_it_never_saw() -> None:
    pieces, labels, _, _ = world(0.0)
    raw = [np.array([0.9 if p.abnormal else 0.1]) for p in pieces]
    found = evaluate_bundle(pieces, labels, raw, ["wild_clips"])
    assert found["clips"] == 120
    assert set(found["unseen"]) == {"wild_clips", "pooled"}
    with pytest.raises(DataError, match="never saw"):
        evaluate_bundle(pieces, labels, raw, ["elsewhere"])


def film(path: Path, colour: int, frames: int = 20) -> None:
    """A still scene of its own for every file, of about this brightness, under noise."""
    path.parent.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(zlib.crc32(path.as_posix()[-30:].encode()))
    scene = np.kron(rng.integers(0, 60, (6, 8, 3)), np.ones((8, 8, 1), dtype=int))
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"mp4v"), 10, (64, 48))
    for _ in range(frames):
        writer.write((scene + colour - 32 + rng.integers(0, 8, scene.shape)).clip(0, 255).astype(np.uint8))
    writer.release()


def folder(root: Path, per_label: int = 40) -> Path:
    rows = ["path,set,label,category,group,split,fps"]
    for name in ("cctv_fights", "cctv_crashes"):
        for k in range(per_label):
            for label, colour in (("abnormal", 150), ("normal", 50)):
                path = f"{name}/{label}/c{20 * k}.mp4"
                film(root / path, colour)
                rows.append(f"{path},{name},{label},fight,,{'train' if k else 'val'},10.0")
    rows.append("shop/x.mp4,shop_normal,normal,shop,,train,10.0")
    (root / "index.csv").write_text("\n".join(rows) + "\n", encoding="utf-8")
    return root


def colour_network(name: str, size: object) -> FrozenNetwork:
    def make():  # type: ignore[no-untyped-def]
        return lambda windows: windows.reshape(len(windows), -1, 3).mean(axis=1).astype(np.float32)

    return FrozenNetwork(f"colour-{name}", 32, make)


def test_the_command_goes_from_files_to_a_record_and_reads_its_cache_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clips = folder(tmp_path / "clips", per_label=8)
    monkeypatch.setattr(networks, "known_network", colour_network)
    out = tmp_path / "records" / "standard_colour.json"
    words = ["evaluate", "--standard", "--clips", str(clips), "--network", "i3d", "--cache", str(tmp_path / "cache")]
    words += ["--ignore", "shop_normal"]
    assert trainer_main.main([*words, "--out", str(out)]) == 0
    record = json.loads(out.read_text(encoding="utf-8"))
    assert trainer_main.main([*words, "--out", str(out), "--limit", "cctv_fights=6"]) == 0
    fewer = json.loads(out.read_text(encoding="utf-8"))
    assert fewer["results"]["clips"] == 28
    assert fewer["settings"]["kept"] == record["settings"]["kept"]  # what is kept for good does not depend on limits
    kept = command.kept_paths(clips, None, tmp_path / "cache", ignored=["shop_normal"])
    assert len(kept) == 8  # of eight groups a set and label, two
    digest = hashlib.sha256("\n".join(sorted(kept)).encode()).hexdigest()[:16]
    assert digest == record["settings"]["kept"]
    assert record["name"] == "standard_colour"
    assert record["results"]["clips"] == 32
    assert record["results"]["outer"]["pooled"]["value"] > 0.9
    assert {"look", "pixels", "kept", "folds", "span"} <= set(record["settings"])

    def nothing_new(*_: object) -> None:
        raise AssertionError("features were there already")

    monkeypatch.setattr(networks, "known_network", lambda name, size: FrozenNetwork(f"colour-{name}", 32, nothing_new))
    monkeypatch.setattr(pixels, "background", nothing_new)
    assert trainer_main.main([*words, "--out", str(out)]) == 0
    assert json.loads(out.read_text(encoding="utf-8"))["results"] == record["results"]


def test_other_pixels_are_other_features(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    film(tmp_path / "a.mp4", 128)
    before = Store(tmp_path, colour_network("w", 0), [tmp_path / "a.mp4"]).folder
    assert Store(tmp_path, colour_network("w", 0), [tmp_path / "a.mp4"]).folder == before
    real = recordings.windows

    def changed(path: Path, recipe: Recipe) -> Iterator[Window]:
        for window in real(path, recipe):
            yield dataclasses.replace(window, frames=window.frames ^ 1)

    monkeypatch.setattr(recordings, "windows", changed)
    assert Store(tmp_path, colour_network("w", 0), [tmp_path / "a.mp4"]).folder != before


def test_windows_are_those_of_the_detector(tmp_path: Path) -> None:
    film(tmp_path / "a.mp4", 128, frames=40)
    film(tmp_path / "short.mp4", 128, frames=5)
    assert [w.shape for w in pixels.windows(tmp_path / "a.mp4", (24, 32))] == [(16, 24, 32, 3)] * 2
    (only,) = pixels.windows(tmp_path / "short.mp4", 16)
    assert np.array_equal(only[4], only[15])
    with pytest.raises(DataError, match="gives no"):
        list(pixels.windows(tmp_path / "none.mp4", 16))
    assert pixels.rate(tmp_path / "a.mp4") == pytest.approx(10.0)
    assert [pixels.seen_rate(fps) for fps in (5.0, 25.0, 30.0, 50.0, 60.0)] == [5.0, 25.0, 30.0, 25.0, 30.0]


def test_clips_are_read_whatever_their_split_and_limited_evenly(tmp_path: Path) -> None:
    pieces = read_pieces(folder(tmp_path, per_label=4), ignored=["shop_normal"])
    assert len(pieces) == 16
    assert {p.kind for p in pieces if p.abnormal} == {"fight"}
    few = [pieces[place] for place in limited(pieces, {"cctv_fights": 2})]
    assert sum(p.set == "cctv_fights" for p in few) == 4
    assert sum(p.set == "cctv_crashes" for p in few) == 8


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (None, "does not exist"),
        ("path,set,label\na,b,normal\n", "column 'category' is missing"),
        ("path,set,label,category,group,fps\na,b,normal,c,,fast\n", "no frame rate"),
        ("path,set,label,category,group,fps\na,b,unlabelled,c,,25\n", "lists no clip"),
        ("path,set,label,category,group,fps\na,b,normal,c,,25\na,b,normal,c,,25\n", "listed twice"),
    ],
)
def test_an_index_that_cannot_be_used_is_refused_in_one_sentence(tmp_path: Path, text: str | None, said: str) -> None:
    if text is not None:
        (tmp_path / "index.csv").write_text(text, encoding="utf-8")
    with pytest.raises(DataError, match=said):
        read_pieces(tmp_path)


@pytest.mark.parametrize("word", ["hockey", "hockey=", "hockey=0", "=3", "hockey=a"])
def test_limits_are_numbers_of_clips(word: str) -> None:
    with pytest.raises(UsageError, match="SET=N"):
        command.limits_of([word])


def test_what_is_missing_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    assert trainer_main.main(["evaluate", "--standard", "--out", "x.json"]) == 2
    assert "needs --clips" in capsys.readouterr().err
    assert trainer_main.main(["evaluate", "features.npz", "--out", "x"]) == 2
    assert "--checkpoint" in capsys.readouterr().err
    assert trainer_main.main(["evaluate", "--standard", "--clips", "c", "--network", "mc3", "--out", "x.json"]) == 2
    assert "name their sets with --seen" in capsys.readouterr().err


def test_the_fold_that_is_kept_has_a_fifth_of_the_groups_of_every_set() -> None:
    _, labels, _, _ = world(0.0)
    for name in SETS:
        mine = [g for g, s in zip(labels.groups, labels.sets, strict=True) if s == name]
        kept = {g for g, s, f in zip(labels.groups, labels.sets, labels.folds, strict=True) if s == name and f == KEPT}
        assert len(kept) == 2 * round(len(set(mine)) / 2 / 5)
