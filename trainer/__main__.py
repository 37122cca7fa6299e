"""Train a model bundle for the detector.

    python -m trainer COMMAND --help

From your own videos to a bundle (docs/training.md):
    extract         videos → features, one row a window; resumable
    audit           checks features for the traces of a broken extraction
    train           features and video labels → head; uses PyTorch unless --backend tensorflow
    evaluate        head → figures with intervals, oracle lines, plots and a report; --standard: nested grouped folds
    export          head → bundle

From your own camera to a bundle:
    adapt           bundle and quiet recordings of a camera → bundle that raises fewer false alarms there

How the bundles that ship with the detector are made (docs/models):
    recipe          makes a bundle from nothing by the values of its recipe.toml
    distill         trains the small backbone to answer as a large network does
    average         averages two points of one distillation
    embed           distilled backbone → head, threshold, bundle and model card
    novelty         fits the novelty model of a bundle: it marks pictures unlike the training data
    anchors         adds features of the head's clips to a bundle; what a site adapts must keep their scores
    kind            adds a model that tells fights from crashes to a bundle, if grouped folds show that it can
    teacher-bundle  fits a head on the large network and writes a second bundle

The reproduction of the paper (docs/reproduce.md):
    search-head     cross-validates the candidates of the causal head
    import-seed     checkpoint of the seed project → head

Exit codes: 0 done, 1 failed or features rejected by audit, 2 wrong usage or bad input (one sentence on stderr).
"""

from __future__ import annotations

import argparse
import importlib
import sys
from collections.abc import Sequence

from stream_detector.errors import StreamDetectorError

COMMANDS = {
    "extract": "data.extract",
    "audit": "data.audit",
    "train": "mil.train",
    "evaluate": "evaluate",
    "export": "export",
    "adapt": "recipes.embedded.adapt_bundle",
    "recipe": "recipes.labelfree.options",
    "distill": "recipes.embedded.distill",
    "average": "recipes.embedded.average",
    "embed": "recipes.embedded.embed",
    "novelty": "recipes.embedded.novelty",
    "anchors": "recipes.embedded.anchors",
    "kind": "evaluation.kinds",
    "teacher-bundle": "recipes.embedded.teacher_bundle",
    "search-head": "recipes.causal.search",
    "import-seed": "mil.import_seed",
}
# Where the options of a command stand that itself needs PyTorch: `--help` loads them alone.
OPTIONS = {
    name: "recipes.embedded.options"
    for name in ("adapt", "distill", "average", "embed", "novelty", "anchors", "kind", "teacher-bundle")
}
RENAMED = {"settle": "adapt", "familiar": "novelty", "large": "teacher-bundle"}
HELP = (__doc__ or "").strip()


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command. Only its own module is imported: `audit` needs no deep-learning framework."""
    words = list(sys.argv[1:] if argv is None else argv)
    if not words or words[0] in {"-h", "--help"}:
        print(HELP)
        return 0 if words else 2
    if words[0] in RENAMED:
        print(f"error: the command {words[0]!r} is called {RENAMED[words[0]]!r} now; use that", file=sys.stderr)
        return 2
    if words[0] not in COMMANDS:
        print(f"error: unknown command {words[0]!r}; use one of: {', '.join(COMMANDS)}", file=sys.stderr)
        return 2
    parser = argparse.ArgumentParser(prog="python -m trainer")
    debug = "--debug" in words
    if debug:
        words.remove("--debug")
    try:
        args = _parse(parser, words)
        return int(importlib.import_module(f"trainer.{COMMANDS[words[0]]}").main(args))
    except StreamDetectorError as error:
        if debug:
            raise
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    except ModuleNotFoundError as error:
        if debug or (error.name or "").split(".")[0] in {"trainer", "stream_detector"}:
            raise
        print(
            f"error: {words[0]} needs the package {error.name!r}, which is not installed; "
            "run: pip install 'stream-detector[train]'",
            file=sys.stderr,
        )
        return 2


def _parse(parser: argparse.ArgumentParser, words: list[str]) -> argparse.Namespace:
    """Parse the command line of one command; exits for --help and for wrong usage."""
    options = importlib.import_module(f"trainer.{OPTIONS.get(words[0], COMMANDS[words[0]])}")
    options.add_parser(parser.add_subparsers(required=True))
    return parser.parse_args(words)


if __name__ == "__main__":
    sys.exit(main())
