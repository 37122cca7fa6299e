"""kill -9 during promotion, rollback and adapt: never between two models, and the journal tells which is in service."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
from pathlib import Path
from typing import Any

import pytest

from stream_detector.adaptation import overlay as overlay_module
from stream_detector.adaptation.overlay import Overlay
from stream_detector.adaptation.service import Service
from stream_detector.events.ledger import Ledger
from stream_detector.events.protocol import rfc3339, topic_of
from stream_detector.types import SystemClock

BUNDLE = "b" * 16
ACCEPTED = {"gate": {"accepted": True, "sentence": ""}}
OVERLAYS = [Overlay(BUNDLE, "gate", level / 10, 1.0, facts=ACCEPTED) for level in (3, 4, 5)]


def change_for_ever(folder: Path, pipe: Any) -> None:
    """Promote and roll back in turn as a run does it: journal, then state."""
    clock = SystemClock()
    service, ledger = Service.load(folder), Ledger(folder / "l.sqlite3", clock=clock)
    number = 0
    while True:
        utc = clock.utc()
        change = (
            service.rolled_back("gate")
            if number % 3 == 2
            else service.promoted(OVERLAYS[(number + number // 3) % 3], utc)
        )
        body = {"camera": "gate", **change, "emitted_utc": rfc3339(utc)}
        ledger.append(topic_of("site", "gate"), body)
        service.apply("gate", body, (str(body["epoch"]), int(body["seq"])), utc)
        number += 1
        pipe.send(number)


@pytest.mark.parametrize("until", [1, 2, 7, 30])
def test_a_kill_during_promotion_or_rollback_leaves_what_the_journal_says(tmp_path: Path, until: int) -> None:
    for overlay in OVERLAYS:
        overlay.save(Service(tmp_path).path(overlay.fingerprint))
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe(duplex=False)
    process = context.Process(target=change_for_ever, args=(tmp_path, theirs))
    process.start()
    try:
        while ours.poll(120) and ours.recv() < until:
            pass
    finally:
        os.kill(process.pid or 0, signal.SIGKILL)
        process.join(30)
        ours.close()
        theirs.close()
    ledger = Ledger(tmp_path / "l.sqlite3", clock=SystemClock())
    try:
        events = [json.loads(row.text) for _, row in ledger.events_after(0, "v1/site/", 10_000)]
    finally:
        ledger.close()
    service = Service.load(tmp_path)  # whole, whatever the moment
    service.reconcile(events, "_detector")
    newest = events[-1]
    assert service.of("gate") == (newest["overlay"] or "")
    if service.of("gate"):
        assert service.load_overlay(service.of("gate")).threshold in (0.3, 0.4, 0.5)


class Killed(BaseException):
    """Stands for the moment of a kill: nothing after it runs, not even what tidies up."""


@pytest.mark.parametrize("moment", range(6))
def test_a_stop_while_an_overlay_is_written_leaves_none_or_a_whole_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moment: int
) -> None:
    calls = 0
    service = Service(tmp_path)
    service.apply("gate", {"type": "promoted", "overlay": "1" * 16}, ("e" * 16, 1), 1.0)

    def step(real: Any) -> Any:
        def wrapped(*args: Any, **options: Any) -> Any:
            nonlocal calls
            calls += 1
            if calls > moment:
                raise Killed
            return real(*args, **options)

        return wrapped

    with monkeypatch.context() as patched:
        for name in ("replace", "fsync", "open"):
            patched.setattr(overlay_module.os, name, step(getattr(os, name)))
        try:
            OVERLAYS[0].save(service.path(OVERLAYS[0].fingerprint))
            service.set_shadow("gate", OVERLAYS[0].fingerprint, 0.0, 1.0)
        except Killed:
            pass
    again = Service.load(tmp_path)
    assert again.of("gate") == "1" * 16  # adapt never changes what is in service
    found = again.overlays()
    assert not found or found[0].fingerprint == OVERLAYS[0].fingerprint
