"""The gate and `adapt`: the true winner passes; what forgets, silences, lies or only looks good does not."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from site_samples import BUNDLE, DIM, SERVICE, STARTLING, a_day, a_site, judged, some_anchors

from stream_detector.adaptation.adapt import adapt, split_days, tally_model
from stream_detector.adaptation.anchors import weighted_auc
from stream_detector.adaptation.gate import allowed_losses, run_gate, sign_test
from stream_detector.adaptation.overlay import Correction, Overlay
from stream_detector.adaptation.report import render
from stream_detector.adaptation.site_data import Incident
from stream_detector.errors import DataError


@pytest.fixture(scope="module")
def site() -> tuple[list, list]:
    return split_days(a_site())


@pytest.fixture(scope="module")
def winner(site: tuple[list, list]) -> Overlay:
    return adapt(site[0], SERVICE, some_anchors(), camera="gate").overlay


def of_axis(axis: int, weight: float) -> Correction:
    """Adds weight times one feature where that is above 0.5."""
    inward = np.zeros((1, DIM), np.float32)
    inward[0, axis] = 1.0
    return Correction(inward, np.array([-0.5], np.float32), np.array([weight], np.float32), 0.0)


def test_adapt_silences_what_was_judged_false_on_days_it_has_not_seen(site: tuple[list, list], winner: Overlay) -> None:
    before, after = tally_model(site[1], SERVICE), tally_model(site[1], winner)
    assert before.false >= 25 and before.hits == before.of >= 15
    assert after.false <= before.false / 2 and after.hits == before.hits
    assert winner.bundle == BUNDLE and winner.correction is not None
    anchors = some_anchors()
    assert anchors.auc(winner) >= anchors.auc(SERVICE) - 0.01


def test_the_gate_accepts_the_winner_and_names_what_disappears(site: tuple[list, list], winner: Overlay) -> None:
    verdict = run_gate(site[1], SERVICE, winner, some_anchors())
    assert verdict.accepted and verdict.rule == "win", verdict.sentence
    gone = [change for change in verdict.changes if change.change == "disappears"]
    assert len(gone) >= 12 and {change.verdict for change in gone} == {"false"}
    assert verdict.candidate.rate_high < verdict.service.rate_high
    page = render(winner, SERVICE, verdict.to_dict(), ("tried",))
    assert "accepted" in page and all(change.key in page for change in gone)


def shuffled() -> Overlay:
    dice = np.random.default_rng(3)
    inward = dice.normal(size=(8, DIM)).astype(np.float32)
    return Overlay(BUNDLE, "gate", 0.5, 1.0, Correction(inward, np.zeros(8, np.float32), -inward[:, 0] * 4, 0.0))


REFUSED = {
    "a head with shuffled weights": (shuffled(), {"recall", "anchors", "time"}),
    "a threshold of 0": (Overlay(BUNDLE, "gate", 0.0, 1.0), {"recall", "time"}),
    "a threshold of 1": (Overlay(BUNDLE, "gate", 1.0, 1.0), {"recall"}),
    "better on calm, worse on recall": (Overlay(BUNDLE, "gate", 0.5, 1.0, of_axis(0, -1.4)), {"recall", "anchors"}),
    "the same again": (Overlay(BUNDLE, "gate", 0.5, 1.0), {"win"}),
    "a little different": (Overlay(BUNDLE, "gate", 0.51, 1.0), {"win", "time"}),
    "slower": (Overlay(BUNDLE, "gate", 0.5, 6.0, of_axis(STARTLING, -3.0)), {"delay", "recall"}),
}


@pytest.mark.parametrize("name", REFUSED)
def test_the_gate_refuses(site: tuple[list, list], name: str) -> None:
    candidate, rules = REFUSED[name]
    verdict = run_gate(site[1], SERVICE, candidate, some_anchors())
    assert not verdict.accepted and verdict.rule in rules, verdict.sentence
    assert verdict.sentence.startswith("refused: ")


def test_what_forgets_the_anchors_is_refused_although_the_site_never_shows_it(site: tuple[list, list]) -> None:
    """Silencing every incident of a kind that this site has not had: only the anchors know."""
    anchors = some_anchors()
    other = replace(anchors, features=anchors.features.copy())
    other.features[other.abnormal, 5] += 3.0  # incidents of the training look otherwise than the site's
    forgets = Overlay(BUNDLE, "gate", 0.5, 1.0, of_axis(5, -4.0))
    both = Overlay(BUNDLE, "gate", 0.5, 1.0, of_axis(STARTLING, -3.0))
    assert run_gate(site[1], SERVICE, both, other).accepted
    assert run_gate(site[1], SERVICE, forgets, other).rule == "anchors"


def test_an_overlay_fitted_to_wrong_verdicts_is_refused() -> None:
    fit = split_days(a_site(flip=0.4, seed=1))[0]
    gate = split_days(a_site(seed=1))[1]
    anchors = some_anchors()
    try:
        candidate = adapt(fit, SERVICE, anchors).overlay
    except DataError:
        return  # it saw itself that nothing can be kept
    verdict = run_gate(gate, SERVICE, candidate, anchors)
    before, after = tally_model(gate, SERVICE), tally_model(gate, candidate)
    if verdict.accepted:  # then it is better by the right verdicts all the same
        assert after.false < before.false and after.hits >= before.hits


def test_unjudged_alarms_count_against_the_candidate_in_either_way(site: tuple[list, list], winner: Overlay) -> None:
    opened = [
        replace(s, incidents=tuple(replace(i, verdict="" if i.verdict == "false" else i.verdict) for i in s.incidents))
        for s in site[1]
    ]
    verdict = run_gate(opened, SERVICE, winner, some_anchors())
    assert not verdict.accepted and verdict.rule == "unjudged"  # they may be true: judge them first
    assert verdict.service.false_low == 0 < verdict.service.false_high
    assert verdict.service.rate_low <= verdict.service.rate_high


def test_a_new_alarm_counts_as_false_until_somebody_judges_it(site: tuple[list, list]) -> None:
    louder = Overlay(BUNDLE, "gate", 0.12, 1.0)
    verdict = run_gate(site[1], SERVICE, louder, some_anchors())
    assert not verdict.accepted
    assert all(change.verdict in ("", "false", "true") for change in verdict.changes)


def test_without_a_judged_true_alarm_or_with_too_little_footage_nothing_is_accepted(winner: Overlay) -> None:
    stretch, truth = a_day(0, incidents=0)
    assert run_gate([judged(stretch, truth)], SERVICE, winner, some_anchors()).rule == "enough"
    short, truth = a_day(1, incidents=3, startles=3, minutes=12.0)
    assert run_gate([judged(short, truth)], SERVICE, winner, some_anchors()).rule == "enough"


def test_too_few_verdicts_are_told(site: tuple[list, list]) -> None:
    bare = [replace(s, incidents=s.incidents[:0]) for s in site[0]]
    with pytest.raises(DataError, match="judge more"):
        adapt(bare, SERVICE, some_anchors())


def test_a_miss_is_worth_finding(site: tuple[list, list]) -> None:
    quiet = [replace(s, raw=s.raw * 0.5) for s in site[1]]  # a head that misses
    missed = [
        replace(
            s,
            incidents=tuple(Incident(i.key, i.start_s, i.end_s, "missed") for i in s.incidents if i.verdict == "true"),
        )
        for s in quiet
    ]
    better = Overlay(BUNDLE, "gate", 0.3, 1.0, of_axis(STARTLING, -3.0))
    verdict = run_gate(missed, SERVICE, better, some_anchors())
    assert verdict.candidate.found > verdict.service.found


def test_days_of_fit_and_gate_never_meet() -> None:
    fit, gate = split_days(a_site(5))
    assert {s.day for s in fit} & {s.day for s in gate} == set() and len(gate) == 2


def test_statistics_of_the_rule() -> None:
    assert sign_test(0, 5) == pytest.approx(1 / 32) and sign_test(0, 0) == 1.0 and sign_test(3, 3) > 0.5
    assert allowed_losses(0) == 0 and allowed_losses(20) == 3 and allowed_losses(100) == 9
    scores, labels = np.array([0.1, 0.4, 0.4, 0.8]), np.array([False, True, False, True])
    assert weighted_auc(scores, labels, np.ones(4)) == pytest.approx(0.875)
    assert weighted_auc(scores, labels, np.array([1, 1, 0, 1.0])) == 1.0
    assert weighted_auc(scores, np.zeros(4, bool), np.ones(4)) == 0.5
