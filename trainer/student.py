"""The student: a small ResNet3D with three outputs to learn from, and a stem that it inherits from its teacher.

    window ──▶ backbone ──features (B, 256)──┬──▶ project  (B, 1024)  matched to the teacher's features
                                             ├──▶ classes  (B, 400)   matched to the teacher's class probabilities
                                             └──▶ abnormal (B,)       clip-level labels

After Hinton, Vinyals, Dean, "Distilling the Knowledge in a Neural Network" (2015) for the logits and Romero et al.,
"FitNets" (2015) for the features. Only the backbone goes into a bundle; the head there is fitted afterwards.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stream_detector.backbones import build_backbone
from stream_detector.backbones.i3d import CLASSES, FEATURE_DIM, I3D
from stream_detector.backbones.resnet3d import ResNet3D
from stream_detector.errors import DataError
from stream_detector.preprocess import Recipe
from trainer.pool import Drawn


class Student(nn.Module):
    """arch: a ResNet3D of `build_backbone`.  dropout: before the abnormal output."""

    def __init__(self, arch: str, dropout: float = 0.4) -> None:
        super().__init__()
        backbone = build_backbone(arch)
        if not isinstance(backbone, ResNet3D):
            raise DataError(f"a student must be a ResNet3D, got {arch!r}; use for instance 'resnet3d-18-b-w0.5'")
        self.backbone = backbone
        width = backbone.feature_dim
        self.project = nn.Linear(width, FEATURE_DIM)
        self.classes = nn.Linear(width, CLASSES)
        self.abnormal = nn.Sequential(nn.Dropout(dropout), nn.Linear(width, 1))
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

    def forward(self, clip: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Normalised clip (B, 3, 16, s, s) → project (B, 1024), classes (B, 400), abnormal logit (B,)."""
        features = self.backbone.features(clip)
        return self.project(features), self.classes(features), self.abnormal(features).squeeze(-1)


@torch.no_grad()
def inherit_stem(student: ResNet3D, teacher: I3D, recipe: Recipe) -> None:
    """Give the student the teacher's most used first filters, so that it starts with trained motion and edge detectors.

    Both begin with 7×7×7 filters over RGB. A filter's use is the norm of its outgoing weights in the teacher's next
    layer. The two networks scale pixels differently, x_t = a·x_s + b per colour; a goes into the kernel, the
    response to b into the BatchNorm's mean.
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
    """Shares of the three objectives. smoothing: of the labels, which are weak."""

    features: float = 1.0
    logits: float = 0.3
    labels: float = 1.0
    smoothing: float = 0.05


def student_loss(
    outputs: tuple[Tensor, Tensor, Tensor], drawn: Drawn, moments: tuple[Tensor, Tensor], weights: LossWeights
) -> tuple[Tensor, dict[str, float]]:
    """The mixed objective and its parts, for the log. moments: mean and deviation (1024,) of the teacher's features.

    Features: smooth L1 (Huber 1964) and 1 - cosine on standardised values.  Logits: Kullback-Leibler divergence.  Both
    only where the teacher answered.  Labels: binary cross entropy with smoothing, on all.
    """
    projected, classes, abnormal = (output.float() for output in outputs)
    parts: dict[str, Tensor] = {}
    known = drawn.known
    if bool(known.any()):
        wanted = (drawn.features[known] - moments[0]) / moments[1]
        got = projected[known]
        cosine = F.cosine_similarity(got, wanted).mean()
        parts["features"] = F.smooth_l1_loss(got, wanted) + 1.0 - cosine
        target = F.log_softmax(drawn.logits[known], dim=1)
        parts["logits"] = F.kl_div(F.log_softmax(classes[known], 1), target, reduction="batchmean", log_target=True)
    soft = drawn.labels * (1 - 2 * weights.smoothing) + weights.smoothing
    parts["labels"] = F.binary_cross_entropy_with_logits(abnormal, soft)
    factors = {"features": weights.features, "logits": weights.logits, "labels": weights.labels}
    total = torch.stack([factors[name] * value for name, value in parts.items()]).sum()
    report = {name: float(value.detach()) for name, value in parts.items()}
    if bool(known.any()):
        report["cosine"] = float(cosine.detach())
    return total, report
