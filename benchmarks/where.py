"""where: does the place that an alarm points at hold the incident, against motion energy and the picture's centre?

    python -m benchmarks where [--seeds 40] [--first 8200] [--bundle embedded] [--keep FILE.jsonl] [--data DATA]

The pointing game (Zhang et al. 2018, Top-down Neural Attention): the loudest point of a map counts as a hit if it lies
in a box around the people of the incident. Three maps on the same grid: `where` (the network's last map times the
gradient of the head), motion energy (mean absolute difference of successive frames in each cell), and the centre of
the picture. Rendered scenes know where their people are; their windows are those of a run (16 frames from the
beginning on) with a raw score from the bundle's threshold on, and for each scene the strongest one, whose place the
alarm ends with. Intervals are bootstraps over scenes. With --data, the clips that were marked by eye
(benchmarks/marks/where.json) are judged likewise: one window around the marked frame.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

import stream_detector as sd
from benchmarks.results import write_results
from stream_detector.alarms.where import pooled
from stream_detector.types import WINDOW_FRAMES, Box, Engine, UInt8Array

if TYPE_CHECKING:  # these load PyTorch and OpenCV, which --help does not need
    from stream_detector.models.bundle import Bundle

LENGTH_S = 40.0
MARKS = Path(__file__).parent / "marks" / "where.json"
MAPS = ("where", "motion", "centre")
DRAWS = 2000
Point = tuple[float, float]
Window = dict[str, Any]  # "scene", "score", "boxes", and for each of MAPS a point; "cells": of the grid


def loudest(cells: NDArray[Any]) -> Point:
    """The centre of the loudest cell, as shares of the picture."""
    row, column = np.unravel_index(int(np.argmax(cells)), cells.shape)
    return (float(column) + 0.5) / cells.shape[1], (float(row) + 0.5) / cells.shape[0]


def motion_energy(frames: UInt8Array, shape: tuple[int, int]) -> NDArray[np.float64]:
    """Mean absolute difference of successive frames in each cell. frames: uint8 (T, H, W, 3).  Returns (h, w)."""
    difference = np.abs(np.diff(frames.astype(np.int16), axis=0)).mean(axis=(0, 3))
    rows = np.array_split(difference, shape[0], axis=0)
    return np.array([[part.mean() for part in np.array_split(row, shape[1], axis=1)] for row in rows])


def is_hit(point: Sequence[float], boxes: Sequence[Box], margin: Sequence[float] = (0.0, 0.0)) -> bool:
    """Whether a point lies in one of the boxes, or within a margin (shares of width and height) of it."""
    return any(
        left - margin[0] <= point[0] <= right + margin[0] and top - margin[1] <= point[1] <= bottom + margin[1]
        for left, top, right, bottom in boxes
    )


def union(boxes: Sequence[Box]) -> Box:
    """The box around all boxes."""
    left, top, right, bottom = zip(*boxes, strict=True)
    return min(left), min(top), max(right), max(bottom)


def judged(scene: str, frames: UInt8Array, boxes: Sequence[Box], engine: Engine) -> Window:
    """One window with the points of all maps. frames: uint8 (16, H, W, 3) RGB."""
    output = engine.infer(frames[None])
    if output.grids is None:
        raise sd.StreamDetectorError("this bundle's engine does not say where; use one with an MLP head")
    cells = pooled(output.grids[0])
    rows, columns = cells.shape
    return {
        "scene": scene,
        "score": round(float(output.scores[0]), 4),
        "boxes": [[round(edge, 4) for edge in box] for box in boxes],
        "cells": [rows, columns],
        "where": loudest(cells),
        "motion": loudest(motion_energy(frames, (rows, columns))),
        "centre": (0.5, 0.5),
    }


def rendered(seed: int, bundle: Bundle, engine: Engine) -> Iterator[Window]:
    """The windows of one scene that lie within its incident; the truth is the box around its people."""
    from stream_detector.capture.picture import resize_frame
    from stream_detector.demo import DemoScene

    scene = DemoScene(seed, LENGTH_S)
    assert scene.incident_start_s is not None and scene.incident_end_s is not None
    first = int(np.ceil(scene.incident_start_s * scene.fps / WINDOW_FRAMES))
    last = int(scene.incident_end_s * scene.fps // WINDOW_FRAMES)
    for at in range(first * WINDOW_FRAMES, last * WINDOW_FRAMES, WINDOW_FRAMES):
        numbers = range(at, at + WINDOW_FRAMES)
        boxes = [box for n in (numbers[0], numbers[8], numbers[-1]) for box in scene.incident_boxes(n)]
        if boxes:
            frames = np.stack([resize_frame(scene.frame(n), bundle.recipe) for n in numbers])
            yield judged(str(seed), frames, [union(boxes)], engine)


def marked(data: Path, bundle: Bundle, engine: Engine) -> Iterator[Window]:
    """A window around the marked frame of each clip that was marked by eye."""
    for mark in json.loads(MARKS.read_text(encoding="utf-8")):
        frames = list(sd.read_frames(data / mark["file"], bundle=bundle.directory))
        middle = min(range(len(frames)), key=lambda n, wanted=mark["frame"]: abs(frames[n].index - wanted))
        first = max(0, min(middle - WINDOW_FRAMES // 2, len(frames) - WINDOW_FRAMES))
        window = np.stack([frame.image for frame in frames[first : first + WINDOW_FRAMES]])
        if len(window) == WINDOW_FRAMES:
            yield judged(mark["file"], window, [tuple(box) for box in mark["boxes"]], engine)


def strongest(windows: Sequence[Window]) -> list[Window]:
    """The window with the highest score of each scene."""
    best: dict[str, Window] = {}
    for window in windows:
        if window["scene"] not in best or window["score"] > best[window["scene"]]["score"]:
            best[window["scene"]] = window
    return list(best.values())


def figures(name: str, windows: Sequence[Window]) -> list[dict[str, Any]]:
    """Rows of the table: the share of hits of each map, and how much `where` is better; 95 % intervals over scenes."""
    scenes = sorted({window["scene"] for window in windows})
    place = {scene: n for n, scene in enumerate(scenes)}
    counts = np.zeros((2, len(MAPS), len(scenes)))  # without and with a margin of half a cell
    totals = np.zeros(len(scenes))
    chance = []
    for window in windows:
        rows, columns = window["cells"]
        totals[place[window["scene"]]] += 1
        for wide, margin in enumerate([(0.0, 0.0), (0.5 / columns, 0.5 / rows)]):
            for m, key in enumerate(MAPS):
                counts[wide, m, place[window["scene"]]] += is_hit(window[key], window["boxes"], margin)
        points = [((x + 0.5) / columns, (y + 0.5) / rows) for y in range(rows) for x in range(columns)]
        chance.append(float(np.mean([is_hit(point, window["boxes"]) for point in points])))
    draws = np.random.default_rng(29).multinomial(len(scenes), np.full(len(scenes), 1 / len(scenes)), DRAWS)

    def share(hits: Callable[[int], NDArray[Any]], wide: int) -> str:
        values = hits(wide)
        drawn = draws @ values / (draws @ totals)
        low, high = np.quantile(drawn, [0.025, 0.975])
        return f"{values.sum() / totals.sum():.2f} ({low:.2f} to {high:.2f})"

    found = []
    for wide, how in enumerate(("inside", "within half a cell")):
        row: dict[str, Any] = {"windows": name, "n": len(windows), "scenes": len(scenes), "hit": how}
        for m, key in enumerate(MAPS):
            row[key] = share(lambda w, m=m: counts[w, m], wide)
        row["where - motion"] = share(lambda w: counts[w, 0] - counts[w, 1], wide)
        row["where - centre"] = share(lambda w: counts[w, 0] - counts[w, 2], wide)
        row["any cell"] = round(float(np.mean(chance)), 3) if not wide else None
        found.append(row)
    return found


def main(argv: list[str]) -> int:
    """Judge all scenes that --keep does not hold yet, print, write results/where.json."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks where", description=__doc__)
    parser.add_argument("--seeds", type=int, default=40, help="scenes")
    parser.add_argument("--first", type=int, default=8200, help="seed of the first one; nothing was chosen on these")
    parser.add_argument("--bundle", default="embedded")
    parser.add_argument("--keep", type=Path, help="file of scenes that are done: a stopped run goes on")
    parser.add_argument("--data", type=Path, help="folder of the data, for the clips marked by eye")
    args = parser.parse_args(argv)
    from stream_detector.engines import load_engine
    from stream_detector.models.bundle import Bundle

    bundle = Bundle.load(args.bundle)
    engine = load_engine(bundle)
    done: dict[int, list[Window]] = {}
    if args.keep is not None and args.keep.exists():
        kept = [json.loads(line) for line in args.keep.read_text(encoding="utf-8").splitlines()]
        done = {row["seed"]: row["windows"] for row in kept}
    for seed in range(args.first, args.first + args.seeds):
        if seed in done:
            continue
        done[seed] = list(rendered(seed, bundle, engine))
        if args.keep is not None:
            with args.keep.open("a", encoding="utf-8") as out:
                out.write(json.dumps({"seed": seed, "windows": done[seed]}) + "\n")
    windows = [window for seed in range(args.first, args.first + args.seeds) for window in done[seed]]
    loud = [window for window in windows if window["score"] >= bundle.threshold]
    rows = figures("rendered, from the threshold on", loud)
    rows += figures("rendered, the strongest of each alarm", strongest(loud))
    rows += figures("rendered, all of the incident", windows)
    if args.data is not None:
        real = list(marked(args.data, bundle, engine))
        rows += figures("real clips marked by eye", real)
        sure = [window for window in real if window["score"] >= bundle.threshold]
        rows += figures("of them, from the threshold on", sure) if sure else []
    for row in rows:
        print(row)
    settings = {"first": args.first, "seeds": args.seeds, "bundle": bundle.fingerprint, "engine": engine.name}
    write_results("where", rows, {**settings, "precision": engine.precision, "marked": args.data is not None})
    engine.close()
    return 0
