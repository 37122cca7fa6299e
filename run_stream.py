"""Run the detector from a checkout: `python run_stream.py [SOURCE | NAME=SOURCE …]` is `stream-detector run …`."""

import sys

from stream_detector.cli import entry

if __name__ == "__main__":
    sys.argv.insert(1, "run")
    entry()
