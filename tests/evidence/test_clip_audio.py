"""Sound of a camera, which clips and recordings keep only if its setting `audio` asks for it."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

import av
import numpy as np
import pytest
from evidence_rig import Rig
from video_rig import fill, make_video, read_back, tone_of

from stream_detector.capture.decoder import Decoder
from stream_detector.capture.packets import Connection, PacketRing
from stream_detector.config import build_config
from stream_detector.errors import ConfigError

MASK = {"mask": [[0.6, 0], [1, 0], [1, 1], [0.6, 1]]}
FORMS = [("aac", "mpegts"), ("aac", "mp4"), ("libopus", "matroska"), ("mp3", "matroska"), ("ac3", "mpegts")]


@pytest.mark.parametrize(("codec", "form"), FORMS)
@pytest.mark.parametrize("camera", [{}, MASK], ids=["remuxed", "masked"])
def test_sound_lies_beside_its_picture(
    codec: str, form: str, camera: dict[str, object], rig: Callable[..., Rig], tmp_path: Path
) -> None:
    """The tone of second 10 is heard while the pictures of second 10 are shown."""
    source = tmp_path / "source.media"
    make_video(source, 20, form=form, sound=codec, tone_s=10.0)
    evidence = rig(camera={"audio": True, **camera})
    evidence.fill(source)
    evidence.alarm(8.0, 12.0)
    evidence.close()
    assert evidence.errors == []
    times, seconds = read_back(evidence.clip())
    shown = [at for at, second in zip(times, seconds, strict=True) if second == 10]
    tone = tone_of(evidence.clip())
    assert tone is not None
    assert tone[0] == pytest.approx(shown[0], abs=0.06)
    assert tone[1] == pytest.approx(shown[-1] + 0.04, abs=0.06)


def test_a_recording_keeps_all_of_the_sound(rig: Callable[..., Rig], tmp_path: Path) -> None:
    source = tmp_path / "source.mkv"
    make_video(source, 12, sound="libopus", tone_s=5.0)
    recordings = tmp_path / "recordings"
    evidence = rig(
        camera={"audio": True, "record": "always"},
        more={"recording": {"directory": recordings, "segment_s": 4}},
    )
    evidence.fill(source)
    evidence.close()
    files = sorted(recordings.glob("gate/*.mp4"))
    assert len(files) == 3
    heard_s = 0.0
    for path in files:
        with av.open(str(path)) as container:
            heard_s += sum(frame.samples / frame.sample_rate for frame in container.decode(audio=0))
    assert heard_s == pytest.approx(12.0, abs=0.4)  # a decoder drops its first samples of every file


def test_sound_that_mp4_does_not_take_is_named_once(
    rig: Callable[..., Rig], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    source = tmp_path / "source.mov"
    make_video(source, 12, sound="pcm_mulaw")
    evidence = rig(camera={"audio": True})
    with caplog.at_level(logging.WARNING):
        evidence.fill(source)
        tap = evidence.tap()
        fill(tap.ring, source, connection=tap.connection())  # it connects again
    evidence.alarm(6.0, 8.0)
    evidence.close()
    assert evidence.errors == [] and tone_of(evidence.clip()) is None
    told = [record.message for record in caplog.records if "audio = true" in record.message]
    assert len(told) == 1 and "gate" in told[0] and "pcm_mulaw" in told[0] and "aac" in told[0]


def test_an_audio_stream_that_falls_silent_leaves_the_video_whole(rig: Callable[..., Rig], tmp_path: Path) -> None:
    source = tmp_path / "source.mp4"
    make_video(source, 12, sound="aac")
    evidence = rig(camera={"audio": True})
    tap = evidence.tap()
    tap.ring._keep_s = 1000.0
    connection = tap.connection()
    with av.open(str(source)) as container:
        video, audio = container.streams.video[0], container.streams.audio[0]
        connection.begin(video, audio)
        for packet in container.demux(video):
            if packet.size and packet.pts is not None:
                connection.add(packet)
                at_s = float(packet.pts * packet.time_base)
                connection.place(at_s, at_s)
    evidence.alarm(6.0, 8.0)
    evidence.close()
    assert evidence.errors == []
    times = read_back(evidence.clip())[0]
    assert len(times) >= 7 * 25 and np.diff(times) == pytest.approx(0.04, abs=1e-3)


def test_the_decoder_gives_the_same_pictures_with_sound(tmp_path: Path) -> None:
    source = tmp_path / "source.ts"
    make_video(source, 6, form="mpegts", sound="aac")

    def pictures(wants_audio: bool) -> tuple[list[float], PacketRing]:
        ring = PacketRing(1 << 24, 1000.0)
        decoder = Decoder(str(source))
        decoder.tap = connection = Connection(ring, wants_audio)
        ring.use(connection)
        decoder.open()
        times = []
        while not decoder.ended:
            frame = decoder.next()
            if frame is not None:
                times.append(frame.media_s)
        decoder.close()
        return times, ring

    plain, silent = pictures(False)
    heard, ring = pictures(True)
    assert plain == heard and len(plain) == 150
    assert silent.audio_after(0) == []
    assert len(ring.audio_after(0)) == pytest.approx(6 * 48_000 / 1024, abs=3)


def test_a_ring_counts_the_bytes_of_the_sound_and_lets_it_go_with_the_pictures(tmp_path: Path) -> None:
    source = tmp_path / "source.mkv"
    make_video(source, 20, sound="libopus")
    ring = PacketRing(1 << 30, 5.0)
    fill(ring, source, connection=Connection(ring, wants_audio=True))
    audio, video = ring.audio_after(0), ring.after(0)
    assert ring.held_bytes == sum(len(packet.data) for packet in [*audio, *video])
    assert audio[0].at_s >= video[0].at_s and len(audio) < 400
    ring.set_limit(1)
    assert ring.held_bytes == 0 and ring.audio_after(0) == []


def test_audio_of_a_source_without_sound_is_refused() -> None:
    with pytest.raises(ConfigError, match="audio = true needs a file or a network camera"):
        build_config({"cameras": {"desk": {"source": "0", "audio": True}}})
