"""`trainer extract --ray`: the same files in the same folder, made by the workers of a Ray cluster.

A worker decodes and scores one video at a time, batched by itself as on one machine, so a feature does not depend on
its worker. Features return through Ray's object store, and only this process writes. Every node must be able to read
the videos under the same path; weights for `--backbone` must be in every node's cache.
"""

from __future__ import annotations

import argparse
import contextlib
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stream_detector.config import EngineConfig
from stream_detector.engines import choose_engine, detect_hardware, load_engine
from stream_detector.errors import DataError
from stream_detector.models.bundle import Bundle
from stream_detector.system.actor_pool import connected, map_over_actors
from trainer.data.decode import Decoding
from trainer.data.extraction import (
    ExtractionCounts,
    bundle_for,
    extracted,
    extraction_facts,
    features_of,
    key_of,
    unfinished,
    write_manifest,
)
from trainer.data.videos import LabelledVideo


@dataclass(frozen=True, slots=True)
class _Kind:
    """See `extraction.EngineKind`."""

    name: str
    precision: str


class Extractor:
    """A worker. args: of `trainer extract`.  engine: fixed by the driver, so that all workers agree."""

    def __init__(self, args: argparse.Namespace, engine: EngineConfig) -> None:
        self._stride = int(args.stride)
        self._open = contextlib.ExitStack()  # a bundle assembled for a backbone is in a separate folder
        self._bundle = self._open.enter_context(bundle_for(args))
        self._engine = load_engine(self._bundle, engine)

    def work(self, path: Path) -> tuple[dict[str, Any], Any]:
        """Return (arrays, DecodeState) of one video. Raises DataError if it cannot be read."""
        decoding = Decoding(path, self._bundle.recipe, self._stride)
        try:
            return features_of(decoding, self._engine), decoding.state
        finally:
            decoding.close()


def extract_ray(
    args: argparse.Namespace, videos: Sequence[LabelledVideo], bundle: Bundle
) -> Iterator[tuple[LabelledVideo, ExtractionCounts]]:
    """Extract like `extraction.extract`; a video that kills its worker twice is skipped with that reason."""
    if args.stride < 1 or (args.workers is not None and args.workers < 1):
        raise DataError(f"stride and workers must be at least 1, got {args.stride} and {args.workers}")
    chosen = choose_engine(
        EngineConfig(engine=args.engine, device=args.device, precision=args.precision), detect_hardware()
    )
    device = "cuda" if chosen.device.startswith("cuda") else "cpu"
    engine = EngineConfig(engine=chosen.engine, device=device, precision=chosen.precision, threads=1)  # type: ignore[arg-type]
    out: Path = args.out
    out.mkdir(parents=True, exist_ok=True)
    facts, tally = extraction_facts(bundle, _Kind(chosen.engine, chosen.precision), args.stride), ExtractionCounts()
    key, entries = key_of(facts), dict[str, dict[str, Any]]()
    todo = unfinished(videos, out, key, entries, tally)
    if todo:
        with connected("extract --ray", args.address, args.workers) as ray:
            workers = args.workers or max(1, int(ray.cluster_resources().get("CPU", os.cpu_count() or 1)))
            gpu = {"num_gpus": 1} if device == "cuda" else {}
            paths = [video.path.absolute() for video in todo]
            for outcome in map_over_actors(ray, Extractor, (args, engine), paths, workers, **gpu):
                video = todo[outcome.number]
                if outcome.error:
                    tally.skipped[video.name] = outcome.error
                else:
                    arrays, state = outcome.value
                    extracted(video, arrays, state, (out, key), entries, tally)
                yield video, tally
    in_order = {video.name: tally.skipped[video.name] for video in videos if video.name in tally.skipped}
    tally.skipped = in_order
    write_manifest(out, facts, key, videos, entries, tally)
    if not todo:
        yield videos[-1], tally
