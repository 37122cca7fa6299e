"""`stream-detector subscribe`: print the events of a detector, or keep them in a file without loss."""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

from stream_detector.client.subscriber import KINDS, Subscriber
from stream_detector.errors import LedgerError, RunError, UsageError, redacted
from stream_detector.events.curve import load_pair, load_public
from stream_detector.events.protocol import Message, encode
from stream_detector.system.lock_file import claim_output
from stream_detector.system.outputs import check_apart, check_free

_SAVE_EVERY = 64
_SILENT_S = 5.0  # seconds without a heartbeat after which a message says so, once


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command and its options."""
    parser = subparsers.add_parser(
        "subscribe",
        help="print the events of a running detector",
        description="Print the events of a detector, or keep them in a file without loss.",
    )
    parser.add_argument(
        "endpoint", metavar="ENDPOINT", help="endpoint of the detector, for instance tcp://127.0.0.1:5555"
    )
    parser.add_argument(
        "--camera", action="append", default=[], metavar="NAME", help="only this camera; may be repeated"
    )
    parser.add_argument(
        "--kind",
        action="append",
        choices=KINDS,
        help="only this kind of event; may be repeated (default: alarm and status)",
    )
    parser.add_argument("--json", action="store_true", help="one JSON object a line, as sent")
    parser.add_argument(
        "--recover", action="store_true", help="fetch missed events from the recovery socket (port + 1)"
    )
    parser.add_argument("--from-start", action="store_true", help="begin at the oldest event kept; implies --recover")
    parser.add_argument(
        "--cursor",
        type=Path,
        metavar="FILE",
        help="remember the last event in FILE and continue after it; implies --recover",
    )
    parser.add_argument(
        "--output", type=Path, metavar="FILE", help="append JSON lines to FILE; with --cursor each event exactly once"
    )
    parser.add_argument("--count", type=_positive, metavar="N", help="end after N events")
    parser.add_argument("--timeout", type=_seconds, metavar="S", help="end after S seconds without an event")
    parser.add_argument("--key", type=Path, metavar="FILE", help="file of your own secret key (CURVE)")
    parser.add_argument(
        "--server-key", type=Path, metavar="FILE", help="file of the public key of the detector (CURVE)"
    )


def main(args: argparse.Namespace) -> int:
    """Run the command; return 1 if `--count` events did not arrive within `--timeout`."""
    check_apart({"--output": args.output, "--cursor": args.cursor}, [key for key in (args.key, args.server_key) if key])
    recover = args.recover or args.from_start or args.cursor is not None
    subscriber = Subscriber(
        args.endpoint,
        cameras=args.camera,
        kinds=args.kind or ("alarm", "status"),
        recover=recover,
        cursor=args.cursor,
        from_start=args.from_start,
        keys=load_pair(args.key) if args.key else None,
        server_key=load_public(args.server_key) if args.server_key else None,
    )
    with subscriber, _output(args.output, subscriber) as output:
        left, handled = args.count, 0
        waited_s, silent = 0.0, False
        while left is None or left > 0:
            step_s = min(_SILENT_S, args.timeout - waited_s) if args.timeout is not None else _SILENT_S
            message = subscriber.receive(step_s)
            if message is None:
                waited_s += step_s
                if subscriber.heartbeat_age_s() > _SILENT_S and waited_s >= _SILENT_S and not silent:
                    silent = True
                    print(
                        f"stream-detector: no message from {redacted(args.endpoint)} yet; still waiting",
                        file=sys.stderr,
                    )
                if args.timeout is not None and waited_s >= args.timeout:
                    break
                continue
            waited_s, silent = 0.0, False
            _show(message, output, args.json)
            subscriber.output_bytes = output.tell() if output else None
            left = None if left is None else left - 1
            handled += 1
            # Not after every event of a flood: after a kill the output is truncated to the last saved position.
            subscriber.commit(save=not subscriber.waiting or handled % _SAVE_EVERY == 0 or left == 0)
        if subscriber.lost:
            print(f"stream-detector: {subscriber.lost} events were lost and could not be fetched", file=sys.stderr)
    if left:
        raise RunError(
            f"{args.count - left} of {args.count} events arrived in time; wait longer, or start the detector"
        )
    return 0


@contextlib.contextmanager
def _output(path: Path | None, subscriber: Subscriber) -> Iterator[BinaryIO | None]:
    """Open the file to append to, truncated to the length in the cursor."""
    if path is None:
        yield None
        return
    check_free(path, "events")
    try:
        with contextlib.ExitStack() as stack:
            if path.parent.is_dir() and (path.is_file() or not path.exists()):
                stack.callback(claim_output(path).release)
            file = stack.enter_context(path.open("ab", buffering=0))
            length = os.fstat(file.fileno()).st_size
            if subscriber.output_bytes is None:
                subscriber.output_bytes = length
                subscriber.commit()
            elif subscriber.output_bytes <= length:
                file.truncate(subscriber.output_bytes)
            else:
                raise UsageError(f"file {str(path)!r} is shorter than its cursor says; delete both, or restore it")
            yield file
    except OSError as error:
        raise LedgerError(
            f"file {str(path)!r} cannot be written ({error.strerror}); give another, or free it"
        ) from None


def _show(message: Message, output: BinaryIO | None, as_json: bool) -> None:
    line = encode(message.body) + b"\n"
    if output is not None:
        if output.write(line) != len(line):
            raise OSError(28, "no space left on device")
    elif as_json:
        sys.stdout.flush()
        sys.stdout.buffer.write(line)
        sys.stdout.buffer.flush()
    else:
        print(describe(message), flush=True)


def describe(message: Message) -> str:
    """Format one line for people."""
    body: dict[str, Any] = message.body
    head = f"{body.get('emitted_utc', '')}  {message.camera:<16} {message.kind:<7}"
    again = "  (current state)" if message.replayed else ""
    if message.kind == "alarm":
        reason = f" ({body['reason']})" if body.get("reason") else ""
        text = (
            f"{body.get('type')}{reason}  score {body.get('score')}  peak {body.get('peak_score')}  id {body.get('id')}"
        )
    elif message.kind == "status":
        text = f"{body.get('state')}  {body.get('detail') or ''}".rstrip()
    elif message.kind == "ack":
        text = f"alarm {body.get('id')}  seen by {body.get('by') or 'somebody'}  {body.get('note') or ''}".rstrip()
    elif message.kind == "control":
        muted = f"muted until {body.get('muted_until_utc')}" if body.get("muted_until_utc") else "not muted"
        text = f"mode {body.get('mode')}  {muted}  threshold {body.get('threshold')}  by {body.get('author')}"
    elif message.kind == "verdict":
        text = (
            f"{body.get('verdict')}  id {body.get('id')}  by {body.get('by') or 'somebody'}  {body.get('note') or ''}"
        )
        text = text.rstrip()
    elif message.kind in ("site", "shadow"):
        text = f"{body.get('type')}  {body.get('detail') or ''}".rstrip()
    else:
        text = f"window {body.get('window')}  raw {body.get('raw')}  smoothed {body.get('smoothed')}"
    # removes terminal control codes that a message may contain
    shown = "".join(c if c.isprintable() else "?" for c in f"{head} {text}{again}")
    return shown


def _positive(text: str) -> int:
    if not text.isascii() or not text.isdigit() or not 1 <= int(text) < 10**12:
        raise argparse.ArgumentTypeError(f"{text[:40]!r} is not possible; give a whole number of at least 1")
    return int(text)


def _seconds(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value < 1e9:
        raise argparse.ArgumentTypeError(f"{text[:40]!r} is not possible; give seconds, from 0 to 999999999")
    return value
