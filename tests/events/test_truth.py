"""The journal is the truth: whatever happens, every alarm whose start reached it is told once, and ended once.

Lives of a detector are made up by hypothesis: what is decided, when the disk fails and is mended, when files are
rotated or deleted, and at which point the process is killed. Then one healthy life; then everything is counted.
"""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path

from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from lives import CAMERAS, KILLS, Kill, Life, World, a_status, counts

ACTS = ("alarm gate", "alarm gate", "alarm yard", "status", "tick", "long tick", "listen", "rotate")
TROUBLES = ("deaf", "hear", "fill", "free", "delete journal", "ahead", "back")


@dataclass(frozen=True)
class Story:
    """One life. disk: how the journal's disk is at its beginning.  kill: at which point, at which time; None: stop."""

    disk: str
    acts: tuple[str, ...]
    kill: tuple[str, int] | None


STORIES = st.builds(
    Story,
    st.sampled_from(("healthy", "healthy", "read-only", "full")),
    st.lists(st.sampled_from(ACTS + TROUBLES), max_size=14).map(tuple),
    st.none() | st.tuples(st.sampled_from(KILLS), st.integers(0, 8)),
)


def act(world: World, life: Life, what: str) -> None:
    if what.startswith("alarm"):
        life.alarm(what.split()[1])
    elif what == "status":
        life.publisher.status(a_status("gate"))
    elif what in ("tick", "long tick"):
        life.tick(2.0 if what == "tick" else 31.0)
    elif what == "listen":
        world.listener.take()
    elif what == "rotate":
        world.rotate()
    elif what in ("deaf", "hear"):
        world.heard = what == "hear"
    elif what in ("fill", "free"):
        world.full = what == "fill"
        world.read_only = False if what == "free" else world.read_only
    elif what == "delete journal":
        if not life.ledger.degraded:
            world.delete_journal()
            life.tick(2.0)  # within seconds
    else:
        world.clock._offset_s += 31 * 86400 if what == "ahead" else -31 * 86400


def live(world: World, story: Story) -> None:
    world.read_only, world.full = story.disk == "read-only", story.disk == "full"
    world.kill_at = story.kill
    offset_s = world.clock._offset_s
    life = Life(world)
    try:
        life.open()
        for what in story.acts:
            act(world, life, what)
        if story.kill is None:
            life.stop()
        else:
            raise Kill
    except Kill:
        life.kill()
    finally:
        world.clock._offset_s = offset_s  # a clock that is ahead in two lives says that a month has passed
        world.kill_at = None
        world.listener.client.answer = None


def last_life(world: World) -> None:
    """Healthy, heard, long enough; ended in order."""
    world.heard = True
    world.read_only = world.full = False
    life = Life(world)
    life.open()
    for _ in range(3):
        life.tick(2.0)
        world.listener.take()
    life.alarm("gate")
    world.listener.take()
    life.stop()
    world.listener.take()


def tell(stories: list[Story], folder: Path) -> World:
    world = World(folder)
    with world.patched():
        for story in stories:
            live(world, story)
        last_life(world)
    return world


def judge(world: World) -> None:
    journalled = counts(world.journalled())
    in_file, heard = counts(world.lines()), counts(world.listener.events)
    for name in world.started | {name for name, types in journalled.items() if types["start"]}:
        for where in (journalled, in_file, heard):
            types = where.get(name, {})
            assert types.get("start") == 1 and types.get("end") == 1, (name, types, where is in_file, where is heard)
    for name, types in [*in_file.items(), *heard.items()]:
        assert types["start"] <= 1 and types["end"] <= 1, (name, types)
    last: dict[tuple[str, str, str], int] = {}
    for body in world.journalled():  # in the order of its rows, which readers of the file follow
        topic = (body["schema"], body["camera"], body["epoch"])
        assert body["seq"] > last.get(topic, 0), body
        last[topic] = body["seq"]
    places = [(b["camera"], b["epoch"], b["seq"]) for b in world.lines() if "id" in b]
    assert len(places) == len(set(places))


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(STORIES, min_size=1, max_size=4))
@example([Story("healthy", ("alarm gate",), ("committed", 0))])  # between commit and file, first event of an epoch
@example([Story("healthy", ("alarm gate",), ("idle", 0)), Story("read-only", (), ("idle", 0))])
@example([Story("healthy", ("alarm gate", "fill", "alarm gate"), ("idle", 0))])
@example([Story("healthy", ("alarm gate",), ("written", 0)), Story("healthy", ("fill", "delete journal"), None)])
@example([Story("healthy", ("tick", "listen", "alarm gate", "listen", "fill", "alarm gate", "listen"), ("idle", 0))])
@example([Story("healthy", ("alarm gate",), ("idle", 0)), Story("read-only", ("tick", "listen"), ("idle", 0))])
@example([Story("healthy", ("tick", "listen", "alarm gate", "listen", "delete journal", "alarm yard"), ("idle", 0))])
@example([Story("read-only", ("alarm gate", "free", "long tick", "listen", "fill"), None)])
@example([Story("healthy", ("alarm gate",), ("committed", 0)), Story("read-only", (), None)])
@example([Story("full", ("alarm gate", "alarm gate", "free", "long tick", "rotate"), None)])
@example(
    [
        Story("healthy", ("alarm gate",), ("before", 1)),
        Story("full", ("alarm gate", "alarm gate", "rotate", "free", "long tick", "rotate"), None),
    ]
)
@example(
    [
        Story("healthy", ("alarm gate",), ("before", 1)),
        Story("full", (*["alarm gate"] * 3, "free", "long tick", "fill", "alarm gate", "alarm gate", "rotate"), None),
    ]
)
@example(
    [
        Story("healthy", ("alarm gate",), ("before", 1)),
        Story("full", ("alarm gate", "rotate", "free", "long tick", "fill"), None),
    ]
)
@example(
    [
        Story("healthy", ("alarm gate",), ("before", 1)),
        Story("full", ("alarm gate", "free", "long tick"), None),  # back on the disk within the first look at it
    ]
)
def test_every_alarm_that_reached_the_journal_has_one_start_and_one_end(stories: list[Story]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        judge(tell(stories, Path(folder)))


def test_the_cameras_of_the_stories_are_those_of_the_lives() -> None:
    assert {what.split()[1] for what in ACTS if what.startswith("alarm")} == set(CAMERAS)
