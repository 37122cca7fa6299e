"""Delivery: in order in each lane, and nothing that cannot be delivered stands before the rest."""

from __future__ import annotations

from pathlib import Path

import pytest
from bridge_rig import Lab, alarm, camera_notice

from stream_detector.bridges.kinds import TargetSettings


def settings(**values: object) -> TargetSettings:
    return TargetSettings.model_validate({"backoff_min_s": 1.0, "tries": 3, **values})


def seqs(lab: Lab) -> list[tuple[str, int]]:
    return [(notice.camera, notice.seq) for notice in lab.target.took]


def test_everything_is_delivered_once_and_in_order(tmp_path: Path) -> None:
    lab = Lab(tmp_path)
    lab.add(alarm(1), alarm(1, "yard"), alarm(2), alarm(2, what="end"))
    lab.run()
    assert seqs(lab) == [("gate", 1), ("yard", 1), ("gate", 2)]
    assert lab.outbox.waiting() == 0 and lab.delivery.counts.repeats == 0
    lab.outbox.close()


def test_an_outage_holds_everything_back_and_loses_nothing(tmp_path: Path) -> None:
    lab = Lab(tmp_path, settings=settings())
    lab.target.script.extend(["unreachable"] * 20)
    lab.add(alarm(1), alarm(1, "yard"), alarm(2))
    lab.run(10.0)
    assert seqs(lab) == [] and 3 <= len(lab.target.tried) <= 6  # with growing distance, and not once for each lane
    lab.run(3600.0)
    assert seqs(lab) == [("gate", 1), ("yard", 1), ("gate", 2)] and not lab.letters()
    lab.outbox.close()


def test_what_is_refused_is_set_aside_at_once(tmp_path: Path) -> None:
    lab = Lab(tmp_path, settings=settings())
    lab.target.script.append("refused")
    lab.add(alarm(1), alarm(2))
    lab.run()
    assert seqs(lab) == [("gate", 2)]
    (letter,) = lab.letters()
    assert (letter["target"], letter["reason"], letter["event"]["seq"]) == ("here", "said refused", 1)
    assert lab.delivery.counts.set_aside == 1
    lab.outbox.close()


def test_what_fails_is_tried_again_while_other_cameras_go_on_and_then_set_aside(tmp_path: Path) -> None:
    lab = Lab(tmp_path, settings=settings())
    lab.target.script.append("failed")
    lab.add(alarm(1), alarm(1, "yard"), alarm(2))
    lab.run()
    assert seqs(lab) == [("yard", 1)]
    lab.target.script.extend(["failed", "failed"])
    lab.run(30.0)
    assert seqs(lab) == [("yard", 1), ("gate", 2)] and [x["event"]["seq"] for x in lab.letters()] == [1]
    lab.outbox.close()


@pytest.mark.parametrize("cameras", [("gate", "gate"), ("gate", "yard")])
def test_poison_that_nobody_can_tell_is_found_by_another_notice(tmp_path: Path, cameras: tuple[str, str]) -> None:
    lab = Lab(tmp_path, settings=settings())
    poison = alarm(1, cameras[0])
    lab.target.poison.add(poison.key)
    lab.add(poison, alarm(2, cameras[1]))
    lab.run(30.0)
    assert seqs(lab) == [(cameras[1], 2)] and [x["event"]["seq"] for x in lab.letters()] == [1]
    lab.outbox.close()


def test_an_outage_that_nobody_can_tell_sets_nothing_aside(tmp_path: Path) -> None:
    lab = Lab(tmp_path, settings=settings())
    lab.target.script.extend(["unknown"] * 40)
    lab.add(alarm(1), alarm(2), alarm(3))
    lab.run(3 * 3600.0)
    assert seqs(lab) == [("gate", 1), ("gate", 2), ("gate", 3)] and not lab.letters()
    lab.outbox.close()


def test_old_alarms_become_one_summary(tmp_path: Path) -> None:
    lab = Lab(tmp_path, settings=settings(max_age_s=600))
    utc = lab.clock.utc()
    lab.add(*(alarm(n, utc=utc - 3600 + n) for n in range(1, 6)), alarm(6, utc=utc))
    lab.run()
    assert [(n.kind, n.seq) for n in lab.target.took] == [("alarm", 6), ("summary", 1)]
    assert lab.target.took[1].body["count"] == 5 and lab.delivery.counts.folded == 5
    lab.outbox.close()


def test_the_start_waits_for_its_picture_but_not_for_ever(tmp_path: Path) -> None:
    lab = Lab(tmp_path, settings=settings(snapshot=True, snapshot_wait_s=2.0))
    picture = tmp_path / "evidence" / "gate" / "a.jpg"
    evidence = {"clip": None, "snapshot": str(picture)}
    utc = lab.clock.utc()
    lab.add(alarm(1, utc=utc, evidence=evidence), alarm(1, "yard", utc=utc), alarm(2, utc=utc, evidence=evidence))
    lab.run()
    assert seqs(lab) == [("yard", 1)]  # nobody waits for another camera's picture
    lab.run(1.0)
    assert seqs(lab) == [("yard", 1)]
    lab.run(1.2)
    assert seqs(lab)[1:] == [("gate", 1)]
    picture.parent.mkdir(parents=True)
    picture.write_bytes(b"x")
    lab.run()
    assert seqs(lab)[2:] == [("gate", 2)]
    lab.outbox.close()


def test_after_a_kill_during_a_delivery_it_is_delivered_again_and_counted(tmp_path: Path) -> None:
    lab = Lab(tmp_path)
    lab.add(alarm(1), alarm(2))
    lab.outbox.begin(lab.outbox.heads("here")[0], 1.0)  # killed between the delivery and its mark
    lab.restart()
    lab.run()
    assert [(n.seq, n.attempts) for n in lab.target.took] == [(1, 1), (2, 0)]
    assert lab.delivery.counts.repeats == 1
    lab.outbox.close()


def test_an_error_of_somebody_elses_code_shows_no_text(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    lab = Lab(tmp_path, settings=settings())

    def breaks(_notice: object) -> None:
        raise ValueError("the password is hunter2")

    lab.target.deliver = breaks
    lab.add(alarm(1))
    lab.run()
    assert "failed with ValueError" in caplog.text and "hunter2" not in caplog.text
    lab.outbox.close()


def test_updates_are_left_out_unless_wanted_and_cameras_are_chosen(tmp_path: Path) -> None:
    lab = Lab(tmp_path, settings=settings(cameras=["gate"], notices=["alarm"]))
    wanted = [lab.target.wants(n) for n in (alarm(1), alarm(2, what="update"), alarm(1, "yard"))]
    assert wanted == [True, False, False] and not lab.target.wants(camera_notice(1, "offline"))
    lab.outbox.close()
