"""`stream-detector keys new DIR NAME`: make a CURVE key pair; only you can read the secret half."""

from __future__ import annotations

import argparse
from pathlib import Path

from stream_detector.events.curve import new_pair


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command and its options."""
    parser = subparsers.add_parser(
        "keys",
        help="make CURVE keys for encrypted subscribers",
        description="Make a pair of CURVE keys; only you can read the secret half.",
    )
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    new = actions.add_parser(
        "new",
        help="make DIR/NAME.key and DIR/NAME.key_secret",
        description="Make DIR/NAME.key and DIR/NAME.key_secret.",
    )
    new.add_argument("folder", type=Path, metavar="DIR", help="folder of the two files; made if it is missing")
    new.add_argument("name", metavar="NAME", help="name of the owner, for instance server or alice")


def main(args: argparse.Namespace) -> int:
    """Run the command."""
    public, secret = new_pair(args.folder, args.name)
    print(f"public key  {public}  (give it to the other side)")
    print(f"secret key  {secret}  (keep it; mode 0600)")
    return 0
