"""`python one_score.py ASK …`: scores windows in all company, prints what it found as JSON, one line an ask.

Run in a process of its own, because the instruction set and the number of threads are settled once a process.
"""

from __future__ import annotations

import json
import sys
from contextlib import closing
from typing import Any

from stream_detector.config import EngineConfig
from stream_detector.engines import load_engine
from stream_detector.engines.batch_dependence import batch_dependence, probe_windows, tolerance
from stream_detector.models.bundle import Bundle
from stream_detector.types import Engine


def look(engine: Engine, bundle: Bundle) -> dict[str, Any]:
    """What the engine is, what it promises, how far scores move, and the scores themselves to the last bit."""
    windows = probe_windows(bundle.recipe, 3)
    return {
        "engine": engine.name,
        "precision": engine.precision,
        "reason": engine.reason,
        "promised": tolerance(engine),
        "moved": batch_dependence(engine, windows),
        "scores": engine.infer(windows).scores.tobytes().hex(),
    }


def main(asks: list[str]) -> None:
    """Answer each ask in one line: "auto", an engine, or "refused": bf16, which OpenVINO refuses on this CPU."""
    bundle = Bundle.load("embedded")
    for ask in asks:
        if ask == "refused":  # `choose_engine` would not ask for it
            from stream_detector.engines.openvino_engine import OpenVinoEngine

            engine: Engine = OpenVinoEngine(bundle, "bf16")
        else:
            engine = load_engine(bundle, EngineConfig.model_validate({"device": "cpu", "engine": ask}))
        with closing(engine):
            print(json.dumps(look(engine, bundle)))


if __name__ == "__main__":
    main(sys.argv[1:])
