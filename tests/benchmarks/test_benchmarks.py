"""The benchmarks' own arithmetic, and that their small parts run."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks import cameracosts, cameras, fanout, latency, peers, readme, results, rig
from benchmarks.__main__ import names
from benchmarks.clock_server import BAND, band

ALL = {"latency", "cameras", "fanout", "peers", "readme", "soak"}


def test_every_benchmark_is_listed_with_a_sentence_and_helpers_are_not() -> None:
    found = names()
    assert set(found) >= ALL
    assert all(found.values())
    assert not {"rig", "footage", "clock_server", "results"} & set(found)


@pytest.mark.parametrize("milliseconds", [0, 1, 123_456, 2**24 - 1])
def test_a_time_shown_in_a_picture_is_read_back_despite_noise(milliseconds: int) -> None:
    luma = np.frombuffer(band(milliseconds, 320), np.uint8).reshape(BAND, 320)
    noise = np.random.default_rng(1).integers(-25, 26, (BAND, 320))
    picture = np.full((240, 320, 3), 90, np.uint8)
    picture[:BAND] = np.clip(luma + noise, 0, 255).astype(np.uint8)[..., None]
    assert rig.read_band(picture) == milliseconds


def rfc3339(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def score(frame: int, captured: float, parts: dict[str, float]) -> dict[str, Any]:
    return {
        "schema": "stream-detector.score/1",
        "camera": "cam00",
        "end_frame": frame,
        "captured_utc": rfc3339(captured),
        "emitted_utc": rfc3339(captured + sum(parts.values()) / 1e3),
        "timing": parts,
    }


def test_the_account_adds_capture_and_finds_what_does_not_add_up() -> None:
    parts = dict(zip(latency.STAGES, (1.0, 5.0, 0.0, 30.0, 2.0, 1.0), strict=True))
    good = score(15, 1_800_000_000.0, parts)
    event = {
        "schema": "stream-detector.alarm/1",
        "camera": "cam00",
        "windows": [{"end_frame": 15}],
        "emitted_utc": good["emitted_utc"],
        "timing": parts,
    }
    messages = [(1_800_000_000.044, good), (1_800_000_000.049, event)]
    told = latency.account([{"15": 60.0}], messages)
    assert told["captured_to_score"]["p50"] == pytest.approx(44.0, abs=0.1)
    assert told["light_to_score"]["p50"] == pytest.approx(104.0, abs=0.1)
    assert told["captured_to_event"]["p50"] == pytest.approx(49.0, abs=0.1)
    assert told["stages"]["delivery"]["p50"] == pytest.approx(5.0, abs=0.1)
    assert told["account"] == {"checked": 2, "worst_ms": pytest.approx(0.0, abs=0.01), "within_2_ms": 1.0}
    wrong = score(31, 1_800_000_001.0, parts) | {"emitted_utc": rfc3339(1_800_000_001.1)}
    told = latency.account([{}], [(1_800_000_001.2, wrong)])
    assert told["account"]["worst_ms"] == pytest.approx(61.0, abs=0.5)
    assert told["account"]["within_2_ms"] == 0.0


def test_what_cannot_be_avoided_is_stated() -> None:
    fixed = latency.unavoidable(16)
    assert fixed["window_fill_s"] == pytest.approx(0.64)
    assert fixed["wait_for_a_window_mean_s"] == pytest.approx(0.32)
    assert fixed["smoothing_and_hysteresis_s"] >= 0.0


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({}, True),
        ({"drops": {"overload": 1}}, False),
        ({"drops": {"skipped": 1}}, False),
        ({"fps_per_camera": 22.0}, False),
        ({"delay_ms": {"p95": 160.0}}, False),
        ({"delay_ms": {}}, False),
        ({"error": "it ended"}, False),  # how `measured` notes a run that failed
    ],
)
def test_kept_up_means_no_drop_full_rate_and_scores_in_time(change: dict[str, Any], expected: bool) -> None:
    figures = {"drops": {}, "fps_per_camera": 25.0, "delay_ms": {"p95": 80.0}}
    assert cameras.kept_up(figures | change) is expected


def test_the_budget_is_what_pictures_and_windows_leave_of_the_cores() -> None:
    assert cameracosts.budget(2, 0.69, 27.0) == pytest.approx(2000 / (17.25 + 42.1875))
    assert cameracosts.budget(16, 2.5, 0.0) == pytest.approx(256.0)  # windows of a GPU cost no core


def test_figures_are_differences_between_two_samples() -> None:
    first = {
        "at_s": 0.0,
        "utc": 0.0,
        "cpu_s": 5.0,
        "groups": {"capture": 1.0, "engine": 2.0},
        "windows": 10,
        "scored": 10,
        "watch": [0.5, 0.1, 0.0, 100, 100],
        "resize_s": 0.2,
        "frames": 100,
        "dropped": 1,
        "batches": 5,
        "batched": 10,
    }
    last = {
        "at_s": 60.0,
        "utc": 60.0,
        "cpu_s": 35.0,
        "groups": {"capture": 11.0, "engine": 20.0},
        "windows": 110,
        "scored": 110,
        "watch": [5.5, 1.1, 0.0, 3100, 3100],
        "resize_s": 2.2,
        "frames": 3100,
        "dropped": 1,
        "batches": 55,
        "batched": 110,
    }
    told = rig.figures(rig.Spec(2, "file", ""), first, last)
    assert told["cpu_s_per_camera_minute"] == 15.0
    assert told["fps_per_camera"] == 25.0
    assert told["dropped"] == 0
    assert told["mean_batch"] == 2.0
    assert told["cpu_share"]["inference"] == 0.6
    assert sum(told["cpu_share"].values()) == pytest.approx(1.0, abs=0.01)


def test_scores_of_two_ways_are_compared_by_file_name() -> None:
    told = peers.largest_difference({"/a/x.mp4": [0.1, 0.2]}, {"x.mp4": [0.1, 0.25], "y.mp4": [1.0]})
    assert told == {"windows": 2, "largest": 0.05}


def test_a_process_is_accounted_for_and_its_failure_told() -> None:
    import sys

    used = peers.accounted([sys.executable, "-c", "x = bytearray(60_000_000); sum(range(10**6))"])
    assert used["peak_mb"] > 60 and used["cpu_s"] > 0.005
    with pytest.raises(RuntimeError, match="no such luck"):
        peers.accounted([sys.executable, "-c", "raise SystemExit('no such luck')"])


@pytest.mark.integration
def test_fanout_counts_what_arrives_at_several_subscribers() -> None:
    rows = fanout.measure(3, 0.3, (100,))
    assert [row["kind"] for row in rows] == ["alarm", "score"]
    assert all(row["lost"] == 0 for row in rows)
    assert all(row["late_p50_ms"] is not None for row in rows)


RECORD = {
    "name": "fanout",
    "date": "2026-01-02T03:04:05+00:00",
    "commit": "abc1234",
    "machine": {"processor": "a processor", "cores": 2, "vector": ["avx2"], "memory_gib": 8.0},
    "results": {"best": [{"subscribers": 8, "kind": "alarm", "rate": 1000, "delivered_per_s": 8000}], "steps": []},
}


def test_tables_are_generated_checked_and_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "docs").mkdir()
    page = tmp_path / "README.md"
    page.write_text("before\n<!-- benchmark:fanout -->\nold\n<!-- /benchmark -->\nafter\n", encoding="utf-8")
    monkeypatch.setattr(readme, "ROOT", tmp_path)
    monkeypatch.setattr(results, "RESULTS", tmp_path)
    assert readme.main([]) == 0
    assert "Not measured yet" in page.read_text(encoding="utf-8")
    (tmp_path / "fanout.json").write_text(json.dumps(RECORD), encoding="utf-8")
    assert readme.main(["--check"]) == 1
    assert "README.md differs" in capsys.readouterr().out
    assert readme.main([]) == 0
    text = page.read_text(encoding="utf-8")
    assert "| 8 | alarm | 1,000 | 8,000 | – | – |" in text
    assert "commit abc1234; a processor, 2 cores (avx2), 8.0 GiB" in text
    assert text.startswith("before\n") and text.endswith("after\n")
    assert readme.main(["--check"]) == 0


def test_the_readme_says_what_the_results_say() -> None:
    assert readme.main(["--check"]) == 0


@pytest.mark.parametrize("name", sorted({file for file, _ in readme.TABLES.values()}))
def test_every_result_that_lies_here_can_be_shown(name: str) -> None:
    if not (results.RESULTS / f"{name}.json").is_file():
        pytest.skip(f"{name} has not been measured; run python -m benchmarks {name}")
    for key in (key for key, (file, _) in readme.TABLES.items() if file == name):
        assert "|" in readme.rendered(key)
