"""An adapted head: low scores for calm footage, high ones for incidents, unchanged ones for known clips."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from stream_detector.errors import DataError
from stream_detector.models.heads import Head
from stream_detector.types import Float32Array
from trainer.recipes.embedded.adapt_bundle import pieces
from trainer.recipes.embedded.adapt_head import AdaptConfig, adapt_head, units_of
from trainer.recipes.embedded.clip_metrics import Stream
from trainer.recipes.embedded.fit_head import Bag

DIM, KNOWN = 8, 5  # known clips vary along the first axes only


def head_of(weight: list[float], bias: float = 0.0) -> Head:
    """A linear head with a standardisation and a calibration that are not trivial."""
    head = Head((DIM, 1)).eval().requires_grad_(False)
    head.layers[0].get_parameter("weight").copy_(torch.tensor([weight]))
    head.layers[0].get_parameter("bias").fill_(bias)
    head.feature_mean.copy_(torch.linspace(-1, 1, DIM))
    head.feature_std.copy_(torch.linspace(0.5, 2, DIM))
    head.temperature.fill_(2.0)
    head.bias.fill_(0.3)
    return head


def windows(count: int, seed: int, **axes: float) -> Float32Array:
    """Along the known axes at random; elsewhere as named: a5=3.0."""
    made = np.zeros((count, DIM))
    made[:, :KNOWN] = np.random.default_rng(seed).normal(size=(count, KNOWN))
    for name, value in axes.items():
        made[:, int(name[1:])] = value
    return made.astype(np.float32)


def logits(head: Head, features: Float32Array) -> Float32Array:
    result: Float32Array = torch.logit(head(torch.from_numpy(features)).double()).numpy()
    return result


@pytest.fixture()
def head() -> Head:
    return head_of([1.0, -0.5, 0.3, 0.0, 0.2, 1.0, 0.0, 0.5], bias=-6.0)


@pytest.fixture()
def known() -> list[Bag]:
    return [Bag(windows(4, k), "ab"[k % 2], k % 4 < 2) for k in range(60)]


def test_calm_footage_falls_silent_and_known_clips_keep_their_scores(head: Head, known: list[Bag]) -> None:
    startling = 0.1 * windows(20, 1000)
    startling[7:9] = 0.1 * windows(2, 1001, a5=120.0)  # two windows of twenty startle the head
    calm = [Bag(startling, "calm", False)]
    assert logits(head, startling).max() > 0.0
    adapted, moved = adapt_head(head, known, calm, [])
    assert logits(adapted, startling).max() < -0.9
    seen = np.concatenate([bag.features for bag in known])
    change = logits(adapted, seen) - logits(head, seen)
    assert np.sqrt((change**2).mean()) == pytest.approx(moved, rel=0.05)
    assert moved < 0.1 < logits(head, seen).std()


def test_a_kind_of_picture_falls_silent_where_each_of_its_traits_alone_must_not(head: Head) -> None:
    traits = ({"a5": 12.0}, {"a6": 12.0}, {"a5": 12.0, "a6": 12.0})
    level = head_of([0.2] * DIM)
    known = [Bag(0.1 * windows(4, k, **traits[k % 2]), "ab"[k % 2], False) for k in range(60)]
    calm = [Bag(0.1 * windows(10, 90 + k, **traits[2]), "calm", False) for k in range(10)]
    adapted, moved = adapt_head(level, known, calm, [])
    assert max(logits(level, bag.features).min() for bag in calm) > 0.1
    assert max(logits(adapted, bag.features).max() for bag in calm) < -0.3
    assert moved < 0.1  # no linear change can: it would fall by half as much at each trait alone


@pytest.mark.parametrize("hidden", [(), (4,)])
def test_a_head_as_units_says_the_same(head: Head, hidden: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    other = Head((DIM, *hidden, 1)).eval().requires_grad_(False)
    for mine, its in zip(other.buffers(), head.buffers(), strict=True):
        mine.copy_(its)
    mean, std = torch.linspace(-2, 2, DIM).double(), torch.linspace(3, 1, DIM).double()
    seen = windows(30, 3, a6=2.0)
    said = units_of(other, mean, std)((torch.from_numpy(seen).double() - mean) / std)
    assert np.allclose(said.numpy(), logits(other, seen), atol=1e-4)


def test_an_adapted_head_can_be_adapted_again(head: Head, known: list[Bag]) -> None:
    first, second = ([Bag(0.1 * windows(10, 70, **axis), "calm", False)] for axis in ({"a5": 120.0}, {"a7": 400.0}))
    once = adapt_head(head, known, first, [])[0]
    twice = adapt_head(once, known, second, [])[0]
    assert once.dims == (DIM, 2 + 8, 1) and twice.dims == (DIM, 2 + 8 + 8, 1)
    assert logits(once, second[0].features).max() > 0.5 > -0.4 > logits(twice, second[0].features).max()
    assert logits(twice, first[0].features).max() < -0.4


def test_with_nothing_to_learn_a_head_stays_what_it_is(head: Head, known: list[Bag]) -> None:
    far_below = windows(6, 2, a5=-30.0)
    adapted, moved = adapt_head(head, known, [Bag(far_below, "calm", False)], [])
    seen = np.concatenate([bag.features for bag in known])
    assert moved < 1e-3 and np.allclose(logits(adapted, seen), logits(head, seen), atol=1e-3)


def test_incidents_are_lifted_where_they_differ_from_calm(head: Head, known: list[Bag]) -> None:
    calm = [Bag(windows(10, k, a5=4.0), "calm", False) for k in range(5)]
    loud = [Bag(windows(5, 50 + k, a5=4.0, a6=3.0), "loud", True) for k in range(5)]
    adapted, _ = adapt_head(head, known, calm, loud, AdaptConfig(loud=5.0))
    assert max(logits(adapted, bag.features).max() for bag in calm) < 0.0
    assert min(np.sort(logits(adapted, bag.features))[-1] for bag in loud) > 0.5


def test_a_firmer_hold_moves_known_scores_less(head: Head, known: list[Bag]) -> None:
    calm = [Bag(windows(10, k), "calm", False) for k in range(5)]  # of the same kind as what is known
    firm, loose = (adapt_head(head, known, calm, [], AdaptConfig(keep=keep))[1] for keep in (300.0, 3.0))
    assert 0 < firm < loose / 3


def test_what_cannot_be_adapted_is_refused(head: Head, known: list[Bag]) -> None:
    with pytest.raises(DataError, match="at most one hidden layer"):
        adapt_head(Head((DIM, 4, 4, 1)).eval(), known, known, [])
    with pytest.raises(DataError, match="at least one new hidden unit"):
        adapt_head(head, known, known, [], AdaptConfig(hidden=0))
    with pytest.raises(DataError, match="calm footage"):
        adapt_head(head, known, [], [])


def test_a_scene_gives_calm_around_its_incident_and_every_window_of_it() -> None:
    count = 60
    features = np.arange(count, dtype=np.float32)[:, None]
    raw = np.zeros(count, np.float32)
    calm, loud = pieces(Stream("s", raw, 25.0, (10.0, 20.0)), features)
    begins, ends = np.arange(count) * 16 / 25, (np.arange(count) * 16 + 15) / 25
    before, after = (bag.features[:, 0].astype(int) for bag in calm)
    during = np.concatenate([bag.features[:, 0] for bag in loud]).astype(int)
    assert ends[before].max() < 10.0 and before[0] == 0
    assert begins[after].min() > 21.0 and after[-1] == count - 1
    inside = np.flatnonzero((begins >= 10.0) & (ends <= 20.0))
    assert during.tolist() == inside.tolist() and len(loud) == len(inside) == 15  # each for itself: all must rise
    quiet, none = pieces(Stream("s", raw, 25.0), features)
    assert len(quiet[0].features) == count and none == []
