"""The MIL benchmark's arithmetic on made-up features: folds, figures from weak labels, the oracle told the labels."""

from __future__ import annotations

import importlib.util

import numpy as np
import pytest

if importlib.util.find_spec("sklearn") is None:
    pytest.skip("scikit-learn is not installed (extra: train)", allow_module_level=True)

from benchmarks import milbound
from trainer.data.features import FeatureSet, VideoFeatures
from trainer.data.timeline import Timeline, segment_windows
from trainer.recipes.causal import search

SEGMENTS, DIM, FRAMES = 8, 140, 320


def features(count: int, split: str, told: bool) -> tuple[FeatureSet, list[Timeline]]:
    """Two segments of every abnormal video stand out, where `told`; in the others nothing tells them from the rest."""
    rng, videos, truth = np.random.default_rng(len(split)), [], []
    starts, ends = segment_windows(FRAMES, SEGMENTS)
    for i in range(count):
        rows, at = rng.normal(size=(SEGMENTS, DIM)).astype(np.float32), int(rng.integers(1, SEGMENTS - 1))
        events: tuple[tuple[int, int], ...] = ()
        if i % 3 == 0:
            events = ((int(starts[at]), int(ends[at + 1])),)
            if told:
                rows[at : at + 2, :3] += 6
        name = f"{split}{i}"
        videos.append(VideoFeatures(name, "Fighting" if events else "Normal", split, rows))
        truth.append(Timeline(name, int(bool(events)), FRAMES, 30.0, starts, ends, np.zeros(SEGMENTS), events))
    return FeatureSet(tuple(videos), "made up", {}), truth


@pytest.mark.parametrize(("told", "low", "high"), [(True, 0.9, 1.0), (False, 0.2, 0.75)])
def test_the_oracle_is_told_labels_but_never_those_of_the_video_it_scores(told: bool, low: float, high: float) -> None:
    training, (test, truth) = features(30, "train", told)[0], features(30, "test", told)
    (figures,) = milbound.bounds(training, test, truth, 5).values()
    assert low <= figures["auc"].value <= high  # noise cannot be learnt: 0.5 and what choosing the strength adds


def test_folds_part_the_videos_and_spread_the_classes() -> None:
    videos, _ = features(30, "train", True)
    parts = search.folds(videos)
    assert sorted(i for part in parts for i in part) == list(range(30))
    assert {sum(videos.videos[i].label for i in part) for part in parts} <= {2, 3}
    fold = milbound.folds(videos.labels())
    assert [int(((fold == n) & (videos.labels() == 1)).sum()) for n in range(5)] == [2] * 5


def test_weak_figures_are_those_of_the_definition() -> None:
    scores = [np.array([0.1, 0.9, 0.8, 0.7]), np.array([0.2, 0.3, 0.85, 0.4]), np.array([0.0, 0.05, 0.6, 0.5])]
    found = search.judged(scores, np.array([1, 0, 0]))
    normal = np.concatenate(scores[1:])
    assert found["peaks"] == pytest.approx(np.mean([(normal < s).mean() for s in (0.9, 0.8, 0.7)]))
    assert found["all"] == pytest.approx(np.mean([(normal < s).mean() for s in scores[0]]))
    assert found["video"] == 1.0 and found["figure"] == pytest.approx((found["peaks"] + found["all"]) / 2)


def test_the_candidates_are_read_with_their_changes() -> None:
    candidates = search.read_candidates()
    assert len(candidates) == 57
    assert candidates["base"].views == ("rows", "change:8") and candidates["base"].widths == (128,)
    alone = candidates["alone, rows and mean:32, dropout 0.3"]
    assert (alone.views, alone.dilations, alone.dropout, alone.steps) == (("rows", "mean:32"), (), 0.3, 150)
