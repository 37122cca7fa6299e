"""The stages wired together: one run, from sources to events.

In: a configuration.
Out: a pipeline that runs; a session for frames that a program has.
Imports: every package but web, cluster and cli.
"""
