"""Alarms → events that nobody loses: protocol, ledger, publisher.

In: alarm events, decisions, camera states.
Out: journalled JSON events on ZeroMQ and in a file; answers to who missed some.
Imports: config, types, system, errors.
"""
