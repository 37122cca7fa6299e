"""A site teaches the model: its memory, overlays fitted to it, the gate that refuses what is worse, the promised rate.

In: features and scores of windows, alarms, verdicts. Out: overlays for the decision stage, reports, bounds.
Imports: models, alarms, events' writes, config, errors, types. NumPy and PyTorch only, so that the trainer can use it.

    memory     features (no pictures) and scores of a site, bounded in time and bytes
    site_data  what `adapt` and the gate read of it: stretches of windows, judged alarms, misses
    overlay    head correction + threshold + smoothing, as a file of its own with a fingerprint
    fitting    the hidden units that are added to a head
    adapt      memory and verdicts → candidates
    gate       a candidate against the model in service, on days and alarms kept apart → accepted or refused, and why
    promise    an anytime-valid bound on the rate of false alarms
    service    which overlay is in service; promotion, rollback, shadow
"""
