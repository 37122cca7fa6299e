"""Reading features and lists, cutting bags: every form, and one sentence for every bad one."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stream_detector.errors import DataError
from trainer.data.annotations import annotation_of, read_annotations
from trainer.data.features import (
    FeatureSet,
    VideoFeatures,
    category_of,
    load_features,
    require_both_classes,
    require_finite,
)
from trainer.data.videos import read_list, read_ucf_crime
from trainer.mil.bags import Sampler, segment_bags, segment_edges, to_segments, validation_split

RNG = np.random.default_rng(0)


def video(name: str, category: str = "Normal", rows: int = 4, split: str = "train") -> VideoFeatures:
    return VideoFeatures(name, category, split, RNG.uniform(size=(rows, 6)).astype(np.float32))


def dataset(normal: int = 6, abnormal: int = 6) -> FeatureSet:
    videos = [video(f"N{i}") for i in range(normal)] + [video(f"A{i}", "Fighting") for i in range(abnormal)]
    return FeatureSet(tuple(videos), "made up", {})


@pytest.mark.parametrize("rows", [1, 2, 5, 31, 32, 33, 64, 1000])
@pytest.mark.parametrize("segments", [3, 32])
def test_every_video_gives_all_segments(rows: int, segments: int) -> None:
    x = np.arange(rows, dtype=np.float32)[:, None]
    out = to_segments(x, segments)
    assert out.shape == (segments, 1)
    assert (np.diff(out[:, 0]) >= 0).all() and out[0, 0] < max(1, rows / segments)  # in order, from the start
    assert out[-1, 0] > rows - 1 - max(1, rows / segments)  # to the end: no clip is lost
    if rows >= segments:  # every row counts once
        assert (np.diff(segment_edges(rows, segments)) * out[:, 0]).sum() == pytest.approx(x.sum(), rel=1e-5)


def test_543_frames_give_32_rows() -> None:
    assert segment_bags(FeatureSet((video("a", rows=543 // 16),), "x", {}), 32).shape == (1, 32, 6)


def test_too_few_segments_are_refused() -> None:
    with pytest.raises(DataError, match="at least 3"):
        segment_bags(dataset(), 2)


def test_batches_show_every_video_before_any_twice() -> None:
    batches = Sampler(np.arange(4), np.arange(10, 16), 2).batches(np.random.default_rng(0))
    drawn = np.stack([next(batches) for _ in range(6)])
    assert (drawn[:, :2] < 4).all() and (drawn[:, 2:] >= 10).all()
    assert sorted(drawn[:2, :2].ravel()) == [0, 1, 2, 3]
    assert sorted(drawn[:3, 2:].ravel()) == list(range(10, 16))


def test_validation_is_split_by_video_and_by_category() -> None:
    fit, val = validation_split(dataset(20, 10), 0.2, seed=1)
    assert len(val) == 6 and not set(fit) & set(val) and len(fit) + len(val) == 30
    assert dataset(20, 10).labels()[val].sum() == 2
    with pytest.raises(DataError, match="at least 2"):
        validation_split(dataset(5, 1), 0.2, 0)


@given(
    st.lists(st.tuples(st.sampled_from(["Normal", "Fight", "Crash"]), st.integers(0, 9)), min_size=4, max_size=40),
    st.sampled_from([0.1, 0.15, 0.3, 0.5]),
    st.integers(0, 99),
)
def test_validation_never_parts_a_group(rows: list[tuple[str, int]], share: float, seed: int) -> None:
    videos = [
        replace(video(f"v{i}", category), group=f"g{group}" if group else "")
        for i, (category, group) in enumerate(rows)
    ]
    features = FeatureSet(tuple(videos), "here", {})
    labels = features.labels()
    if min((labels == 0).sum(), (labels == 1).sum()) < 2:
        return
    try:
        fit, val = validation_split(features, share, seed)
    except DataError as error:
        assert "leave no split" in str(error)
        return
    assert sorted([*fit, *val]) == list(range(len(videos)))
    groups = [{videos[i].group for i in part} - {""} for part in (fit, val)]
    assert groups[0].isdisjoint(groups[1])
    assert set(labels[fit]) == set(labels[val]) == {0, 1}


def test_one_group_of_a_class_cannot_be_split() -> None:
    videos = [replace(v, group="hall" if v.label else "") for v in dataset(6, 4).videos]
    with pytest.raises(DataError, match=r"the groups of the abnormal videos leave no split .* val_share=0"):
        validation_split(FeatureSet(tuple(videos), "here", {}), 0.2, 0)
    assert len(validation_split(FeatureSet(tuple(videos), "here", {}), 0.0, 0)[0]) == 10


def test_a_group_in_two_splits_is_refused_and_sets_number_their_own(tmp_path: Path) -> None:
    path = tmp_path / "videos.csv"
    path.write_text("path,label,group,split\na.mp4,normal,hall,train\nb.mp4,abnormal,hall,val\n")
    with pytest.raises(DataError, match="group hall stands in the splits 'train' and 'val'"):
        read_list(path)
    path.write_text("path,label,set,group,split\na.mp4,normal,x,1,train\nb.mp4,abnormal,y,1,val\n")
    assert [v.group for v in read_list(path)] == ["x/1", "y/1"]


def test_npz_forms(tmp_path: Path) -> None:
    names = {"names": np.array(["Abuse001_x264", "Normal_Videos_003_x264"]), "split": np.array(["train", "test"])}
    rows = RNG.uniform(size=(2, 3, 5)).astype(np.float32)
    forms: dict[str, dict[str, Any]] = {
        "plain": {"features": rows},
        "ragged": {"features": rows.reshape(6, 5), "offsets": np.array([0, 3, 6])},
        "milli": {"features_milli": np.round(rows.reshape(6, 5) * 1000).astype(np.uint16), "offsets": [0, 3, 6]},
        "quantised": {"features_q": np.round(rows * 255).astype(np.uint8), "row_scale": np.full((2, 3), 1 / 255)},
    }
    for form, arrays in forms.items():
        np.savez(tmp_path / f"{form}.npz", allow_pickle=False, **arrays, **names)
        found = load_features(tmp_path / f"{form}.npz")
        assert [v.label for v in found.videos] == [1, 0] and found.dim == 5
        assert np.stack([v.rows for v in found.videos]) == pytest.approx(rows, abs=0.003)
        assert [v.name for v in found.of_split("test").videos] == ["Normal_Videos_003_x264"]


def test_the_seeds_text_files(tmp_path: Path) -> None:
    (tmp_path / "Abuse").mkdir()
    (tmp_path / "Abuse" / "Abuse001_x264.txt").write_text("1.0 2.0\n3.0 4.5\n")
    (tmp_path / "Normal_Videos_003_x264.txt").write_text("0 0\n1 1\n")
    found = load_features(tmp_path)
    assert {v.name: v.label for v in found.videos} == {"Abuse001_x264": 1, "Normal_Videos_003_x264": 0}
    assert found.videos[0].rows.tolist() == [[1.0, 2.0], [3.0, 4.5]]
    (tmp_path / "Abuse" / "Abuse002_x264.txt").write_text("\n")
    with pytest.raises(DataError, match="is blank"):
        load_features(tmp_path)


def save(path: Path, **arrays: Any) -> Path:
    np.savez(path, allow_pickle=False, **arrays)
    return path


def test_bad_files_are_one_sentence(tmp_path: Path) -> None:
    one = {"names": np.array(["Abuse001"])}
    broken = tmp_path / "broken.npz"
    broken.write_bytes(b"PK\x03\x04 not a zip")
    cases = {
        "does not exist": tmp_path / "none.npz",
        "holds neither": tmp_path,
        "cannot be read as .npz": broken,
        "no array 'names'": save(tmp_path / "a.npz", features=np.zeros((1, 2, 3))),
        "no array 'features'": save(tmp_path / "b.npz", **one),
        "1 names but features of 2": save(tmp_path / "c.npz", features=np.zeros((2, 2, 3)), **one),
        "segments, dimensions": save(tmp_path / "d.npz", features=np.zeros((1, 2)), **one),
        "needs row_scale": save(tmp_path / "e.npz", features_q=np.zeros((1, 2, 3), np.uint8), **one),
        "holds no videos": save(tmp_path / "f.npz", features=np.zeros((0, 2, 3)), names=np.array([], "<U1")),
        "twice": save(tmp_path / "g.npz", features=np.zeros((2, 2, 3)), names=np.array(["Abuse001", "Abuse001"])),
        "contains no category": save(tmp_path / "h.npz", features=np.zeros((1, 2, 3)), names=np.array(["001"])),
    }
    for words, path in cases.items():
        with pytest.raises(DataError, match=words) as caught:
            load_features(path)
        assert "\n" not in str(caught.value)


def test_bad_content_is_one_sentence() -> None:
    bad = video("x")
    bad.rows[2, 1] = np.nan
    with pytest.raises(DataError, match="video x has a feature that is not finite in row 2"):
        require_finite(FeatureSet((bad,), "here", {}))
    with pytest.raises(DataError, match="all 3 videos of made up are normal"):
        require_both_classes(dataset(3, 0))
    with pytest.raises(DataError, match="no video of split test"):
        dataset().of_split("test")
    with pytest.raises(DataError, match="mixes features"):
        FeatureSet((video("a"), VideoFeatures("b", "Normal", "", np.zeros((2, 7), np.float32))), "here", {})


def test_annotations_csv_and_official_text(tmp_path: Path) -> None:
    csv = tmp_path / "a.csv"
    csv.write_text("video,category,frames,start_1,end_1,start_2,end_2\nShooting015_x264,Shooting,1000,11,1001,-1,-1\n")
    found = read_annotations(csv)["Shooting015_x264"]
    assert found.events == ((10, 1000),)  # 1-based inclusive to half-open; clipped to the video
    text = tmp_path / "a.txt"
    text.write_text("Abuse028_x264.mp4  Abuse  165  240  -1  -1\nNormal_Videos_003_x264.mp4  Normal  -1  -1  -1  -1\n")
    both = read_annotations(text)
    assert both["Abuse028_x264"].events == ((164, 240),) and both["Normal_Videos_003_x264"].events == ()
    with pytest.raises(DataError, match="video X has no annotation"):
        annotation_of(both, "X")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("video,category\n", "holds no video"),
        ("a,Abuse,100,1\n", "pairs"),
        ("a,Abuse,many,1,2\n", "whole numbers"),
        ("a,Abuse,100,9,2\n", "ends before"),
        ("a,Abuse,100,1,2\na,Abuse,100,1,2\n", "annotated twice"),
    ],
)
def test_bad_annotations_are_one_sentence(tmp_path: Path, content: str, words: str) -> None:
    path = tmp_path / "a.csv"
    path.write_text(content)
    with pytest.raises(DataError, match=words):
        read_annotations(path)


def test_lists_of_videos(tmp_path: Path) -> None:
    path = tmp_path / "videos.csv"
    path.write_text("path,label,category,split,set\nx/a.mp4,abnormal,fight,train,p\nx/b.mp4,normal,,val,q\n")
    assert [(v.name, v.category, v.split) for v in read_list(path)] == [("a", "fight", "train"), ("b", "Normal", "val")]
    assert [v.name for v in read_list(path, where={"set": {"q"}})] == ["b"]
    for content, words in {
        "file,label\n": "no column path",
        "path,label\n": "lists no video",
        "path,label\na.mp4,maybe\n": "must be abnormal or normal",
        "path,label\nx/a.mp4,1\ny/a.mp4,0\n": "share the name a",
    }.items():
        path.write_text(content)
        with pytest.raises(DataError, match=words):
            read_list(path)


def test_ucf_crime_as_it_is_unpacked(tmp_path: Path) -> None:
    splits = tmp_path / "Anomaly_Detection_splits"
    splits.mkdir()
    (tmp_path / "Anomaly-Videos-Part-1" / "Abuse").mkdir(parents=True)
    (tmp_path / "Anomaly-Videos-Part-1" / "Abuse" / "Abuse001_x264.mp4").touch()
    (splits / "Anomaly_Train.txt").write_text("Abuse/Abuse001_x264.mp4\n\n")
    (splits / "Anomaly_Test.txt").write_text("Testing_Normal_Videos_Anomaly/Normal_Videos_003_x264.mp4\n")
    abuse, normal = read_ucf_crime(tmp_path)
    assert abuse.path.is_file() and (abuse.category, abuse.split) == ("Abuse", "train")
    assert not normal.path.exists() and (normal.category, normal.split) == ("Normal", "test")
    (splits / "Anomaly_Test.txt").unlink()
    with pytest.raises(DataError, match=r"Anomaly_Test\.txt is nowhere"):
        read_ucf_crime(tmp_path)
    assert category_of("RoadAccidents001_x264") == "RoadAccidents"
