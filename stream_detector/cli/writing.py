"""The connection of the commands that write to a running detector: control, reload, site and verdict."""

from __future__ import annotations

import argparse
from pathlib import Path

from stream_detector.client.recovery_client import ClientKeys
from stream_detector.client.writer import Writer
from stream_detector.errors import UsageError
from stream_detector.events.curve import load_pair, load_public

ENDPOINT = "tcp://127.0.0.1:5555"


def add_connection(parser: argparse.ArgumentParser, *, by: str | None = "") -> None:
    """Add --by, --endpoint, --key and --server-key. by: the default of --by; None means the name of the account."""
    usual = " (default: the name of your account)" if by is None else ""
    parser.add_argument("--by", default=by, metavar="NAME", help=f"your name, for the journal{usual}")
    parser.add_argument(
        "--endpoint", metavar="ENDPOINT", help=f"endpoint of the running detector (default: {ENDPOINT})"
    )
    parser.add_argument("--key", type=Path, metavar="FILE", help="your secret CURVE key; it must be a key of a writer")
    parser.add_argument("--server-key", type=Path, metavar="FILE", help="public CURVE key of the detector")


def open_writer(args: argparse.Namespace) -> Writer:
    """Return a writer to `--endpoint`, with the CURVE keys of `--key` and `--server-key` if both are given.

    Raises UsageError if only one of them is, and what `load_pair` and `load_public` raise.
    """
    if (args.key is None) != (args.server_key is None):
        raise UsageError("--key and --server-key belong together; give both, or neither")
    keys = ClientKeys(load_pair(args.key), load_public(args.server_key)) if args.key else None
    return Writer(ENDPOINT if args.endpoint is None else args.endpoint, keys)
