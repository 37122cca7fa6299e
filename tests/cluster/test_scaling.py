"""The queueing simulation against what can be known without a machine."""

from __future__ import annotations

import pytest

from benchmarks.queueing import WINDOW_S, Machine, Shards, capacity, simulate
from benchmarks.scaling import check, extrapolate, machine_from

FAST = Machine(2.0, 0.5, {1: 10.0, 16: 120.0}, 2.0)


def test_an_idle_machine_scores_everything_at_once() -> None:
    told = simulate(FAST, 1)
    assert told.windows_per_s == pytest.approx(1 / WINDOW_S, rel=0.05)
    assert (told.dropped, told.mean_batch) == (0, 1.0)
    assert told.p50_ms == pytest.approx(20.1, abs=0.5)  # the deadline, then the engine


def test_a_full_machine_scores_what_its_engine_can_and_drops_the_rest() -> None:
    told = simulate(FAST, 100)
    free = 2.0 - 100 * 25 * 0.5e-3
    assert told.windows_per_s == pytest.approx(16 / 0.120 * free / 2.0, rel=0.05)
    assert told.dropped > 0 and not told.kept_up
    assert told.cores_busy == pytest.approx(2.0, rel=0.02)


def test_capacity_is_the_last_number_that_is_kept_up_with() -> None:
    most = capacity(FAST, share=9.0)
    assert simulate(FAST, most, seconds=10.0).kept_up
    assert not simulate(FAST, most + 1, seconds=10.0).kept_up


def test_service_times_and_the_curve_come_out_of_a_record() -> None:
    row = {
        "cameras": 1,
        "windows_per_s": 1.56,
        "cores_busy": 0.05,
        "kept_up": True,
        "delay_ms": {"p95": 25.0},
        "cpu_share": {"capture": 0.25, "inference": 0.6, "decide": 0.05, "other": 0.05},
    }
    batches = {
        "1": {"ms_per_window": 10.0, "cpu_ms_per_window": 19.0},
        "16": {"ms_per_window": 8.0, "cpu_ms_per_window": 16.0},
    }
    record = {
        "results": {
            "engine": {"batches": batches},
            "costs": {"320x240": {"product_picture_ms": 0.5, "cores": 2}},
            "sizes": {"320x240": {"kept": {"rows": [row]}}},
        },
    }
    machine = machine_from(record, "320x240")
    assert (machine.frame_ms, machine.engine_cores, machine.engine_ms[16]) == (0.5, 2.0, 128.0)
    assert machine.base_cores == pytest.approx(0.005)
    (told,) = check(record, "320x240", machine)
    assert told["error"] <= 0.15


def test_what_breaks_first_is_the_smallest_limit() -> None:
    told = extrapolate(FAST, Shards(50.0, 100.0), 100_000, "320x240")
    assert told["nodes"] * told["cameras_a_node"] >= 100_000
    assert told["limits"][told["breaks_first"]] == min(told["limits"].values())
    assert told["shards"] >= 100_000 // (4096 // 3)
