"""Alarm events → other places, each in its own thread.

In: bodies of alarm events.
Out: calls of the registered sinks.
Imports: events (published alarms), config, system, errors.
"""
