"""Commands of the decision side to a recorder, and the recorder's reports; both may cross processes."""

from __future__ import annotations

from dataclasses import dataclass

from stream_detector.types import Where


@dataclass(frozen=True, slots=True)
class OpenClip:
    """An alarm started. stem: path of its files without the suffix.

    begins_s: media time at which the alarm begins; the clip precedes it.  at_s, score: of the window that decided it.
    """

    camera: str
    alarm_id: str
    stem: str
    begins_s: float
    at_s: float
    score: float


@dataclass(frozen=True, slots=True)
class ContinueClip:
    """The alarm continues: a window that ends at media time at_s had this score."""

    camera: str
    alarm_id: str
    at_s: float
    score: float


@dataclass(frozen=True, slots=True)
class CloseClip:
    """The alarm ended at media time end_s. where: the place that its strongest window looks at, to be drawn."""

    camera: str
    alarm_id: str
    end_s: float
    where: Where | None = None


@dataclass(frozen=True, slots=True)
class FlushCamera:
    """The source ended: its clips are closed with the data so far."""

    camera: str


Command = OpenClip | ContinueClip | CloseClip | FlushCamera


@dataclass(frozen=True, slots=True)
class EvidenceProblem:
    """Something could not be written. kind: equal for all failures of one sort, which are reported once."""

    kind: str
    sentence: str


@dataclass(frozen=True, slots=True)
class PacketsLost:
    """This number of packets is missing in the files of a camera."""

    camera: str
    count: int


@dataclass(frozen=True, slots=True)
class FileWritten:
    """A clip or a segment of a recording is complete. size: in bytes."""

    camera: str
    path: str
    size: int


Report = EvidenceProblem | PacketsLost | FileWritten
