"""Metrics against scikit-learn on expanded frames, known cases, and UCF-Crime's oracle lines."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stream_detector.errors import DataError
from trainer.data.annotations import read_annotations
from trainer.data.timeline import Timeline, all_pieces, pieces_of, segment_windows
from trainer.evaluation.events import alarms, best_threshold, event_figures, event_table, judge
from trainer.evaluation.metrics import average_precision, calibration_error, far, frame_figures, roc_auc
from trainer.evaluation.oracles import late_scores, oracle_lines, video_scores

metrics = pytest.importorskip("sklearn.metrics", reason="scikit-learn is not installed")


def video(name: str, frames: int, scores: list[float], events: tuple[tuple[int, int], ...] = ()) -> Timeline:
    starts, ends = segment_windows(frames, len(scores))
    return Timeline(name, int(bool(events)), frames, 10.0, starts, ends, np.array(scores), events)


@given(st.integers(0, 10_000))
@settings(max_examples=40, deadline=None)
def test_pieces_give_what_every_frame_would(seed: int) -> None:
    rng = np.random.default_rng(seed)
    videos = []
    for i in range(4):
        frames = int(rng.integers(40, 200))
        scores = np.round(rng.uniform(size=int(rng.integers(1, 12))), 1).tolist()  # rounded: ties
        a = int(rng.integers(0, frames - 5))
        videos.append(video(str(i), frames, scores, ((a, a + 5),) if i % 2 else ()))
    pieces = all_pieces(videos, "content")
    truth, score = [], []
    for t in videos:
        frames_truth, frames_score = np.zeros(t.frames, bool), np.zeros(t.frames)
        for a, b in t.events:
            frames_truth[a:b] = True
        for a, b, s in zip(t.starts, t.ends, t.scores, strict=True):
            frames_score[a:b] = s
        truth.append(frames_truth)
        score.append(frames_score)
    y, s = np.concatenate(truth), np.concatenate(score)
    assert roc_auc(pieces.score, pieces.positive, pieces.negative) == pytest.approx(metrics.roc_auc_score(y, s))
    assert average_precision(pieces.score, pieces.positive, pieces.negative) == pytest.approx(
        metrics.average_precision_score(y, s)
    )
    labels = np.array([t.label for t in videos])
    figures = frame_figures(pieces, labels, bootstrap=5)
    mask = np.concatenate([np.full(t.frames, t.label == 1) for t in videos])
    assert figures["auc_abnormal"].value == pytest.approx(metrics.roc_auc_score(y[mask], s[mask]))
    assert figures["brier"].value == pytest.approx(np.mean((y - s) ** 2))
    assert figures["far_at_half"].value == pytest.approx(np.mean(s[~mask] >= 0.5))


def test_false_alarm_rate_of_all_alarm_is_one_and_of_none_zero() -> None:
    negative = np.array([3.0, 5.0])
    assert far(np.ones(2), negative) == 1.0
    assert far(np.zeros(2), negative) == 0.0


def test_segments_have_equal_widths() -> None:
    starts, ends = segment_windows(3200, 32)
    assert set(ends - starts) == {100}
    starts, ends = segment_windows(3, 5)  # fewer frames than segments: shared, never empty
    assert (ends > starts).all() and ends[-1] == 3


def test_emission_time_waits_for_the_end_of_the_window() -> None:
    pieces = pieces_of(video("v", 40, [0.1, 0.9, 0.2, 0.3], ((10, 20),)), 0, "emission", delay_s=0.5)
    at = {int(a): float(s) for a, s in zip(pieces.start, pieces.score, strict=True)}
    assert at[0] == 0.0 and at[15] == 0.1 and at[25] == 0.9 and at[35] == 0.2  # 10 frames of window + 5 of processing
    assert pieces.end[-1] == 40 and pieces.positive.sum() == 10


def test_far_events_hits_and_delays() -> None:
    assert alarms(np.array([0.0, 1, 2, 3, 4]), np.array([0.9, 0.7, 0.5, 0.9, 0.9]), 0.8) == [0.0, 3.0]
    false, delays = judge([1.0, 5.0, 6.0, 30.0], [(4.5, 8.0), (20.0, 22.0)], tolerance_s=1.0)
    assert false == 2 and delays == [0.5]  # the alarm at 6.0 is in an event already hit: neither
    assert judge([8.9], [(4.5, 8.0)], 1.0) == (0, [pytest.approx(4.4)])


def test_recall_at_a_rate_of_false_alarms() -> None:
    good = video("a", 1000, [0.1] * 5 + [0.95] + [0.1] * 4, ((450, 700),))
    missed = video("b", 1000, [0.2] * 10, ((100, 200),))
    noisy = video("n", 36_000, [0.1] * 5 + [0.9] + [0.1] * 4)  # an hour
    table = event_table([good, missed, noisy])
    k = best_threshold(table, 0.5)
    assert 0.9 < table.thresholds[k] <= 0.95
    found = event_figures(table, (0.5,), bootstrap=20)["0.5"]
    assert found["recall"].value == 0.5 and found["detected"] == 1  # type: ignore[union-attr]
    assert found["delay_median_s"] == pytest.approx(15.0)  # window ends at frame 600, onset 450, 10 fps
    assert found["false_alarms_per_hour"] == 0.0


def test_calibration_error_of_a_calibrated_score_is_zero() -> None:
    score, weight = np.array([0.2, 0.8]), np.array([100.0, 100.0])
    assert calibration_error(score, score * weight, (1 - score) * weight) == pytest.approx(0)
    assert calibration_error(np.array([0.9]), np.zeros(1), np.ones(1)) == pytest.approx(0.9)


def test_one_class_only_and_no_events_are_one_sentence() -> None:
    normal = [video("a", 10, [0.5]), video("b", 10, [0.5])]
    with pytest.raises(DataError, match="all 2 videos are normal"):
        frame_figures(all_pieces(normal, "content"), np.array([0, 0]), 1)
    with pytest.raises(DataError, match="no frame is annotated"):
        frame_figures(all_pieces(normal, "content"), np.array([0, 1]), 1)
    with pytest.raises(DataError, match="listed twice"):
        all_pieces([normal[0], normal[0]], "content")
    with pytest.raises(DataError, match="no video"):
        all_pieces([], "content")
    with pytest.raises(DataError, match="not finite"):
        video("x", 10, [float("nan")])


def test_oracles_on_the_official_test_list(clips: Path) -> None:
    found = read_annotations(clips.parent / "ucf_crime" / "test_annotations.csv")
    videos = []
    for a in found.values():
        starts, ends = segment_windows(a.frames, 32)
        videos.append(Timeline(a.name, int(bool(a.events)), a.frames, 30.0, starts, ends, np.zeros(32), a.events))
    assert len(videos) == 290 and sum(v.frames for v in videos) == 1_112_032
    pieces = {name: all_pieces(t, "content") for name, t in oracle_lines(videos).items()}
    auc = {name: roc_auc(p.score, p.positive, p.negative) for name, p in pieces.items()}
    assert auc["perfect video classifier"] == pytest.approx(0.8158, abs=0.0005)
    assert auc["perfect score per window"] == pytest.approx(0.9995, abs=0.0005)
    assert auc["perfect but 1 s late"] == pytest.approx(0.970, abs=0.002)
    assert auc["perfect but 5 s late"] == pytest.approx(0.869, abs=0.002)
    assert auc["perfect but 10 s late"] == pytest.approx(0.794, abs=0.002)


def test_a_late_oracle_of_no_delay_is_perfect() -> None:
    videos = [video("a", 100, [0.0] * 4, ((13, 58),)), video("b", 90, [0.0] * 4)]
    p = all_pieces(late_scores(videos, 0.0), "content")
    assert roc_auc(p.score, p.positive, p.negative) == 1.0
    q = all_pieces(video_scores(videos), "content")
    assert roc_auc(q.score, q.positive, q.negative) == pytest.approx(1 - 0.5 * 55 / 145)
