"""A camera that is taken out of a run: its files are finished, and the next one of its name is another camera."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from evidence_rig import ID_1, ID_2, Deadline, Rig
from video_rig import coded_units, make_video

MASK = ((0.5, 0.0), (1.0, 0.0), (1.0, 1.0), (0.5, 1.0))


def test_clip_and_recording_of_a_dropped_camera_are_finished(rig: Callable[..., Rig], tmp_path: Path) -> None:
    source = tmp_path / "a.ts"
    make_video(source, 15)
    folder = tmp_path / "recordings"
    more = {"recording": {"directory": folder, "segment_s": 60}}
    evidence = rig(camera={"record": "always"}, more=more)
    evidence.fill(source)
    evidence.writer.start("gate", ID_1, 11.0, 0.6, 10.0)  # it would go on
    evidence.recorder.drop("gate")
    deadline = Deadline()
    while not (evidence.clip().exists() and len(list(folder.glob("gate/*.mp4"))) == 1):
        deadline.check()
    assert coded_units(next(folder.glob("gate/*.mp4")), "h264") == coded_units(source, "h264")
    assert evidence.clip().stat().st_size and not evidence.recorder._remuxed.segments
    evidence.close()
    assert evidence.errors == [] and not list(folder.glob("gate/.*part*"))


def test_the_next_camera_of_the_name_has_its_own_mask_and_packets(rig: Callable[..., Rig], tmp_path: Path) -> None:
    source = tmp_path / "a.ts"
    make_video(source, 15)
    evidence = rig()
    evidence.fill(source)
    before = evidence.tap()
    evidence.recorder.drop("gate")
    evidence.recorder.drop("gate")  # and what is gone may go again
    masked = evidence.camera().model_copy(update={"mask": MASK})
    after = evidence.recorder.tap(masked)
    assert after is not before and after.ring.newest_serial != before.ring.newest_serial
    assert evidence.recorder._cameras["gate"].painters is not None
    evidence.writer.start("gate", ID_2, 1.0, 0.6, 0.5)  # it has no packets yet
    assert evidence.recorder.wait_idle(20.0)
    assert [clip.camera.config.mask for clip in evidence.recorder._encoded.clips] == [MASK]
    evidence.close()
