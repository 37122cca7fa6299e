"""The published tables: made from records, side by side, with what was not measured left open."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks import readme, results


def figure(value: float, over: str = "groups", clips: int = 40) -> dict[str, object]:
    counts = {"abnormal": clips, "normal": 40, "abnormal_groups": 12, "normal_groups": 12}
    return {"value": value, "low": value - 0.1, "high": value + 0.1, "over": over, **counts}


def record(name: str, value: float, *, streams: bool) -> dict[str, object]:
    share = {"hits": 3, "of": 10, "value": 0.3, "low": 0.1, "high": 0.6}
    rate = {"count": 2, "hours": 4.0, "rate": 0.5, "low": 0.06, "high": 1.81}
    spread = {"lowest": 0.5, "highest": 0.7, "deviation": 0.1}
    found: dict[str, object] = {
        "outer": {"cctv_fights": figure(value, "clips"), "pooled": figure(value)},
        "kept": {"pooled": figure(value)},
        "kinds": {"fight": figure(value), "other": figure(value, "clips", 1)},
        "calibration_error": {"all": 0.05, "kept": 0.06},
        "groups": {"cctv_fights": {"abnormal": 8, "abnormal_clips": 120, "normal": 7, "normal_clips": 110}},
        "left_out": {
            "sources": {
                "cctv_fights": {"own": figure(0.6), "against_others": {"value": 0.61, "low": 0.5, "high": 0.7}}
            },
            "spread": {"own": spread, "against_others": spread},
        },
    }
    if streams:
        row = {"recall": share, "by_kind": {"fight": share}, "false_alarms": rate, "quiet": rate}
        found["streams"] = {"budgets": {"1": {**row, "delay_s": {"median": 1.2, "p90": 2.3}}}}
    if streams:
        novelty = {"marked": 3, "of": 9, "not_marked": figure(0.71), "near": figure(0.7)}
        found["left_out"]["sources"]["cctv_fights"]["novelty"] = novelty  # type: ignore[index]
    settings = {"look": f"look-{name}", "kept": "abc", "limits": {"hockey_fights": 150}}
    if not streams:
        settings["not judged, for labels of it were seen"] = ["cctv_fights"]
    return {"name": name, "date": "2026-11-28T05:00:00", "commit": "abc1234", "settings": settings, "results": found}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(results, "RESULTS", tmp_path)
    return tmp_path


def test_networks_stand_side_by_side_with_their_groups(folder: Path) -> None:
    for name, value, streams in (("i3d-160", 0.73, True), ("mc3", 0.66, False)):
        text = json.dumps(record(name, value, streams=streams))
        (folder / f"standard_{name}.json").write_text(text, encoding="utf-8")
    text = readme.rendered("standard")
    assert "| outer folds | i3d-160 | mc3 |" in text
    assert "| AUC, cctv_fights | 0.730 [0.630, 0.830]* | 0.660 [0.560, 0.760]* |" in text
    assert "| AUC, pooled | 0.730 [0.630, 0.830] | 0.660 [0.560, 0.760] |" in text
    assert "| AUC, other against all normal clips | too few clips (1 and 40)" in text
    assert "| streams, asked 1 an hour: false alarms | 2 in 4.0 h: 0.50 [0.06, 1.81] an hour | – |" in text
    assert "| cctv_fights | 8 (120 clips) | 7 (110 clips) |" in text
    assert "hockey_fights 150" in text
    assert (
        "| AUC, cctv_fights left out, without clips marked as novel | 0.710 [0.610, 0.810], 3 of 9 marked | – |" in text
    )
    assert "not judged on cctv_fights, of which labels were seen" in text
    assert "abc1234" in text


def test_a_bundle_that_was_not_judged_here_has_open_cells(folder: Path) -> None:
    held = {"embedded": {"fingerprint": "f", "auc": {"cctv_fights": 0.605}, "quiet": {"hours": 6.0, "alarms": 0}}}
    head = {"name": "heldout", "date": "2026-11-28", "commit": "662d5e1", "source": "measured elsewhere"}
    (folder / "heldout.json").write_text(json.dumps({**head, "results": {"bundles": held}}), encoding="utf-8")
    text = readme.rendered("heldout")
    assert "| AUC, cctv_fights | 0.605 |" in text
    assert "| quiet hours | 0 alarms in 6 h (below 0.50 an hour) |" in text
    assert "| composite streams | not measured |" in text
    assert "measured elsewhere" in text
    unseen = {"wild_clips": figure(0.6, "clips")}
    judged = {"unseen": unseen, "kinds": {}, "calibration_error": {"all": 0.2}}
    settings = {"fingerprint": "f", "kept": "abc"}
    text = json.dumps({**head, "settings": settings, "results": judged})
    (folder / "standard_embedded.json").write_text(text, encoding="utf-8")
    assert "| AUC, wild_clips | 0.600 [0.500, 0.700]* |" in readme.rendered("heldout")
