"""The bundle for machines with a GPU: large networks as they were published, and a head by the protocol.

DATA ──I3D, MC3-18──▶ features, kept by content ──nested folds──▶ I3D alone │ I3D, MC3-18 or both, chosen inside
     ──the rule of `decide`──▶ one of the two ──the head that judged the kept-out fold──▶ bundle, card, records
"""
