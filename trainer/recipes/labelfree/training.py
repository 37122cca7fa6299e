"""Training that may be killed at any moment: the checkpoint holds the whole state, and a step depends on (seed, step)
only.

    Answers ──views of step k──▶ degrade_view ──▶ student ──loss──▶ AdamW ──▶ averaged weights ──▶ student-*.safetensors

float32 on the CPU (bfloat16 gradients are wrong there in some versions of PyTorch), bfloat16 on CUDA. A step with a
gradient that is not finite is skipped and counted.
"""

from __future__ import annotations

import copy
import json
import math
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from torch import Tensor, nn

from stream_detector.errors import DataError
from stream_detector.models.backbones.i3d import I3D
from stream_detector.models.backbones.tensors import read_tensors, to_half, write_tensors
from stream_detector.models.preprocess import Recipe, normalise, recipe_named
from trainer.recipes.labelfree.answers import Answers, numbers_of
from trainer.recipes.labelfree.settings import Settings
from trainer.recipes.labelfree.student import Student, inherit_stem, loss_of, moments_of
from trainer.recipes.labelfree.views import degrade_view, shrunk

PARTS = 2  # files of the student, half of the weights each, for hosts that limit the size of a file
MAX_PART_BYTES = 100_000_000
MOMENT_VIEWS = 256  # views from which the mean and deviation of the teachers' outputs are measured
# Settings that may differ between two runs of one training; the others must be equal.
FREE = ("save_every_s", "log_every", "budget", "quiet_minutes", "judge_limits", "most_mb", "watched")


def recipe_of(settings: Settings) -> Recipe:
    """Return how the detector prepares frames for the student."""
    base = recipe_named("stream-112")
    size = (settings.size, settings.size)
    return Recipe(f"stream-{settings.size}", size, base.mean, base.std, base.scale, paper=base.paper)


class Run:
    """One training. folder: of checkpoint.pt, log.jsonl and the student.  kept: the teacher outputs are stored in
    files.

    minutes: its length; None: `settings.steps` steps.  stem: the I3D whose first filters the student inherits.
    """

    def __init__(
        self,
        settings: Settings,
        folder: Path,
        device: str,
        *,
        kept: bool,
        minutes: float | None = None,
        stem: I3D | None = None,
    ) -> None:
        self.settings, self.folder, self.device, self.kept, self.minutes = settings, Path(folder), device, kept, minutes
        self.recipe = recipe_of(settings)
        torch.manual_seed(settings.seed)
        self.student = Student(settings)
        if stem is not None and settings.inherit_stem:
            inherit_stem(self.student.backbone, stem, self.recipe)
        self.student.to(device=device, memory_format=torch.channels_last_3d)  # type: ignore[call-overload]
        self.averaged = copy.deepcopy(self.student).requires_grad_(False).eval()
        matrices = [p for p in self.student.parameters() if p.ndim > 1]
        vectors = [p for p in self.student.parameters() if p.ndim <= 1]
        groups = [{"params": matrices, "weight_decay": settings.decay}, {"params": vectors, "weight_decay": 0.0}]
        self.optimiser = torch.optim.AdamW(groups, lr=settings.rate)
        self.step, self.skipped, self.seconds = 0, 0, 0.0
        self.moments: dict[str, tuple[Tensor, Tensor, Tensor, Tensor]] = {}
        self.folder.mkdir(parents=True, exist_ok=True)

    @property
    def checkpoint(self) -> Path:
        """The file that a resumed run reads."""
        return self.folder / "checkpoint.pt"

    @property
    def share(self) -> float:
        """The finished share of the training, 0 to 1."""
        return self.seconds / 60 / self.minutes if self.minutes else self.step / self.settings.steps

    def save(self) -> None:
        """Write the checkpoint; the previous one stays until the new one is complete."""
        state = {
            "settings": json.dumps(self.settings.to_dict()),
            "student": self.student.state_dict(),
            "averaged": self.averaged.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "moments": {name: list(values) for name, values in self.moments.items()},
            "counts": [self.step, self.skipped, self.seconds],
        }
        partial = self.checkpoint.with_suffix(".partial")
        torch.save(state, partial)
        os.replace(partial, self.checkpoint)

    def resume(self) -> bool:
        """Load the checkpoint if there is one. Raises DataError if it has other settings or is damaged."""
        if not self.checkpoint.exists():
            return False
        try:
            state = torch.load(self.checkpoint, map_location=self.device, weights_only=True)
            theirs, mine = json.loads(state["settings"]), json.loads(json.dumps(self.settings.to_dict()))
        except Exception as error:  # torch.load raises nearly anything for a damaged file
            raise DataError(f"{str(self.checkpoint)!r} is damaged ({type(error).__name__}); delete it") from None
        changed = [key for key in mine if key not in FREE and theirs.get(key) != mine[key]]
        if changed:
            raise DataError(
                f"{str(self.checkpoint)!r} was trained with other values of {', '.join(changed)}; give another --run"
            )
        self.student.load_state_dict(state["student"])
        self.averaged.load_state_dict(state["averaged"])
        self.optimiser.load_state_dict(state["optimiser"])
        self.moments = {name: (v[0], v[1], v[2], v[3]) for name, v in state["moments"].items()}
        self.step, self.skipped, self.seconds = state["counts"]
        return True

    def train(self, answers: Answers) -> Iterator[dict[str, float]]:
        """Run the remaining steps; yields the losses of each. Saves at intervals and at the end."""
        if not self.moments:
            together = max(1, self.settings.batch)
            firsts = range(0, MOMENT_VIEWS, together)
            self.moments = moments_of([answers.batch(range(first, first + together)) for first in firsts])
        saved = time.monotonic()
        self.student.train()
        while self.share < 1.0:
            began = time.monotonic()
            report = self._one(answers)
            self.step += 1
            self.seconds += time.monotonic() - began
            if time.monotonic() - saved > self.settings.save_every_s:
                self.save()
                saved = time.monotonic()
            yield report
        self.save()

    def _one(self, answers: Answers) -> dict[str, float]:
        s, share = self.settings, self.share
        rate = s.rate * min(1.0, (self.step + 1) / s.warmup) * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * share)))
        for group in self.optimiser.param_groups:
            group["lr"] = rate
        asked = answers.batch(numbers_of(self.step, s, kept=self.kept))
        torch.manual_seed(s.seed * 1_000_003 + self.step)  # the degradation of the views depends on seed and step only
        views = degrade_view(shrunk(asked.views, s.size_at(share)))
        clip = normalise(views, self.recipe).contiguous(memory_format=torch.channels_last_3d)
        with torch.autocast("cuda", dtype=torch.bfloat16, enabled=self.device.startswith("cuda")):
            got = self.student(clip)
        loss, report = loss_of(got, asked, self.moments, s)
        self.optimiser.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        norm = nn.utils.clip_grad_norm_(self.student.parameters(), s.clip_norm)
        if bool(torch.isfinite(norm)):
            self.optimiser.step()
            self._average()
        else:
            self.skipped += 1
        return {**report, "rate": rate, "norm": float(norm), "views": float(len(views))}

    @torch.no_grad()
    def _average(self) -> None:
        memory = min(1 - 1 / self.settings.memory, (1 + self.step) / (10 + self.step))  # a short one at first
        theirs = self.student.state_dict()
        for name, value in self.averaged.state_dict().items():
            if value.is_floating_point():
                value.lerp_(theirs[name], 1 - memory)
            else:
                value.copy_(theirs[name])

    @torch.no_grad()
    def watch(self, answers: Answers) -> dict[str, float]:
        """Return the mean cosine between the outputs of the averaged student and of each teacher, on views of unseen
        clips.
        """
        sums: dict[str, list[float]] = {}
        if not self.moments:
            return {}
        for first in range(0, self.settings.watched, 16):
            asked = answers.batch(range(first, min(first + 16, self.settings.watched)))
            got = self.averaged(normalise(shrunk(asked.views, self.settings.size), self.recipe))
            for name, (places, said) in asked.answers.items():
                mean, deviation = self.moments[name][:2]
                wanted = (said.features - mean) / deviation
                sums.setdefault(name, []).extend(F.cosine_similarity(got[name].features[places], wanted).tolist())
        return {name: sum(values) / len(values) for name, values in sums.items()}

    def write(self, facts: dict[str, Any]) -> None:
        """Write the averaged backbone in float16, in `PARTS` files, and its facts."""
        state = to_half(self.averaged.backbone.state_dict())
        for part in range(PARTS):
            names = sorted(state)[part::PARTS]
            write_tensors(self.folder / f"student-{part}.safetensors", {name: state[name] for name in names})
        partial = self.folder / "student.json.partial"
        counts = {"steps": self.step, "skipped": self.skipped, "seconds": round(self.seconds)}
        text = json.dumps({"settings": self.settings.to_dict(), **counts, **facts}, indent=1)
        partial.write_text(text + "\n", encoding="utf-8")
        os.replace(partial, self.folder / "student.json")


def read_student(folder: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Read the facts and the backbone that `Run.write` wrote. Raises DataError if there are none."""
    try:
        facts = json.loads((folder / "student.json").read_text(encoding="utf-8"))
        state: dict[str, Tensor] = {}
        for part in range(PARTS):
            state |= read_tensors(folder / f"student-{part}.safetensors", MAX_PART_BYTES, error=DataError)
    except (OSError, ValueError, SafetensorError) as error:
        raise DataError(f"{str(folder)!r} holds no trained student ({error}); train one first") from None
    return facts, state
