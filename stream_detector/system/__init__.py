"""Interfaces to the operating system and to Python.

In: paths, names, callables.
Out: logging, locks, signals, registries, streams, memory.
Imports: errors.
"""
