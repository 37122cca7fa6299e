"""Clips of cameras on the page: H.264 as it came, and a copy of what no browser plays; in Chromium where it is."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import av
import pytest
from evidence_rig import ID_1, Rig
from video_rig import make_video

from .conftest import Page, running

CHROMIUM = Path("/usr/bin/chromium")
FLAGS = ["--no-sandbox", "--disable-gpu", "--autoplay-policy=no-user-gesture-required"]
WAIT_MS = 90_000


def remuxed(folder: Path, codec: str) -> bytes:
    """What the detector keeps of a camera's alarm: 3 + 3 + 2 seconds."""
    source = folder / f"{codec}.ts"
    make_video(source, 12, codec)
    rig = Rig(folder / codec)
    rig.fill(source)
    rig.alarm(5.0, 8.0)
    rig.close()
    assert rig.clip(ID_1).exists(), rig.errors
    return rig.clip(ID_1).read_bytes()


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    with running(tmp_path_factory.mktemp("clips"), ("gate",)) as found:
        found.alarm()
        yield found


def put(page: Page, data: bytes) -> str:
    """Make this the clip of the alarm; returns the alarm's id."""
    alarm = page.alarm()
    for old in page.folder.glob("evidence/gate/*.mp4"):
        old.unlink()
    stem = f"{alarm['id']}-{alarm['epoch']}"
    (page.folder / "evidence" / "gate" / f"{stem}.mp4").write_bytes(data)
    return str(alarm["id"])


def codec_of(data: bytes) -> str:
    with av.open(io.BytesIO(data)) as container:
        return str(container.streams.video[0].codec_context.name)


def test_what_browsers_play_is_given_as_it_is(page: Page, tmp_path: Path) -> None:
    data = remuxed(tmp_path, "libx264")
    number = put(page, data)
    assert page.ask(f"/api/alarms/{number}").json()["playable"]
    assert page.ask(f"/api/alarms/{number}/clip.mp4").body == data
    assert not list(page.folder.glob("evidence/gate/*.h264.mp4"))


def test_hevc_is_kept_and_copied_when_somebody_opens_it(page: Page, tmp_path: Path) -> None:
    data = remuxed(tmp_path, "libx265")
    number = put(page, data)
    assert page.ask(f"/api/alarms/{number}").json()["playable"] is False
    first = page.ask(f"/api/alarms/{number}/clip.mp4")
    assert first.status == 200 and codec_of(first.body) == "h264"
    (copy,) = page.folder.glob("evidence/gate/*.h264.mp4")
    made = copy.stat().st_mtime_ns
    assert page.ask(f"/api/alarms/{number}/clip.mp4", headers={"range": "bytes=4-7"}).body == b"ftyp"
    assert copy.stat().st_mtime_ns == made  # once
    original = page.ask(f"/api/alarms/{number}/clip.mp4?original=1")
    assert original.body == data and codec_of(data) == "hevc"
    with av.open(io.BytesIO(first.body)) as container, av.open(io.BytesIO(data)) as kept:
        times = [float(frame.time or 0) for frame in container.decode(video=0)]
        wanted = [float(frame.time or 0) for frame in kept.decode(video=0)]
    assert len(times) == len(wanted) and times[-1] - times[0] == pytest.approx(wanted[-1] - wanted[0], abs=0.05)


def test_a_clip_that_cannot_be_decoded_is_404_and_the_original_stays(page: Page) -> None:
    data = b"\0\0\0\x18ftypisom" + bytes(400)
    number = put(page, data)
    assert page.ask(f"/api/alarms/{number}/clip.mp4?original=1").body == data


@pytest.mark.integration
@pytest.mark.skipif(not CHROMIUM.exists(), reason="Chromium is not installed: .ci/install-web-test.sh")
@pytest.mark.parametrize(("codec", "note"), [("libx264", ""), ("libx265", "This is a copy in H.264.")])
def test_clips_play_in_chromium(codec: str, note: str, page: Page, tmp_path: Path) -> None:
    sync_api = pytest.importorskip("playwright.sync_api")
    number = put(page, remuxed(tmp_path, codec))
    with sync_api.sync_playwright() as play:
        browser = play.chromium.launch(executable_path=str(CHROMIUM), args=FLAGS)
        tab: Any = browser.new_page()
        tab.set_default_timeout(WAIT_MS)
        tab.goto(f"http://127.0.0.1:{page.server.port}/alarms/{number}")
        tab.wait_for_selector("video")
        tab.wait_for_function("() => document.querySelector('video').readyState >= 1")
        assert 7.0 <= tab.evaluate("() => document.querySelector('video').duration") <= 9.2
        tab.evaluate(
            "() => { const v = document.querySelector('video'); v.muted = true; v.currentTime = 6; v.play(); }"
        )
        tab.wait_for_function("() => document.querySelector('video').currentTime > 6.3")
        if note:
            tab.wait_for_function("(text) => document.body.innerText.includes(text)", arg=note)
        browser.close()
