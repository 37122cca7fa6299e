"""`python -m stream_detector …` is `stream-detector …`."""

import sys

from stream_detector.cli import main

sys.exit(main())
