"""The bundle for machines with a GPU: published large networks, and a head by the evaluation protocol.

DATA ──I3D, MC3-18──▶ stored features ──nested folds──▶ I3D only │ I3D, MC3-18 or both, chosen inside
     ──the rule of `decide`──▶ one of the two ──the head that judged the kept-out fold──▶ bundle, card, records
"""
