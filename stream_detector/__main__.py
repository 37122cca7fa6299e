"""`python -m stream_detector …` is `stream-detector …`."""

from stream_detector.cli.start import entry

if __name__ == "__main__":
    entry()
