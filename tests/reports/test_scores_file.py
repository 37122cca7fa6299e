"""scores.csv: what the writer writes, the reader reads; the columns are named once."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from stream_detector.reports.scores_file import ScoreRow, ScoresFile, read_scores
from stream_detector.system.outputs import SCORE_COLUMNS
from stream_detector.types import Decision, Score, Timing, WindowRef

TEXT = st.text(st.characters(exclude_categories=("Cs",), exclude_characters="\x00"), max_size=30)
CAUSES = st.sets(st.sampled_from(["cut", "gap", "black", "reconnect"])).map(lambda found: tuple(sorted(found)))


def test_a_row_has_the_columns_of_the_table() -> None:
    assert tuple(field.name for field in dataclasses.fields(ScoreRow)) == SCORE_COLUMNS


@given(
    st.lists(st.tuples(TEXT, st.integers(0, 10**9), st.integers(0, 10**8), st.integers(0, 10**7), CAUSES), max_size=5)
)
def test_what_is_written_is_read(
    tmp_path_factory: object, windows: list[tuple[str, int, int, int, tuple[str, ...]]]
) -> None:
    path = Path(tmp_path_factory.mktemp("t")) / "scores.csv"  # type: ignore[attr-defined]
    table, wanted = ScoresFile(path), []
    for source, number, start_ms, raw, degraded in windows:
        start_s = start_ms / 1000
        row = ScoreRow(source, "gate", number, 16 * number, 16 * number + 15, start_s, start_s + 0.5, raw / 1e7, 0.25)
        row = dataclasses.replace(row, end_s=round(row.end_s, 3), degraded=degraded)
        wanted.append(row)
        ref = WindowRef(
            "gate", source, number, row.start_frame, row.end_frame, row.start_s, row.end_s, 0, 0, 0, degraded
        )
        table.write(Decision(Score(ref, row.raw, 0.0, Timing(0, 0, 0, 0)), row.smoothed, alarmed=False))
    table.close()
    assert read_scores(path) == wanted
