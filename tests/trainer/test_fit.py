"""The head on frozen features, its calibration, and the figures that judge a clip model."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch

from stream_detector.alarms.smoothing import Ema
from stream_detector.errors import DataError
from trainer.data.clips import Clip
from trainer.ranking import auc
from trainer.recipes.embedded import select_head
from trainer.recipes.embedded.clip_metrics import (
    Stream,
    clip_aucs,
    judge_scenes,
    leave_one_set_out,
    teacher_probe,
)
from trainer.recipes.embedded.fit_head import Bag, HeadConfig, calibrate, cell_weights, clip_scores, fit_head, top_mean
from trainer.recipes.embedded.teacher import Job, Targets
from trainer.recipes.embedded.threshold import Judged, above_most, choose_smoothing, find_threshold, quiet_floor


def _bags(count: int, seed: int, gap: float = 2.0) -> list[Bag]:
    """Abnormal bags have one window in three that differs; the rest looks normal."""
    rng = np.random.default_rng(seed)
    bags = []
    for k in range(count):
        features = rng.normal(size=(3, 8)).astype(np.float32)
        if k % 2:
            features[k % 3, 0] += gap * 2
        bags.append(Bag(features, "ab"[k % 4 // 2], bool(k % 2)))
    return bags


def test_a_head_learns_from_bags_and_carries_over_to_others() -> None:
    head = fit_head(_bags(120, 0), HeadConfig(decay=0.003))
    other = _bags(120, 1)
    table = clip_aucs(clip_scores(head, other), [b.set for b in other], [b.abnormal for b in other])
    assert table.keys() == {"a", "b", "pooled"} and table["pooled"]["value"] > 0.93
    assert table["pooled"]["low"] <= table["pooled"]["value"] <= table["pooled"]["high"]
    noise = _bags(400, 2, gap=0.0)
    table = clip_aucs(clip_scores(head, noise), [b.set for b in noise], [b.abnormal for b in noise])
    assert 0.4 < table["pooled"]["value"] < 0.6


def test_fitting_repeats_and_needs_both_labels() -> None:
    first, again = (fit_head(_bags(20, 0), HeadConfig((4,), steps=20)) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), again.parameters(), strict=True))
    with pytest.raises(DataError, match="one label only"):
        fit_head([bag for bag in _bags(20, 0) if bag.abnormal], HeadConfig())


def test_calibration_makes_probabilities_and_keeps_the_order() -> None:
    head = fit_head(_bags(200, 0, gap=0.8), HeadConfig(decay=0.003))
    val = _bags(400, 3, gap=0.8)
    before = clip_scores(head, val)
    head.temperature.fill_(0.05)  # absurdly sure of itself
    calibrate(head, val)
    after = clip_scores(head, val)
    labels = np.array([bag.abnormal for bag in val], dtype=float)
    assert np.array_equal(np.argsort(before, kind="stable")[[0, -1]], np.argsort(after, kind="stable")[[0, -1]])
    for low, high in ((0.0, 0.5), (0.5, 1.0)):
        part = (after >= low) & (after < high + 1e-6)
        assert abs(after[part].mean() - labels[part].mean()) < 0.1


def test_a_set_weighs_its_share_whatever_its_size() -> None:
    bags = [*_bags(40, 0), Bag(np.zeros((1, 8), np.float32), "c", False)]
    weights = cell_weights(bags, {"a": 0.5, "b": 0.3, "c": 0.2})
    by_set = {name: sum(float(w) for w, b in zip(weights, bags, strict=True) if b.set == name) for name in "abc"}
    assert by_set == pytest.approx({"a": 0.5, "b": 0.3, "c": 0.2})
    positive = sum(float(w) for w, b in zip(weights, bags, strict=True) if b.set == "a" and b.abnormal)
    assert positive == pytest.approx(0.25)


def test_a_bag_is_judged_by_its_highest_windows_and_padding_never_counts() -> None:
    logits = torch.tensor([[1.0, 5.0, 3.0, 9.0, 9.0, 9.0], [1.0, 2.0, 3.0, 4.0, 5.0, 6.0]])
    mask = torch.tensor([[1.0, 1, 1, 0, 0, 0], [1, 1, 1, 1, 1, 1]])
    assert top_mean(logits, mask).tolist() == [5.0, 5.5]


def test_auc_counts_pairs() -> None:
    rng = np.random.default_rng(0)
    positive, negative = rng.integers(0, 6, 30).astype(float), rng.integers(0, 5, 40).astype(float)
    pairs = [(p > n) + (p == n) / 2 for p in positive for n in negative]
    assert auc(positive, negative) == pytest.approx(np.mean(pairs))
    assert np.isnan(auc(positive, np.array([])))


def test_the_streams_smoothing_is_the_detectors() -> None:
    raw = np.random.default_rng(0).random(20).astype(np.float32)
    stream = Stream("x", raw, 25.0)
    filter_ = Ema(1.0)
    wanted = [filter_.update(16 * k / 25, (16 * k + 15) / 25, float(r)) for k, r in enumerate(raw)]
    assert np.allclose(stream.smoothed(1.0), wanted)


def test_alarms_have_hysteresis_a_least_length_and_a_cooldown() -> None:
    values = np.array([0.1, 0.6, 0.4, 0.6, 0.2, 0.6, *[0.1] * 9, 0.9, 0.1, 0.1])
    stream = Stream("x", values.astype(np.float32), 16.0)  # a window a second
    found = stream.alarm_starts(values, 0.5)
    assert found == [stream.ends_s[1], stream.ends_s[15]]  # 3: still on (0.4 ≥ 0.35); 5: within the cooldown


def test_scenes_are_judged_by_time() -> None:
    def scene(hot: range, incident: tuple[float, float] | None) -> Stream:
        raw = np.full(40, 0.02, np.float32)
        raw[list(hot)] = 0.95
        return Stream("s", raw, 16.0, incident)  # one window a second

    streams = [
        scene(range(20, 28), (20.0, 28.0)),  # seen in time
        scene(range(27, 33), (20.0, 28.0)),  # too late
        scene(range(5, 8), (20.0, 28.0)),  # too early
        scene(range(0), None),  # quiet
        scene(range(9, 12), None),  # false alarm
    ]
    found = judge_scenes(streams, 0.6, 1.0)
    assert (found["incident_scenes"], found["seen"], found["scenes_with_other_alarms"]) == (3, 1, 2)
    assert (found["quiet_scenes"], found["quiet_scenes_with_alarm"]) == (2, 1)


def _level(level: float, incident_s: tuple[float, float] | None = None) -> Stream:
    return Stream("s", np.full(30, level, np.float32), 25.0, incident_s)


def test_the_threshold_lies_above_quiet_footage_and_below_incidents() -> None:
    quiet = [_level(0.1), _level(0.3)]
    loud = [_level(0.05, (1.0, 9.0))] * 5
    for scene in loud:
        scene.raw[2:14] = 0.9
    _, threshold, how = choose_smoothing(quiet, [*loud, *quiet], quiet)
    assert 0.5 < threshold < 0.65 and "pieces of a quiet camera 0.300" in how  # in the middle of what serves
    _, threshold, how = choose_smoothing([*quiet, _level(0.95)], [*loud, *quiet], quiet)
    assert threshold > 0.95  # quiet footage that looks worse than any incident: no false alarm, at the price of a miss
    assert "one alarm in 0 % of rendered incidents" in how


def test_one_odd_clip_of_many_does_not_decide_for_every_camera() -> None:
    real = [_level(0.6)] * 10
    _, alone, how = choose_smoothing([], [], [_level(0.3)] * 39 + [_level(0.85)], real)
    assert 0.4 < alone < 0.5 and "100 % of 10 abnormal and 2.5 % of 40 normal" in how
    _, many, _ = choose_smoothing([], [], [_level(0.3)] * 20 + [_level(0.58)] * 20, real)
    assert 0.58 < many < 0.6  # a false alarm costs three misses
    _, camera, _ = choose_smoothing([_level(0.85)], [], [_level(0.3)] * 40, real)
    assert camera > 0.85  # the same in a quiet camera decides


def test_the_threshold_lies_amid_those_that_serve_alike() -> None:
    judged = Judged([], [_level(0.3)] * 40, [_level(0.6)] * 40, 1.0)
    value, good = find_threshold(judged, 0.2)
    assert value == pytest.approx(0.45, abs=0.01) and good == pytest.approx(1.0)
    assert find_threshold(judged, 0.5)[0] == pytest.approx(0.55, abs=0.01)
    far = Judged([], [_level(0.5)] * 40, [_level(0.3)] * 20 + [_level(0.7)] * 39, 1.0)  # a worse place lies between
    assert 0.5 < find_threshold(far, 0.2)[0] < 0.7
    assert find_threshold(judged, 0.99)[0] == 0.98


def test_whole_quiet_recordings_may_alarm_so_often_and_no_more() -> None:
    def night(peak: float) -> Stream:
        raw = np.full(1125, 0.1, np.float32)
        raw[600:620] = peak
        return Stream("night", raw, 5.0)  # an hour

    nights = [night(peak) for peak in (0.95, 0.6, 0.5, 0.3, 0.3, 0.3, 0.3)]  # 0.2 an hour allow one in seven hours
    floor, how = quiet_floor([], nights, 1.0)
    assert floor == pytest.approx(0.6, abs=0.001) and "7.0 h" in how
    assert quiet_floor([], nights[:3], 1.0)[0] == pytest.approx(0.95, abs=0.001)  # none in three


def test_a_threshold_from_clips_alone_lies_above_most() -> None:
    assert above_most([_level(0.3)] * 39 + [_level(0.85)], 1.0) == pytest.approx(0.32, abs=0.001)
    assert above_most([_level(0.1)] * 9, 1.0) == pytest.approx(0.22, abs=0.001)


def test_real_incidents_decide_where_there_are_some() -> None:
    quiet = [Stream("q", np.full(30, 0.3, np.float32), 25.0)]
    scenes = [Stream("i", np.full(30, 0.9, np.float32), 25.0, (0.0, 9.0)), *quiet]
    brief = np.array([0.05, 0.5, 0.05], np.float32)  # one window: a long filter does not see it
    real = [Stream("r", brief, 25.0)]
    time_constant_s, threshold, how = choose_smoothing(quiet, scenes, quiet, real)
    assert time_constant_s == 0.5 and 0.3 < threshold < 0.4 and "100 % of 1 abnormal" in how


def test_of_smoothings_that_serve_alike_the_steadiest_is_chosen() -> None:
    raw = np.full(60, 0.05, np.float32)
    raw[30:44] = 0.9  # the incident starts at window 30, as loud as it gets
    scenes = [Stream("i", raw, 25.0, (30 * 16 / 25, 44 * 16 / 25)), Stream("q", np.full(60, 0.05, np.float32), 25.0)]
    time_constant_s, threshold, _ = choose_smoothing(scenes[1:], scenes, scenes[1:])
    assert time_constant_s == 1.0 and 0.2 < threshold < 0.9  # all see it, the longest a window later
    # One clip of forty that only the shortest sees does not outweigh that; five do.
    long, brief = np.full(20, 0.9, np.float32), np.array([0.05, 0.5, 0.05], np.float32)
    for count, wanted in ((1, 1.0), (5, 0.5)):
        real = [Stream("r", long, 25.0)] * (40 - count) + [Stream("r", brief, 25.0)] * count
        quiet = [Stream("q", np.full(30, 0.3, np.float32), 25.0)]
        assert choose_smoothing(quiet, scenes, quiet, real)[0] == wanted


def test_a_smoothing_that_lone_windows_do_not_startle_is_chosen() -> None:
    raw = np.where((np.arange(60) >= 30) & (np.arange(60) < 44), 0.68, 0.05).astype(np.float32)
    scenes = [Stream("f", raw, 25.0, (30 * 16 / 25, 44 * 16 / 25)), Stream("q", np.full(60, 0.05, np.float32), 25.0)]
    spiky = np.full(60, 0.05, np.float32)
    spiky[::9] = 0.99  # lone windows, louder than this incident: a short filter would have to miss it
    time_constant_s, threshold, _ = choose_smoothing([Stream("s", spiky, 25.0)], scenes, scenes[1:])
    assert time_constant_s == 1.0 and 0.5 < threshold < 0.68


def test_the_head_that_serves_val_best_is_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(select_head, "HEADS", (HeadConfig(space="classes"), HeadConfig(decay=0.003)))
    blind = torch.nn.Linear(8, 3)  # a space in which nothing can be told
    torch.nn.init.zeros_(blind.weight)
    train, val = _bags(60, 0), _bags(60, 1)
    head, chosen, tried = select_head.choose_head(train, val, {"classes": blind}, {})
    assert chosen == HeadConfig(decay=0.003) and head.dims == (8, 1)
    assert [row["space"] for row in tried] == ["classes", "features"]
    assert tried[0]["mean_auc"] == 0.5 and tried[1]["mean_auc"] > 0.9


def test_the_probe_uses_answered_clips_only(tmp_path: Path) -> None:
    clips = [Clip(str(i), "s", i % 2 == 1, "c", "", "val" if i % 3 == 0 else "train", 25.0) for i in range(90)]
    targets = Targets(tmp_path, [Job(i, 0) for i in range(90)], "k")
    torch.manual_seed(0)
    features = torch.randn(90, 1024)
    features[1::2, :40] += 4
    assert teacher_probe(clips, targets, {}) == {}
    targets.put(range(80), features[:80], torch.zeros(80, 400))
    table = teacher_probe(clips, targets, {})
    assert table["s"]["value"] > 0.9
    assert table["s"]["abnormal"] + table["s"]["normal"] == sum(c.split == "val" for c in clips[:80])


def test_a_set_left_out_is_judged_by_what_the_others_taught() -> None:
    bags = _bags(160, 3)
    fit = partial(fit_head, config=HeadConfig(decay=0.003))
    same, some = leave_one_set_out(bags, fit, [bag for bag in bags if bag.set == "a"][:20])
    assert some.keys() == {"a"} and some["a"]["abnormal"] + some["a"]["normal"] == 20
    assert same.keys() == {"a", "b"} and all(row["value"] > 0.9 for row in same.values())
    turned = [Bag(b.features * -1.0, b.set, b.abnormal) if b.set == "b" else b for b in bags]
    (other,) = leave_one_set_out(turned, fit)
    assert other["b"]["value"] < 0.5
    assert leave_one_set_out([b for b in bags if b.set == "a"], fit) == ({},)  # nothing to learn from
