"""The usual settings of a novelty model; apart from `novelty_worth`, so that a command line needs no PyTorch."""

AXES = 64  # principal axes
SHARE = 0.01  # of the windows that the limit is found on; so many lie beyond it
