"""Heads fitted in the teacher's spaces: folding changes no logit, and the mean is the mean."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from stream_detector.errors import DataError
from trainer.recipes.embedded.fit_head import Bag, HeadConfig, fit_head
from trainer.recipes.embedded.spaces import fit_in_space, fold, maps_of
from trainer.recipes.embedded.student import Student

CONFIG = HeadConfig(decay=0.03, steps=60)


@pytest.fixture(scope="module")
def student() -> Student:
    torch.manual_seed(0)
    return Student("resnet3d-10-b-w0.125").eval().requires_grad_(False)


@pytest.fixture(scope="module")
def bags(student: Student) -> list[Bag]:
    rng = np.random.default_rng(0)
    width = student.project.in_features
    made = []
    for number in range(40):
        features = rng.normal(size=(3, width)).astype(np.float32)
        features[:, :4] += 1.5 * (number % 2)
        made.append(Bag(features, "a", bool(number % 2)))
    return made


@pytest.mark.parametrize("space", ["teacher", "classes"])
def test_a_folded_head_gives_the_same_logits(space: str, student: Student, bags: list[Bag]) -> None:
    linear = maps_of(student)[space]
    mapped = [replace(bag, features=linear(torch.from_numpy(bag.features)).numpy()) for bag in bags]
    wide = fit_head(mapped, CONFIG)
    for bag, seen in zip(bags, mapped, strict=True):
        folded = fold(wide, linear).logits(torch.from_numpy(bag.features))
        assert torch.allclose(folded, wide.logits(torch.from_numpy(seen.features)), atol=1e-3)


def test_a_head_with_hidden_layers_cannot_be_folded(student: Student, bags: list[Bag]) -> None:
    with pytest.raises(DataError, match="only a linear head"):
        fold(fit_head(bags, replace(CONFIG, hidden=(8,))), student.project)


@pytest.mark.parametrize("space", ["features", "teacher", "classes", "mean"])
def test_every_space_tells_the_labels_apart(space: str, student: Student, bags: list[Bag]) -> None:
    head = fit_in_space(bags, replace(CONFIG, space=space), None, maps_of(student))
    assert head.dims == (student.project.in_features, 1)
    peaks = [float(head.logits(torch.from_numpy(bag.features)).max()) for bag in bags]
    right = np.mean([(p > float(np.median(peaks))) == bag.abnormal for p, bag in zip(peaks, bags, strict=True)])
    assert right > 0.9


def test_the_mean_weighs_every_space_alike(student: Student, bags: list[Bag]) -> None:
    maps = maps_of(student)
    windows = torch.cat([torch.from_numpy(bag.features) for bag in bags])
    parts = [
        fit_in_space(bags, replace(CONFIG, space=name), None, maps).logits(windows) for name in ("features", *maps)
    ]
    wanted = sum(part / part.std() for part in parts) / 3
    got = fit_in_space(bags, replace(CONFIG, space="mean"), None, maps).logits(windows)
    assert torch.allclose(got, wanted, atol=1e-3)


def test_an_unknown_space_is_named(bags: list[Bag]) -> None:
    with pytest.raises(DataError, match="no space 'outer'"):
        fit_in_space(bags, replace(CONFIG, space="outer"))
