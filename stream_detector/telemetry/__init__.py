"""The counts of a run, and their displays.

In: counts and states from every stage.
Out: snapshots, Prometheus metrics, health, the terminal view, log lines.
Imports: config, types, system, errors.
"""
