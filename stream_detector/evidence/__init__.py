"""Alarms → clips and snapshots on disk.

In: previews of cameras, starts and ends of alarms.
Out: files, kept within their age and size.
Imports: config, types, system, errors.
"""
