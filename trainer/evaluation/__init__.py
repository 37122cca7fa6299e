"""Evaluation by a protocol in which no choice is made on the clips that are judged.

In: clips, recordings, frozen networks or bundles.
Out: figures with intervals, records, plots.
Imports: data, stream_detector.

    clips ──groups──▶ folds ──nested──▶ outer-fold scores ──figures, sources, streams──▶ standard ──tables──▶ docs

`groups`, `folds`, `nested`, `figures` and `streams` are computations: they read no file and run no network. `pixels`
and `networks` read files and run networks; `standard` combines all. `python -m trainer evaluate --standard` runs it.
"""
