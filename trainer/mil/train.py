"""Trains a head on bags of windows with video labels only: one readable loop, every number at the top.

    python -m trainer train FEATURES --out runs/head --preset causal --backend torch --seed 0 --set steps=300

The test split is never looked at: a share of the *training* videos is held out by video, the figure of these decides
when to stop and which weights to keep (with a few dozen abnormal videos that figure is noisy: `val_share=0` trains on
all of them for a fixed number of steps). There are no frame labels in training, so it is the mean of two AUCs between
windows: the top three of each held-out abnormal video against all windows of normal ones (are peaks high?), and
all windows of abnormal videos against them (is the video found?).
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any, get_type_hints

import numpy as np
from numpy.typing import NDArray

from stream_detector.errors import DataError
from stream_detector.models.streaming_heads import Scaling
from stream_detector.types import Float32Array
from trainer.data.features import FeatureSet, load_features, require_both_classes, require_finite
from trainer.mil.backend import BACKENDS, seed_everything, use_backend
from trainer.mil.bags import Sampler, segment_bags, validation_split
from trainer.mil.checkpoint import Checkpoint, Curve, versions
from trainer.mil.heads import HeadSpec, build_head, fit_scaling, kernels_of, merged, see, weights_of
from trainer.mil.stopping import has_turned
from trainer.mil.training_overlap import training_marks
from trainer.ranking import roc_auc

Progress = Callable[[int, int, str], None]


@dataclass(frozen=True)
class Hyper:
    """Every hyper-parameter; all of them are written into the checkpoint."""

    # head (see heads.py)
    head: str = "mlp"  # mlp | causal | gru
    widths: tuple[int, ...] = (128, 32)  # hidden layers: the paper's 512-128-32-1
    dropout: float = 0.6  # after every hidden layer; paper
    kernel: int = 3  # causal: taps of a convolution
    dilations: tuple[int, ...] = ()  # causal: one residual convolution each
    views: tuple[str, ...] = ("rows",)  # what a network is shown; one expert each
    members: int = 1  # networks per view
    initializer: str = "glorot_uniform"  # of dense kernels; the paper names none, Sultani's code glorot_normal
    linear_last: bool = False  # mlp: no ReLU after the last hidden layer, as in Sultani's code
    # features
    segments: int = 32  # windows a bag; short videos repeat
    standardise: bool = False  # True: every dimension to mean 0, deviation 1
    target_norm: float = 1.0  # False above: mean row norm after rescaling
    projection: int = 0  # principal axes kept; 0: none
    centre: bool = True  # axes through the mean of the rows; False: rows as published, turned only
    # loss (see losses_numpy.py)
    loss: str = "milr"  # milr | sultani | topk
    mu1: float = 8e-5  # smoothness; paper
    mu2: float = 8e-5  # sparsity; paper
    mu3: float = 0.01  # weight norm; paper
    sparsity_on: str = "abnormal"  # eq. 14: abnormal as the text says, normal as printed
    k: int = 3  # topk: ranks of a bag that are trained
    # optimisation
    optimizer: str = "adagrad"  # adagrad | adadelta (optimizers.py) | adam | adamw (Keras'); paper: adagrad
    learning_rate: float = 0.001  # paper
    accumulator: float = 0.0  # adagrad: where sums of squares start; Keras 1 and PyTorch 0, Keras 3 0.1
    epsilon: float = 1e-8  # adagrad, adadelta; Sultani's code and Keras 1
    weight_decay: float = 0.0  # adamw: taken off the weights, not added to the loss
    pairs: int = 30  # abnormal and normal videos a batch, each; paper
    steps: int = 25_000  # at most; paper
    # stopping
    val_share: float = 0.15  # of the training videos, by video; 0: all are trained on, for exactly `steps`
    check_every: int = 25  # steps between two looks at the validation videos
    patience: int = 20  # looks in each third of a curve, at least, before it can be said to have turned
    least_steps: int = 0  # before which training never stops
    seed: int = 0


PRESETS: dict[str, Hyper] = {
    "paper": Hyper(least_steps=5_000),
    "sultani": Hyper(  # as his code has it; his paper tells the rate as 0.001
        widths=(512, 32),
        initializer="glorot_normal",
        linear_last=True,
        loss="sultani",
        mu3=0.001,
        learning_rate=0.01,
        steps=20_000,
        least_steps=5_000,
    ),
    "topk": Hyper(
        widths=(128,), loss="topk", mu3=0.0, optimizer="adamw", weight_decay=0.01, target_norm=8.0, steps=600
    ),
    "causal": Hyper(
        head="causal",
        widths=(128,),
        dropout=0.3,
        dilations=(),
        views=("rows", "mean:32"),  # this and what follows: chosen by trainer/recipes/causal
        loss="topk",
        mu3=0.0,
        optimizer="adamw",
        weight_decay=0.1,
        projection=0,
        target_norm=8.0,
        steps=150,
        patience=8,
    ),
}


def head_spec(hyper: Hyper, dim: int) -> HeadSpec:
    """The head that `hyper` describes, for features of `dim` dimensions. Raises DataError."""
    kind: Any = hyper.head
    projection = min(hyper.projection, dim)
    return HeadSpec(
        dim, kind, hyper.widths, hyper.kernel, hyper.dilations, projection, hyper.views, hyper.members, hyper.dropout
    )


def make_objective(hyper: Hyper, model: Any) -> Callable[[Any], Any]:
    """logits (2 * pairs, T), abnormal bags first → the loss, by its name. Raises DataError for an unknown one."""
    from keras import ops

    from trainer.mil import losses

    pairs, side = hyper.pairs, hyper.sparsity_on
    if side not in {"abnormal", "normal"}:
        raise DataError(f"sparsity_on must be 'abnormal' or 'normal', got {side!r}")
    kernels = kernels_of(model)

    def ranking(logits: Any) -> Any:
        scores = ops.sigmoid(logits)
        if hyper.loss == "milr":
            return losses.milr(scores[:pairs], scores[pairs:], hyper.mu1, hyper.mu2, side)  # type: ignore[arg-type]
        return losses.sultani(scores[:pairs], scores[pairs:], hyper.mu1, hyper.mu2)

    def cross_entropy(logits: Any) -> Any:
        return losses.topk_cross_entropy(logits[:pairs], logits[pairs:], hyper.k)

    if hyper.loss not in {"milr", "sultani", "topk"}:
        raise DataError(f"unknown loss {hyper.loss!r}; use one of: milr, sultani, topk")
    base = cross_entropy if hyper.loss == "topk" else ranking
    if not hyper.mu3:
        return base
    return lambda logits: base(logits) + losses.weight_norm([w.value for w in kernels], hyper.mu3)


def make_optimizer(hyper: Hyper) -> Any:
    """The optimiser by its name. Raises DataError for an unknown one."""
    import keras

    rate = hyper.learning_rate
    if hyper.optimizer in ("adagrad", "adadelta"):
        from trainer.mil import optimizers

        if hyper.optimizer == "adadelta":
            return optimizers.Adadelta(rate, epsilon=hyper.epsilon)
        return optimizers.Adagrad(rate, hyper.accumulator, hyper.epsilon)
    if hyper.optimizer == "adam":
        return keras.optimizers.Adam(rate)
    if hyper.optimizer == "adamw":
        return keras.optimizers.AdamW(rate, weight_decay=hyper.weight_decay)
    raise DataError(f"unknown optimizer {hyper.optimizer!r}; use one of: adagrad, adadelta, adam, adamw")


def validation_figure(logits: NDArray[np.floating[Any]], labels: NDArray[np.int64]) -> float:
    """Mean of the two AUCs of the module's docstring; NaN without videos. logits (V, T), labels (V,), both classes."""
    if not len(labels):
        return float("nan")
    normal = logits[labels == 0].ravel().astype(np.float64)
    found = []
    for mine in (np.sort(logits[labels == 1], axis=1)[:, -3:], logits[labels == 1]):
        scores = np.concatenate([mine.ravel().astype(np.float64), normal])
        positive = np.arange(len(scores)) < mine.size
        found.append(roc_auc(scores, positive.astype(float), (~positive).astype(float)))
    return float(np.mean(found))


@dataclass(frozen=True, slots=True)
class Network:
    """One network that is being trained. model: Keras.  step: of `make_step`.  batches: endless, for `step`."""

    model: Any
    optimizer: Any
    step: Callable[[NDArray[np.int64]], float]
    batches: Iterator[NDArray[np.int64]]


def begin(
    rows: Float32Array,
    labels: NDArray[np.int64],
    fit: NDArray[np.int64],
    spec: HeadSpec,
    view: str,
    hyper: Hyper,
    seed: int,
) -> Network:
    """A network before its first step. Arguments as of `train_network`."""
    from trainer.mil.step import make_step

    seed_everything(seed)
    model, optimizer = (
        build_head(spec, view, rows.shape[1], hyper.initializer, hyper.linear_last),
        make_optimizer(hyper),
    )
    step = make_step(model, optimizer, make_objective(hyper, model), rows, seed)
    sampler = Sampler(fit[labels[fit] == 1], fit[labels[fit] == 0], hyper.pairs)
    return Network(model, optimizer, step, sampler.batches(np.random.default_rng(seed)))


def train_network(
    rows: Float32Array,
    labels: NDArray[np.int64],
    fit: NDArray[np.int64],
    val: NDArray[np.int64],
    spec: HeadSpec,
    view: str,
    hyper: Hyper,
    seed: int,
    progress: Progress | None = None,
) -> tuple[dict[str, NDArray[np.float32]], NDArray[np.float32], Curve]:
    """Train one network. rows: what the view shows, (V, T, P). fit, val: indices of videos.

    Returns its best weights, its logits on the validation videos with these, and its curve.
    """
    from trainer.mil.step import predict

    network = begin(rows, labels, fit, spec, view, hyper, seed)
    model = network.model
    curve, kept, kept_logits, recent = Curve(view, seed), weights_of(model), None, list[float]()
    for number in range(1, hyper.steps + 1):
        recent.append(network.step(next(network.batches)))
        if not np.isfinite(recent[-1]):
            raise DataError(
                f"the loss is no longer finite at step {number}; lower learning_rate or rescale the features"
            )
        if number % hyper.check_every and number != hyper.steps:
            continue
        logits = predict(model, rows[val]) if len(val) else np.zeros((0, rows.shape[1]), np.float32)
        figure = validation_figure(logits, labels[val])
        curve.add(number, float(np.mean(recent)), figure)
        recent = []
        if curve.best_step == number:
            kept, kept_logits = weights_of(model), logits
        if progress:
            progress(
                number, hyper.steps, f"loss {curve.loss[-1]:.3f}  validation {figure:.3f}  kept step {curve.best_step}"
            )
        if len(val) and number >= hyper.least_steps and has_turned(curve.validation, hyper.patience):
            break
    assert kept_logits is not None  # the last step always looks
    return kept, kept_logits, curve


def training_scaling(features: FeatureSet, hyper: Hyper) -> Scaling:
    """Rescaling and principal axes from all training videos; labels are not used, so held-out ones may take part."""
    rows = segment_bags(features, hyper.segments).reshape(-1, features.dim)
    return fit_scaling(rows, hyper.target_norm, hyper.standardise, min(hyper.projection, features.dim), hyper.centre)


def train(
    features: FeatureSet,
    hyper: Hyper,
    backend: str,
    progress: Progress | None = None,
    scaling: Scaling | None = None,
) -> Checkpoint:
    """Train every network of the head on the videos of `features` (all of them training videos).

    scaling: that of `training_scaling` when it is at hand already (it does not depend on the seed).
    Raises DataError for one class only, features that are not finite, or unknown names.
    """
    require_both_classes(features)
    require_finite(features)
    spec = head_spec(hyper, features.dim)
    if hyper.linear_last:
        merged(spec, [])  # raises for a head that cannot have it
    keras = use_backend(backend)
    labels, rows = features.labels(), segment_bags(features, hyper.segments)
    fit, val = validation_split(features, hyper.val_share, hyper.seed)
    scaling = scaling or training_scaling(features, hyper)
    scaled = scaling.apply(rows)
    networks, curves, total = [], [], np.zeros((len(val), hyper.segments))
    for number, view in enumerate(spec.views):
        shown = see(scaled, view)
        for member in range(spec.members):
            seed = hyper.seed * 1000 + number * 100 + member
            kept, logits, curve = train_network(shown, labels, fit, val, spec, view, hyper, seed, progress)
            networks.append(kept)
            curves.append(curve)
            total += logits / spec.members
            keras.utils.clear_session(free_memory=False)
    if hyper.linear_last:
        spec, networks = merged(spec, networks)
    return Checkpoint(
        spec=spec,
        scaling=scaling,
        networks=tuple(networks),
        hyper={**asdict(hyper)},
        curves=tuple(curves),
        validation=validation_figure(total, labels[val]),
        validation_videos=tuple(features.videos[i].name for i in val),
        features={"origin": Path(features.origin).name, "videos": len(labels), **features.manifest},
        backend=backend,
        versions=versions(backend),
        training_videos=training_marks(features),
    )


def parse_setting(text: str) -> tuple[str, Any]:
    """ "steps=300" → ("steps", 300), typed as in Hyper. Raises DataError for an unknown key or a wrong value."""
    key, equals, value = text.partition("=")
    types = get_type_hints(Hyper)
    if not equals or key not in types:
        raise DataError(
            f"unknown setting {text!r}; write KEY=VALUE with one of: {', '.join(f.name for f in fields(Hyper))}"
        )
    try:
        if types[key] is bool:
            return key, {"true": True, "false": False}[value.lower()]
        if types[key] in (int, float, str):
            return key, types[key](value)
        inner = int if types[key] == tuple[int, ...] else str
        return key, tuple(inner(x) for x in value.split(",") if x)
    except (KeyError, ValueError):
        raise DataError(f"setting {key} cannot be {value!r}; it is {types[key]}") from None


def training_videos(features: FeatureSet) -> FeatureSet:
    """Those of split "train", so that "val" and "test" stay unseen; every video when the source knows no splits."""
    splits = {v.split for v in features.videos}
    return features.of_split("train") if splits - {""} else features


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """`trainer train`."""
    parser = subparsers.add_parser("train", help="train a head on features with video labels")
    parser.add_argument("features", type=Path, help="folder of `trainer extract`, .npz, or the seed's text files")
    parser.add_argument("--out", type=Path, required=True, help="folder for head.safetensors and curves.png")
    parser.add_argument(
        "--preset", choices=sorted(PRESETS), default="causal", help="set of hyper-parameters (default causal)"
    )
    parser.add_argument("--backend", choices=BACKENDS, default="torch", help="framework that trains (default torch)")
    parser.add_argument(
        "--seed",
        type=int,
        default=0,
        help="of the validation split, the first weights and the order of batches (default 0)",
    )
    parser.add_argument(
        "--set",
        dest="settings",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="change a hyper-parameter of the preset; may be repeated",
    )
    parser.set_defaults(run=main)


def main(args: argparse.Namespace) -> int:
    """Train, write the checkpoint and the curves, print the validation figure."""
    from trainer.mil.curve_plot import plot_curves
    from trainer.progress import step_progress

    settings = dict(parse_setting(s) for s in args.settings)
    hyper = replace(PRESETS[args.preset], seed=args.seed, **settings)
    features = training_videos(load_features(args.features))
    with step_progress("training") as progress:
        checkpoint = train(features, hyper, args.backend, progress)
    args.out.mkdir(parents=True, exist_ok=True)
    checkpoint.save(args.out / "head.safetensors")
    plot_curves(checkpoint.curves, args.out / "curves.png")
    print(
        json.dumps(
            {
                "checkpoint": str(args.out / "head.safetensors"),
                "validation": round(checkpoint.validation, 4),
                "networks": len(checkpoint.networks),
                "stopped_at": [c.best_step for c in checkpoint.curves],
            }
        )
    )
    return 0
