"""The long runs of `mil`: published losses over ten thousand steps, all seeds in parallel, resumable after a kill.

Every run stops at the steps of CURVE to score the test list, which chooses nothing, and to write its weights and the
state of its optimiser. The runs take turns, so that whenever the work ends all seeds have the same number of steps.
"""

from __future__ import annotations

import json
import sys
import time
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trainer.data.features import FeatureSet
from trainer.mil.backend import use_backend
from trainer.mil.bags import segment_bags
from trainer.mil.train import PRESETS, Hyper, Network, begin, head_spec, training_scaling

Scores = NDArray[np.float32]  # (V, T) of the test videos, in [0, 1]

CURVE = (100, 200, 300, 500, 700, 1000, 1500, 2000, 3000, 4000, 5000, 6000, 7000, 8000, 9000, 10_000)
_ALL = {"val_share": 0.0, "steps": CURVE[-1], "projection": 512}
MILR = replace(PRESETS["paper"], centre=False, **_ALL)  # type: ignore[arg-type]
SULTANI = replace(PRESETS["sultani"], widths=(128, 32), centre=False, **_ALL)  # type: ignore[arg-type]
LONG: dict[str, Hyper] = {
    "milr": MILR,
    "sultani": SULTANI,
    "topk-512": replace(PRESETS["topk"], **_ALL),  # type: ignore[arg-type]
    # What a difference from the sources is worth: a thousand steps, one change at a time.
    "milr, sums from 0.1, centred": replace(MILR, steps=1000, accumulator=0.1, centre=True),
    "milr, sums from 0.1": replace(MILR, steps=1000, accumulator=0.1),
    "milr, no ReLU after 32": replace(MILR, steps=1000, linear_last=True),
    "milr, glorot_normal": replace(MILR, steps=1000, initializer="glorot_normal"),
    "sultani, sums from 0.1, centred": replace(SULTANI, steps=1000, accumulator=0.1, centre=True),
    "sultani, sums from 0.1": replace(SULTANI, steps=1000, accumulator=0.1),
    "sultani, ReLU after 32": replace(SULTANI, steps=1000, linear_last=False),
    "sultani, glorot_uniform": replace(SULTANI, steps=1000, initializer="glorot_uniform"),
}
# In which order: (methods, up to which step). What is wanted most comes first.
ORDER = (
    (("milr", "sultani"), 1000),
    (("milr", "sultani"), 2000),
    (tuple(name for name in LONG if ", " in name), 1000),
    (("milr", "sultani"), CURVE[-1]),
    (("topk-512",), CURVE[-1]),
)
MOST_STEPS = {"tensorflow": 2000}  # for time; to be compared with the same step of the other backend


def path_of(keep: Path, method: str, backend: str, seed: int) -> Path:
    """Where a run keeps what it has."""
    return keep / f"{method.replace(', ', '_').replace(' ', '-')}-{backend}-{seed}.npz"


def _facts(hyper: Hyper) -> str:
    """What a run's scores depend on; how long it goes on does not change those at a step that it has reached."""
    return json.dumps({key: value for key, value in asdict(hyper).items() if key != "steps"})


def keep_scores(path: Path, hyper: Hyper, scores: Mapping[int, Scores], state: Mapping[str, NDArray[Any]]) -> None:
    """Write scores by step, and what the run goes on from, whole or not at all."""
    part = path.with_suffix(".part")
    told = {f"scores_{step}": np.asarray(values, np.float32) for step, values in scores.items()}
    with part.open("wb") as file:
        np.savez(file, allow_pickle=False, hyper=np.array(_facts(hyper)), **told, **state)
    part.replace(path)


def _kept(path: Path, hyper: Hyper) -> dict[str, NDArray[Any]]:
    """All arrays; {} where there are none or where they were made with other hyper-parameters."""
    try:
        with np.load(path, allow_pickle=False) as data:
            arrays = {name: data[name] for name in data.files}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile):
        return {}
    return arrays if str(arrays.get("hyper")) == _facts(hyper) else {}


def _scores_of(arrays: Mapping[str, NDArray[Any]], most: int) -> dict[int, Scores]:
    found = {int(k.removeprefix("scores_")): v for k, v in arrays.items() if k.startswith("scores_")}
    return {step: found[step] for step in sorted(found) if step <= most}


def kept_scores(path: Path, hyper: Hyper) -> dict[int, Scores]:
    """Scores by step, up to the steps of `hyper`; {} where there are none."""
    return _scores_of(_kept(path, hyper), hyper.steps)


@dataclass
class Run:
    """One seed of one method. rows, shown: training and test videos as the network sees them, (V, T, P)."""

    method: str
    hyper: Hyper
    path: Path
    rows: NDArray[np.float32]
    shown: NDArray[np.float32]
    labels: NDArray[np.int64]
    network: Network | None = None
    done: int = 0

    def _begin(self, dim: int) -> dict[int, Scores]:
        """Build the network, or take it up where it was left; returns the scores there are."""
        if self.network is None:
            everything = np.arange(len(self.labels))
            self.network = begin(
                self.rows, self.labels, everything, head_spec(self.hyper, dim), "rows", self.hyper, self.hyper.seed
            )
            arrays = _kept(self.path, self.hyper)
            self._scores, self.done = _scores_of(arrays, 10**9), int(arrays.get("done", 0))
            for name, variables in self._variables():
                for number, variable in enumerate(variables):
                    if self.done:
                        variable.assign(arrays[f"{name}_{number}"])
            for _ in islice(self.network.batches, self.done):
                pass  # so that the next batch is the one that would have come
        return self._scores

    def _variables(self) -> list[tuple[str, Sequence[Any]]]:
        assert self.network is not None
        return [("model", self.network.model.variables), ("optimizer", self.network.optimizer.variables)]

    def to(self, step: int, dim: int) -> None:
        """Go on up to `step`; score and keep."""
        from keras import ops

        from trainer.mil.step import predict

        scores = self._begin(dim)
        assert self.network is not None
        if self.done >= step:
            return
        began = time.monotonic()
        for batch in islice(self.network.batches, step - self.done):
            loss = self.network.step(batch)
        took, count, self.done = time.monotonic() - began, step - self.done, step
        scores[step] = (1 / (1 + np.exp(-predict(self.network.model, self.shown).astype(np.float64)))).astype(
            np.float32
        )
        state = {
            f"{name}_{number}": np.asarray(ops.convert_to_numpy(variable))
            for name, variables in self._variables()
            for number, variable in enumerate(variables)
        }
        keep_scores(self.path, self.hyper, scores, {**state, "done": np.array(step)})
        print(
            f"{self.path.stem}: step {step}, loss {loss:.3f}, {1000 * took / count:.1f} ms a step",
            file=sys.stderr,
            flush=True,
        )


def advance(
    methods: Sequence[str], backend: str, seeds: int, training: FeatureSet, test: FeatureSet, keep: Path, most: int
) -> None:
    """Train the long methods, all their seeds in turns. most: steps at most; 0: each method's own."""
    use_backend(backend)
    runs: dict[tuple[str, int], Run] = {}
    views: dict[Any, tuple[NDArray[np.float32], NDArray[np.float32]]] = {}
    limit = min(most or CURVE[-1], MOST_STEPS.get(backend, CURVE[-1]))
    for names, until in ORDER:
        mine = [(name, seed) for name in names if name in methods for seed in range(seeds)]
        for name, seed in mine:
            hyper = replace(LONG[name], seed=seed)
            key = (hyper.projection, hyper.target_norm, hyper.centre)
            if (name, seed) not in runs:
                if key not in views:
                    scaling = training_scaling(training, hyper)
                    views[key] = tuple(scaling.apply(segment_bags(part, hyper.segments)) for part in (training, test))  # type: ignore[assignment]
                path = path_of(keep, name, backend, seed)
                runs[name, seed] = Run(name, hyper, path, *views[key], training.labels())
        for step in CURVE:
            for name, seed in mine:
                if step <= min(until, LONG[name].steps, limit):
                    runs[name, seed].to(step, training.dim)
