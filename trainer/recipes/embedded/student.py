"""The student: a small ResNet3D with three outputs for training, and a stem that it inherits from its teacher.

    window ──▶ backbone ──features (B, 256)──┬──▶ project  (B, 1024)  matched to the teacher's features
                                             ├──▶ classes  (B, 400)   matched to the teacher's class probabilities
                                             └──▶ abnormal (B,)       clip-level labels
    maps of layer3 and layer4 ──▶ middle, last, matched to the teacher's maps position by position, if these are stored

After Hinton, Vinyals, Dean, "Distilling the Knowledge in a Neural Network" (2015) for the logits and Romero et al.,
"FitNets" (2015) for the features and maps. Only the backbone goes into a bundle; the head there is fitted afterwards.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stream_detector.errors import DataError
from stream_detector.models.backbones import build_backbone
from stream_detector.models.backbones.i3d import CLASSES, FEATURE_DIM, I3D
from stream_detector.models.backbones.resnet3d import ResNet3D
from stream_detector.models.preprocess import Recipe
from trainer.recipes.embedded.teacher import MAPS
from trainer.recipes.embedded.view_pool import Drawn

Moments = Mapping[str, tuple[Tensor, Tensor]]


class Outputs(NamedTuple):
    """project (B, 1024), classes (B, 400), abnormal logit (B,); maps: by name (B, C, T, H, W), {} if not asked for."""

    projected: Tensor
    classes: Tensor
    abnormal: Tensor
    maps: dict[str, Tensor]


class Student(nn.Module):
    """arch: a ResNet3D of `build_backbone`.  dropout: before the abnormal output.  maps: match the teacher's maps."""

    def __init__(self, arch: str, dropout: float = 0.4, *, maps: bool = False) -> None:
        super().__init__()
        backbone = build_backbone(arch)
        if not isinstance(backbone, ResNet3D):
            raise DataError(f"a student must be a ResNet3D, got {arch!r}; use for instance 'resnet3d-18-b-w0.5'")
        self.backbone = backbone
        width = backbone.feature_dim
        self.project = nn.Linear(width, FEATURE_DIM)
        self.classes = nn.Linear(width, CLASSES)
        self.abnormal = nn.Sequential(nn.Dropout(dropout), nn.Linear(width, 1))
        widths = {"middle": width // 2, "last": width}  # of layer3 and layer4
        self.maps = nn.ModuleDict({name: nn.Conv3d(widths[name], shape[0], 1) for name, shape in MAPS.items() if maps})
        self.frozen_stem = False

    def freeze_stem(self) -> None:
        """Keep the first convolution and its BatchNorm as they are; saves a quarter of a training step."""
        self.frozen_stem = True
        self.backbone.conv1.requires_grad_(False)
        self.backbone.bn1.requires_grad_(False)
        self.backbone.bn1.eval()

    def train(self, mode: bool = True) -> Student:
        super().train(mode)
        if self.frozen_stem:
            self.backbone.bn1.eval()
        return self

    def forward(self, clip: Tensor) -> Outputs:
        """Normalised clip (B, 3, 16, s, s) → `Outputs`."""
        middle, last = self.backbone.maps(clip)
        features = last.mean(dim=(2, 3, 4))
        seen = {"middle": middle, "last": last}
        maps = {name: convolution(seen[name]) for name, convolution in self.maps.items()}
        return Outputs(self.project(features), self.classes(features), self.abnormal(features).squeeze(-1), maps)


def student_from(state: Mapping[str, Any]) -> Student:
    """The student of a checkpoint as `torch.load` gives it, with its averaged weights."""
    weights = state["averaged"]
    student = Student(state["config"]["arch"], maps=any(name.startswith("maps.") for name in weights))
    student.load_state_dict(weights)
    return student


@torch.no_grad()
def inherit_stem(student: ResNet3D, teacher: I3D, recipe: Recipe) -> None:
    """Copy the teacher's most used first filters into the student, so that it starts with trained motion and edge
    detectors.

    Both begin with 7×7×7 filters over RGB. A filter's use is the norm of its outgoing weights in the teacher's next
    layer. The two networks scale pixels differently, x_t = a·x_s + b per colour; a goes into the kernel, the response
    to b into the BatchNorm's mean.
    """
    unit, following = teacher.stages.get_submodule("Conv3d_1a_7x7"), teacher.stages.get_submodule("Conv3d_2b_1x1")
    state = unit.state_dict()
    kernel: Tensor = state["conv.weight"]
    count = student.conv1.out_channels
    if student.conv1.kernel_size != (7, 7, 7) or count > len(kernel):
        raise DataError(f"a stem of {count} filters cannot be inherited from {len(kernel)} filters of 7×7×7")
    use = following.get_parameter("conv.weight").flatten(1).norm(dim=0)
    chosen = use.topk(count).indices.sort().values
    kernel = kernel[chosen]
    std, mean = torch.tensor(recipe.std), torch.tensor(recipe.mean)
    pixels = 1.0 / recipe.scale / 127.5  # teacher: pixel / 127.5 - 1; student: (pixel · scale - mean) / std
    gain, shift = std * pixels, mean * pixels - 1.0
    student.conv1.weight.copy_(kernel * gain[None, :, None, None, None])
    constant = (kernel.sum(dim=(2, 3, 4)) * shift).sum(dim=1)
    bn = student.bn1
    if bn.running_mean is None or bn.running_var is None:
        raise DataError("the student's first BatchNorm keeps no statistics; build it with build_backbone")
    bn.running_mean.copy_(state["mean"][chosen] - constant)
    bn.running_var.copy_(state["variance"][chosen] + 1e-3 - bn.eps)
    bn.weight.fill_(1.0)
    bn.bias.copy_(state["shift"][chosen])


@dataclass(frozen=True, slots=True)
class LossWeights:
    """Shares of the objectives. smoothing: of the labels, which are weak."""

    features: float = 1.0
    logits: float = 0.3
    labels: float = 1.0
    middle: float = 0.5
    last: float = 1.0
    smoothing: float = 0.05


def student_loss(
    outputs: Outputs, drawn: Drawn, moments: Moments, weights: LossWeights
) -> tuple[Tensor, dict[str, float]]:
    """Return the loss and its parts, for the log.

    moments: mean and deviation of the teacher's features (1024,) and, by name, of its maps (C, 1, 1, 1). Features and
    maps: smooth L1 (Huber 1964) and 1 - cosine on standardised values, of maps at every position.  Logits:
    Kullback-Leibler divergence.  All three only for windows that the teacher scored.  Labels: binary cross entropy with
    smoothing, on all windows.
    """
    projected, classes, abnormal = (output.float() for output in outputs[:3])
    parts: dict[str, Tensor] = {}
    cosines: dict[str, float] = {}
    known = drawn.known
    if bool(known.any()):
        parts["features"], cosines["cosine"] = _distance(projected[known], drawn.features[known], moments["features"])
        target = F.log_softmax(drawn.logits[known], dim=1)
        parts["logits"] = F.kl_div(F.log_softmax(classes[known], 1), target, reduction="batchmean", log_target=True)
        for name, got in outputs.maps.items():  # in the same order in every process: so are the sums
            if name not in drawn.maps:
                continue
            got, wanted = got[known].float(), drawn.maps[name][known].float()
            t, h, w = (min(a, b) for a, b in zip(got.shape[2:], wanted.shape[2:], strict=True))
            pooled = [F.adaptive_avg_pool3d(values, (t, h, w)) for values in (got, wanted)]
            parts[name], cosines[f"{name}_cosine"] = _distance(pooled[0], pooled[1], moments[name])
    soft = drawn.labels * (1 - 2 * weights.smoothing) + weights.smoothing
    parts["labels"] = F.binary_cross_entropy_with_logits(abnormal, soft)
    total = torch.stack([getattr(weights, name) * value for name, value in parts.items()]).sum()
    return total, {**{name: float(value.detach()) for name, value in parts.items()}, **cosines}


def _distance(got: Tensor, wanted: Tensor, moments: tuple[Tensor, Tensor]) -> tuple[Tensor, float]:
    wanted = (wanted - moments[0]) / moments[1]
    cosine = F.cosine_similarity(got, wanted, dim=1).mean()
    return F.smooth_l1_loss(got, wanted) + 1.0 - cosine, float(cosine.detach())
