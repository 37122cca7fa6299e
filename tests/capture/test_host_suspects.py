"""Which camera kills its host is found, and the others run without it."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stream_detector.capture.host_suspects import FIRST_HOLD_S, LONGEST_HOLD_S, Suspects

NAMES = [f"cam{n}" for n in range(8)]
STEP_S = 0.25
SHORT_LIFE_S = 10.0


class Host:
    """A host that dies `after_s` after a killer came; others are online at once, killers perhaps as well."""

    def __init__(self, killers: set[str], after_s: float, killers_online: bool) -> None:
        self.killers, self.after_s, self.killers_online = killers, after_s, killers_online
        self.suspects = Suspects()
        self.now_s = 100.0
        self.short_lives = self.deaths = 0
        self.up_s = dict.fromkeys(NAMES, 0.0)

    def life(self, longest_s: float) -> None:
        begun_s = self.now_s
        running = {name: begun_s for name in self.suspects.begin(NAMES, self.short_lives, self.now_s)}
        told: set[str] = set()
        while self.now_s - begun_s < longest_s:
            self.now_s += STEP_S
            for name, came_s in running.items():
                self.up_s[name] += STEP_S
                if name not in told and (name not in self.killers or self.killers_online):
                    told.add(name)
                    self.suspects.online(name, self.now_s)
                if name in self.killers and self.now_s - came_s >= self.after_s:
                    self.deaths += 1
                    self.short_lives = self.short_lives + 1 if self.now_s - begun_s < SHORT_LIFE_S else 0
                    self.suspects.died(self.now_s)
                    return
            if (name := self.suspects.due(self.now_s)) is not None:
                running[name] = self.now_s


@given(st.sampled_from(NAMES), st.floats(0.1, 1.7), st.booleans())
@settings(max_examples=60, deadline=None)
def test_the_killer_is_held_back_and_the_others_run(killer: str, after_s: float, online: bool) -> None:
    host = Host({killer}, after_s, online)
    while host.now_s < 700.0:
        host.life(1000.0 - host.now_s)
    assert host.deaths <= 10  # three to find it, then once at the end of each longer and longer hold
    for name in NAMES:
        if name != killer:
            assert host.up_s[name] >= 0.93 * 600.0, host.up_s
    assert host.up_s[killer] < 30.0


@given(st.sets(st.sampled_from(NAMES), min_size=2, max_size=3))
@settings(max_examples=30, deadline=None)
def test_several_killers_are_found_one_after_the_other(killers: set[str]) -> None:
    host = Host(killers, 0.5, False)
    while host.now_s < 1300.0:
        host.life(1400.0 - host.now_s)
    for name in set(NAMES) - killers:
        assert host.up_s[name] >= 0.8 * 1200.0, host.up_s


def test_a_camera_that_does_no_harm_any_more_comes_back_for_good() -> None:
    host = Host({"cam3"}, 0.5, False)
    for _ in range(3):
        host.life(20.0)
    assert host.suspects.held_s("cam3", host.now_s) > 0.0
    host.killers.clear()
    host.life(FIRST_HOLD_S + 10.0)
    before = host.up_s["cam3"]
    assert before > 0.0
    host.life(20.0)  # of a new process, for another reason
    assert host.up_s["cam3"] == pytest.approx(before + 20.0, abs=STEP_S)
    assert host.suspects.held_s("cam3", host.now_s) == 0.0


def test_a_hold_grows_up_to_a_limit() -> None:
    suspects = Suspects()
    now_s, holds = 0.0, []
    suspects.begin(["gate"], 2, now_s)
    for _ in range(8):
        now_s += 3.0
        assert suspects.due(now_s) == "gate"
        assert suspects.died(now_s + 0.5) == "gate"
        holds.append(suspects.held_s("gate", now_s + 0.5))
        now_s += 0.5 + holds[-1]
        assert suspects.begin(["gate"], 3, now_s) == []
    assert holds == [min(LONGEST_HOLD_S, FIRST_HOLD_S * 2.0**n) for n in range(8)]
