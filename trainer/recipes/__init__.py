"""How the shipped bundles are made.

In: published weights, clips, recipe.toml.
Out: bundles with model cards, records of the evaluation.
Imports: every package of the trainer, stream_detector.
"""
