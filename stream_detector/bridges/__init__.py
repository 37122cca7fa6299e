"""Bridges deliver alarms and states to other systems, each kind in its own process, at least once and in order.

In: events of a detector, through a recovering subscriber with a cursor; bridges.toml.
Out: deliveries, a dead-letter file.
Imports: client, events, config, system, types, errors; neither PyTorch nor OpenCV.
"""
