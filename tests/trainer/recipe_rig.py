"""What the tests of the recipe share: small settings, a teacher that needs no weights, and a run that can be killed.

python -m tests.trainer.recipe_rig FOLDER STEPS
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from trainer.recipes.labelfree.answers import Asked
from trainer.recipes.labelfree.settings import Settings, load
from trainer.recipes.labelfree.teachers import KNOWN, Answer
from trainer.recipes.labelfree.training import Run

TINY = (
    *("arch=resnet3d-10-b-w0.125-s3", "size=32", "view_side=32", "sizes=[[32, 1.0]]", "inherit_stem=false"),
    *("batch=4", "views=32", "shard=16", "window=1", "watched=16", "repeats=1", "warmup=2", "log_every=1"),
    *("rows=32", "columns=40", "rendered=0", "quiet_segments=2", "save_every_s=0.0"),
)


def tiny(*changes: str) -> Settings:
    """Small settings."""
    return load([*TINY, *changes])


def teacher(name: str = "i3d") -> object:
    """Asks nobody: features, map and logits are fixed functions of the mean colours of the frames."""
    known = KNOWN[name]
    generator = torch.Generator().manual_seed(len(name))
    weight = torch.randn(48, known.dim + known.classes, generator=generator)

    def ask(views: Tensor) -> Answer:
        colours = views.float().mean(dim=(2, 3)).flatten(1) / 255
        said = colours @ weight
        features = said[:, : known.dim]
        spread = features[:, :, None, None, None] * torch.linspace(0, 1, 25).view(1, 1, 1, 5, 5)
        return Answer(features, spread, said[:, known.dim :] if known.classes else None)

    return ask


class Noise:
    """Implements `Answers` without any clip: view k is noise of its own."""

    def __init__(self, names: Sequence[str] = ("i3d",), every: int = 2) -> None:
        self.asks = {name: teacher(name) for name in names}
        self.every = every

    def batch(self, numbers: Sequence[int]) -> Asked:
        """The views of these numbers."""
        views = torch.stack(
            [
                torch.randint(0, 256, (16, 32, 32, 3), generator=torch.Generator().manual_seed(k)).to(torch.uint8)
                for k in numbers
            ]
        )
        answers = {}
        for rank, (name, ask) in enumerate(self.asks.items()):
            places = torch.tensor([i for i, k in enumerate(numbers) if rank == 0 or k % self.every == 0])
            answers[name] = (places, ask(views[places]))  # type: ignore[operator]
        return Asked(views, answers)


def main(folder: Path, steps: int) -> None:
    """Train, saving after every step, and say each step."""
    torch.set_num_threads(1)
    run = Run(tiny(f"views={steps * 4}", "shard=4", "watched=4"), folder, "cpu", kept=False)
    print("resumed" if run.resume() else "new", run.step, flush=True)
    for _ in run.train(Noise()):
        run.save()
        print(run.step, flush=True)
    run.write({})


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
