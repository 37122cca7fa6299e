"""The student, and the teacher outputs that it is trained to match.

    view ──▶ backbone ──last map──┬──mean──▶ features ──▶ for each teacher: its features, its class probabilities
                                  └────────────────────▶ for each teacher: its map, position by position

After Hinton, Vinyals, Dean (2015) for the probabilities and Romero et al., "FitNets" (2015) for features and maps. Only
the backbone is kept after training.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stream_detector.errors import DataError
from stream_detector.models.backbones import build_backbone
from stream_detector.models.backbones.i3d import I3D
from stream_detector.models.backbones.resnet3d import ResNet3D
from stream_detector.models.preprocess import Recipe
from trainer.recipes.labelfree.answers import Asked
from trainer.recipes.labelfree.settings import Settings
from trainer.recipes.labelfree.teachers import KNOWN, Answer

Moments = Mapping[str, tuple[Tensor, Tensor, Tensor, Tensor]]  # of features, then of the map: mean, deviation


class Student(nn.Module):
    """A backbone with outputs for each teacher. Raises DataError unless `arch` is a ResNet3D."""

    def __init__(self, settings: Settings) -> None:
        super().__init__()
        backbone = build_backbone(settings.arch)
        if not isinstance(backbone, ResNet3D):
            raise DataError(f"a student is a ResNet3D, {settings.arch!r} is none; use 'resnet3d-18-b-w0.5-s3'")
        self.backbone, width = backbone, backbone.feature_dim
        known = {name: KNOWN[name] for name in settings.teachers}
        self.features = nn.ModuleDict({name: nn.Linear(width, k.dim) for name, k in known.items()})
        self.maps = nn.ModuleDict({name: nn.Conv3d(width, k.dim, 1) for name, k in known.items()})
        self.logits = nn.ModuleDict({name: nn.Linear(width, k.classes) for name, k in known.items() if k.classes})

    def forward(self, clip: Tensor) -> dict[str, Answer]:
        """Normalised clip (B, 3, 16, s, s) → the predicted outputs of each teacher, standardised; maps in the student's
        size.
        """
        last = self.backbone.maps(clip)[1]
        pooled = last.mean(dim=(2, 3, 4))
        return {
            name: Answer(
                layer(pooled), self.maps[name](last), self.logits[name](pooled) if name in self.logits else None
            )
            for name, layer in self.features.items()
        }


@torch.no_grad()
def inherit_stem(student: ResNet3D, teacher: I3D, recipe: Recipe) -> None:
    """Copy the I3D's most used first filters into the student, shortened to the student's filter length in time.

    A filter's use is the norm of its outgoing weights in the teacher's next layer. The two networks scale pixels
    differently, so the kernels are multiplied; BatchNorm learns the rest in its first steps.
    """
    kernel = teacher.stages.get_submodule("Conv3d_1a_7x7").state_dict()["conv.weight"]
    count, length = student.conv1.out_channels, student.conv1.kernel_size[0]
    if count > len(kernel) or length > kernel.shape[2]:
        raise DataError(f"{count} filters of {length} frames cannot be inherited; set inherit_stem = false")
    use = teacher.stages.get_submodule("Conv3d_2b_1x1").get_parameter("conv.weight").flatten(1).norm(dim=0)
    chosen = use.topk(count).indices.sort().values
    first = (kernel.shape[2] - length) // 2
    gain = torch.tensor(recipe.std) / recipe.scale / 127.5
    student.conv1.weight.copy_(kernel[chosen][:, :, first : first + length] * gain[None, :, None, None, None])


def moments_of(asked: list[Asked]) -> dict[str, tuple[Tensor, Tensor, Tensor, Tensor]]:
    """Mean and deviation of each teacher's features (D,) and map (D, 1, 1, 1) over some views."""
    found = {}
    for name in {name for part in asked for name in part.answers}:
        said = [part.answers[name][1] for part in asked if name in part.answers]
        features, maps = torch.cat([a.features for a in said]), torch.cat([a.map for a in said])
        axes = (0, 2, 3, 4)
        found[name] = (
            features.mean(dim=0),
            features.std(dim=0) + 1e-3,
            maps.mean(dim=axes)[:, None, None, None],
            maps.std(dim=axes)[:, None, None, None] + 1e-3,
        )
    return found


def loss_of(
    got: Mapping[str, Answer], asked: Asked, moments: Moments, settings: Settings
) -> tuple[Tensor, dict[str, float]]:
    """Return the loss and its parts, for the log; a teacher's weight is the share of the views that it scored.

    Features and maps: smooth L1 and 1 - cosine of standardised values.  Probabilities: Kullback-Leibler divergence.
    """
    parts: list[Tensor] = []
    report: dict[str, float] = {}
    for name, (places, said) in asked.answers.items():
        mine, share = got[name], len(places) / len(asked.views)
        f_mean, f_std, m_mean, m_std = moments[name]
        distance, cosine = _distance(mine.features[places].float(), (said.features - f_mean) / f_std)
        parts.append(settings.features * share * distance)
        report |= {f"{name}_features": float(distance.detach()), f"{name}_cosine": float(cosine)}
        wanted, seen = (said.map - m_mean) / m_std, mine.map[places].float()
        (t, h, w), (t2, h2, w2) = wanted.shape[2:], seen.shape[2:]
        shape = (min(t, t2), min(h, h2), min(w, w2))
        distance, _ = _distance(F.adaptive_avg_pool3d(seen, shape), F.adaptive_avg_pool3d(wanted, shape))
        parts.append(settings.maps * share * distance)
        report[f"{name}_maps"] = float(distance.detach())
        if mine.logits is not None and said.logits is not None:
            logs = F.log_softmax(mine.logits[places].float(), dim=1), F.log_softmax(said.logits, dim=1)
            distance = F.kl_div(*logs, reduction="batchmean", log_target=True)
            parts.append(settings.logits * share * distance)
            report[f"{name}_logits"] = float(distance.detach())
    total = torch.stack(parts).sum()
    return total, {"loss": float(total.detach()), **report}


def _distance(got: Tensor, wanted: Tensor) -> tuple[Tensor, Tensor]:
    cosine = F.cosine_similarity(got, wanted, dim=1).mean()
    return F.smooth_l1_loss(got, wanted) + 1.0 - cosine, cosine.detach()
