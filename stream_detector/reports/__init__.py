"""Files of a run → plots, summaries, pages.

In: scores.csv, events.jsonl.
Out: figures, PNG plots, one HTML page.
Imports: system, types, errors.
"""
