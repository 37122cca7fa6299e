"""peers: how do three programs compare on the same real footage, in wall time, CPU time and peak memory?

    python -m benchmarks peers --clips DIR --minutes 2 --files 4

    seed       the way the project's ancestor extracted features: the whole video in memory, float32, one window at a
               time, contiguous, gradients recorded; once with our network, once with its own (ResNet3D-34)
    plain      what a competent user writes in an afternoon: cv2.VideoCapture, a deque of 16 frames, eval() and
               inference_mode, one window at a time, file after file; the embedded bundle's network and numbers
    ours       `stream-detector score`, unchanged: all files through the pipeline at full speed

Each is a separate process, measured by the kernel (`wait4`): start and imports count. They take turns, in rounds; the
best round of each counts. Scores of `plain` and `ours` are compared: the same windows must get the same scores.
"""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
import tempfile
import time
from collections import deque
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from benchmarks.footage import find_clips, make_h264, missing_encoder
from benchmarks.options import fail, parse
from benchmarks.results import load_before, write_results

ROOT = Path(__file__).parents[1]
GOALS = {"plain": 10.0, "seed": 30.0, "memory": 1 / 3}
FRAMES = 16


def seed_way(videos: list[str], arch: str, out: Path) -> None:
    """Whole video in a list, then window by window; arch "" is the embedded bundle's."""
    import cv2
    import torch

    from stream_detector.models.backbones import build_backbone
    from stream_detector.models.bundle import Bundle

    network: Any = build_backbone(arch or Bundle.load("embedded").manifest.backbone.arch)
    windows = 0
    for video in videos:
        capture = cv2.VideoCapture(video)
        frames = []
        while True:
            got, picture = capture.read()
            if not got:
                break
            frames.append(cv2.cvtColor(cv2.resize(picture, (112, 112)), cv2.COLOR_BGR2RGB))
        rows = []
        for first in range(0, len(frames) - FRAMES + 1, FRAMES):
            stack = np.stack(frames[first : first + FRAMES]).astype(np.float32)
            clip = torch.from_numpy(np.ascontiguousarray(stack.transpose(3, 0, 1, 2)))[None]
            rows.append(network.features(clip).detach().numpy()[0])
        np.savetxt(out.with_suffix(".txt"), np.stack(rows), fmt="%.3f")
        windows += len(rows)
    out.write_text(json.dumps({"windows": windows}), encoding="utf-8")


def plain_way(videos: list[str], out: Path) -> None:
    """A straightforward loop."""
    import cv2
    import torch

    from stream_detector.models.bundle import Bundle

    bundle = Bundle.load("embedded")
    backbone, head, recipe = bundle.build()
    network: Any = backbone.eval()
    head.eval()
    mean = torch.tensor(recipe.mean).view(3, 1, 1, 1)
    std = torch.tensor(recipe.std).view(3, 1, 1, 1)
    height, width = recipe.size
    scores: dict[str, list[float]] = {}
    with torch.inference_mode():
        for video in videos:
            capture = cv2.VideoCapture(video)
            frames: deque[Any] = deque(maxlen=FRAMES)
            count = 0
            scores[video] = []
            while True:
                got, picture = capture.read()
                if not got:
                    break
                small = cv2.resize(picture, (width, height), interpolation=cv2.INTER_AREA)
                frames.append(cv2.cvtColor(small, cv2.COLOR_BGR2RGB))
                count += 1
                if count % FRAMES == 0:
                    clip = torch.from_numpy(np.stack(frames)).permute(3, 0, 1, 2).float()
                    clip = (clip * recipe.scale - mean) / std
                    scores[video].append(float(head(network.features(clip[None]))))
            capture.release()
    out.write_text(json.dumps({"windows": sum(map(len, scores.values())), "scores": scores}), encoding="utf-8")


def accounted(command: list[str]) -> dict[str, float]:
    """Run a process to its end: wall, CPU and peak memory as the kernel has them. Raises RuntimeError."""
    begun_s = time.monotonic()
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    assert process.stderr is not None
    err = process.stderr.read()
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    process.stderr.close()
    if process.returncode:
        raise RuntimeError(f"{' '.join(command[:5])} failed: {err.decode(errors='replace')[-600:]}")
    return {
        "wall_s": round(time.monotonic() - begun_s, 3),
        "cpu_s": round(usage.ru_utime + usage.ru_stime, 3),
        "peak_mb": round(usage.ru_maxrss / 1e3, 1),
    }


def our_scores(path: Path) -> dict[str, list[float]]:
    """Raw scores by source from scores.csv."""
    found: dict[str, list[float]] = {}
    with path.open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            found.setdefault(row["source"], []).append(float(row["raw"]))
    return found


def largest_difference(plain: dict[str, list[float]], ours: dict[str, list[float]]) -> dict[str, float]:
    """Over all windows that both scored, by file name."""
    named = {Path(name).name: values for name, values in ours.items()}
    pairs = [
        abs(a - b)
        for name, values in plain.items()
        for a, b in zip(values, named.get(Path(name).name, []), strict=False)
    ]
    return {"windows": len(pairs), "largest": round(max(pairs), 6) if pairs else float("nan")}


def measure(videos: list[str], ways: list[str], rounds: int, folder: Path, console: Console) -> dict[str, Any]:
    """Rounds of all ways in turn."""
    python, results = sys.executable, {way: [] for way in ways}  # type: dict[str, list[dict[str, float]]]
    windows: dict[str, int] = {}
    for number in range(rounds):
        for way in ways:
            out = folder / f"{way}.json"
            command = [python, "-m", "benchmarks.peers", way, str(out), *videos]
            if way == "ours":
                out = folder / "scores.csv"
                command = [python, "-m", "stream_detector", "score", *videos, "--out", str(out)]
            results[way].append(accounted(command))
            if way == "ours":
                windows[way] = sum(len(values) for values in our_scores(out).values())
            else:
                windows[way] = int(json.loads(out.read_text(encoding="utf-8"))["windows"])
            console.print(f"round {number + 1}: {way}: {results[way][-1]}, {windows[way]} windows")
    best = {way: min(rows, key=lambda row: row["cpu_s"]) for way, rows in results.items()}
    rows = [
        {
            "way": way,
            "windows": windows[way],
            **best[way],
            "windows_per_s": round(windows[way] / best[way]["wall_s"], 2),
            "windows_per_cpu_s": round(windows[way] / best[way]["cpu_s"], 3),
        }
        for way in ways
    ]
    told: dict[str, Any] = {"rows": rows, "rounds": results}
    if "ours" in ways:
        ours = next(row for row in rows if row["way"] == "ours")
        told["ratios"] = {
            row["way"]: {
                "wall": round(ours["windows_per_s"] / row["windows_per_s"], 2),
                "cpu": round(ours["windows_per_cpu_s"] / row["windows_per_cpu_s"], 2),
                "memory": round(ours["peak_mb"] / row["peak_mb"], 3),
            }
            for row in rows
            if row is not ours
        }
        if "plain" in ways:
            plain = json.loads((folder / "plain.json").read_text(encoding="utf-8"))["scores"]
            told["same_scores"] = largest_difference(plain, our_scores(folder / "scores.csv"))
    return told


def main(argv: list[str]) -> int:
    """Command line."""
    args = parse("peers", argv)
    if missing := missing_encoder():
        fail("peers", f"{missing}; run .ci/install-rtsp.sh")
    console = Console(quiet=args.json)
    load = load_before()
    with tempfile.TemporaryDirectory() as name:
        folder, clips = Path(name), find_clips(args.clips, 400)
        videos = []
        for index in range(args.files):
            turned = clips[index * len(clips) // args.files :] + clips[: index * len(clips) // args.files]
            video = make_h264(turned, folder / f"footage{index}.mp4", args.minutes * 60, (320, 240))
            videos.append(str(video))
        results = measure(videos, args.ways, args.rounds, folder, console)
    settings = {
        "load_before": load,
        "files": args.files,
        "minutes": args.minutes,
        "size": [320, 240],
        "fps": 25,
        "rounds": args.rounds,
    }
    results["goals"] = GOALS
    if not args.no_save:
        path = write_results("peers", results, settings)
    if args.json:
        print(path.read_text(encoding="utf-8") if not args.no_save else json.dumps(results))
        return 0
    table = Table(title=f"{args.files} files of {args.minutes:g} minutes")
    for column in ("way", "windows", "wall s", "CPU s", "peak MB", "windows / CPU s", "ours is … in CPU"):
        table.add_column(column, justify="right")
    for row in results["rows"]:
        ratio = results.get("ratios", {}).get(row["way"], {}).get("cpu", 1.0)
        keys = ("way", "windows", "wall_s", "cpu_s", "peak_mb", "windows_per_cpu_s")
        table.add_row(*(str(row[key]) for key in keys), f"{ratio}×")
    console.print(table)
    console.print("plain and ours, same windows:", results.get("same_scores"))
    return 0


if __name__ == "__main__":
    way, target, *files = sys.argv[1:]
    if way == "plain":
        plain_way(files, Path(target))
    else:
        seed_way(files, "resnet3d-34-a" if way == "seed-own" else "", Path(target))
