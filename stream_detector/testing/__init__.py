"""Fakes that ship with the library, for its own tests and for those of its users.

In: a script: frames, scores, times.
Out: a clock, an engine, sources and a camera for tests.
Imports: capture, types, errors.

FakeClock        a clock that the test moves            FakeSource      a reader that plays a script
ConstantEngine   an engine with chosen scores           FakeCamera      MJPEG over HTTP on loopback, with faults
fake_frames      frames without a source                numbered_image  a picture that encodes its number
"""

from stream_detector.testing.camera import FakeCamera
from stream_detector.testing.clock import FakeClock
from stream_detector.testing.engine import ConstantEngine
from stream_detector.testing.sources import FakeSource, fake_frames, numbered_image

__all__ = ["ConstantEngine", "FakeCamera", "FakeClock", "FakeSource", "fake_frames", "numbered_image"]
