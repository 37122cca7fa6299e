"""Source strings → cameras; and no credential gets out."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stream_detector.capture.sources import demo_options, expand_cameras, parse_sources
from stream_detector.cli.score import find_videos
from stream_detector.config import CAMERA_NAME, CameraConfig
from stream_detector.config.secret_file import read_secret
from stream_detector.config.source import Source
from stream_detector.errors import ConfigError, SourceError


def touch(folder: Path, *names: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        (folder / name).write_bytes(b"x")


def pairs(*args: str) -> list[tuple[str, str]]:
    return [(camera.name, camera.source.reveal()) for camera in parse_sources(args)]


@pytest.mark.parametrize(
    ("source", "which", "live"),
    [
        ("clip.mp4", "file", False),
        ("/tmp/a b.avi", "file", False),
        ("file:///tmp/a.avi", "file", False),
        ("rtsp://host/live", "rtsp", True),
        ("RTSPS://host/live", "rtsp", True),
        ("http://host:8080/video", "http", True),
        ("https://host/x.m3u8", "http", True),
        ("0", "usb", True),
        ("usb:12", "usb", True),
        ("demo", "demo", False),
        ("demo:seed=3", "demo", False),
    ],
)
def test_kind_and_liveness(source: str, which: str, live: bool) -> None:
    parsed = Source.parse(source)
    assert (parsed.kind, parsed.live) == (which, live)


def test_other_schemes_are_refused_without_their_password() -> None:
    with pytest.raises(SourceError, match="'ftp'") as error:
        parse_sources(["ftp://me:hunter2@host/clip.mp4"])
    assert "hunter2" not in str(error.value)


def test_names_come_from_the_source_and_are_unique(tmp_path: Path) -> None:
    touch(tmp_path, "Front Door.mp4", "clip.mp4")
    touch(tmp_path / "b", "clip.avi")
    found = pairs(
        f"{tmp_path}/Front Door.mp4",
        f"{tmp_path}/clip.mp4",
        f"{tmp_path}/b/clip.avi",
        "rtsp://u:p@10.0.0.7:8554/live",
        "rtsp://u:p@10.0.0.7:8554/other",
        "usb:0",
        "1",
        "demo",
        "demo:seed=1",
    )
    assert [name for name, _ in found] == [
        *("front-door", "clip", "clip-2", "10-0-0-7", "10-0-0-7-2", "usb-0", "usb-1", "demo", "demo-2"),
    ]


def test_a_given_name_is_kept_even_when_an_earlier_default_would_take_it(tmp_path: Path) -> None:
    touch(tmp_path, "gate.mp4")
    assert [name for name, _ in pairs(f"{tmp_path}/gate.mp4", "gate=rtsp://host/1")] == ["gate-2", "gate"]


def test_a_directory_gives_its_videos_by_name_and_not_those_below(tmp_path: Path) -> None:
    touch(tmp_path / "d", "b.MP4", "a.avi", "notes.txt")
    touch(tmp_path / "d" / "below", "c.mp4")
    assert pairs(str(tmp_path / "d")) == [("a", str(tmp_path / "d" / "a.avi")), ("b", str(tmp_path / "d" / "b.MP4"))]
    assert [name for name, _ in pairs(f"yard={tmp_path / 'd'}")] == ["yard-a", "yard-b"]


def test_a_glob_gives_the_videos_that_match(tmp_path: Path) -> None:
    touch(tmp_path, "n2.mp4", "n1.mp4", "n3.txt", "day.mp4")
    assert [name for name, _ in pairs(f"{tmp_path}/n*")] == ["n1", "n2"]


def test_a_file_whose_name_looks_like_a_glob_or_an_assignment_is_that_file(tmp_path: Path) -> None:
    touch(tmp_path, "take[1].mp4", "a=b.mp4")
    assert pairs(f"{tmp_path}/take[1].mp4") == [("take-1", f"{tmp_path}/take[1].mp4")]
    assert pairs(f"{tmp_path}/a=b.mp4")[0][0] == "a-b"
    assert pairs(f"cam={tmp_path}/a=b.mp4")[0] == ("cam", f"{tmp_path}/a=b.mp4")


def test_an_equals_sign_in_a_url_is_no_name() -> None:
    assert pairs("http://host/cgi?channel=1") == [("host", "http://host/cgi?channel=1")]


@pytest.mark.parametrize(
    ("make", "arg", "says"),
    [
        ([], "none.mp4", "does not exist"),
        (["text.txt"], "", "holds no video"),
        ([], "*.mp4", "matches no video"),
        ([], "gate=none.mp4", "does not exist"),
    ],
)
def test_nothing_to_play_is_said_in_one_sentence(tmp_path: Path, make: list[str], arg: str, says: str) -> None:
    touch(tmp_path, *make)
    name, _, rest = arg.rpartition("=")
    with pytest.raises(SourceError, match=says) as error:
        parse_sources([f"{name}={tmp_path / rest}" if name else str(tmp_path / rest)])
    assert "\n" not in str(error.value)
    assert error.value.exit_code == 2


@pytest.mark.parametrize("arg", ["", "  ", "rtsp:///live", "http://"])
def test_empty_sources_and_urls_without_a_host_are_refused(arg: str) -> None:
    with pytest.raises(SourceError):
        parse_sources([arg])


@pytest.mark.parametrize("arg", ["", "~no-such-user/x.mp4", "~no-such-user"])
def test_what_names_no_place_is_bad_input_everywhere(arg: str) -> None:
    """An empty argument (an unset variable of a shell) is not the working directory."""
    for ask in (lambda: parse_sources([arg]), lambda: find_videos([arg])):
        with pytest.raises(SourceError) as error:
            ask()
        assert "\n" not in str(error.value)
    with pytest.raises(SourceError, match="password_file"):
        read_secret(arg, "password_file")


def test_bad_camera_names_are_refused_with_a_proposal() -> None:
    with pytest.raises(ConfigError, match="'gate-1'") as error:
        parse_sources(["Gate 1=rtsp://me:hunter2@host/1"])
    assert "hunter2" not in str(error.value)
    with pytest.raises(ConfigError, match="used twice"):
        parse_sources(["a=0", "a=1"])


def test_usb_index() -> None:
    assert Source.parse("usb:7").usb_device == "/dev/video7"
    with pytest.raises(SourceError, match="rtsp://host"):
        _ = Source.parse("rtsp://host/1").usb_index


def test_demo_options() -> None:
    assert demo_options(Source.parse("demo")) == {}
    options = demo_options(Source.parse("demo:seed=3,duration=60,incident=0"))
    assert options == {"seed": 3, "duration": 60.0, "incident": False}
    for wrong in ("demo:sed=3", "demo:seed=x", "demo:seed", "demo:duration=0", "demo:seed=-1", "demo:duration=nan"):
        with pytest.raises(SourceError, match="demo option"):
            parse_sources([wrong])


def test_cameras_of_a_file_expand_and_keep_their_settings(tmp_path: Path) -> None:
    touch(tmp_path, "a.mp4", "b.mp4")
    cameras = expand_cameras(
        [CameraConfig(name="gate", source="rtsp://host/1"), CameraConfig(name="yard", source=str(tmp_path), stride=8)]
    )
    assert [(c.name, c.stride) for c in cameras] == [("gate", None), ("yard-a", 8), ("yard-b", 8)]
    with pytest.raises(ConfigError, match="used twice"):
        expand_cameras([CameraConfig(name="yard-a", source="0"), CameraConfig(name="yard", source=str(tmp_path))])


@given(st.text(min_size=1, max_size=80))
def test_every_default_name_is_a_topic(stem: str) -> None:
    host = "".join(c for c in stem if c.isalnum() and c.isascii()) or "h"
    cameras = parse_sources([f"rtsp://{host}/1", f"rtsp://{host}/2"])
    assert all(CAMERA_NAME.fullmatch(camera.name) for camera in cameras)
    assert cameras[0].name != cameras[1].name


def test_a_folder_with_odd_names_gives_every_video_in_it(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Names that are not UTF-8 are played and can be written; what macOS leaves beside them is skipped, and said."""
    odd = os.fsencode(tmp_path) + b"/caf\xe9.mp4"
    for name in (odd, *(os.fsencode(tmp_path / n) for n in ("._a.mp4", "a.mp4", "b.dav", "c.MXF", "notes.txt"))):
        with open(name, "wb"):
            pass
    with caplog.at_level("WARNING"):
        cameras = parse_sources([str(tmp_path)])
    assert [os.fsencode(c.source.path.name) for c in cameras] == [b"a.mp4", b"b.dav", b"c.MXF", b"caf\xe9.mp4"]
    assert cameras[3].source.shown.endswith(r"caf\xe9.mp4") and cameras[3].source.shown.encode()
    assert caplog.text.count("skipped 1 macOS files") == 1 and "._a.mp4" in caplog.text


def test_a_demo_that_would_never_be_ready_is_refused() -> None:
    with pytest.raises(SourceError, match="at most 300 s"):
        parse_sources(["demo:duration=3000"])
    assert parse_sources(["demo:duration=300"])
