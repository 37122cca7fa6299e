"""Run the detector from a checkout: `python run_stream.py [SOURCE | NAME=SOURCE …]` is `stream-detector run …`."""

from stream_detector.cli.start import entry

if __name__ == "__main__":
    entry("run")
