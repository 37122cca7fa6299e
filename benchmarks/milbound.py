"""Oracles for `mil` that use the TEST videos' own annotations: what the features allow. Never a method.

Only test videos of UCF-Crime have annotations in time, so no head can be trained on them and then be tested. Possible
is cross-validation by video inside the test list: a linear causal head is trained frame by frame on the annotations of
four fifths of the test videos (and on the training list's normal videos, all of whose frames are normal) and scores the
fifth that it never saw. Its regularisation is then chosen by the reported figure itself, which no method may do. It is
nevertheless no upper bound: few test videos are abnormal (23 of 158), and a weak label on each of 153 training videos
can teach more than exact ones on 18.

Every row: [x_t, x_t - m_{t-1}, m_t] of the leading principal axes, a function of the past and the present only.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from trainer.data.features import FeatureSet, VideoFeatures
from trainer.data.timeline import Timeline, all_pieces
from trainer.evaluation.metrics import frame_figures
from trainer.evaluation.oracles import segment_scores
from trainer.mil.heads import fit_scaling, see

AXES = 128
FOLDS = 5
STRENGTHS = (1e-4, 1e-3, 1e-2, 1e-1)  # C of the logistic regression
VIEW = "rows+change:8+mean:32"
TRUE_SHARE = 0.5  # of a segment inside an event, from which on it counts as abnormal

Rows = np.ndarray[Any, np.dtype[np.float32]]


def shown(videos: Sequence[VideoFeatures], scaling: Any) -> list[Rows]:
    """Rows of every video as the view shows them, (T, 3 * AXES) float32."""
    return [see(scaling.apply(v.rows[None]), VIEW)[0] for v in videos]


def folds(labels: np.ndarray[Any, Any], seed: int = 0) -> np.ndarray[Any, Any]:
    """Fold of every video, (V,), both classes spread evenly."""
    rng, found = np.random.default_rng(seed), np.zeros(len(labels), int)
    for label in (0, 1):
        mine = rng.permutation(np.flatnonzero(labels == label))
        found[mine] = np.arange(len(mine)) % FOLDS
    return found


def supervised(training: FeatureSet, test: FeatureSet, truth: Sequence[Timeline], strength: float) -> list[Timeline]:
    """The test videos, each scored by a head that was not told about it. truth: with events, in `test`'s order."""
    from sklearn.linear_model import LogisticRegression

    scaling = fit_scaling(np.concatenate([v.rows for v in training.videos]), 8.0, False, min(AXES, training.dim))
    known_normal = np.concatenate(shown([v for v in training.videos if not v.label], scaling))
    rows = shown(test.videos, scaling)
    target = [t.scores >= TRUE_SHARE for t in segment_scores(truth)]
    fold, scores = folds(test.labels()), [np.zeros(len(r)) for r in rows]
    for number in range(FOLDS):
        learn = [i for i in range(len(rows)) if fold[i] != number]
        x = np.concatenate([known_normal, *(rows[i] for i in learn)])
        y = np.concatenate([np.zeros(len(known_normal), bool), *(target[i] for i in learn)])
        model = LogisticRegression(C=strength, class_weight="balanced", max_iter=200)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # not converged at the weak end: then it is not the best one either
            model.fit(x, y)
        for i in np.flatnonzero(fold == number):
            scores[i] = model.predict_proba(rows[i])[:, 1]
    return [replace(t, scores=s) for t, s in zip(truth, scores, strict=True)]


def bounds(training: FeatureSet, test: FeatureSet, truth: Sequence[Timeline], bootstrap: int) -> dict[str, Any]:
    """Frame figures of the oracle rows: name → figures, with intervals for the strength of the highest frame AUC."""
    labels, best, chosen = test.labels(), -1.0, list[Timeline]()
    for strength in STRENGTHS:
        scored = supervised(training, test, truth, strength)
        value = frame_figures(all_pieces(scored, "content"), labels, 0)["auc"].value
        if value > best:
            best, chosen = value, scored
    name = f"oracle: told the test labels, {FOLDS}-fold"
    return {name: frame_figures(all_pieces(chosen, "content"), labels, bootstrap)}
