"""The ring of packets: bounded, whole groups, media time, and what a reader that is late misses."""

from __future__ import annotations

import itertools
from pathlib import Path

import av
import pytest
from hypothesis import given
from hypothesis import strategies as st
from video_rig import fill, make_video

from stream_detector.capture.packets import Connection, PacketRing, decode_times


@pytest.fixture(scope="module")
def video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("ring") / "a.ts"
    make_video(path, 20)
    return path


def test_a_ring_keeps_whole_groups_within_its_bytes(video: Path) -> None:
    ring = PacketRing(20_000, 1000.0)
    fill(ring, video)
    held = ring.after(0)
    assert held[0].key and sum(len(packet.data) for packet in held) == ring.held_bytes <= 20_000
    assert held[-1].serial == 500 and len(held) > 25


def test_a_ring_keeps_what_is_wanted_and_the_group_in_which_it_begins(video: Path) -> None:
    ring = PacketRing(100_000_000, 5.0)
    fill(ring, video)
    held = ring.after(0)
    span_s = (held[-1].stamp_s or 0) - (held[0].stamp_s or 0)
    assert held[0].key and 5.0 <= span_s <= 6.1


def test_media_time_and_the_key_frame_before(video: Path) -> None:
    ring = PacketRing(100_000_000, 1000.0)
    fill(ring, video, shift_s=100.0)
    first = ring.after(0)[0]
    assert first.media_s is not None
    begin_s = first.media_s
    serial = ring.key_before(begin_s + 7.3)
    assert serial is not None
    packet = ring.after(serial - 1)[0]
    assert packet.key and packet.media_s == pytest.approx(begin_s + 7.0, abs=0.1)
    assert ring.key_before(begin_s - 50) == first.serial  # nothing that old: what there is
    near = ring.key_near(begin_s + 7.6)
    assert near is not None and near.media_s == pytest.approx(begin_s + 8.0, abs=0.1)


def test_packets_of_a_former_connection_are_refused(video: Path) -> None:
    ring = PacketRing(100_000_000, 1000.0)
    old = fill(ring, video)
    count = ring.newest_serial
    ring.use(Connection(ring))
    with av.open(str(video)) as container:
        for packet in container.demux(video=0):
            if packet.size:
                old.add(packet)
    assert ring.newest_serial == count


def test_stamps_that_jump_begin_a_run_with_its_own_media_time(tmp_path: Path) -> None:
    a, b = tmp_path / "a.ts", tmp_path / "b.ts"
    make_video(a, 3)
    make_video(b, 3)
    ring = PacketRing(100_000_000, 1000.0)
    connection = fill(ring, a, shift_s=0.0)
    with av.open(str(b)) as container:
        stream = container.streams.video[0]
        for packet in container.demux(stream):
            if packet.size and packet.pts is not None and packet.dts is not None:
                packet.pts, packet.dts = packet.pts + 3600 * 90_000, packet.dts + 3600 * 90_000
                connection.add(packet)
                connection.place(float(packet.pts * packet.time_base), float(packet.pts * packet.time_base) - 3597.0)
    times = [packet.media_s or 0.0 for packet in ring.after(0)]
    first = times[0]
    assert max(times) - first < 6.3 and len({id(packet.run) for packet in ring.after(0)}) == 2
    assert [packet.at_s for packet in ring.after(0)] == sorted(packet.at_s for packet in ring.after(0))


def test_a_stream_without_stamps_is_placed_by_its_newest_packet(tmp_path: Path) -> None:
    path = tmp_path / "raw.h264"
    make_video(path, 4, form="h264", options={"preset": "veryfast", "bf": "0"})
    ring = PacketRing(100_000_000, 1000.0)
    connection = Connection(ring)
    ring.use(connection)
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        connection.begin(stream)
        for number, packet in enumerate(p for p in container.demux(stream) if p.size):
            packet.pts = packet.dts = None
            connection.add(packet)
            connection.place(None, 50.0 + number / 25)
    times = [packet.media_s or 0.0 for packet in ring.after(0)]
    assert times[0] == pytest.approx(50.0, abs=0.1) and times[-1] == pytest.approx(54.0, abs=0.2)


def test_one_group_larger_than_the_ring_is_let_go(video: Path) -> None:
    ring = PacketRing(3_000, 1000.0)
    fill(ring, video)
    assert ring.held_bytes <= 3_000


@given(st.permutations(list(range(12))), st.integers(1, 3600))
def test_decoding_times_rise_and_are_never_late(order: list[int], step: int) -> None:
    stamps = [place * step for place in order]
    times = decode_times(stamps)
    assert all(late > early for early, late in itertools.pairwise(times))
    assert all(due <= shown for due, shown in zip(times, stamps, strict=True))
