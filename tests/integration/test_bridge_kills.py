"""kill -9 of every kind of bridge and of the broker, in small; `python -m benchmarks faults --only bridges` in full."""

from __future__ import annotations

from pathlib import Path

import pytest
from bridge_rig import MOSQUITTO

from benchmarks.faultlib.bridges import KINDS, judge_events, judge_messages, kill_bridges
from benchmarks.faultlib.judge import Event

pytestmark = pytest.mark.integration


@pytest.mark.skipif(MOSQUITTO is None, reason="mosquitto is not installed; run .ci/install-mosquitto.sh")
@pytest.mark.parametrize("kind", [*KINDS, "broker"])
def test_kills_lose_nothing(tmp_path: Path, kind: str) -> None:
    if kind == "notify":
        pytest.importorskip("apprise")
    if kind in ("mqtt", "broker"):
        pytest.importorskip("paho.mqtt")
    result = kill_bridges(tmp_path, 3, seed=7, kinds=(kind,))["by_kind"][kind]
    assert result["passed"], result
    assert result["lost"] == result["invented"] == 0 and result["events"] > 0


def event(seq: int, what: str = "update", name: str = "a" * 32) -> Event:
    return Event("v1/alarm/cam0/", "e" * 16, seq, name, what, "")


def test_the_judge_sees_what_is_lost_doubled_invented_and_out_of_order() -> None:
    written = [event(n) for n in range(1, 5)]
    got = [event(n) for n in (1, 3, 2, 3, 9)]
    counts = judge_events(got, written)
    assert counts == {"events": 4, "lost": 1, "invented": 1, "disordered": 2, "repeats": 1}


def test_the_judge_of_messages_counts_alarms_by_their_names() -> None:
    written = [event(1, "start"), event(2), event(3, "end"), event(4, "start", "b" * 32)]
    assert judge_messages([("a" * 8, "start"), ("a" * 8, "start"), ("c" * 8, "end")], written) == {
        "events": 2,
        "lost": 2,
        "invented": 1,
        "repeats": 1,
    }
