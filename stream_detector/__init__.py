"""stream-detector: watch cameras and recordings, raise an alarm when something abnormal happens."""

__version__ = "0.1.0"
