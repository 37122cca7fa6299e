"""Alarm events → other places, each in a thread of its own.

In: bodies of alarm events.
Out: calls of the registered sinks.
Imports: events (published alarms), config, system, errors.
"""
