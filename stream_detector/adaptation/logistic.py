"""Fits a linear correction of the bundle's logit to a site: logistic regression with the bundle's logit as an offset.

    calm of the site, alarms judged false ──▶ below the threshold  ┐
    anchors of incidents                  ──▶ above the threshold  ├─ w · x + b, added to the logit
    all anchors                           ──▶ little changed       ┘

Minimised, with s = logit of the bundle + w · x + b - logit of the threshold, x standardised by the anchors:

    mean over calm of log(1 + e^s) + mean over false alarms of log(1 + e^s)
    + mean over abnormal anchors of log(1 + e^-s) + 1/2 mean over normal anchors of log(1 + e^s)
    + keep · mean over anchors of (w · x + b)² + decay · |w|²

It is convex, so the result depends on nothing but the data. What a site judged true is not in it: a few wrong verdicts
among some ten incidents would lift false alarms. True verdicts choose the threshold instead (`adapt`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize
from scipy.special import expit

from stream_detector.adaptation.anchors import Anchors
from stream_detector.adaptation.overlay import Correction, logit
from stream_detector.adaptation.site_data import FALSE, Stretch
from stream_detector.errors import DataError
from stream_detector.types import Float32Array

Float64Array = NDArray[np.float64]

HIGH, SPREAD = 5_000, 15_000  # calm windows: those that score highest, and others at random
NORMAL_ANCHORS = 0.5
STEPS = 100


@dataclass(frozen=True, slots=True)
class LogisticConfig:
    """keep: weight of the mean squared change of the anchors' logits.  decay: weight of |w|² (L2)."""

    keep: float
    decay: float


@dataclass(frozen=True, slots=True)
class _Term:
    """Windows that shall lie on one side of the threshold. rows: (n, D + 1) standardised, with a 1 for the bias.

    offset: (n,) logits less the threshold's.  side: 1 above, -1 below.  shares: (n,) weights.
    """

    rows: Float64Array
    offset: Float64Array
    side: float
    shares: Float64Array


def fit_logistic(
    stretches: Sequence[Stretch], anchors: Anchors, threshold: float, config: LogisticConfig
) -> Correction:
    """Fit a correction of two units, relu(z) - relu(-z) = z. threshold: of the model in service.

    Raises DataError where a site has neither calm windows nor false alarms.
    """
    mean = anchors.weights @ anchors.features
    std = np.sqrt(anchors.weights @ (anchors.features - mean) ** 2).clip(1e-3)
    level = float(logit(np.array([threshold]))[0])

    def rows(features: Float32Array) -> Float64Array:
        return np.concatenate([(features - mean) / std, np.ones((len(features), 1))], axis=1).astype(np.float64)

    def term(features: Float32Array, raw: Float64Array, side: float, shares: Float64Array) -> _Term:
        return _Term(rows(features), logit(raw) - level, side, shares)

    known, abnormal = anchors.weights, anchors.abnormal
    of_site = (_calm(stretches), _false(stretches))
    terms = [term(features, raw, -1.0, shares) for features, raw, shares in of_site if len(raw)]
    if not terms:
        raise DataError("the days for fitting hold no calm window and no false alarm; run the detector longer")
    for chosen, side, weight in ((abnormal, 1.0, 1.0), (~abnormal, -1.0, NORMAL_ANCHORS)):
        if chosen.any():
            shares = weight * known[chosen] / known[chosen].sum()
            terms.append(term(anchors.features[chosen], anchors.raw[chosen], side, shares))
    held = rows(anchors.features)

    def loss(w: Float64Array) -> tuple[float, Float64Array]:
        change = held @ w
        value = config.keep * float(known @ change**2) + config.decay * float(w[:-1] @ w[:-1])
        slope = 2.0 * config.keep * (held.T @ (known * change))
        slope[:-1] += 2.0 * config.decay * w[:-1]
        for part in terms:
            margin = part.side * (part.offset + part.rows @ w)
            value += float(part.shares @ np.logaddexp(0.0, -margin))
            slope -= part.side * (part.rows.T @ (part.shares * expit(-margin)))
        return value, slope

    found = minimize(loss, np.zeros(held.shape[1]), jac=True, method="L-BFGS-B", options={"maxiter": STEPS})
    weights = found.x[:-1] / std
    bias = float(found.x[-1] - mean @ weights)
    return Correction(
        np.stack([weights, -weights]).astype(np.float32),
        np.array([bias, -bias], np.float32),
        np.array([1.0, -1.0], np.float32),
        0.0,
    )


def _calm(stretches: Sequence[Stretch]) -> tuple[Float32Array, Float64Array, Float64Array]:
    """(features, scores, shares) of the calm: at most HIGH + SPREAD windows that stand for all."""
    found = [(s.features[quiet], s.raw[quiet]) for s in stretches if (quiet := s.calm()).any()]
    if not found:
        return np.empty((0, 1), np.float32), np.empty(0), np.empty(0)
    features, raw = (np.concatenate([part[k] for part in found]) for k in (0, 1))
    order = np.argsort(-raw, kind="stable")
    others = order[HIGH:]
    picked = np.sort(np.random.default_rng(0).permutation(len(others))[:SPREAD])
    chosen = np.concatenate([order[:HIGH], others[picked]])
    shares = np.full(len(chosen), 1.0)
    if len(picked):
        shares[-len(picked) :] = len(others) / len(picked)
    return features[chosen], raw[chosen], shares / len(raw)


def _false(stretches: Sequence[Stretch]) -> tuple[Float32Array, Float64Array, Float64Array]:
    """(features, scores, shares) of the windows of alarms that were judged false or benign."""
    inside = [(s, s.within(i)) for s in stretches for i in s.incidents if i.verdict in FALSE]
    found = [(s.features[mine], s.raw[mine]) for s, mine in inside if mine.any()]
    if not found:
        return np.empty((0, 1), np.float32), np.empty(0), np.empty(0)
    features, raw = (np.concatenate([part[k] for part in found]) for k in (0, 1))
    return features, raw, np.full(len(raw), 1.0 / len(raw))
