"""The specification of every training loss: plain NumPy, one bag at a time, values and gradients.

Nothing is trained with this module. It defines what `losses.py` must compute; the tests compare the two to 1e-6 on both
backends. A bag is one video: a float64 array (T,) of scores in [0, 1], any T >= 3; bags may differ in length.

    S     scores of a bag          a, n   abnormal, normal bag of one pair          M_k   k-th largest score of a bag

    l1 = max(0, 1 - M_1(a) + M_1(n))            MILR eq. 9   (Sultani et al. 2018, eq. 6)
    l2 = max(0, 1 - M_1(a) + min(a))            MILR eq. 10
    l3 = max(0, 1 - M_2(a) + M_1(n))            MILR eq. 11
    l4 = max(0, 1 - M_3(a) + M_1(n))            MILR eq. 12
    smooth = mu1 * sum_i (a_i - a_{i+1})^2      MILR eq. 13
    sparse = mu2 * sum_i S_i                    MILR eq. 14; which bag: see `sparsity_on`
    norm   = mu3 * sum_W ||W||^2                MILR eq. 16, over the kernels

MILR is Dubey, Boragule, Jeon, arXiv:2002.01132; Sultani is arXiv:1801.04264. Every function returns `(value,
gradients)`, the gradients in the shape of the arguments. A hinge at exactly 0 has gradient 0; ties go to the lowest
index.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Bags = Sequence[Array]
LossAndGradients = tuple[float, list[Array], list[Array]]

SparsityOn = Literal["abnormal", "normal"]
MARGIN = 1.0


def _ranked(bag: Array) -> NDArray[np.intp]:
    """Indices of `bag`, largest score first."""
    return np.argsort(-bag, kind="stable")


def _zeros(bags: Bags) -> list[Array]:
    return [np.zeros_like(bag, dtype=np.float64) for bag in bags]


def hinge_pair(a: Array, n: Array, rank: int) -> tuple[float, Array, Array]:
    """max(0, 1 - M_rank(a) + M_1(n)): l1, l3 and l4 for rank 1, 2 and 3. Returns value, d/da, d/dn."""
    top_a, top_n = _ranked(a)[rank - 1], _ranked(n)[0]
    grad_a, grad_n = np.zeros_like(a), np.zeros_like(n)
    value = MARGIN - a[top_a] + n[top_n]
    if value <= 0:
        return 0.0, grad_a, grad_n
    grad_a[top_a] = -1.0
    grad_n[top_n] = 1.0
    return float(value), grad_a, grad_n


def hinge_within(a: Array) -> tuple[float, Array]:
    """l2 = max(0, 1 - max(a) + min(a)), inside the abnormal bag. Returns value, d/da."""
    high, low = int(_ranked(a)[0]), int(np.argmin(a))
    grad = np.zeros_like(a)
    value = MARGIN - a[high] + a[low]
    if value <= 0:
        return 0.0, grad
    grad[high] -= 1.0
    grad[low] += 1.0
    return float(value), grad


def smoothness(bag: Array) -> tuple[float, Array]:
    """sum_i (S_i - S_{i+1})^2. Returns value, d/dS."""
    step = np.diff(bag)
    grad = np.zeros_like(bag)
    grad[:-1] -= 2 * step
    grad[1:] += 2 * step
    return float(np.sum(step**2)), grad


def sparsity(bag: Array) -> tuple[float, Array]:
    """sum_i S_i. Returns value, d/dS."""
    return float(np.sum(bag)), np.ones_like(bag)


def weight_norm(kernels: Sequence[Array], mu3: float = 0.01) -> tuple[float, list[Array]]:
    """mu3 * sum ||W||^2 over the kernels. Returns value, d/dW of each."""
    return mu3 * float(sum(np.sum(w**2) for w in kernels)), [2 * mu3 * w for w in kernels]


def milr(
    abnormal: Bags,
    normal: Bags,
    mu1: float = 8e-5,
    mu2: float = 8e-5,
    sparsity_on: SparsityOn = "abnormal",
) -> LossAndGradients:
    """MILR, eq. 15: l1 + l2 + l3 + l4 + smooth + sparse of the pairs (abnormal[i], normal[i]), mean over the pairs.

    All four hinges weigh 1. Eq. 14 as printed sums the normal bag; the text says it follows Sultani, who sums the
    abnormal one. `sparsity_on` names the choice; "abnormal" is the default because it is what the text describes.
    Scores that are all 0.5 give 4 + mu2 * 0.5 * T.
    """
    total, grad_a, grad_n = 0.0, _zeros(abnormal), _zeros(normal)
    pairs = len(abnormal)
    for i, (a, n) in enumerate(zip(abnormal, normal, strict=True)):
        for rank in (1, 2, 3):
            value, da, dn = hinge_pair(a, n, rank)
            total += value
            grad_a[i] += da
            grad_n[i] += dn
        value, da = hinge_within(a)
        total += value
        grad_a[i] += da
        value, da = smoothness(a)
        total += mu1 * value
        grad_a[i] += mu1 * da
        sparse_bag, sparse_grad = (a, grad_a) if sparsity_on == "abnormal" else (n, grad_n)
        value, ds = sparsity(sparse_bag)
        total += mu2 * value
        sparse_grad[i] += mu2 * ds
    return total / pairs, [g / pairs for g in grad_a], [g / pairs for g in grad_n]


def sultani(abnormal: Bags, normal: Bags, mu1: float = 8e-5, mu2: float = 8e-5) -> LossAndGradients:
    """Sultani's loss as his code has it: l1 over all pairs, sum over abnormal and mean over normal bags; smoothness and
    sparsity summed over the abnormal bags.

    Scores that are all 0.5 give A * (1 + mu2 * 0.5 * T) for A abnormal bags.
    """
    total, grad_a, grad_n = 0.0, _zeros(abnormal), _zeros(normal)
    for i, a in enumerate(abnormal):
        for j, n in enumerate(normal):
            value, da, dn = hinge_pair(a, n, 1)
            total += value / len(normal)
            grad_a[i] += da / len(normal)
            grad_n[j] += dn / len(normal)
        rough, d_rough = smoothness(a)
        dense, d_dense = sparsity(a)
        total += mu1 * rough + mu2 * dense
        grad_a[i] += mu1 * d_rough + mu2 * d_dense
    return total, grad_a, grad_n


def topk_cross_entropy(abnormal: Bags, normal: Bags, k: int = 3) -> LossAndGradients:
    """Binary cross entropy of the k largest logits of every bag against the bag's label, mean over them and the bags.

    Takes logits (any real number), not scores: log(1 + e^-z) for an abnormal bag, log(1 + e^z) for a normal one. A bag
    shorter than k gives all it has.
    """
    total, grads = 0.0, (_zeros(abnormal), _zeros(normal))
    count = len(abnormal) + len(normal)
    for bags, grad, sign in ((abnormal, grads[0], -1.0), (normal, grads[1], 1.0)):
        for i, bag in enumerate(bags):
            top = _ranked(bag)[: min(k, len(bag))]
            z = sign * bag[top]
            total += float(np.mean(np.logaddexp(0.0, z))) / count
            grad[i][top] = sign / (1.0 + np.exp(-z)) / len(top) / count
    return total, grads[0], grads[1]
