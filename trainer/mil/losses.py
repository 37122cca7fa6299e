"""The losses of `losses_numpy.py` for whole batches, in Keras operations: one text for TensorFlow and PyTorch.

Everything is vectorised and differentiable; no score leaves the graph, so the gradient reaches ranks 2 and 3. Bags of
different length are padded to a common T and told apart by a mask. Import this module after `backend.use_backend`.

Shapes: scores or logits (A, T) of the abnormal bags and (N, T) of the normal ones; masks bool of the same shape, True
where there is a segment, or None when all bags are full. All functions return a scalar tensor.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from keras import ops

from stream_detector.errors import DataError
from trainer.mil.losses_numpy import MARGIN, SparsityOn

Tensor = Any
FAR = 1e9  # stands in for minus infinity: padded places never rank; a true infinity would give NaN gradients


def _masked(x: Tensor, mask: Tensor | None, fill: float) -> Tensor:
    return x if mask is None else ops.where(mask, x, ops.cast(fill, x.dtype))


def _mean(x: Tensor) -> Tensor:
    """Mean of a vector, in the vector's own precision (Keras' mean on PyTorch works in float32)."""
    return ops.sum(x) / x.shape[0]


def _top(x: Tensor, mask: Tensor | None, k: int) -> Tensor:
    """The k largest of every bag, largest first: (B, k)."""
    return ops.top_k(_masked(x, mask, -FAR), k)[0]


def _smooth_and_sparse(bag: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor]:
    """Per bag: sum of squared steps and sum of scores, (B,) each."""
    step = bag[:, 1:] - bag[:, :-1]
    if mask is None:
        return ops.sum(step * step, axis=1), ops.sum(bag, axis=1)
    both = ops.cast(ops.logical_and(mask[:, 1:], mask[:, :-1]), bag.dtype)
    return ops.sum(step * step * both, axis=1), ops.sum(bag * ops.cast(mask, bag.dtype), axis=1)


def _check_ranks(scores: Tensor, needed: int, what: str) -> None:
    if len(scores.shape) != 2:
        raise DataError(f"{what} takes scores of shape (bags, segments), got {tuple(scores.shape)}; add the bag axis")
    if scores.shape[1] is not None and scores.shape[1] < needed:
        raise DataError(
            f"{what} ranks {needed} segments of a bag but the bags have {scores.shape[1]}; use more segments per video"
        )


def milr(
    abnormal: Tensor,
    normal: Tensor,
    mu1: float = 8e-5,
    mu2: float = 8e-5,
    sparsity_on: SparsityOn = "abnormal",
    abnormal_mask: Tensor | None = None,
    normal_mask: Tensor | None = None,
) -> Tensor:
    """MILR eq. 15, mean over the pairs (abnormal[i], normal[i]); see losses_numpy.milr. Raises DataError."""
    _check_ranks(abnormal, 3, "the MILR loss")
    if abnormal.shape[0] != normal.shape[0]:
        raise DataError(
            f"the MILR loss pairs abnormal with normal bags but got {abnormal.shape[0]} and {normal.shape[0]}; "
            "draw equally many of both"
        )
    top = _top(abnormal, abnormal_mask, 3)  # (P, 3): ranks 1, 2, 3 of every abnormal bag
    top_normal = _top(normal, normal_mask, 1)  # (P, 1)
    low = -_top(-abnormal, abnormal_mask, 1)[:, 0]
    ranking = ops.sum(ops.relu(MARGIN - top + top_normal), axis=1)  # l1 + l3 + l4
    within = ops.relu(MARGIN - top[:, 0] + low)  # l2
    rough, dense = _smooth_and_sparse(abnormal, abnormal_mask)
    if sparsity_on == "normal":
        dense = _smooth_and_sparse(normal, normal_mask)[1]
    return _mean(ranking + within + mu1 * rough + mu2 * dense)


def sultani(
    abnormal: Tensor,
    normal: Tensor,
    mu1: float = 8e-5,
    mu2: float = 8e-5,
    abnormal_mask: Tensor | None = None,
    normal_mask: Tensor | None = None,
) -> Tensor:
    """Sultani's loss over all pairs; see losses_numpy.sultani. Raises DataError."""
    _check_ranks(abnormal, 1, "Sultani's loss")
    top = _top(abnormal, abnormal_mask, 1)  # (A, 1)
    top_normal = _top(normal, normal_mask, 1)[:, 0]  # (N,)
    hinge = ops.relu(MARGIN - top + top_normal)  # (A, N): every pair
    rough, dense = _smooth_and_sparse(abnormal, abnormal_mask)
    return ops.sum(hinge) / hinge.shape[1] + ops.sum(mu1 * rough + mu2 * dense)


def topk_cross_entropy(
    abnormal: Tensor,
    normal: Tensor,
    k: int = 3,
    abnormal_mask: Tensor | None = None,
    normal_mask: Tensor | None = None,
) -> Tensor:
    """Cross entropy of the k largest *logits* of every bag; see losses_numpy.topk_cross_entropy. Raises DataError."""
    _check_ranks(abnormal, 1, "top-k cross entropy")
    per_bag = []
    for x, mask, sign in ((abnormal, abnormal_mask, -1.0), (normal, normal_mask, 1.0)):
        _check_ranks(x, 1, "top-k cross entropy")
        take = min(k, int(x.shape[1]))
        loss = ops.softplus(sign * _top(x, mask, take))  # (B, k)
        if mask is None:
            per_bag.append(ops.sum(loss, axis=1) / take)
            continue
        have = ops.minimum(ops.sum(ops.cast(mask, x.dtype), axis=1), take)  # segments that really rank
        counts = ops.cast(ops.expand_dims(ops.arange(take, dtype=x.dtype), 0) < ops.expand_dims(have, 1), x.dtype)
        per_bag.append(ops.sum(ops.where(counts > 0, loss, 0.0), axis=1) / have)
    return _mean(ops.concatenate(per_bag, axis=0))


def weight_norm(kernels: Sequence[Tensor], mu3: float = 0.01) -> Tensor:
    """mu3 * sum ||W||^2 over the kernels (MILR eq. 16)."""
    return mu3 * sum(ops.sum(ops.square(w)) for w in kernels)
