"""`stream-detector verdict`: records whether an alarm was true or false, or that an incident raised no alarm."""

from __future__ import annotations

import argparse
import contextlib
import getpass
import re
import sqlite3
from pathlib import Path
from typing import Any

from stream_detector.cli.writing import add_connection, open_writer
from stream_detector.client.writer import FoundAlarm, one_alarm
from stream_detector.errors import LedgerError, ProtocolError, UsageError
from stream_detector.events.ledger import Ledger
from stream_detector.events.ledger_file import read_alarm_starts
from stream_detector.events.protocol import encode, topic_of
from stream_detector.events.writes import VERDICTS, VerdictWrite, parse_write, verdict_to_dict
from stream_detector.types import SystemClock

_ID = re.compile(r"[0-9a-f]{4,32}")
_MEDIA = re.compile(r"\d+(\.\d+)?")


def add_parser(subparsers: Any) -> None:
    """Add the command and its options."""
    parser = subparsers.add_parser(
        "verdict",
        help="record whether an alarm was true, false, benign; or a missed incident",
        description="Record a verdict on an alarm. The newest verdict counts; the alarm's event is never changed.",
        epilog="'missed' takes CAMERA@TIME in place of ID, for instance gate@2026-01-31T12:00:00Z, or gate@75.5 "
        "(seconds of a recording).",
    )
    parser.add_argument("id", metavar="ID", help="id of the alarm, or its first digits; with 'missed' CAMERA@TIME")
    parser.add_argument("verdict", choices=(*VERDICTS, "missed"), help="the verdict")
    parser.add_argument("--note", default="", metavar="TEXT", help="a comment (at most 500 characters)")
    parser.add_argument(
        "--lasting", type=float, default=10.0, metavar="S", help="length of the incident (default: 10 s)"
    )
    add_connection(parser, by=None)
    parser.add_argument(
        "--ledger", type=Path, metavar="FILE", help="write into this journal; no detector may use it at the same time"
    )
    parser.add_argument("--json", action="store_true", help="print the journalled verdict as JSON")


def main(args: argparse.Namespace) -> int:
    """Write one verdict."""
    if args.ledger and args.endpoint:
        raise UsageError("--ledger and --endpoint exclude each other; a running detector writes its journal itself")
    by = args.by if args.by is not None else account()
    if args.ledger:
        body = _into_journal(args, by)
    else:
        with open_writer(args) as writer:
            found = None if args.verdict == "missed" else one_alarm(writer.find_alarms(_beginning(args.id)), args.id)
            body = writer.write(_value(args, by, found))
    what = "missed" if body["verdict"] == "missed" else f"alarm {body['id'][:8]} is {body['verdict']}"
    print(encode(body).decode() if args.json else f"{body['camera']}: {what}, recorded for {body['author']}")
    return 0


def account() -> str:
    """Return the name of the user account; "" if it has none."""
    with contextlib.suppress(OSError, KeyError, ImportError):
        return getpass.getuser()
    return ""


def _beginning(text: str) -> str:
    if not _ID.fullmatch(text):
        raise UsageError(f"{text!r} is not the id of an alarm; give its hexadecimal digits, at least the first four")
    return text


def _value(args: argparse.Namespace, by: str, alarm: FoundAlarm | None) -> dict[str, Any]:
    common = {"note": args.note, "by": by}
    if alarm is not None:
        place = {"camera": alarm.camera, "id": alarm.id, "alarm_epoch": alarm.epoch}
        return {"kind": "verdict", "verdict": args.verdict, **place, **common}
    camera, at, when = args.id.partition("@")
    if not at:
        raise UsageError(f"{args.id!r} has no time; write CAMERA@TIME, for instance gate@2026-01-31T12:00:00Z")
    time = {"at_s": float(when)} if _MEDIA.fullmatch(when) else {"at_utc": when}
    return {"kind": "miss", "camera": camera, "lasting_s": args.lasting, **time, **common}


def _into_journal(args: argparse.Namespace, by: str) -> dict[str, Any]:
    """Write the verdict into the journal without a detector. Every user who may write the file may do this; the author
    is the user account.
    """
    path: Path = args.ledger
    if not path.is_file():
        raise UsageError(f"the journal {str(path)!r} does not exist; give the file of --ledger of the run")
    found = None
    if args.verdict != "missed":
        try:
            rows = read_alarm_starts(path, _beginning(args.id))
        except sqlite3.Error as error:
            raise LedgerError(f"the journal {str(path)!r} cannot be read ({error}); see its log") from None
        found = one_alarm([FoundAlarm(*row) for row in rows], args.id)
    try:
        write = parse_write(_value(args, by, found))
    except ProtocolError as error:
        raise UsageError(str(error)) from None
    assert isinstance(write, VerdictWrite)
    clock = SystemClock()
    ledger = Ledger(path, clock=clock, keep_days=0, max_bytes=0)  # the detector applies its retention
    try:
        body = verdict_to_dict(write, f"file:{account()}", ledger.epoch, 0, clock.utc())
        ledger.append(topic_of("verdict", write.camera), body)
        if ledger.degraded:
            raise LedgerError(f"the journal {str(path)!r} cannot be written; free or repair the disk")
    finally:
        ledger.close()
    _remember(path.parent / "site" / "memory.sqlite3", body, write.at_utc, clock.utc())
    return body


def _remember(path: Path, body: dict[str, Any], at_utc: float | None, utc: float) -> None:
    """Store the verdict also in the memory of the site beside the journal, as a run does."""
    if not path.is_file():
        return
    from stream_detector.adaptation.memory import Memory

    memory = Memory(path)
    try:
        memory.verdict(body, at_utc, utc)
    finally:
        memory.close()
