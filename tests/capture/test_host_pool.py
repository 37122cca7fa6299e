"""How many capture hosts there are, what they may take of the memory, and the windows' way through it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stream_detector.capture.host_pool import (
    FEW_CAMERAS,
    HostPlan,
    is_movable,
    layout_of,
    measured_picture_s,
    plan_hosts,
)
from stream_detector.capture.readers import READERS
from stream_detector.capture.shared_slots import SharedSlots, SlotLayout, slots_each
from stream_detector.config import CameraConfig
from stream_detector.models.recipe import Recipe
from tests import host_cameras

RECIPE = Recipe("stream-112", (112, 112), (0.0, 0.0, 0.0), (1.0, 1.0, 1.0), 1.0)
GIB = 1 << 30


def cameras(count: int, source: str = "rtsp://10.0.0.{}/live") -> list[CameraConfig]:
    return [CameraConfig(name=f"cam{n}", source=source.format(n)) for n in range(count)]


def plan(asked: Any, count: int, cores: int, available: int | None = 64 * GIB, cost_s: float = 0.002) -> HostPlan:
    return plan_hosts(asked, cameras(count), RECIPE, 4, cores=cores, available=available, picture_s=lambda _: cost_s)


@pytest.mark.parametrize(
    ("asked", "count", "cores", "processes"),
    [
        ("auto", 1, 16, 0),
        ("auto", FEW_CAMERAS, 16, 0),
        ("auto", 64, 1, 0),
        ("auto", 28, 2, 1),
        ("auto", 32, 16, 4),  # 32 × 25 × 2 ms = 1.6 cores of pictures, half a core a host
        ("auto", 256, 16, 15),  # one core is left to the main process
        (0, 64, 16, 0),
        (4, 64, 2, 4),
        (40, 3, 16, 3),
    ],
)
def test_processes_by_cameras_and_cores(asked: Any, count: int, cores: int, processes: int) -> None:
    made = plan(asked, count, cores)
    assert made.processes == processes
    assert made.slots_each == 6
    assert f"{count} camera{'' if count == 1 else 's'}" in made.sentence


def test_files_alone_need_no_process_unless_asked_for() -> None:
    files = cameras(50, "clip{}.mp4")
    for asked, processes in (("auto", 0), (2, 2)):
        made = plan_hosts(asked, files, RECIPE, 4, cores=16, available=64 * GIB, picture_s=lambda _: 0.002)  # type: ignore[arg-type]
        assert made.processes == processes


def test_only_so_many_files_have_slots_as_are_open_at_once() -> None:
    files = cameras(300, "clip{}.mp4")
    made = plan_hosts(2, files, RECIPE, 4, cores=2, available=GIB // 8, picture_s=lambda _: 0.002, at_once=8)
    assert (made.processes, made.slots_each) == (2, 6)


def test_short_memory_gives_fewer_slots_in_one_sentence_and_none_keeps_cameras_here() -> None:
    slot = layout_of(RECIPE, 1).slot_bytes
    short = plan(8, 64, 16, available=64 * 3 * slot * 2)
    assert (short.processes, short.slots_each) == (8, 3)
    assert "memory is short: 3 windows a camera instead of 6" in short.sentence
    none = plan(8, 64, 16, available=64 * slot)
    assert none.processes == 0
    assert "no memory" in none.sentence


@given(st.integers(1, 500), st.integers(2, 64), st.integers(1, 1 << 24), st.integers(0, 1 << 40))
def test_slots_never_take_more_than_their_share(count: int, wanted: int, slot: int, available: int) -> None:
    each = slots_each(count, wanted, slot, available)
    assert each == 0 or 2 <= each <= wanted
    assert each * count * slot <= available / 2


def test_what_another_process_cannot_read_stays_here() -> None:
    assert not is_movable(CameraConfig(name="in", source="pipe:"))
    assert is_movable(CameraConfig(name="in", source="pipe:/run/camera.fifo"))
    assert is_movable(CameraConfig(name="n", source="numbered:/x"))  # a module registers it, which can be imported
    assert host_cameras.NumberedCamera.__module__ == "tests.host_cameras"

    class Own:
        live = True

    Own.__module__ = "__main__"
    READERS.register("of-a-script")(Own)  # type: ignore[arg-type]
    try:
        assert not is_movable(CameraConfig(name="n", source="of-a-script:x"))
    finally:
        READERS.unregister("of-a-script")


@pytest.mark.parametrize("views", [1, 3])
def test_slots_are_apart_and_come_back(views: int) -> None:
    layout = SlotLayout((10, 12), views, 5)
    main = SharedSlots.create(layout)
    host = SharedSlots(main.descriptor, layout)
    taken = [host.take(range(1, 4)) for _ in range(4)]
    assert taken == [1, 2, 3, None]
    for slot in range(5):
        for view, pixels in enumerate(host.views(slot)):
            pixels[...] = 10 * slot + view
    for slot in range(5):
        assert [int(pixels.min()) for pixels in main.views(slot)] == [10 * slot + view for view in range(views)]
        assert [int(pixels.max()) for pixels in main.views(slot)] == [10 * slot + view for view in range(views)]
        assert all(pixels.shape == (16, 10, 12, 3) for pixels in main.views(slot))
    main.set_free(2)
    assert host.take(range(5)) == 0
    assert host.take(range(1, 4)) == 2
    main.share = 0.4
    assert host.share == pytest.approx(0.4, abs=0.01)
    view = np.array(main.views(4)[0])
    kept = main.views(4)[0]
    main.close()
    assert (kept == view).all()  # the memory stays as long as a window lies in it


def test_the_cost_of_a_picture_is_measured() -> None:
    assert 1e-5 < measured_picture_s(RECIPE) < 1.0
