"""Scores → alarms: smoothing, alarm rules, calibration.

In: raw scores of one camera, in media time.
Out: smoothed scores, decisions, alarm events.
Imports: config, types, system, errors.
"""
