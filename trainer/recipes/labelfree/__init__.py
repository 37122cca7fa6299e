"""The small backbone, distilled without any label, then a head by the protocol.

    DATA ──material──▶ pack (small H.264 clips; the kept-out fifth is not in it)
    pack ──bank──▶ frames ──views──▶ view k: crop, speed, mixture, drawn from (seed, k) alone
    view ──teachers──▶ features, class probabilities, map ──┐         online on CUDA; on a CPU kept by `answers`
    view ──spoiled──▶ student ──────────────────────────────┴──▶ training ──▶ student ──ship──▶ bundle, card

No label reaches the backbone: the index of a pack has no column for one. `recipe.toml` holds every hyperparameter.
"""
