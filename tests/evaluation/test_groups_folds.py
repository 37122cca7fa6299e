"""Groups and folds: what may not be parted is not, whatever the names, the order and the pictures."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trainer.evaluation.folds import KEPT, LeakError, fold_of, group_counts, require_apart
from trainer.evaluation.groups import alike, block, groups_of, same_recording, signature


@pytest.mark.parametrize(
    ("one", "other", "together"),
    [
        ("fights/abnormal/fi001.mp4", "fights/abnormal/fi019.mp4", True),
        ("fights/abnormal/fi019.mp4", "fights/abnormal/fi020.mp4", False),
        ("fights/abnormal/fi001.mp4", "fights/normal/fi001.mp4", False),
        ("crashes/abnormal/_choque41.mp4", "crashes/abnormal/choque45.mp4", True),
        ("hockey/normal/train_no3.mp4", "hockey/normal/val_no7.mp4", True),
        ("ucf101/normal/v_Diving_g01_c02.mp4", "ucf101/normal/v_Diving_g01_c07.mp4", True),
        ("ucf101/normal/v_Diving_g01_c02.mp4", "ucf101/normal/v_Diving_g02_c02.mp4", False),
        ("wild/normal/bottle.mp4", "wild/normal/bottle.avi", True),
    ],
)
def test_blocks_are_neighbouring_numbers_of_one_series(one: str, other: str, together: bool) -> None:
    assert (block(one) == block(other)) is together


numbers = st.lists(st.integers(0, 300), min_size=1, max_size=60, unique=True)


@given(numbers, st.integers(0, 2**32 - 1))
def test_no_block_is_ever_parted_and_names_do_not_depend_on_the_order(found: list[int], seed: int) -> None:
    rng = np.random.default_rng(seed)
    paths = [f"s/normal/c{number}.mp4" for number in found]
    pairs = [(int(a), int(b)) for a, b in rng.integers(0, len(paths), (2, 2))]
    names = groups_of(paths, [""] * len(paths), pairs)
    by_block: dict[str, set[str]] = {}
    for path, name in zip(paths, names, strict=True):
        by_block.setdefault(block(path), set()).add(name)
    assert all(len(group) == 1 for group in by_block.values())
    assert all(names[a] == names[b] for a, b in pairs)
    order = rng.permutation(len(paths))
    place = {int(p): k for k, p in enumerate(order)}
    moved = [(place[a], place[b]) for a, b in pairs]
    again = groups_of([paths[p] for p in order], [""] * len(paths), moved)
    assert [again[place[p]] for p in range(len(paths))] == names


def test_a_source_of_the_index_is_one_group() -> None:
    names = groups_of(["w/a_x.mp4", "w/b_y.mp4", "w/c_z.mp4"], ["w/one", "w/two", "w/one"])
    assert names[0] == names[2] != names[1]


def scene(seed: int) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    rng = np.random.default_rng(seed)
    small = rng.integers(0, 256, (5, 8, 3)).astype(np.uint8)
    return np.kron(small, np.ones((4, 4, 1), dtype=np.uint8))[:18, :32]


def test_pictures_of_one_place_agree_under_other_light_and_mirrored_and_those_of_others_do_not() -> None:
    rng = np.random.default_rng(0)
    first = scene(1)
    darker = np.clip(first * 0.7 + rng.normal(0, 3, first.shape), 0, 255).astype(np.uint8)
    found = alike(np.stack([first, darker, first[:, ::-1], *(scene(k) for k in range(2, 40))]))
    assert sorted(found) == [(0, 1), (0, 2), (1, 2)]


def test_a_picture_of_one_colour_agrees_with_nothing() -> None:
    black = np.zeros((18, 32, 3), dtype=np.uint8)
    assert not signature(black[None]).any()
    assert alike(np.stack([black, black])) == []


def test_blocks_whose_clips_mostly_agree_are_one_recording() -> None:
    paths = [f"s/normal/a{k}.mp4" for k in range(4)] + [f"s/normal/b{k}.mp4" for k in range(4)]
    blocks = groups_of(paths, [""] * 8)
    assert same_recording(blocks, [(0, 4), (1, 5)]) == [(0, 4)]  # half of either
    assert same_recording(blocks, [(0, 4)]) == []  # one clip of four proves no common recording


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(2, 7))
def test_folds_take_whole_groups_and_keep_a_fifth(seed: int, count: int) -> None:
    rng = np.random.default_rng(seed)
    sizes = rng.integers(1, 15, 40)
    groups = [f"g{k}" for k, size in enumerate(sizes) for _ in range(size)]
    sets = ["left" if int(name[1:]) < 20 else "right" for name in groups]
    abnormal = [int(name[1:]) % 2 == 0 for name in groups]
    folds = fold_of(groups, sets, abnormal, count)
    for number in range(count):
        judged = np.flatnonzero(folds == number)
        require_apart(groups, np.flatnonzero(folds != number).tolist(), judged.tolist())
        for name in ("left", "right"):
            labels = {abnormal[p] for p in judged.tolist() if sets[p] == name}
            assert labels == {True, False}
    kept = {g for g, fold in zip(groups, folds, strict=True) if fold == KEPT}
    assert len(kept) == 4 * max(1, round(10 / count))


def test_what_is_kept_stays_kept_when_sets_are_added() -> None:
    groups, sets, labels = [f"g{k}" for k in range(30)], ["a"] * 30, [k % 2 == 0 for k in range(30)]
    before = fold_of(groups, sets, labels)
    after = fold_of([*groups, *(f"h{k}" for k in range(9))], [*sets, *["b"] * 9], [*labels, *[True] * 9])
    assert np.array_equal(before == KEPT, after[:30] == KEPT)


def test_a_group_on_both_sides_is_an_error_that_names_it() -> None:
    with pytest.raises(LeakError, match="'camera 7'"):
        require_apart(["camera 7", "camera 8", "camera 7"], [0, 1], [2])


def test_groups_are_counted_by_label() -> None:
    counts = group_counts(["a", "a", "b", "c"], ["s"] * 4, [True, False, True, False])
    assert counts == {"s": {"abnormal": 2, "abnormal_clips": 2, "normal": 2, "normal_clips": 2}}
