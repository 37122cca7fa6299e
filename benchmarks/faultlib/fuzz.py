"""Every parser of events, requests, keys and cursors against random and mutated bytes (hypothesis): only our errors."""

from __future__ import annotations

import json
import os
import random
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import zmq
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

from stream_detector.client.cursor import SCHEMA, load_cursor
from stream_detector.config import load_config
from stream_detector.errors import StreamDetectorError
from stream_detector.events import curve, protocol
from stream_detector.events.jsonl_file import EventFile
from stream_detector.events.ledger import Ledger
from stream_detector.events.recovery_server import RecoveryServer, ScoreRing
from stream_detector.types import AlarmEvent, SystemClock

_EACH = 20  # inputs from one example: hypothesis makes the first, and the seed of the others (it is slow to draw)
_EPOCH = "0123456789abcdef"
_TOPIC = "v1/alarm/gate/"
_EVENT = protocol.encode(
    protocol.alarm_to_dict(
        AlarmEvent("a" * 32, "gate", "start", None, 1.0, None, 1e9, 0.9, 0.9, 0.5, "f00d", degraded=("gap",)),
        _EPOCH,
        7,
        1e9,
    )
)


def parsers(folder: Path, stack: ExitStack) -> dict[str, tuple[Callable[[bytes], object], bytes]]:
    """Name → (parser, a valid input). All that read from a socket or a file in the events' half of the detector."""
    clock = SystemClock()
    ledger = Ledger(None, clock=clock)
    ledger.append(_TOPIC, json.loads(_EVENT))
    answerer = RecoveryServer(ledger, ScoreRing(ledger.epoch), 1000)
    file = folder / "input"
    public, secret = zmq.curve_keypair()
    (folder / "allowed").mkdir()
    curve.new_pair(folder / "allowed", "alice")
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    stack.callback(context.term)
    stack.callback(ledger.close)
    gate = curve.CurveAuthenticator(context, curve.KeyPair(public, secret), folder / "allowed")
    stack.callback(gate.close)

    def through_file(read: Callable[[], object]) -> Callable[[bytes], object]:
        def parse(data: bytes) -> object:
            with open(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as sink:
                sink.write(data)
            return read()

        return parse

    def event_file() -> bytes:
        opened = EventFile(file, lambda text: None)
        try:
            return opened.last_line()
        finally:
            opened.close()

    reply = {"schema": protocol.RECOVERY_SCHEMA, "epoch": _EPOCH, "more": True, "last": {_TOPIC: [_EPOCH, 9]}}
    cursor = {"schema": SCHEMA, "base": _EPOCH, "places": {_TOPIC: [_EPOCH, 3]}, "output_bytes": 9}
    key_file = f'metadata\ncurve\n    public-key = "{public.decode()}"\n    secret-key = "{secret.decode()}"\n'
    request = json.dumps({"from": {_TOPIC: 0}, "epoch": "first", "request": "x", "limit": 3}).encode()
    return {
        "event body": (lambda data: protocol.decode_message([_TOPIC.encode(), data]), _EVENT),
        "event topic": (lambda data: protocol.decode_message([data, _EVENT]), _TOPIC.encode()),
        "request": (answerer.answer, request),
        "reply": (protocol.decode_reply, json.dumps({**reply, "events": [[_TOPIC, json.loads(_EVENT)]]}).encode()),
        "handshake": (lambda data: gate._authenticate([data[i : i + 9] for i in range(0, len(data), 9)]), b"1.0" * 21),
        "cursor file": (through_file(lambda: load_cursor(file)), json.dumps(cursor).encode()),
        "key file": (through_file(lambda: curve.load_pair(file)), key_file.encode()),
        "event file": (through_file(event_file), _EVENT + b"\n" + _EVENT),
        "configuration": (through_file(lambda: load_config(file)), b'[cameras.gate]\nsource = "a.mp4"\nstride = 8\n'),
    }


def mutated(valid: bytes) -> st.SearchStrategy[bytes]:
    """`valid` with one to four edits: bytes replaced, cut out, put in."""

    def mutate(edits: list[tuple[int, int, bytes]]) -> bytes:
        data = bytearray(valid)
        for place, length, new in edits:
            at = place % (len(data) + 1)
            data[at : at + length] = new
        return bytes(data)

    return st.lists(
        st.tuples(st.integers(0, 4095), st.integers(0, 8), st.binary(max_size=6)), min_size=1, max_size=4
    ).map(mutate)


def _shaken(dice: random.Random, valid: bytes) -> bytes:
    """`valid` with one to four random edits."""
    data = bytearray(valid)
    for _ in range(dice.randint(1, 4)):
        at = dice.randrange(len(data) + 1)
        data[at : at + dice.randrange(9)] = dice.randbytes(dice.randrange(7))
    return bytes(data)


def fuzz(random_inputs: int, mutations: int, number: int) -> dict[str, Any]:
    """`random_inputs` byte sequences, each given to every parser, and `mutations` of a valid input for each parser."""
    strangers: dict[str, str] = {}
    counts = {"random": 0, "mutated": 0, "accepted": 0, "refused": 0}

    def feed(name: str, parse: Callable[[bytes], object], data: bytes) -> None:
        try:
            parse(data)
            counts["accepted"] += 1
        except StreamDetectorError as error:
            counts["refused"] += 1
            if "\n" in str(error):
                strangers.setdefault(name, f"more than one line: {error!r}")
        except Exception as error:  # whatever else comes is a finding
            strangers.setdefault(name, f"{type(error).__name__}: {error} for {data[:200]!r}")

    rules: dict[str, Any] = {
        "deadline": None,
        "database": None,
        "phases": [Phase.generate],
        "suppress_health_check": list(HealthCheck),
    }
    begun_s = time.monotonic()
    memory = "/dev/shm" if Path("/dev/shm").is_dir() else None
    with tempfile.TemporaryDirectory(dir=memory) as folder, ExitStack() as stack:
        table = parsers(Path(folder), stack)

        @seed(number)
        @settings(max_examples=-(-random_inputs // _EACH), **rules)
        @given(st.binary(max_size=400), st.integers(0, 2**64))
        def at_random(first: bytes, state: int) -> None:
            dice = random.Random(state)
            others = [dice.randbytes(dice.randrange(400)) for _ in range(_EACH - 1)]
            for data in (first, *others):
                counts["random"] += 1
                for name, (parse, _) in table.items():
                    feed(name, parse, data)

        def mutate_all(name: str, parse: Callable[[bytes], object], valid: bytes) -> None:
            @seed(number)
            @settings(max_examples=-(-mutations // _EACH), **rules)
            @given(mutated(valid), st.integers(0, 2**64))
            def by_mutation(first: bytes, state: int) -> None:
                dice = random.Random(state)
                for data in (first, *(_shaken(dice, valid) for _ in range(_EACH - 1))):
                    counts["mutated"] += 1
                    feed(name, parse, data)

            by_mutation()

        at_random()
        for name, (parse, valid) in table.items():
            mutate_all(name, parse, valid)
    enough = counts["random"] >= random_inputs * 0.99 and counts["mutated"] >= mutations * len(table) * 0.99
    return {
        **counts,
        "parsers": list(table),
        "foreign_exceptions": strangers,
        "seconds": round(time.monotonic() - begun_s, 1),
        "passed": not strangers and enough,
    }
