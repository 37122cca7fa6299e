"""`python -m stream_detector …` is `stream-detector …`."""

from stream_detector.start import entry

if __name__ == "__main__":
    entry()
