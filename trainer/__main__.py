"""`python -m trainer COMMAND`: from videos to a bundle that the stream loads.

    extract      videos → features per window, resumable
    audit        are these features what they claim to be?
    train        features and video labels → head
    evaluate     head → figures with intervals and oracle lines, plots, report; --standard: nested grouped folds
    export       head → bundle
    distill      train the small backbone from a large one
    average      the mean of two points of that training
    embed        trained backbone → head, threshold, bundle, model card
    settle       a bundle → the same with a head that has learned the quiet of scenes and recordings
    large        the teacher with a head of its own → a second bundle
    familiar     teach a bundle which pictures it knows: it then says `unfamiliar` of others
    recipe       from nothing to a bundle in one command: fetch, pack, distil, head, card
    import-seed  the seed project's checkpoint → head, with a warning about what it is

Exit codes: 0 done, 1 failed or condemned, 2 usage or bad input; errors are one sentence on stderr.
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
    "distill": "recipes.embedded.distill",
    "average": "recipes.embedded.average",
    "embed": "recipes.embedded.embed",
    "settle": "recipes.embedded.settle_bundle",
    "large": "recipes.embedded.large",
    "familiar": "recipes.embedded.familiar",
    "recipe": "labelfree.options",
    "import-seed": "mil.import_seed",
}
HELP = (__doc__ or "").strip()


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command. Only its own module is imported: `audit` needs no deep-learning framework."""
    words = list(sys.argv[1:] if argv is None else argv)
    if not words or words[0] in {"-h", "--help"}:
        print(HELP)
        return 0 if words else 2
    if words[0] not in COMMANDS:
        print(f"error: unknown command {words[0]!r}; use one of: {', '.join(COMMANDS)}", file=sys.stderr)
        return 2
    parser = argparse.ArgumentParser(prog="python -m trainer")
    debug = "--debug" in words
    if debug:
        words.remove("--debug")
    try:
        module = importlib.import_module(f"trainer.{COMMANDS[words[0]]}")
        module.add_parser(parser.add_subparsers(required=True))
        args = parser.parse_args(words)
        return int(module.main(args))
    except StreamDetectorError as error:
        if debug:
            raise
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    except ModuleNotFoundError as error:
        if debug or (error.name or "").split(".")[0] in {"trainer", "stream_detector"}:
            raise
        print(f"error: {words[0]} needs the package {error.name!r}, which is not installed; "
              "run: pip install 'stream-detector[train]'", file=sys.stderr)  # fmt: skip
        return 2


if __name__ == "__main__":
    sys.exit(main())
