"""`python -m trainer kind`: can a bundle's features tell fights from crashes? If so, it ships what tells them.

    abnormal clips ──bundle's network──▶ mean features ──grouped folds, L2 chosen inside──▶ confusion table
                                                       └─if better than always saying one kind──▶ bundle with `kind`

A kind with fewer than MIN_CLIPS clips is judged, but not learned: the model never answers it, so its clips count as
wrong. The model is a multinomial logistic regression, every kind weighing the same. Balanced accuracy is the mean of
the kinds' recalls; always saying one kind has 1/K. Its interval is a bootstrap over groups. The bundle's fingerprint
stays the same, because no score changes.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console
from sklearn.linear_model import LogisticRegression
from torch import Tensor

from stream_detector.models.bundle import Bundle, write_bundle
from trainer.evaluation.command import judged_clips, limits_of, samples_of, write_record
from trainer.evaluation.folds import Ints, require_apart
from trainer.evaluation.nested import Labels
from trainer.evaluation.networks import Store, bundle_network
from trainer.evaluation.pieces import limited

STRENGTHS = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)  # inverse of the L2 factor, weakest model first
MIN_CLIPS = 20  # a kind needs so many to be learned: fewer describe their sources more than their kind
DRAWS = 2000
Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Linear:
    """Logits of K kinds: features @ weight.T + bias. weight: (K, D).  bias: (K,)."""

    weight: Floats
    bias: Floats

    def kinds(self, features: Floats) -> Ints:
        """(n, D) → (n,) numbers of the likeliest kinds."""
        return np.asarray((features @ self.weight.T + self.bias).argmax(axis=1), np.int64)


def learnable(kinds: Ints) -> NDArray[np.bool_]:
    """(K,) whether there are enough clips of each kind. kinds: (n,) numbers."""
    return np.asarray(np.bincount(kinds) >= MIN_CLIPS)


def fitted(features: Floats, kinds: Ints, count: int, strength: float) -> Linear:
    """Fit on clips. features: (n, D).  kinds: (n,) numbers below `count`; a kind without a clip is never answered."""
    mean, deviation = features.mean(axis=0), np.maximum(features.std(axis=0), 1e-6)
    model = LogisticRegression(C=strength, class_weight="balanced", max_iter=1000)
    model.fit((features - mean) / deviation, kinds)
    coefficients, intercept = model.coef_, model.intercept_
    if len(model.classes_) == 2:  # scikit-learn keeps one row for two classes
        coefficients, intercept = (
            np.concatenate([-coefficients, coefficients]) / 2,
            np.append(-intercept, intercept) / 2,
        )
    weight, bias = np.zeros((count, features.shape[1])), np.full(count, -1e9)
    weight[model.classes_] = coefficients / deviation
    bias[model.classes_] = intercept - weight[model.classes_] @ mean
    return Linear(weight, bias)


def balanced(kinds: Ints, answers: Ints) -> float:
    """The mean of the recalls of the kinds that are there."""
    return float(np.mean([(answers[kinds == kind] == kind).mean() for kind in np.unique(kinds)]))


def chosen(features: Floats, kinds: Ints, labels: Labels, learned: Ints, away: Ints, count: int) -> float:
    """The best of STRENGTHS, by folds among the clips that are learned from. away: clips that nobody may look like."""
    worth = []
    learned = learned[learnable(kinds)[kinds[learned]]]
    for strength in STRENGTHS:
        answers = np.full(len(kinds), -1, np.int64)
        for fold in np.unique(labels.folds[learned]):
            judged = learned[labels.folds[learned] == fold]
            rest = labels.purged(labels.purged(learned[labels.folds[learned] != fold], judged), away)
            answers[judged] = fitted(features[rest], kinds[rest], count, strength).kinds(features[judged])
        worth.append(balanced(kinds[learned], answers[learned]))
    return STRENGTHS[int(np.argmax(worth))]


def judge(features: Floats, kinds: Ints, labels: Labels, names: Sequence[str]) -> dict[str, Any]:
    """Every clip's kind by a model that knows nothing of its fold; and of its set. features: (n, D) means of clips."""
    everyone, count, known = np.arange(len(kinds)), len(names), learnable(kinds)
    answers, strengths = np.zeros(len(kinds), np.int64), []
    for fold in np.unique(labels.folds):
        judged, rest = everyone[labels.folds == fold], everyone[labels.folds != fold]
        require_apart(labels.groups, rest.tolist(), judged.tolist())
        strength = chosen(features, kinds, labels, rest, judged, count)
        learned = labels.purged(rest, judged)
        learned = learned[known[kinds[learned]]]
        answers[judged] = fitted(features[learned], kinds[learned], count, strength).kinds(features[judged])
        strengths.append(strength)
    confusion = [[int(((kinds == a) & (answers == b)).sum()) for b in range(count)] for a in range(count)]
    mine = known[kinds]
    return {
        "kinds": list(names),
        "learned": [name for name, taken in zip(names, known, strict=True) if taken],
        "confusion": confusion,
        "balanced": balanced_figure(kinds[mine], answers[mine], np.array(labels.groups)[mine]),
        "balanced_all_kinds": balanced_figure(kinds, answers, np.array(labels.groups)),
        "clips": len(kinds),
        "groups": len(set(labels.groups)),
        "inverse_l2": strengths,
        "set_left_out": left_out(features, kinds, labels, names, float(np.median(strengths))),
    }


def left_out(
    features: Floats, kinds: Ints, labels: Labels, names: Sequence[str], strength: float
) -> dict[str, dict[str, list[int]]]:
    """{set: {kind: clips by answer}} of models that saw no clip of the set: what is known beyond the look of a set."""
    sets, everyone = np.array(labels.sets), np.arange(len(kinds))
    found: dict[str, dict[str, list[int]]] = {}
    for name in sorted(set(labels.sets)):
        judged = everyone[sets == name]
        theirs = {labels.groups[place] for place in judged.tolist()}
        rest = np.array([p for p in everyone.tolist() if labels.groups[p] not in theirs], np.int64)
        learned = labels.purged(rest, judged)
        learned = learned[learnable(kinds)[kinds[learned]]]
        if len(np.unique(kinds[learned])) < 2:
            continue
        answers = fitted(features[learned], kinds[learned], len(names), strength).kinds(features[judged])
        found[name] = {
            names[kind]: np.bincount(answers[kinds[judged] == kind], minlength=len(names)).tolist()
            for kind in np.unique(kinds[judged])
        }
    return found


def balanced_figure(kinds: Ints, answers: Ints, groups: Any) -> dict[str, Any]:
    """Balanced accuracy with a 95 % interval: groups drawn with replacement; draws without one of the kinds do not
    count. "baseline" is what always answering one kind would give.
    """
    members: dict[str, list[int]] = {}
    for place, group in enumerate(groups.tolist()):
        members.setdefault(group, []).append(place)
    held, rng, found = list(members.values()), np.random.default_rng(29), []
    for _ in range(DRAWS):
        places = np.concatenate([held[k] for k in rng.integers(0, len(held), len(held))])
        if len(np.unique(kinds[places])) == len(np.unique(kinds)):
            found.append(balanced(kinds[places], answers[places]))
    low, high = np.quantile(found, [0.025, 0.975])
    return {
        "value": round(balanced(kinds, answers), 4),
        "low": round(float(low), 4),
        "high": round(float(high), 4),
        "over": "groups",
        "baseline": round(1 / len(np.unique(kinds)), 4),
    }


def with_kind(bundle: Bundle, model: Linear, judged: dict[str, Any], out: Path) -> Bundle:
    """Write the bundle with a model of kinds. judged: what `judge` says of it."""
    parts = bundle.manifest.model_dump(mode="json", by_alias=True)
    parts["kind"] = {"names": judged["learned"], "judged": judged}
    rows = [judged["kinds"].index(name) for name in judged["learned"]]
    state: dict[str, Tensor] = {
        "weight": torch.from_numpy(model.weight[rows].astype(np.float32)),
        "bias": torch.from_numpy(model.bias[rows].astype(np.float32)),
    }
    backbone = None if bundle.manifest.backbone.reference else bundle.backbone_state
    return write_bundle(out, parts, backbone, bundle.head_state, bundle.novelty_state, bundle.anchors_state, state)


def settled(
    features: Floats, kinds: Ints, labels: Labels, names: Sequence[str]
) -> tuple[Linear | None, dict[str, Any]]:
    """The figures, and the model of all clips; None where it is no better than always saying the same."""
    judged = judge(features, kinds, labels, names)
    if judged["balanced"]["low"] <= judged["balanced"]["baseline"]:
        return None, judged
    mine = np.flatnonzero(learnable(kinds)[kinds])
    strength = chosen(features, kinds, labels, mine, np.array([], np.int64), len(names))
    return fitted(features[mine], kinds[mine], len(names), strength), judged


def main(args: argparse.Namespace) -> int:
    """Judge, write the bundle if the model is worth it, print the figures; 1 if nothing was written."""
    console, bundle = Console(stderr=True), Bundle.load(args.bundle)
    pieces, labels, _ = judged_clips(args.clips, args.more, args.cache, console)
    places = [place for place in limited(pieces, limits_of(args.limit)) if pieces[place].abnormal]
    store = Store(args.cache, bundle_network(bundle), samples_of(pieces))
    for done, total in store.fill([pieces[place].file for place in places]):
        if done % 100 == 0 or done == total:
            console.print(f"features: {done} of {total}")
    means = np.stack([store.features(pieces[place].file).mean(axis=0) for place in places]).astype(np.float64)
    names = sorted({pieces[place].kind for place in places})
    kinds = np.array([names.index(pieces[place].kind) for place in places], np.int64)
    model, judged = settled(means, kinds, labels.where(places), names)
    if args.record:
        write_record(args.record, {"name": f"kind_{bundle.name}", "results": judged})
    if model is not None:
        with_kind(bundle, model, judged, args.out)
    print(json.dumps({"written": model is not None, **judged}))
    return 0 if model is not None else 1
