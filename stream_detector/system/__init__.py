"""Interfaces to the operating system and to Python.

Out: logging, locks, signals, registries, streams, memory. Imports: errors.
"""
