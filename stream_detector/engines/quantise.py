"""int8 graphs for OpenVINO: post-training quantisation by NNCF, calibrated with real windows.

Weights and activations become 8-bit integers with scales from calibration windows (Jacob et al. 2018). The result is
cached beside the float graph, under the bundle's fingerprint. The head stays in float: it is a thousandth of the work,
and thresholds are set on its sigmoid.
"""

from __future__ import annotations

import contextlib
import logging
import sys
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from stream_detector.capture.recordings import windows
from stream_detector.engines.openvino_engine import graph_path, load_graph, save_graph
from stream_detector.errors import DataError, EngineError, MissingExtraError
from stream_detector.models.bundle import Bundle
from stream_detector.models.recipe import Recipe
from stream_detector.types import UInt8Array

MIN_WINDOWS = 8


def calibration_windows(videos: Sequence[Path], recipe: Recipe, limit: int) -> UInt8Array:
    """Read windows spread evenly over videos: uint8 (n, 16, H, W, 3) RGB, n <= limit. Raises SourceError, DataError.

    At most twice a video's share of the windows is in memory, however long the video is.
    """
    found: list[UInt8Array] = []
    share = -(-limit // len(videos))
    for path in videos:
        found += _spread(read_windows(path, recipe), share)
    if len(found) < MIN_WINDOWS:
        raise DataError(
            f"calibration needs at least {MIN_WINDOWS} windows of 16 frames, got {len(found)}; give more video"
        )
    return np.stack(found[:limit])


def _spread(windows: Iterable[UInt8Array], count: int) -> list[UInt8Array]:
    """Return at most `count` windows, evenly spread, of an iterator of unknown length: every 1st, then every 2nd, 4th,
    …
    """
    kept: list[UInt8Array] = []
    step = 1
    for index, window in enumerate(windows):
        if index % step:
            continue
        if len(kept) == 2 * count:
            kept, step = kept[::2], 2 * step
            if index % step:
                continue
        kept.append(window)
    most = min(count, len(kept))
    return [kept[round(k * (len(kept) - 1) / max(1, most - 1))] for k in range(most)]


def quantise(bundle: Bundle, windows: UInt8Array) -> Path:
    """Make the int8 graph of a bundle and cache it; return its path.

    windows: uint8 (n, 16, H, W, 3) RGB of footage like that of the cameras.  Raises MissingExtraError, EngineError.
    """
    try:
        import nncf
    except ImportError:
        raise MissingExtraError("int8 quantisation", "nncf", "int8") from None
    logging.getLogger("nncf").setLevel(logging.ERROR)
    graph = load_graph(bundle)
    data = nncf.Dataset([window[None] for window in windows])
    ignored = nncf.IgnoredScope(names=_head_nodes(graph), validate=False)
    try:
        with contextlib.redirect_stdout(sys.stderr):  # hides NNCF's progress bars
            small = nncf.quantize(graph, data, subset_size=len(windows), ignored_scope=ignored)
    except (RuntimeError, ValueError) as error:
        raise EngineError(
            f"quantisation failed ({' '.join(str(error).split())[:200]}); use --precision fp32"
        ) from error
    path = graph_path(bundle, "int8")
    save_graph(small, path)
    if not path.is_file():
        raise EngineError(f"the int8 graph cannot be written to {str(path)!r}; set STREAM_DETECTOR_CACHE")
    return path


def _head_nodes(graph: Any) -> list[str]:
    """Return the names of the operations behind the features: those that lead only to the scores."""
    features = graph.outputs[0].get_node().input_value(0).get_node().get_friendly_name()
    names: list[str] = []
    waiting = [graph.outputs[1].get_node()]
    while waiting:
        node = waiting.pop()
        name = node.get_friendly_name()
        if name != features and name not in names:
            names.append(name)
            waiting += [node.input_value(i).get_node() for i in range(node.get_input_size())]
    return [name for name in names if name]


def read_windows(path: Path, recipe: Recipe, limit: int | None = None) -> Iterator[UInt8Array]:
    """Yield the windows of a video as the stream would make them, at most `limit`: uint8 (16, H, W, 3) RGB each.

    Raises SourceError.
    """
    for window in islice(windows(path, recipe), limit):
        yield window.frames
