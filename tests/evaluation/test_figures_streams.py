"""Figures and streams against brute force and against scipy."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from trainer.evaluation import streams
from trainer.evaluation.figures import (
    Judged,
    auc_figure,
    auc_of,
    by_kind,
    by_source,
    calibration_error,
    cross,
    rate_figure,
    share_figure,
)
from trainer.evaluation.streams import GRACE_S, ScoredClip, Track, best_threshold, compose, draw, judge


def judged(scores: list[float], abnormal: list[bool], sets: str = "", kinds: tuple[str, ...] = ()) -> Judged:
    names = tuple(sets) or ("s",) * len(scores)
    groups = tuple(f"g{k}" for k in range(len(scores)))
    return Judged(np.array(scores), np.array(abnormal), groups, names, kinds or ("",) * len(scores))


@given(st.integers(0, 60), st.floats(0.1, 100))
def test_rates_have_the_exact_poisson_bounds(count: int, hours: float) -> None:
    found = rate_figure(count, hours)
    low = stats.chi2.ppf(0.025, 2 * count) / 2 / hours if count else 0.0
    high = stats.chi2.ppf(0.975, 2 * count + 2) / 2 / hours
    assert found["low"] == pytest.approx(low, abs=6e-5, rel=1e-4)
    assert found["high"] == pytest.approx(high, abs=6e-5, rel=1e-4)


def test_no_alarm_in_seven_hours_only_bounds_the_rate() -> None:
    assert rate_figure(0, 7.0, confidence=0.9)["high"] == pytest.approx(0.428, abs=1e-3)  # one-sided 95 %: ln 20 / 7


@given(st.integers(1, 200), st.data())
def test_shares_have_wilsons_interval(of: int, data: st.DataObject) -> None:
    hits = data.draw(st.integers(0, of))
    found, wanted = share_figure(hits, of), stats.binomtest(hits, of).proportion_ci(0.95, method="wilson")
    assert found["low"] == pytest.approx(wanted.low, abs=1e-4)
    assert found["high"] == pytest.approx(wanted.high, abs=1e-4)


def test_with_few_groups_the_interval_is_over_clips_and_says_so() -> None:
    rng = np.random.default_rng(0)
    values, groups = rng.random(40), [f"g{k // 10}" for k in range(40)]
    found = auc_figure(values, rng.random(40), groups, [str(k) for k in range(40)])
    assert (found["over"], found["abnormal_groups"], found["normal_groups"]) == ("clips", 4, 40)


def test_clips_of_one_group_are_not_counted_as_many() -> None:
    rng = np.random.default_rng(1)
    means = rng.normal(size=(2, 12))
    positive, negative = (np.repeat(m, 30) + rng.normal(0, 0.01, 360) for m in means)
    groups = [f"g{k // 30}" for k in range(360)]
    whole = auc_figure(positive, negative, groups, groups)
    alone = auc_figure(positive, negative, [str(k) for k in range(360)], [str(k) for k in range(360)])
    assert whole["over"] == alone["over"] == "groups"
    assert whole["high"] - whole["low"] > 3 * (alone["high"] - alone["low"])


def test_the_interval_of_noise_holds_a_half_nineteen_times_in_twenty() -> None:
    held = 0
    for seed in range(60):
        rng = np.random.default_rng(seed)
        names = [str(k) for k in range(50)]
        found = auc_figure(rng.random(50), rng.random(50), names, names, rounds=200, seed=seed)
        held += found["low"] <= 0.5 <= found["high"]
    assert held >= 51  # 57 are expected; fewer than 51 come by chance once in 200


def test_sources_and_kinds_are_judged_apart() -> None:
    found = judged(
        [0.9, 0.1, 0.2, 0.8, 0.3], [True, False, True, False, False], "aabbc", ("fight", "", "crash", "", "")
    )
    assert {name: row["value"] for name, row in by_source(found).items()} == {"a": 1.0, "b": 0.0, "pooled": 0.6667}
    assert {name: row["value"] for name, row in by_kind(found).items()} == {"fight": 1.0, "crash": 0.3333}
    assert auc_of(found)["abnormal"] == 2


def test_a_source_against_others_counts_only_pairs_across() -> None:
    found = judged([0.9, 0.95, 0.3, 0.5, 0.1], [True, False, False, True, False], "aabbb")
    # own abnormal 0.9 over 0.3 and 0.1: two of two; others' abnormal 0.5 over own normal 0.95: none of one
    assert cross(found, np.array([True, True, False, False, False]))["value"] == pytest.approx(2 / 3, abs=1e-4)


def test_calibration_error_is_nothing_for_true_probabilities_and_the_gap_for_wrong_ones() -> None:
    rng = np.random.default_rng(0)
    scores = rng.random(20_000)
    labels = rng.random(20_000) < scores
    assert calibration_error(scores, labels) < 0.01
    assert calibration_error(np.full(1000, 0.9), np.arange(1000) % 2 == 0) == pytest.approx(0.4)
    assert np.isnan(calibration_error(np.array([]), np.array([], dtype=bool)))


def takes(rng: np.random.Generator, count: int = 12) -> list[ScoredClip]:
    return [
        ScoredClip(f"c{k}", rng.random(int(rng.integers(1, 6))), 25.0, "ab"[k % 2], "fight", k % 4 < 2)
        for k in range(count)
    ]


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_clips_lie_where_they_are_said_to_and_apart(seed: int) -> None:
    rng = np.random.default_rng(seed)
    clips = [ScoredClip(f"c{k}", np.full(3, 1.0 if k % 2 else 0.5), 25.0, "s", "fight", bool(k % 2)) for k in range(6)]
    track = compose(ScoredClip("q", np.zeros(50), 5.0), clips, 400.0, rng)
    assert track.length_s == pytest.approx(400.0)
    assert len(track.incidents) == 3
    assert all(np.diff(track.ends_s) > 0)
    assert all(track.ends_s - track.starts_s > 0)
    for incident in track.incidents:
        inside = (track.starts_s >= incident.start_s - 1e-9) & (track.ends_s <= incident.end_s + 1e-9)
        assert track.raw[inside].tolist() == [1.0] * 3
        assert incident.start_s >= streams.GAP_S
    assert sum(track.raw == 1.0) == 9
    assert sum(track.raw == 0.5) == 9


def test_alarms_are_judged_by_where_they_start() -> None:
    ends = np.arange(1, 101) * 1.0
    raw = np.zeros(100)
    raw[[11, 40, 71, 90]] = 1.0
    incidents = tuple(streams.Incident(a, b, "s", k) for a, b, k in ((10.0, 14.0, "fight"), (67.5, 70.0, "crash")))
    found = judge(Track(raw, ends, ends - 1, 100.0, incidents), raw, 0.5)
    assert [delay for _, delay in found.found] == [2.0, 4.5]  # the second one comes within the grace
    assert found.false == 2
    figures = streams.outcome_figures(found)
    assert figures["recall"]["value"] == 1.0
    assert figures["false_alarms"]["rate"] == 72.0
    assert figures["delay_s"] == {"median": 3.25, "p90": 4.25}
    assert set(figures["by_kind"]) == {"fight", "crash"}


def brute_force(tracks: list[Track], tau: float, budget: float) -> tuple[float, int]:
    """Every threshold at which anything changes, judged from the definition."""
    hours = sum(t.length_s for t in tracks) / 3600
    best = (streams.OUT_OF_REACH, 0)
    for threshold in sorted({float(v) for t in tracks for v in t.smoothed(tau)}, reverse=True):
        hits = false = 0
        for track in tracks:
            left = streams.alarm_starts(track, track.smoothed(tau), threshold)
            for incident in track.incidents:
                mine = [at for at in left if incident.start_s <= at <= incident.end_s + GRACE_S]
                hits += bool(mine)
                left = [at for at in left if at not in mine]
            false += len(left)
        if false / hours <= budget and hits > best[1]:
            best = (threshold, hits)
    return best


@pytest.mark.parametrize("budget", [0.0, 3.0, 12.0, 60.0])
@pytest.mark.parametrize("seed", range(3))
def test_the_best_threshold_for_a_budget_is_what_brute_force_finds(seed: int, budget: float) -> None:
    rng = np.random.default_rng(seed)
    quiet = [ScoredClip("q", rng.random(40) * 0.6, 5.0)]
    tracks = draw(quiet, takes(rng), 3, 300.0, 2, rng)
    for tau in (0.5, 2.0):
        found = best_threshold(tracks, tau, budget, levels=10_000)
        assert found == pytest.approx(brute_force(tracks, tau, budget))
        thinned = best_threshold(tracks, tau, budget, levels=40)
        outcome = streams.judge_all(tracks, tau, thinned[0])
        assert outcome.hits == thinned[1] <= found[1]
        assert outcome.false / outcome.hours <= budget


def test_nothing_within_the_budget_finds_nothing_and_rings_never() -> None:
    rng = np.random.default_rng(0)
    quiet = [ScoredClip("q", np.ones(40), 5.0)]
    tracks = draw(quiet, takes(rng), 2, 300.0, 2, rng)
    tau, threshold = streams.choose_at_budget(tracks, 0.0)
    outcome = streams.judge_all(tracks, tau, threshold)
    assert (threshold, outcome.hits, outcome.false) == (streams.OUT_OF_REACH, 0, 0)


def test_every_set_is_drawn_as_often_whatever_its_size() -> None:
    rng = np.random.default_rng(0)
    clips = [ScoredClip(f"a{k}", np.ones(2), 25.0, "many" if k else "one", "fight", True) for k in range(50)]
    clips += [ScoredClip("n", np.zeros(2), 25.0, "many", "", False)]
    tracks = draw([ScoredClip("q", np.zeros(40), 5.0)], clips, 40, 600.0, 5, rng)
    drawn = [i.set for t in tracks for i in t.incidents]
    assert len(drawn) == 200
    assert 70 < drawn.count("one") < 130


def test_without_quiet_hours_or_without_incidents_there_are_no_streams() -> None:
    rng = np.random.default_rng(0)
    assert draw([], takes(rng), 2, 300.0, 2, rng) == []
    assert draw([ScoredClip("q", np.zeros(9), 5.0)], [ScoredClip("n", np.zeros(2), 25.0)], 2, 300.0, 2, rng) == []
