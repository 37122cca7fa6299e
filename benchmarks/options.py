"""The command lines of the benchmarks that load large libraries; apart from them, so that --help answers immediately.

Adding a benchmark: a function here with its name that adds the options, and `args = parse("NAME", argv)` in its `main`.
A benchmark that loads nothing large may keep its own parser.
"""

from __future__ import annotations

import argparse
import ast
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NoReturn

HERE = Path(__file__).parent
CAMERA_PARTS = ("kept", "overload", "isolation")
CLUSTER_PARTS = ("same", "kills", "driver", "overhead", "archive")
FAULT_PARTS = (
    *("detector", "hosts", "subscriber", "stalls", "disks", "between", "without_a_disk", "deleted", "clocks"),
    *("rotated", "pruned", "bridges", "refusals", "strangers", "memory", "hostile", "fuzz"),
)
GPU_MODELS = ["embedded", "resnet3d-34-a", "resnet3d-18-a", "resnet3d-50-b", "r3d_18", "i3d"]
GPU_PRECISIONS = ["fp16", "bf16", "tf32", "fp32"]
GPU_CAMERAS = ["192:320x240", "48:1280x720"]
CLIPS = "folder of .mp4 clips"
INDEXED = "folder with index.csv and the clips"


def parse(name: str, argv: Sequence[str]) -> argparse.Namespace:
    """Parse the options of a benchmark; exits for --help and for wrong usage."""
    text = ast.get_docstring(ast.parse((HERE / f"{name}.py").read_text(encoding="utf-8")))
    parser = argparse.ArgumentParser(
        prog=f"python -m benchmarks {name}",
        description=text,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    OPTIONS[name](parser)
    return parser.parse_args(argv)


def fail(name: str, sentence: str) -> NoReturn:
    """End a benchmark that cannot run: one sentence, exit code 2."""
    argparse.ArgumentParser(prog=f"python -m benchmarks {name}", usage="%(prog)s [options]").error(sentence)


def _output(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="print the figures as JSON")
    _no_save(parser)


def _no_save(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--no-save", action="store_true", help="do not write benchmarks/results")


def _settle(parser: argparse.ArgumentParser, seconds: float) -> None:
    parser.add_argument("--settle", type=float, default=seconds, help="seconds before the measurement starts")


def bridges(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--seconds", type=float, default=120.0)
    parser.add_argument("--cameras", type=int, default=4)
    _output(parser)


def cameras(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--clips", type=Path, required=True, help=CLIPS)
    parser.add_argument("--hosts", default="auto", help="as `run --capture-hosts` (default: auto)")
    parser.add_argument("--sizes", nargs="+", default=["320x240", "1280x720"])
    parser.add_argument("--cameras", type=int, nargs="+", help="numbers to try (default: shares of the budget)")
    parser.add_argument("--overload", type=int, nargs="+", default=[96], help="numbers besides 2 × and 4 × the best")
    parser.add_argument("--part", choices=CAMERA_PARTS, nargs="+", default=list(CAMERA_PARTS))
    parser.add_argument("--seconds", type=float, default=20.0)
    _settle(parser, 6.0)
    parser.add_argument("--repeat", type=int, default=3, help="runs of each number; the median counts")
    parser.add_argument("--scale-isolation", type=float, default=1.0, help="share of the full number of bad cameras")
    parser.add_argument("--precision", default="auto", help="int8 needs `stream-detector models quantise` first")
    parser.add_argument("--all", action="store_true", help="continue after the first number that is too large")
    _no_save(parser)


def cluster(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("part", choices=CLUSTER_PARTS)
    parser.add_argument("--clips", type=Path, required=True, help=INDEXED)
    parser.add_argument("--count", type=int, default=30, help="same, archive: clips")
    parser.add_argument("--precision", default="auto")
    parser.add_argument("--kills", type=int, default=10, help="kills: most kills of this run")
    parser.add_argument("--seconds", type=float, default=100.0, help="kills, overhead: length of the footage")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--target", choices=("node", "shard"), default="node", help="kills: what to kill")
    parser.add_argument("--add", action="store_true", help="kills: add to the runs in benchmarks/results")


def composite(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--clips", type=Path, required=True, help=f"{INDEXED} (path, set, label)")
    parser.add_argument("--quiet", type=Path, required=True, help="folder of long recordings in which nothing happens")
    parser.add_argument("--sets", nargs="+", default=["wild_clips"], help="sets of the incidents")
    parser.add_argument("--controls", nargs="+", default=["wild_clips"], help="sets of the normal clips")
    parser.add_argument("--streams", type=int, default=20)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--incidents", type=int, default=5)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="one set of streams for each seed")
    parser.add_argument("--bundle", default="embedded")
    parser.add_argument("--thresholds", type=float, nargs="*", default=[], help="also at these; each takes a run")
    _output(parser)


def engines(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("clips", type=Path, help=INDEXED)
    parser.add_argument("--bundle", default="embedded")
    parser.add_argument("--limit", type=int, default=400, help="val clips, drawn with a fixed seed (default: 400)")
    parser.add_argument("--calibration", type=int, default=128, help="train windows for int8 (default: 128)")
    _no_save(parser)


def evidence(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--clips", type=Path, required=True, help=CLIPS)
    parser.add_argument("--cameras", type=int, default=16)
    parser.add_argument("--seconds", type=float, default=30.0)
    _settle(parser, 8.0)
    parser.add_argument("--repeat", type=int, default=3, help="runs of each mode; the median counts")
    _no_save(parser)


def faults(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--scale", type=float, default=1.0, help="share of the full number of faults")
    parser.add_argument(
        "--times", type=int, default=200, metavar="N", help="kills of every part that kills, at scale 1"
    )
    parser.add_argument("--events-per-s", type=int, default=2000, help="stalls: rate of the events")
    parser.add_argument("--soak-minutes", type=float, default=2.0, help="strangers: duration")
    parser.add_argument("--memory-minutes", type=float, default=10.0, help="memory: duration")
    parser.add_argument("--only", nargs="+", choices=sorted(FAULT_PARTS), default=list(FAULT_PARTS), metavar="PART")
    _output(parser)


def gpu(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--device", default="auto", help="cuda, cuda:N or cpu (default: the GPU)")
    parser.add_argument("--models", nargs="*", metavar="BUNDLE_OR_ARCH", help=f"default: {' '.join(GPU_MODELS)}")
    parser.add_argument(
        "--precisions", nargs="+", choices=GPU_PRECISIONS, help="of the first two models; the others use the first one"
    )
    parser.add_argument("--batches", nargs="+", type=int, help="default: 1 to 128")
    parser.add_argument(
        "--cameras", nargs="*", metavar="N:WxH", help=f"default: {' '.join(GPU_CAMERAS)}; no value: skip this part"
    )
    parser.add_argument(
        "--bundle", default="auto", help="of the cameras (default: accurate if its weights were fetched, else embedded)"
    )
    parser.add_argument("--seconds", type=float, default=0.4, help="for each row (default: 0.4)")
    parser.add_argument("--camera-seconds", type=float, default=12.0, help="for each number of cameras (default: 12)")
    parser.add_argument("--budget-s", type=float, default=300.0, help="start no row after this time (default: 300)")
    parser.add_argument("--out", type=Path, help="results file (default: benchmarks/results/gpu.json, on a GPU only)")
    _output(parser)


def latency(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--clips", type=Path, required=True, help=CLIPS)
    parser.add_argument("--cameras", type=int, nargs="+", default=[1, 4, 8, 16, 32])
    parser.add_argument("--seconds", type=float, default=25.0)
    _settle(parser, 5.0)
    parser.add_argument("--sources", nargs="+", choices=("rtsp", "file"), default=["rtsp", "file"])
    parser.add_argument("--stride", type=int, default=16)
    parser.add_argument("--in-step", action="store_true", help="file: all cameras at the same phase, the worst case")
    _output(parser)


def peers(parser: argparse.ArgumentParser) -> None:
    ways = ("seed-own", "seed", "plain", "ours")
    parser.add_argument("--clips", type=Path, required=True, help=CLIPS)
    parser.add_argument("--files", type=int, default=4)
    parser.add_argument("--minutes", type=float, default=2.0, help="length of each file")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--ways", nargs="+", default=list(ways), choices=ways)
    _output(parser)


def quiet(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--videos", type=Path, required=True, help="folder of DAY-HOUR.mp4 in which nothing happens")
    parser.add_argument("--asked", type=float, nargs="+", default=[0.5, 1.0], help="wanted false alarms per hour")
    parser.add_argument("--bundle", default="embedded")
    parser.add_argument("--learned-too", action="store_true", help="also the recordings that trained the heads")
    _output(parser)


def rendered(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--seeds", type=int, default=20, help="scenes of each kind")
    parser.add_argument("--first", type=int, default=6000, help="seed of the first scene; training used none of these")
    parser.add_argument("--bundle", default="embedded")
    parser.add_argument("--keep", type=Path, help="file with the finished scenes: the next run continues from it")


def roofline(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--models", nargs="+", default=["resnet3d-34-a", "embedded"], metavar="BUNDLE_OR_ARCH")
    parser.add_argument("--seconds", type=float, default=6.0, help="time for each row (default: 6)")
    _no_save(parser)


def rtsp_faults(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--cycles", type=int, default=20)
    parser.add_argument("--stall-s", type=float, default=8.0)
    parser.add_argument("--out", type=Path, help="also write the figures to this file")


def rtsp_run(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--cycles", type=int, default=20)
    parser.add_argument("--stall-s", type=float, default=8.0)
    parser.add_argument("--baseline-s", type=float, default=60.0)
    parser.add_argument("--port", type=int, default=5655)


def scaling(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--cameras", type=Path, default=HERE / "results" / "cameras.json", help="results file to use")
    parser.add_argument("--size", default="320x240")
    _no_save(parser)


def site(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--data", type=Path, required=True, help="folder with clips/, more_clips/ and long_normal/")
    parser.add_argument("--cache", type=Path, default=Path("/tmp/site"), help="folder that keeps the features")
    parser.add_argument("--bundle", default="embedded")
    parser.add_argument("--seeds", type=int, nargs="+", default=list(range(20)))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--extract-only", action="store_true", help="fill the cache, measure nothing")
    _output(parser)


def sitecost(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--cameras", type=int, default=16)
    parser.add_argument("--hours", type=float, default=2.0)
    parser.add_argument("--dim", type=int, default=256, help="numbers in a feature")
    _output(parser)


def soak(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--cameras", type=int, default=16)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--video", type=Path, help="a file at least as long as the soak")
    parser.add_argument("--clips", type=Path, help="a folder of clips to make the video from")
    _settle(parser, 120.0)
    parser.add_argument("--every", type=float, default=5.0, metavar="SECONDS", help="time between two measurements")
    parser.add_argument("--port", type=int, default=9464)
    parser.add_argument("--json", action="store_true", help="print the figures as JSON")


def viewers(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--clips", type=Path, required=True, help=CLIPS)
    parser.add_argument("--cameras", type=int, default=16)
    parser.add_argument("--viewers", type=int, default=20)
    parser.add_argument("--rate", type=float, default=1.0, help="pictures per second (the page asks for 1)")
    parser.add_argument("--rounds", type=int, default=6, help="runs with and without viewers, alternating")
    parser.add_argument("--seconds", type=float, default=25.0)
    _settle(parser, 5.0)
    _output(parser)


OPTIONS: dict[str, Callable[[argparse.ArgumentParser], None]] = {
    add.__name__: add
    for add in (
        *(bridges, cameras, cluster, composite, engines, evidence, faults, gpu, latency, peers, quiet, rendered),
        *(roofline, rtsp_faults, rtsp_run, scaling, site, sitecost, soak, viewers),
    )
}
