"""Attempts to flatter the protocol: each must leave the figure where the truth is, or be refused."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pytest

from stream_detector.errors import DataError
from trainer.evaluation.figures import Floats
from trainer.evaluation.folds import Ints, LeakError, fold_of
from trainer.evaluation.logistic import Logistic, minimised, row_space
from trainer.evaluation.nested import Labels, fit_platt, gathered, highest, nested
from trainer.ranking import auc

CHOICES = ((3.0, "clips"), (0.3, "clips"))


def world(seed: int, groups: int = 40, size: int = 5) -> tuple[Labels, np.random.Generator]:
    """Groups of one label each, in two sets; the folds are by group."""
    rng = np.random.default_rng(seed)
    names = tuple(f"g{k // size}" for k in range(groups * size))
    sets = tuple("left" if k // size < groups // 2 else "right" for k in range(groups * size))
    abnormal = np.array([(k // size) % 2 == 0 for k in range(groups * size)])
    return Labels(abnormal, sets, names, fold_of(names, sets, list(abnormal))), rng


def logistic(labels: Labels, features: Floats) -> Logistic:
    return Logistic([row[None].astype(np.float32) for row in features], labels.abnormal, labels.sets, CHOICES)


def outer_auc(labels: Labels, learner: Any, left_out: Any = None) -> float:
    scores = highest(gathered(nested(labels, learner, left_out), len(labels.abnormal)))
    return auc(scores[labels.abnormal], scores[~labels.abnormal])


def test_noise_is_worth_a_half() -> None:
    found = []
    for seed in range(6):
        labels, rng = world(seed)
        found.append(outer_auc(labels, logistic(labels, rng.normal(size=(200, 12)))))
    spread = np.sqrt((100 + 100 + 1) / (12 * 100 * 100))  # of the Mann-Whitney statistic without any effect
    assert abs(np.mean(found) - 0.5) < 4 * spread / np.sqrt(6)


def test_what_is_there_is_found() -> None:
    labels, rng = world(0)
    features = rng.normal(size=(200, 12))
    features[:, 0] += np.where(labels.abnormal, 1.0, -1.0)  # two deviations apart: AUC Φ(√2) = 0.921
    assert outer_auc(labels, logistic(labels, features)) == pytest.approx(0.921, abs=0.04)


def test_the_look_of_a_group_is_worth_nothing_and_would_be_worth_everything_in_folds_of_clips() -> None:
    labels, rng = world(1)
    looks = rng.normal(size=(40, 60)) * 3
    features = np.repeat(looks, 5, axis=0) + rng.normal(size=(200, 60)) * 0.1
    assert outer_auc(labels, logistic(labels, features)) < 0.75
    alone = replace(labels, groups=tuple(str(k) for k in range(200)), folds=rng.integers(0, 5, 200))
    assert outer_auc(alone, logistic(labels, features)) > 0.95


def test_folds_that_part_a_group_are_refused() -> None:
    labels, rng = world(2)
    broken = replace(labels, folds=rng.integers(0, 5, 200))
    with pytest.raises(LeakError, match="both sides"):
        nested(broken, logistic(labels, rng.normal(size=(200, 4))))


@dataclass
class ByHeart:
    """Knows the label of every clip that it was given, and of everything that looks the same."""

    looks: Floats
    abnormal: Any
    choices: tuple[Any, ...] = ("by heart",)
    given: list[set[int]] = field(default_factory=list)

    def fit(self, places: Ints, choice: Any) -> Callable[[int], Floats]:
        known = {tuple(self.looks[p]): bool(self.abnormal[p]) for p in places.tolist()}
        self.given.append(set(places.tolist()))
        return lambda place: np.array([{True: 1.0, False: -1.0, None: 0.0}[known.get(tuple(self.looks[place]))]])


def test_copies_in_other_groups_teach_nothing_once_they_are_told() -> None:
    labels, _ = world(3)
    looks = np.arange(200)[:, None] % 100 * 1.0  # clip k + 100 is a copy of clip k, in another set
    copied = replace(labels, abnormal=np.concatenate([labels.abnormal[:100]] * 2))
    told = replace(copied, pairs=tuple((k, k + 100) for k in range(100)))
    assert outer_auc(copied, ByHeart(looks, copied.abnormal)) > 0.75
    assert outer_auc(told, ByHeart(looks, told.abnormal)) == 0.5


def test_no_label_of_the_judged_fold_has_a_say() -> None:
    labels, rng = world(4)
    features = rng.normal(size=(200, 30))
    features[:, 0] += np.where(labels.abnormal, 0.7, -0.7)
    before = nested(labels, logistic(labels, features))
    for number in range(5):
        turned = labels.abnormal.copy()
        turned[labels.folds == number] ^= True
        lied = replace(labels, abnormal=turned)
        after = nested(lied, logistic(lied, features))[number]
        assert after.choice == before[number].choice
        assert after.platt == before[number].platt
        for one, other in zip(after.scores, before[number].scores, strict=True):
            assert np.array_equal(one, other)


def test_no_label_of_a_left_out_source_has_a_say() -> None:
    labels, rng = world(5)
    features = rng.normal(size=(200, 10))
    gone = np.array(labels.sets) == "left"
    before = highest(gathered(nested(labels, logistic(labels, features), gone), 200))
    lied = replace(labels, abnormal=labels.abnormal ^ gone)
    after = highest(gathered(nested(lied, logistic(lied, features), gone), 200))
    assert np.array_equal(before, after)


def test_nobody_learns_from_a_left_out_source_nor_from_its_groups_elsewhere() -> None:
    labels, _ = world(6)
    groups = list(labels.groups)
    groups[100:105] = [groups[0]] * 5  # five clips of the right set are of a camera of the left one
    mixed = replace(
        labels, groups=tuple(groups), folds=np.where(np.arange(200) // 5 == 20, labels.folds[0], labels.folds)
    )
    gone = np.array(mixed.sets) == "left"
    learner = ByHeart(np.arange(200)[:, None] * 1.0, mixed.abnormal)
    nested(mixed, learner, gone)
    assert all(min(given) >= 105 for given in learner.given)


def test_the_judged_clips_were_never_given_to_their_judge() -> None:
    labels, _ = world(7)
    learner = ByHeart(np.arange(200)[:, None] * 1.0, labels.abnormal)
    for fold in nested(labels, learner):
        assert not set(fold.places.tolist()) & set(fold.learned.tolist())
        assert not {labels.groups[p] for p in fold.places} & {labels.groups[p] for p in fold.learned}
    assert outer_auc(labels, learner) == 0.5


def test_a_better_choice_is_taken_inside() -> None:
    labels, rng = world(8)
    features = rng.normal(size=(200, 150))
    features[:, 0] += np.where(labels.abnormal, 1.0, -1.0)
    learner = replace_choices(logistic(labels, features), ((1e-6, "clips"), (1.0, "clips")))
    assert {fold.choice for fold in nested(labels, learner)} == {(1.0, "clips")}


def replace_choices(learner: Logistic, choices: tuple[tuple[float, str], ...]) -> Logistic:
    learner.choices = choices
    return learner


def test_calibration_gives_back_the_probabilities_behind_the_logits() -> None:
    rng = np.random.default_rng(0)
    logits = rng.normal(0, 2, 20_000)
    abnormal = rng.random(20_000) < 1 / (1 + np.exp(-(0.5 * logits)))
    platt = fit_platt(logits, abnormal)
    assert platt.slope == pytest.approx(0.5, abs=0.03)
    assert platt.bias == pytest.approx(0.0, abs=0.05)


def test_one_label_only_is_refused_in_one_sentence() -> None:
    with pytest.raises(DataError, match="one label only"):
        fit_platt(np.zeros(3), np.array([True, True, True]))


def test_coefficients_found_in_the_space_of_the_rows_are_the_same() -> None:
    rng = np.random.default_rng(0)
    x, abnormal = rng.normal(size=(20, 50)), np.arange(20) % 3 == 0
    weights = np.full(20, 1 / 20)
    plain, bias = minimised(x, abnormal, weights, 0.3)
    z, back = row_space(x)
    assert z.shape == (20, 20) and back is not None
    inside, same = minimised(z, abnormal, weights, 0.3)
    assert np.allclose(back @ inside, plain, atol=1e-5) and abs(same - bias) < 1e-5
    assert row_space(x.T)[1] is None
