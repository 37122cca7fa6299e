"""Media times against ffprobe: containers and codecs as ffmpeg makes them, each frame and each window within a frame.

Also what users brought: edit lists, stamps that jump or wrap, video that begins late, names of any bytes.
"""

from __future__ import annotations

import json
import os
import shlex
import shutil
import subprocess
from pathlib import Path

import cv2
import numpy as np
import pytest

from stream_detector.capture.readers import FileReader
from stream_detector.capture.recordings import DecodeState, windows
from stream_detector.config import CaptureConfig
from stream_detector.errors import SourceError
from stream_detector.models.recipe import RECIPES

pytestmark = pytest.mark.skipif(
    shutil.which("ffmpeg") is None or shutil.which("ffprobe") is None,
    reason="ffmpeg and ffprobe are not here: apt-get install ffmpeg",
)
CONFIG = CaptureConfig()
SCENE = "testsrc2=s=192x144:r=25:d=1.6"
X264 = "-c:v libx264 -preset ultrafast -pix_fmt yuv420p -g 20"
# name of the file → (options of ffmpeg between input and output, input where it is another)
MADE: dict[str, tuple[str, str]] = {
    "h264.mp4": (X264, SCENE),
    "b-frames.mp4": ("-c:v libx264 -bf 3 -b_strategy 0 -pix_fmt yuv420p", SCENE),
    "fragmented.mp4": (f"{X264} -movflags frag_keyframe+empty_moov", SCENE),
    "h264.mkv": (X264, SCENE),
    "h264.mov": (X264, SCENE),
    "h264.flv": (X264, SCENE),
    "h264.ts": (X264, SCENE),
    "h264.m2ts": (X264, SCENE),
    "h264.264": (X264, SCENE),
    "h264.avi": (f"{X264} -bf 0", SCENE),
    "interlaced.mp4": ("-vf interlace -c:v libx264 -flags +ildct+ilme -pix_fmt yuv420p", SCENE.replace("r=25", "r=50")),
    "interlaced.mpg": ("-vf interlace -c:v mpeg2video -flags +ildct+ilme", SCENE.replace("r=25", "r=50")),
    "high10.mkv": ("-c:v libx264 -pix_fmt yuv420p10le", SCENE),
    "yuv444.mp4": ("-c:v libx264 -pix_fmt yuv444p", SCENE),
    "hevc.mp4": ("-c:v libx265 -x265-params log-level=none -tag:v hvc1", SCENE),
    "hevc10.ts": ("-c:v libx265 -x265-params log-level=none -pix_fmt yuv420p10le", SCENE),
    "vp8.webm": ("-c:v libvpx -b:v 400k -deadline realtime", SCENE),
    "vp9.webm": ("-c:v libvpx-vp9 -deadline realtime -cpu-used 8", SCENE),
    "alpha.webm": ("-c:v libvpx-vp9 -deadline realtime -cpu-used 8 -pix_fmt yuva420p", SCENE),
    "av1.mp4": ("-c:v libsvtav1 -preset 12", SCENE),
    "mpeg2.mpg": ("-c:v mpeg2video -bf 2", SCENE),
    "mpeg2.vob": ("-c:v mpeg2video -f vob", SCENE),
    "mpeg2.m2v": ("-c:v mpeg2video -f mpeg2video", SCENE),
    "mpeg4.avi": ("-c:v mpeg4 -bf 0", SCENE),
    "mpeg4.3gp": ("-c:v mpeg4", SCENE),
    "mjpeg.avi": ("-c:v mjpeg -q:v 4", SCENE),
    "dv.dv": ("-c:v dvvideo -pix_fmt yuv420p -s 720x576", SCENE),
    "mxf.mxf": ("-c:v mpeg2video", SCENE),
    "wmv.wmv": ("-c:v wmv2", SCENE),
    "theora.ogv": ("-c:v libtheora -q:v 6", SCENE),
    "prores-alpha.mov": ("-c:v prores_ks -profile:v 4444 -pix_fmt yuva444p10le", SCENE),
    "grey16.mkv": ("-c:v ffv1 -pix_fmt gray16le", SCENE),
    "ntsc.mp4": (X264, SCENE.replace("r=25", "r=30000/1001")),
    "fast.mp4": (X264, SCENE.replace("r=25", "r=60")),
    "slow.mp4": (X264, "testsrc2=s=192x144:r=5:d=5"),
    "variable.mkv": (f"-vf setpts='if(lt(N\\,20)\\,N*2\\,40+(N-20)*4)/50/TB' -vsync vfr {X264}", SCENE),
}


def ffmpeg(*arguments: str) -> None:
    done = subprocess.run(["ffmpeg", "-v", "error", "-nostdin", "-y", *arguments], capture_output=True, text=True)
    if "Unknown encoder" in done.stderr:
        pytest.skip(done.stderr.strip().splitlines()[0])
    assert done.returncode == 0, done.stderr


def make(path: Path, options: str = X264, scene: str = SCENE) -> Path:
    ffmpeg("-f", "lavfi", "-i", scene, *shlex.split(options), str(path))
    return path


def probed(path: Path) -> list[float | None]:
    """Time of each frame after the container's start, as ffprobe tells it; None where the file has no stamps."""
    done = subprocess.run(
        [
            "ffprobe",
            "-v",
            "error",
            "-select_streams",
            "v:0",
            "-show_entries",
            "frame=pts_time,best_effort_timestamp_time:format=start_time",
            "-of",
            "json",
            str(path),
        ],
        capture_output=True,
        check=True,
    )
    told = json.loads(done.stdout)
    start_s = float(told["format"].get("start_time", 0.0))
    stamps = [frame.get("pts_time", frame.get("best_effort_timestamp_time")) for frame in told["frames"]]
    return [None if stamp is None else float(stamp) - start_s for stamp in stamps]


def read(path: Path) -> tuple[list[float], list[int], FileReader]:
    """(media times, numbers of the frames that a cut lies before, the closed reader)"""
    reader = FileReader(path, CONFIG)
    reader.open()
    times: list[float] = []
    cuts: list[int] = []
    while (grabbed := reader.grab()).status != "end":
        assert grabbed.status == "frame" and grabbed.media_s is not None
        if grabbed.cause == "seek":
            cuts.append(len(times))
        times.append(grabbed.media_s)
    reader.close()
    return times, cuts, reader


def compare(path: Path, frame_s: float) -> None:
    wanted = probed(path)
    times, _, reader = read(path)
    stamps = [i * frame_s if stamp is None else stamp for i, stamp in enumerate(wanted)]
    assert len(times) == len(stamps)
    assert np.abs(np.array(times) - stamps).max() <= frame_s + 1e-3
    assert (np.diff(times) > 0).all() and reader.detail == ""
    cut = list(windows(path, RECIPES["stream-112"]))
    assert cut
    for window in cut:
        assert abs(window.ref.start_s - stamps[window.ref.start_frame]) <= frame_s + 1e-3
        assert abs(window.ref.end_s - stamps[window.ref.end_frame]) <= frame_s + 1e-3


@pytest.mark.parametrize("name", MADE)
def test_every_frame_and_window_has_ffprobe_s_time(name: str, tmp_path: Path) -> None:
    options, scene = MADE[name]
    path = make(tmp_path / name, options, scene)
    rate = scene.partition("r=")[2].partition(":")[0]
    fps = 30000 / 1001 if "/" in rate else float(rate)
    compare(path, 2 / fps if "interlace" in options else 1 / fps)


def test_an_edit_list_is_not_a_truncated_file(tmp_path: Path) -> None:
    base = make(tmp_path / "base.mp4", f"{X264} -bf 2", SCENE.replace("d=1.6", "d=4"))
    path = tmp_path / "edited.mp4"
    ffmpeg("-ss", "1.3", "-i", str(base), "-c", "copy", "-t", "2", str(path))
    compare(path, 1 / 25)


def test_video_that_begins_late_begins_late(tmp_path: Path) -> None:
    path = tmp_path / "late.mkv"
    base = make(tmp_path / "base.mp4")
    ffmpeg(
        "-f",
        "lavfi",
        "-i",
        "sine=d=4",
        "-itsoffset",
        "2",
        "-i",
        str(base),
        "-map",
        "0:a",
        "-map",
        "1:v",
        "-c:v",
        "copy",
        "-c:a",
        "aac",
        str(path),
    )
    assert read(path)[0][0] == pytest.approx(2.0, abs=0.04)
    compare(path, 1 / 25)


@pytest.mark.parametrize("offset_s", [3600, 95_443])
def test_stamps_of_a_transport_stream_that_jump_or_wrap_are_a_cut_and_no_wait(tmp_path: Path, offset_s: int) -> None:
    base = make(tmp_path / "base.mp4")
    first, second = tmp_path / "1.ts", tmp_path / "2.ts"
    ffmpeg("-i", str(base), "-c", "copy", str(first))
    ffmpeg("-i", str(base), "-c", "copy", "-output_ts_offset", str(offset_s), str(second))
    path = tmp_path / "both.ts"
    path.write_bytes(first.read_bytes() + second.read_bytes())
    times, cuts, reader = read(path)
    assert len(times) == 80 and np.diff(times).max() < 0.5 and reader.detail == ""
    assert cuts == [40]


def test_a_name_of_any_bytes_is_read_and_shown(tmp_path: Path) -> None:
    base = make(tmp_path / "base.mp4")
    path = Path(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9 %41 tcp:x#?.mp4"))
    path.write_bytes(base.read_bytes())
    assert len(read(path)[0]) == 40
    path.write_bytes(b"no video at all" * 99)
    with pytest.raises(SourceError) as error:
        read(path)
    assert r"caf\\xe9" in str(error.value)
    str(error.value).encode("utf-8")  # can be printed


@pytest.mark.parametrize(
    ("options", "name", "says"),
    [
        ("-f lavfi -i sine=d=1 -c:a aac", "sound.m4a", "holds sound but no video"),
        (
            "-f lavfi -i sine=d=1 -f lavfi -i testsrc2=s=64x64:d=0.04 -map 0:a -map 1:v -c:a aac -c:v mjpeg "
            "-pix_fmt yuvj420p -disposition:v:0 attached_pic",
            "cover.m4a",
            "holds a cover picture but no video",
        ),
    ],
)
def test_what_holds_no_video_is_told_in_one_sentence(options: str, name: str, says: str, tmp_path: Path) -> None:
    ffmpeg(*options.split(), str(tmp_path / name))
    with pytest.raises(SourceError, match=says):
        read(tmp_path / name)


def test_a_codec_that_this_build_cannot_decode_is_named(tmp_path: Path) -> None:
    path = make(tmp_path / "a.avi", "-c:v mjpeg -q:v 4")
    path.write_bytes(path.read_bytes().replace(b"MJPG", b"XYZ7"))
    with pytest.raises(SourceError, match=r"XYZ7.*cannot decode"):
        read(path)


@pytest.mark.parametrize("name", ["h264.mp4", "h264.mkv", "h264.flv", "mjpeg.avi", "vp8.webm"])
def test_a_cut_off_file_is_told_by_what_is_in_it(name: str, tmp_path: Path) -> None:
    options, scene = MADE[name]
    path = make(tmp_path / name, f"{options} -movflags +faststart" if name.endswith("mp4") else options, scene)
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * 0.6)])
    times, _, reader = read(path)
    assert 5 < len(times) < 40 and reader.detail.startswith("truncated: ")


def test_damage_in_the_middle_is_told_and_marked(tmp_path: Path) -> None:
    path = make(tmp_path / "a.ts", X264, SCENE.replace("d=1.6", "d=6"))
    data = bytearray(path.read_bytes())
    noise = np.random.default_rng(0).integers(0, 256, 3000, dtype=np.uint8).tobytes()
    data[len(data) // 2 : len(data) // 2 + len(noise)] = noise
    path.write_bytes(bytes(data))
    state = DecodeState()
    marked = [w for w in windows(path, RECIPES["stream-112"], state=state) if "corrupt" in w.ref.degraded]
    assert state.detail.startswith("damaged: ") and marked
    assert state.frames > 120  # the end was reached


def test_a_rotated_and_a_mirrored_film_are_shown_upright(tmp_path: Path) -> None:
    base = make(tmp_path / "base.mp4", X264, "color=red:s=80x120:d=0.4[a];color=blue:s=80x120:d=0.4[b];[a][b]hstack")
    turned = tmp_path / "turned.mp4"
    ffmpeg("-i", str(base), "-c", "copy", "-metadata:s:v:0", "rotate=90", str(turned))
    data = bytearray(base.read_bytes())
    at = data.find(b"tkhd") + 44
    data[at : at + 4] = (-0x10000).to_bytes(4, "big", signed=True)  # left and right change places
    mirrored = tmp_path / "mirrored.mp4"
    mirrored.write_bytes(bytes(data))
    shown = {}
    for path in (base, turned, mirrored):
        reader = FileReader(path, CONFIG)
        reader.open()
        reader.grab()
        picture = reader.retrieve()
        assert picture is not None
        shown[path.stem] = picture.bgr()
        reader.close()
    assert shown["base"].shape == (120, 160, 3) and shown["base"][60, 20, 2] > 200
    assert shown["turned"].shape == (160, 120, 3)
    assert sorted(int(shown["turned"][y, 60, 2]) // 128 for y in (20, 140)) == [0, 1]  # one above the other
    assert shown["mirrored"][60, 140, 2] > 200 and shown["mirrored"][60, 20, 0] > 200


@pytest.mark.parametrize(
    ("matrix", "colour_range"), [("bt709", "tv"), ("bt709", "pc"), ("smpte170m", "tv"), ("smpte170m", "pc")]
)
def test_colours_are_right_whatever_matrix_and_range_the_file_names(
    matrix: str, colour_range: str, tmp_path: Path
) -> None:
    named = {"bt709": "bt709", "smpte170m": "bt601"}[matrix]
    options = (
        f"-vf scale=out_color_matrix={named}:out_range={colour_range},format=yuv420p -colorspace {matrix} "
        f"-color_range {colour_range} -c:v libx264 -crf 2"
    )
    path = make(tmp_path / "a.mp4", options, "color=0x30C850:s=192x144:r=25:d=0.2")
    reader = FileReader(path, CONFIG)
    reader.open()
    reader.grab()
    picture = reader.retrieve()
    assert picture is not None
    rgb = picture.rgb(RECIPES["stream-112"].input_views[0], "area")
    assert np.abs(rgb.astype(int) - (0x30, 0xC8, 0x50)).max() <= 3
    reader.close()


def test_opencv_and_pyav_decode_side_by_side(tmp_path: Path) -> None:
    """Both wheels bring their own FFmpeg libraries; neither may end up with the other's."""
    path = make(tmp_path / "a.mp4")
    capture = cv2.VideoCapture(str(path), cv2.CAP_FFMPEG)
    reader = FileReader(path, CONFIG)
    reader.open()
    both = 0
    while reader.grab().status == "frame":
        good, image = capture.read()
        picture = reader.retrieve()
        assert good and picture is not None
        assert np.abs(image.astype(int) - picture.bgr()).mean() < 8.0  # OpenCV repeats colours over 2 × 2 pixels
        both += 1
    reader.close()
    capture.release()
    assert both == 40
