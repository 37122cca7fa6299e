"""Alarm events → other places, each in a thread of its own.

In: bodies of alarm events.
Out: whatever a registered sink makes of them.
Imports: events (published alarms), config, system, errors.
"""
