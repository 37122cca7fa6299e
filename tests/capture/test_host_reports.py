"""What a capture process tells of its counts."""

from __future__ import annotations

import threading
from typing import Any

from stream_detector.capture.counters import CameraCounters
from stream_detector.capture.host import CameraReport
from stream_detector.capture.host_process import _ToMain
from stream_detector.capture.shared_slots import SharedSlots

OVERTAKE_S = 0.3  # long enough for a report that nothing holds back


class _Pipe:
    def __init__(self) -> None:
        self.sent: list[Any] = []

    def send(self, message: Any) -> None:
        self.sent.append(message)


def test_counts_are_sent_in_the_order_in_which_they_were_taken() -> None:
    """The report of a camera's end must not be overtaken by an older one of the thread that reports now and then."""
    pipe, taken = _Pipe(), iter(range(1, 3))
    slots: SharedSlots = None  # type: ignore[assignment]
    output = _ToMain(pipe, slots)  # type: ignore[arg-type]

    class Host:
        def report(self) -> dict[str, CameraReport]:
            frames = next(taken)
            if frames == 1:
                last.start()
                last.join(OVERTAKE_S)
            return {"gate": CameraReport(CameraCounters(frames=frames))}

    last = threading.Thread(target=output.report)
    output.host = Host()  # type: ignore[assignment]
    output.report()
    last.join(10.0)
    assert [message[2]["gate"].counters.frames for message in pipe.sent] == [1, 2]
