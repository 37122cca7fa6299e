"""Alarms → clips and snapshots on disk.

In: packets and pictures of cameras, starts and ends of alarms.
Out: clips, snapshots and recordings, limited in age and total size.
Imports: capture, config, types, system, errors.
"""
