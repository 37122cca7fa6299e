"""What is read back may be anything: a device, a table from a spreadsheet, a file that a kill cut anywhere."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stream_detector.errors import DataError
from stream_detector.reports.read_back import read_events
from stream_detector.reports.scores_file import read_scores
from stream_detector.system.outputs import SCORE_COLUMNS as COLUMNS

SOURCE = "Einfahrt-Süd/日本.mp4"
EVENT = {
    "schema": "stream-detector.alarm/1",
    "id": "1" * 32,
    "camera": "gate",
    "source": SOURCE,
    "type": "start",
    "start_s": 1.0,
    "end_s": None,
    "peak_score": 0.5,
    "threshold": 0.4,
    "start_utc": "2026-11-28T00:00:00.000Z",
    "reason": None,
    "degraded": [],
    "bundle": "0" * 16,
    "evidence": None,
    "windows": [],
    "timing": None,
}


def table(rows: int) -> bytes:
    text = io.StringIO(newline="")
    writer = csv.writer(text)
    writer.writerow(COLUMNS)
    for n in range(rows):
        writer.writerow((SOURCE, "gate", n, n * 16, n * 16 + 15, n * 0.64, n * 0.64 + 0.6, 0.5, 0.5, ""))
    return text.getvalue().encode()


def journal(events: int) -> bytes:
    return b"".join(json.dumps(EVENT, ensure_ascii=False).encode() + b"\n" for _ in range(events))


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 400))
def test_a_file_that_is_cut_anywhere_in_its_last_line_gives_the_lines_before(
    tmp_path_factory: pytest.TempPathFactory, cut: int
) -> None:
    """Also in the middle of a character."""
    folder = tmp_path_factory.getbasetemp()
    for content, last, read in (
        (table(3), table(3)[len(table(2)) :], read_scores),
        (journal(3), journal(1), read_events),
    ):
        path = folder / "cut"
        path.write_bytes(content[: -min(cut, len(last))])
        assert len(read(path)) in ((2, 3) if cut <= 2 else (2,))


def test_what_has_no_lines_is_refused_at_once() -> None:
    for read in (read_scores, read_events):
        with pytest.raises(DataError, match="is a device; give the name of a regular file"):
            read(Path("/dev/zero"))


def test_a_byte_order_mark_is_read(tmp_path: Path) -> None:
    (tmp_path / "s.csv").write_bytes(b"\xef\xbb\xbf" + table(2))
    (tmp_path / "e.jsonl").write_bytes(b"\xef\xbb\xbf" + journal(2))
    assert len(read_scores(tmp_path / "s.csv")) == 2 and len(read_events(tmp_path / "e.jsonl")) == 2
