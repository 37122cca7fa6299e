"""Alarms → events without loss: protocol, ledger, publisher.

In: alarm events, decisions, camera states.
Out: journalled JSON events on ZeroMQ and in a file; replies to recovery requests.
Imports: config, types, system, errors.
"""
