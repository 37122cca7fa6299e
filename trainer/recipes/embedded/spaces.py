"""Linear heads fitted in the spaces that the student shares with its teacher, folded back onto the student's features.

    features (n, 256) ──project──▶ the teacher's 1024 features ─┐
                     ──classes──▶ the 400 Kinetics logits ──────┼─ fit_head ─fold─▶ one linear head on the 256
                     ───────────────────────────────────────────┘

The maps are linear, so the detector computes nothing more. The space changes the effect of strong weight decay:
directions that are important to the teacher (a class of action, for instance) cost little; the student's own axes cost
much. SPACES in a `HeadConfig`: "features", "teacher", "classes", or "mean" of the three.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
from torch import nn

from stream_detector.errors import DataError
from stream_detector.models.heads import Head
from trainer.recipes.embedded.fit_head import Bag, HeadConfig, fit_head
from trainer.recipes.embedded.student import Student

Maps = Mapping[str, nn.Linear]


def maps_of(student: Student) -> Maps:
    """The two linear maps of a student, by the name of the space that they lead to."""
    return {"teacher": student.project, "classes": student.classes}


@torch.no_grad()
def fold(head: Head, linear: nn.Linear) -> Head:
    """The head (D,) → 1 on `linear`'s outputs as a head on its inputs: the same logits, exactly. Both in eval mode.

    Raises DataError for a head with hidden layers.
    """
    if len(head.dims) != 2:
        raise DataError(f"only a linear head can be folded, this one has widths {list(head.dims)}")
    folded = Head((linear.in_features, 1)).eval()
    weight = head.layers[0].get_parameter("weight") / head.feature_std
    folded.layers[0].get_parameter("weight").copy_(weight @ linear.weight)
    offset = weight @ (linear.bias - head.feature_mean)
    folded.layers[0].get_parameter("bias").copy_(head.layers[0].get_parameter("bias") + offset)
    return folded.requires_grad_(False)


def fit_in_space(
    bags: Sequence[Bag], config: HeadConfig, shares: Mapping[str, float] | None = None, maps: Maps | None = None
) -> Head:
    """`fit_head` in the space that `config.space` names; a head on the student's own features, not calibrated.

    "mean": the mean of the logits of all spaces, each brought to deviation 1 over the windows of the bags.
    """
    known = dict(maps or {})
    if config.space == "features":
        return fit_head(bags, config, shares)
    if config.space == "mean":
        heads = [fit_in_space(bags, replace(config, space=name), shares, known) for name in ("features", *known)]
        windows = torch.cat([torch.from_numpy(bag.features) for bag in bags])
        made = Head((windows.shape[1], 1)).eval().requires_grad_(False)
        weight, bias = made.layers[0].get_parameter("weight").zero_(), made.layers[0].get_parameter("bias").zero_()
        for head in heads:
            plain = fold(head, _identity(windows.shape[1]))
            scale = len(heads) * plain.logits(windows).std()
            weight += plain.layers[0].get_parameter("weight") / scale
            bias += plain.layers[0].get_parameter("bias") / scale
        return made
    if config.space not in known:
        raise DataError(f"no space {config.space!r}; there are {['features', *known, 'mean']}")
    linear = known[config.space]
    mapped = [replace(bag, features=linear(torch.from_numpy(bag.features)).detach().numpy()) for bag in bags]
    return fold(fit_head(mapped, replace(config, hidden=()), shares), linear)


@torch.no_grad()
def _identity(width: int) -> nn.Linear:
    linear = nn.Linear(width, width)
    linear.weight.copy_(torch.eye(width))
    linear.bias.zero_()
    return linear
