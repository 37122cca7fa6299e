"""Alarms → clips and snapshots on disk.

In: previews of cameras, starts and ends of alarms. Out: files, limited in age and total size. Imports: config, types,
system, errors.
"""
