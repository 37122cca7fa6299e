"""The stages wired together: one run, from sources to events.

In: a configuration.
Out: a pipeline that runs; a session for frames of the caller.
Imports: every package except web, cluster, bridges, client and cli.
"""
