"""Clips: the index, splits by group, packing, and what surveillance-like augmentation does to a window."""

from __future__ import annotations

import argparse
from collections import Counter
from pathlib import Path

import cv2
import numpy as np
import pytest

from stream_detector.errors import DataError
from trainer.data.clips import (
    Clip,
    PackedFrames,
    PackWriter,
    check_groups,
    evenly,
    load_clips,
    pack_clips,
    read_frames,
    read_index,
    split_by_group,
    window_at,
    window_starts,
)
from trainer.data.sizes import named, parse_size
from trainer.recipes.embedded.augment import Augmentation, augment, frame_indices, plain

HEADER = "path,set,label,category,group,split,fps,licence\n"


def _video(path: Path, frames: int = 20, size: tuple[int, int] = (64, 48)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), 25.0, size)
    for i in range(frames):
        writer.write(np.full((size[1], size[0], 3), (i * 10, 0, 200), np.uint8))
    writer.release()


def _index(folder: Path, rows: str) -> Path:
    (folder / "index.csv").write_text(HEADER + rows, encoding="utf-8")
    return folder


def test_sizes_are_a_side_or_rows_and_columns(tmp_path: Path) -> None:
    assert parse_size("240") == 240 and parse_size("240x320") == (240, 320)
    assert [named(parse_size(text)) for text in ("160", "240x320")] == ["160", "240x320"]
    for text in ("", "x", "240x", "8", "240x320x3", "1000", "24o"):
        with pytest.raises(argparse.ArgumentTypeError, match="240x320"):
            parse_size(text)
    _video(tmp_path / "t.avi")
    assert read_frames(tmp_path / "t.avi", (24, 32), limit=3).shape == (3, 24, 32, 3)


def test_rows_become_clips(tmp_path: Path) -> None:
    root = _index(tmp_path, "a/1.avi,a,abnormal,fight,g1,train,29.97,MIT\nb/2.avi,b,normal,run,,val,25,\n")
    first, second = read_index(root)
    assert first == Clip("a/1.avi", "a", True, "fight", "g1", "train", 29.97, "MIT")
    assert not second.abnormal and second.group == "" and second.licence == ""


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ("", "no clip"),
        ("a,a,odd,x,g,train,25,\n", "line 2: label 'odd'"),
        ("a,a,normal,x,g,test,25,\n", "split 'test'"),
        ("a,a,normal,x,g,train,fast,\n", "fps 'fast'"),
        ("a,a,normal,x,g,train,25,\nb,a,normal,x,g,val,25,\n", "group 'g' of set 'a'"),
        ("a,a\n", "column 'label' is missing"),
    ],
)
def test_a_bad_index_is_refused_with_its_line(rows: str, words: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=words):
        read_index(_index(tmp_path, rows))


def test_an_absent_index_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="does not exist"):
        read_index(tmp_path)


def test_new_splits_keep_groups_whole_and_do_not_change() -> None:
    clips = [Clip(f"{i}", "s", bool(i % 2), "c", f"g{i // 4}", "train", 25.0) for i in range(400)]
    again = split_by_group(clips, 0.25, seed=1)
    assert again == split_by_group(clips, 0.25, seed=1) != split_by_group(clips, 0.25, seed=2)
    check_groups(again)
    assert 60 < Counter(clip.split for clip in again)["val"] < 140


def test_packed_frames_come_back_as_they_were_decoded(tmp_path: Path) -> None:
    _video(tmp_path / "a/1.avi")
    _video(tmp_path / "a/2.avi", frames=33)
    clips = read_index(_index(tmp_path, "a/1.avi,a,abnormal,f,,train,25,\na/2.avi,a,normal,f,,val,25,\n"))
    cache = tmp_path / "cache"
    assert list(pack_clips(clips, tmp_path, cache, size=32, limit=24)) == [(1, 2), (2, 2)]
    packed, found = load_clips(cache)
    assert found == clips and [item["frames"] for item in packed.meta] == [20, 24]
    assert np.array_equal(packed.frames(1), read_frames(tmp_path / "a/2.avi", 32, limit=24))
    red, blue = packed.frames(0)[10, 0, 0, 0], packed.frames(0)[10, 0, 0, 2]
    assert red > 180 and 80 < blue < 120  # RGB, not BGR
    assert list(pack_clips(clips, tmp_path, cache, size=32, limit=24)) == []  # nothing left to do
    assert list(pack_clips(clips, tmp_path, cache, size=16, limit=24))  # packed otherwise: made again


def test_an_unfinished_pack_is_not_taken_for_a_whole_one(tmp_path: Path) -> None:
    writer = PackWriter(tmp_path / "x.u8", 8)
    writer.add(np.zeros((3, 8, 8, 3), np.uint8), {})
    with pytest.raises(DataError, match="no packed frame file"):
        PackedFrames(tmp_path / "x.u8")
    with pytest.raises(DataError, match="must be uint8"):
        writer.add(np.zeros((3, 8, 9, 3), np.uint8), {})
    writer.close("k")
    assert PackedFrames(tmp_path / "x.u8").key == "k"


def test_a_clip_that_is_no_video_is_refused(tmp_path: Path) -> None:
    (tmp_path / "t.mp4").write_text("text", encoding="utf-8")
    with pytest.raises(DataError, match="gives no frame"):
        read_frames(tmp_path / "t.mp4", 16)


def test_windows_of_a_clip() -> None:
    assert window_starts(50) == [0, 16, 32] and window_starts(16) == [0] and window_starts(5) == [0]
    frames = np.arange(10, dtype=np.uint8)[:, None, None, None] * np.ones((1, 4, 4, 3), np.uint8)
    assert window_at(frames, 4)[:, 0, 0, 0].tolist() == [4, 5, 6, 7, 8, 9] + [9] * 10


def test_frame_rates_change_by_leaving_out_and_doubling() -> None:
    assert frame_indices(0, 100, 0.5).tolist() == list(range(0, 32, 2))
    assert frame_indices(3, 100, 2.0).tolist() == [3 + k // 2 for k in range(16)]
    assert frame_indices(-2, 8, 1.0).tolist() == [0, 0, 0, 1, 2, 3, 4, 5, 6] + [7] * 7


def test_augmentation_repeats_with_its_generator_and_keeps_the_shape() -> None:
    frames = np.random.default_rng(0).integers(0, 256, (40, 48, 48, 3), dtype=np.uint8)
    for seed in range(30):
        first = augment(frames, 12, 32, np.random.default_rng(seed))
        again = augment(frames, 12, 32, np.random.default_rng(seed))
        assert first.shape == (16, 32, 32, 3) and first.dtype == np.uint8 and np.array_equal(first, again)
    assert not np.array_equal(first, augment(frames, 12, 32, np.random.default_rng(999)))


def test_a_window_gets_one_crop_and_one_light_for_all_its_frames() -> None:
    still = np.random.default_rng(1).integers(0, 256, (1, 48, 48, 3), dtype=np.uint8).repeat(40, axis=0)
    quiet = Augmentation(p_noise=0.0, p_jpeg=0.0)
    for seed in range(20):
        window = augment(still, 12, 32, np.random.default_rng(seed), quiet)
        assert (window == window[:1]).all()  # a still picture stays still: no motion is invented


def test_without_augmentation_a_window_is_only_resized() -> None:
    frames = np.random.default_rng(2).integers(0, 256, (40, 32, 32, 3), dtype=np.uint8)
    assert np.array_equal(plain(frames, 5, 32), frames[5:21])
    assert plain(frames, 30, 16).shape == (16, 16, 16, 3)


@pytest.mark.data
def test_the_real_index_is_sound(clips: Path) -> None:
    found = read_index(clips)
    assert {clip.split for clip in found} == {"train", "val"}
    assert {clip.set for clip in found if clip.abnormal} >= {"cctv_fights", "cctv_crashes"}
    assert read_frames(clips / found[0].path, 32).shape[1:] == (32, 32, 3)


def test_a_limited_choice_is_spread_over_a_sorted_list() -> None:
    clips = [Clip(f"{n}.mp4", "many", n >= 8, "abcdefgh"[n % 8], f"{n}", "train", 25.0) for n in range(16)]
    assert evenly(clips, "train", {"many": 4}) == [0, 2, 4, 6, 8, 10, 12, 14]
    assert evenly(clips, "train", {}) == list(range(16)) and evenly(clips, "val", {}) == []
    assert len(evenly(clips, "train", {"many": 5})) == 10
