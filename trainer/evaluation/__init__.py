"""How good a detector is, measured so that nothing flatters it.

    clips ──groups──▶ folds ──nested──▶ outer-fold scores ──figures, sources, streams──▶ standard ──tables──▶ docs

Mathematics (`groups`, `folds`, `nested`, `figures`, `streams`) reads no file and runs no network; `pixels` and `looks`
are the machinery; `standard` joins them. `python -m trainer evaluate --standard` runs it all.
"""
