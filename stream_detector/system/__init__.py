"""What is asked of the operating system, and of Python.

Out: logging, locks, signals, registries, streams, memory.
Imports: errors.
"""
