"""The small backbone, distilled without labels, then a head by the evaluation protocol.

    DATA ──material──▶ pack (small H.264 clips; the kept-out fifth is not in it)
    pack ──bank──▶ frames ──views──▶ view k: crop, speed, mixture, drawn from (seed, k) only
    view ──teachers──▶ features, class probabilities, map ──┐     online on CUDA; on a CPU stored by `answers`
    view ──degraded──▶ student ─────────────────────────────┴──▶ training ──▶ student ──ship──▶ bundle, card

The backbone gets no label: the index of a pack has no column for one. `recipe.toml` holds every hyperparameter.
"""
