"""Adapts the model to a site: its memory, overlays that are fitted to it, the gate that tests them, the promised rate.

In: features and scores of windows, alarms, verdicts.
Out: overlays for the decision stage, reports, bounds on rates.
Imports: models, alarms, events, config, system, types, errors; NumPy and PyTorch only, so that the trainer can use it.

    memory     features (no pictures) and scores of a site, bounded in time and bytes
    site_data  the data of `adapt` and the gate: stretches of windows, judged alarms, misses
    overlay    head correction + threshold + smoothing, in a file of its own with a fingerprint
    logistic   the linear correction of an overlay: logistic regression around the threshold in service
    fitting    hidden units that the trainer adds to a head
    adapt      memory and verdicts → candidates
    gate       a candidate against the model in service, on other days and alarms → accepted or refused, and why
    promise    an anytime-valid bound on the rate of false alarms
    service    which overlay is in service; promotion, rollback, shadow
"""
