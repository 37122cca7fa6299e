"""The fault campaign's judge sees every fault that it is there for."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from benchmarks.faultlib.judge import Event, Heard, Line, judge_lives, lines_of, lives_passed

TOPIC = "v1/alarm/gate/"


def event(seq: int, kind: str, name: str = "a", reason: str = "", epoch: str = "1" * 16) -> Event:
    return Event(TOPIC, epoch, seq, name, kind, reason)


WRITTEN = [event(1, "start"), event(2, "update"), event(3, "end"), event(4, "start", "b"), event(5, "end", "b")]
Story = tuple[list[Heard], list[Event], list[list[Line]]]


def good() -> Story:
    """Told, written, and in two event files, of which the second follows the first."""
    lines = [Line(e, ("", "", 0), False) for e in WRITTEN]
    second = [Line(None, WRITTEN[2][:3], False), *lines[3:]]
    return [Heard(e, False) for e in WRITTEN], list(WRITTEN), [lines[:3], second]


def drop_told(story: Story) -> None:
    del story[0][1]


def tell_twice(story: Story) -> None:
    story[0].append(story[0][1])


def invent(story: Story) -> None:
    story[0].append(Heard(event(9, "update", "b"), False))


def disorder(story: Story) -> None:
    story[0][1], story[0][2] = story[0][2], story[0][1]


def leave_open(story: Story) -> None:
    del story[0][4], story[1][4], story[2][1][2]


def end_twice(story: Story) -> None:
    again = event(6, "end", "b", "restart")
    story[0].append(Heard(again, False))
    story[1].append(again)
    story[2][1].append(Line(again, ("", "", 0), False))


def forget_the_start(story: Story) -> None:
    del story[1][3]


def lose_a_line(story: Story) -> None:
    del story[2][0][2]


def double_a_line(story: Story) -> None:
    story[2][1].append(story[2][1][1])


def begin_wrong(story: Story) -> None:
    story[2][1][0] = Line(None, WRITTEN[1][:3], False)


@pytest.mark.parametrize(
    ("spoil", "found"),
    [
        (drop_told, {"missing": 1}),
        (tell_twice, {"twice": 1}),
        (invent, {"invented": 1}),
        (disorder, {"disordered": 1}),
        (leave_open, {"unended": 1, "file_unended": 1}),
        (end_twice, {"ended_twice": 1, "file_ended_twice": 1}),
        (forget_the_start, {"invented": 1, "file_invented": 1}),
        (lose_a_line, {"file_missing": 1, "file_unended": 1}),
        (double_a_line, {"file_twice": 1, "file_started_twice": 1}),
        (begin_wrong, {"file_wrong_begin": 1}),
    ],
)
def test_every_fault_is_counted(spoil: Callable[[Story], None], found: dict[str, int]) -> None:
    assert lives_passed(judge_lives(*good()))
    story = good()
    spoil(story)
    counts = judge_lives(*story)
    assert {name: counts[name] for name in found} == found and not lives_passed(counts)


def test_what_was_never_on_disk_is_promised_to_nobody_but_must_not_come_twice() -> None:
    told, written, files = good()
    loose = Heard(event(1, "start", "c", epoch="2" * 16), True)
    assert lives_passed(judge_lives([*told, loose], written, files))
    assert not lives_passed(judge_lives([*told, loose, loose], written, files))


def test_an_end_that_was_told_before_it_was_on_disk_stands_for_the_one_on_disk() -> None:
    told, written, files = good()
    written[4] = event(1, "end", "b", "restart", epoch="3" * 16)
    files[1][2] = Line(written[4], ("", "", 0), False)
    told[4] = Heard(event(1, "end", "b", epoch="2" * 16), True)
    assert lives_passed(judge_lives(told, written, files))


def test_a_torn_last_line_is_left_out_and_another_one_is_an_error(tmp_path: Path) -> None:
    whole = json.dumps({"schema": "stream-detector.follows/1", "topic": TOPIC, "epoch": "1" * 16, "seq": 3})
    path = tmp_path / "e.jsonl"
    path.write_text(f'{whole}\n{{"schema":"str')
    assert [line.follows for line in lines_of(path)] == [(TOPIC, "1" * 16, 3)]
    path.write_text(f'{{"schema":"str\n{whole}\n')
    with pytest.raises(ValueError):
        lines_of(path)
