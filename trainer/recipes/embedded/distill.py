"""`python -m trainer distill`: from a folder of clips to a trained student, in resumable steps.

    clips ──pack──▶ teacher targets ──▶ rendered and quiet footage ──▶ training ──▶ student.pt ──embed──▶ bundle

`--cache` holds all intermediate results, so the same command continues a run that was stopped. A step's batch depends
on (seed, step) only. On the CPU training is float32 (bfloat16 gradients are wrong there in some versions of PyTorch),
on CUDA bfloat16. A step with a gradient that is not finite is skipped and counted.
"""

from __future__ import annotations

import argparse
import copy
import ctypes
import json
import os
import time
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path

import cv2
import torch
from rich.console import Console
from torch import Tensor, nn

from stream_detector.errors import DataError
from stream_detector.models.backbones.i3d import load_i3d
from stream_detector.models.bundle import Bundle
from stream_detector.models.preprocess import normalise, recipe_named
from trainer.recipes.embedded.settings import TrainConfig
from trainer.recipes.embedded.student import LossWeights, Student, inherit_stem, student_loss
from trainer.recipes.embedded.training_data import make_pool
from trainer.recipes.embedded.view_pool import Drawn, Pool


class Run:
    """A training run that can be stopped and resumed. folder: of student.pt and log.jsonl."""

    def __init__(
        self, config: TrainConfig, pool: Pool, folder: Path, device: str, teacher: Path | None, replicas: int = 1
    ) -> None:
        self.config, self.pool, self.folder, self.device = config, pool, Path(folder), device
        self.recipe, self.weights = recipe_named(config.recipe), LossWeights(labels=config.label_weight)
        torch.manual_seed(config.seed)
        self.student = Student(config.arch, maps=pool.has_maps)
        if teacher is not None:
            inherit_stem(self.student.backbone, load_i3d(teacher), self.recipe)
            if not config.train_stem:
                self.student.freeze_stem()
        if config.start_from:
            begin(self.student, config)
        self.student.to(device=device, memory_format=torch.channels_last_3d)  # type: ignore[call-overload]
        self.averaged = copy.deepcopy(self.student).requires_grad_(False).eval()
        decayed = [p for p in self.student.parameters() if p.requires_grad and p.ndim > 1]
        rest = [p for p in self.student.parameters() if p.requires_grad and p.ndim <= 1]
        # On a shared CPU two threads with a network each are faster than one network on two threads, which wait for
        # each other after every layer. A replica sees its part of the batch, the gradients are averaged.
        self.replicas = [self.student, *(copy.deepcopy(self.student) for _ in range(replicas - 1))]
        self._threads = ThreadPoolExecutor(replicas)
        groups = [{"params": decayed, "weight_decay": config.decay}, {"params": rest, "weight_decay": 0.0}]
        self.optimiser = torch.optim.AdamW(groups, lr=config.rate)
        self.step, self.skipped, self.seconds = 0, 0, 0.0
        self.moments = {name: (m.to(device), d.to(device)) for name, (m, d) in pool.moments().items()}
        self.folder.mkdir(parents=True, exist_ok=True)

    @property
    def checkpoint(self) -> Path:
        """The file that a resumed run reads."""
        return self.folder / "student.pt"

    def save(self) -> None:
        """Write the checkpoint; the older one stays until the new one is whole."""
        state = {
            "config": asdict(self.config),
            "student": self.student.state_dict(),
            "averaged": self.averaged.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "step": self.step,
            "skipped": self.skipped,
            "seconds": self.seconds,
        }
        partial = self.checkpoint.with_suffix(".partial")
        torch.save(state, partial)
        os.replace(partial, self.checkpoint)

    def resume(self) -> bool:
        """Load the checkpoint if there is one. Raises DataError if it belongs to another network."""
        if not self.checkpoint.exists():
            return False
        state = torch.load(self.checkpoint, map_location=self.device, weights_only=True)
        if state["config"]["arch"] != self.config.arch:
            raise DataError(f"{str(self.checkpoint)!r} is a {state['config']['arch']}; use another --run folder")
        self.student.load_state_dict(state["student"])
        self.averaged.load_state_dict(state["averaged"])
        self.optimiser.load_state_dict(state["optimiser"])
        for replica in self.replicas[1:]:
            replica.load_state_dict(state["student"])
        self.step, self.skipped, self.seconds = state["step"], state["skipped"], state["seconds"]
        return True

    def train(self, *, workers: int = 1, save_every_s: float = 120.0) -> Iterator[dict[str, float]]:
        """Run the steps that are left; yields the losses of each one. Saves now and then, and at the end."""
        saved = time.monotonic()
        for replica in self.replicas:
            replica.train()
        for drawn in self._batches(workers):
            began = time.monotonic()
            report = self._one(drawn)
            self.step += 1
            self.seconds += time.monotonic() - began
            if time.monotonic() - saved > save_every_s:
                self.save()
                saved = time.monotonic()
            yield report
        self.save()

    def _batches(self, workers: int) -> Iterator[Drawn]:
        config = self.config
        with ThreadPoolExecutor(workers) as threads:
            waiting: deque[Future[Drawn]] = deque()
            for step in range(self.step, config.steps):
                waiting.append(threads.submit(self.pool.batch, step, config.batch, config.size_at(step)))
                if len(waiting) > 2 * workers:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()

    def _one(self, drawn: Drawn) -> dict[str, float]:
        rate = self.config.rate_at(self.step)
        torch.manual_seed(self.config.seed * 1_000_003 + self.step)  # dropout, too, depends on seed and step alone
        for group in self.optimiser.param_groups:
            group["lr"] = rate
        self.optimiser.zero_grad(set_to_none=True)
        parts = [drawn.part(k, len(self.replicas)) for k in range(len(self.replicas))]
        reports = list(self._threads.map(self._gradient, self.replicas, parts))
        report = {key: sum(r.get(key, 0.0) for r in reports) / len(reports) for key in reports[0]}
        self._gather()
        norm = nn.utils.clip_grad_norm_(self.student.parameters(), self.config.clip_norm)
        if bool(torch.isfinite(norm)):
            self.optimiser.step()
            self._average()
            self._spread()
        else:
            self.skipped += 1
        return {"norm": float(norm), "rate": rate, **report}

    def _gradient(self, replica: Student, drawn: Drawn) -> dict[str, float]:
        drawn = drawn.to(self.device)
        clip = normalise(drawn.windows, self.recipe)
        with torch.autocast("cuda", dtype=torch.bfloat16, enabled=self.device.startswith("cuda")):
            outputs = replica(clip)
        loss, report = student_loss(outputs, drawn, self.moments, self.weights)
        loss.backward()  # type: ignore[no-untyped-call]
        right = ((outputs.abnormal > 0) == (drawn.labels > 0.5)).float().mean()
        return {"loss": float(loss.detach()), "right": float(right), **report}

    @torch.no_grad()
    def _gather(self) -> None:
        for together in zip(*(replica.parameters() for replica in self.replicas), strict=True):
            grads = [p.grad for p in together if p.grad is not None]
            if grads and len(together) > 1:
                together[0].grad = torch.stack(grads).mean(dim=0)
            for p in together[1:]:
                p.grad = None

    @torch.no_grad()
    def _spread(self) -> None:
        for replica in self.replicas[1:]:
            for mine, first in zip(replica.parameters(), self.student.parameters(), strict=True):
                mine.copy_(first)
            for seen, all_seen in zip(replica.buffers(), self.student.buffers(), strict=True):
                if seen.is_floating_point():  # statistics of BatchNorm: the mean of what the replicas saw
                    all_seen.lerp_(seen, 1 / len(self.replicas))

    @torch.no_grad()
    def _average(self) -> None:
        # A short memory at first, so that the random start is forgotten.
        decay = min(1 - 1 / max(1.0, self.config.memory * self.config.steps), (1 + self.step) / (10 + self.step))
        mine, theirs = self.averaged.state_dict(), self.student.state_dict()
        for name, value in mine.items():
            other: Tensor = theirs[name]
            if value.is_floating_point():
                value.lerp_(other, 1 - decay)
            else:
                value.copy_(other)


def begin(student: Student, config: TrainConfig) -> None:
    """Give a student the weights that `config.start_from` names: a student.pt, or a bundle, which has a backbone only.

    Raises DataError for another network, and what reading raises.
    """
    part: nn.Module
    if config.start_from.endswith(".pt"):
        state = torch.load(config.start_from, map_location="cpu", weights_only=True)
        arch, part, weights = state["config"]["arch"], student, state["averaged"]
    else:
        bundle = Bundle.load(config.start_from)
        arch, part, weights = bundle.manifest.backbone.arch, student.backbone, bundle.build()[0].state_dict()
    if arch != config.arch:
        raise DataError(f"{config.start_from!r} holds a {arch}, not a {config.arch}")
    loaded = part.load_state_dict(weights, strict=False)
    if any(not name.startswith("maps.") for name in (*loaded.missing_keys, *loaded.unexpected_keys)):
        raise DataError(f"{config.start_from!r} does not hold the weights of a {arch} student: {loaded}")


def keep_freed_memory() -> None:
    """Ask glibc to keep large freed blocks: giving them back to the system cost half of a CPU training step."""
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return  # not glibc
    for option, value in ((-4, 0), (-1, 1 << 30), (-2, 1 << 27)):  # M_MMAP_MAX, M_TRIM_THRESHOLD, M_TOP_PAD
        mallopt(option, value)


def use_threads(threads: int = 0) -> None:
    """Settle how this process computes: memory is kept, OpenCV decodes on the calling thread, PyTorch on `threads`.

    threads: 0 leaves PyTorch its own choice.
    """
    keep_freed_memory()
    cv2.setNumThreads(1)
    if threads:
        torch.set_num_threads(threads)


def torch_device(name: str) -> str:
    """'auto' → 'cuda' where PyTorch finds a GPU, else 'cpu'; any other name as it is."""
    if name != "auto":
        return name
    return "cuda" if torch.cuda.is_available() else "cpu"


def main(args: argparse.Namespace) -> int:
    """Run `distill`; returns the exit code."""
    console = Console(stderr=True)
    use_threads(args.threads)
    args.device = torch_device(args.device)
    pool = make_pool(args, console)
    config = TrainConfig(
        steps=args.steps,
        batch=args.batch,
        rate=args.rate,
        seed=args.seed,
        sizes=args.sizes,
        start_from=args.start_from or "",
        label_weight=args.label_weight,
    )
    run = Run(config, pool, args.run, args.device, args.teacher, args.replicas)
    console.print(f"{'resumed at' if run.resume() else 'start at'} step {run.step} of {config.steps}; {pool.counts()}")
    recent: deque[dict[str, float]] = deque(maxlen=50)
    with (Path(args.run) / "log.jsonl").open("a", encoding="utf-8") as log:
        for report in run.train(workers=args.workers):
            recent.append(report)
            if run.step % 50 == 0 or run.step == config.steps:
                mean = {k: sum(r.get(k, 0.0) for r in recent) / len(recent) for k in report}
                line = {"step": run.step, "seconds": round(run.seconds, 1), "skipped": run.skipped}
                log.write(json.dumps({**line, **{k: round(v, 5) for k, v in mean.items()}}) + "\n")
                log.flush()
                console.print({**line, **{k: round(v, 3) for k, v in mean.items()}}, highlight=False)
    console.print(f"trained: {run.checkpoint}, {run.step} steps, {run.skipped} skipped, {run.seconds:.0f} s")
    return 0
