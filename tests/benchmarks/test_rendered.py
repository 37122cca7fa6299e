"""What counts as an alarm that covers its incident."""

from __future__ import annotations

import pytest

from benchmarks.rendered import judged, summary


@pytest.mark.parametrize(
    ("alarms", "begins", "ends", "covered"),
    [
        ([[10.5, 19.0]], True, True, 0.85),
        ([[10.0, 21.9]], True, True, 1.0),
        ([[9.9, 20.0]], False, True, 1.0),  # before the incident: for something else
        ([[12.5, 20.0]], False, True, 0.75),
        ([[11.0, 14.0]], True, False, 0.3),
        ([[11.0, 14.0], [17.0, 20.0]], False, False, 0.6),
        ([], False, False, 0.0),
    ],
)
def test_an_alarm_covers_its_incident_from_start_to_end(
    alarms: list[list[float]], begins: bool, ends: bool, covered: float
) -> None:
    found = judged(alarms, 10.0, 20.0)
    assert (found["begins"], found["ends"]) == (begins, ends)
    assert found["covered"] == pytest.approx(covered)


def test_scenes_of_both_kinds_are_counted_apart() -> None:
    incident = {"seed": 1, "incident": [10.0, 20.0], "alarms": [[11.0, 20.5]]}
    missed = {"seed": 2, "incident": [10.0, 20.0], "alarms": []}
    quiet = {"seed": 1, "incident": None, "alarms": [[3.0, 5.0]]}
    with_one, without = summary([incident, missed, quiet])
    assert (with_one["it covers the incident"], with_one["no alarm"], with_one["exactly one"]) == (1, 1, 1)
    assert (without["no alarm"], without["exactly one"]) == (0, 1)
