"""Kinds of bridges by name, and the interface of each: `BRIDGES`, `Target`.

A new kind is one file with a subclass of `Target`, and one registration: `@BRIDGES.register("kind")`, or an entry point
of the group `stream_detector.bridges` (docs/extending.md).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar, Literal

from pydantic import AfterValidator, BeforeValidator, Field, SecretStr, model_validator

from stream_detector.bridges.evidence import EvidenceFolder
from stream_detector.bridges.notice import Notice
from stream_detector.config import CAMERA_NAME
from stream_detector.config.secret_file import read_secret
from stream_detector.config.section import Seconds, Section
from stream_detector.config.source import expand
from stream_detector.errors import AccessError, SourceError
from stream_detector.system.registry import Registry
from stream_detector.types import Clock

TARGET_NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,63}")
Verdict = Literal["unreachable", "refused", "failed", "unknown"]


class DeliveryError(Exception):
    """A notice was not delivered. The text is half a sentence without any secret: "answered 503".

    verdict   "unreachable"  the receiver cannot be reached: everything waits, without a limit
              "refused"      it will never accept this notice: set it aside
              "failed"       it answered and could not accept this notice: try again, then set it aside
              "unknown"      the cause is unknown: as "failed", but set aside only after another notice was delivered
    """

    def __init__(self, verdict: Verdict, reason: str, retry_after_s: float = 0.0) -> None:
        super().__init__(reason)
        self.verdict = verdict
        self.retry_after_s = retry_after_s


def _camera(name: str) -> str:
    if not CAMERA_NAME.fullmatch(name):
        raise ValueError("a camera name has 1 to 64 of a-z, 0-9, '_' and '-'")
    return name


def _expanded(value: object) -> object:
    if not isinstance(value, str):
        return value  # from a file: no variables in it
    message = ""
    try:
        return SecretStr(expand(value))
    except SourceError as error:
        message = str(error)
    raise ValueError(message)


SecretText = Annotated[SecretStr, BeforeValidator(_expanded)]  # `${NAME}` in it is a variable of the environment


class TargetSettings(Section):
    """The settings of every target, `[KIND.NAME]`. A key of `secrets` may be given as KEY_file instead."""

    secrets: ClassVar[tuple[str, ...]] = ()

    cameras: tuple[Annotated[str, AfterValidator(_camera)], ...] = ()  # (): all cameras
    notices: tuple[Literal["alarm", "camera", "ack", "verdict", "detector"], ...] = ("alarm", "camera", "detector")
    updates: bool = False  # also deliver the updates between the start and the end of an alarm
    snapshot: bool = False
    snapshot_wait_s: Seconds = 2.0  # time for which the start of an alarm waits for its picture
    max_age_s: Seconds = 0.0  # older alarms and camera changes become one summary; 0: never
    # after this number of tries, a notice that the receiver cannot accept is set aside
    tries: Annotated[int, Field(ge=1, le=1000)] = 5
    backoff_min_s: Annotated[float, Field(gt=0, le=3600)] = 0.5  # doubled each time, jittered
    backoff_max_s: Annotated[float, Field(gt=0, le=3600)] = 60.0
    timeout_s: Annotated[float, Field(gt=0, le=600)] = 10.0  # of one try
    parallel: Annotated[int, Field(ge=1, le=16)] = 1  # deliveries at the same time, of different cameras
    # at this number the bridge stops reading events
    max_waiting: Annotated[int, Field(ge=100, le=10_000_000)] = 100_000

    @model_validator(mode="before")
    @classmethod
    def _read_files(cls, values: Any) -> Any:
        if not isinstance(values, dict):
            return values
        values, message = dict(values), ""
        for key in cls.secrets:
            path = values.pop(f"{key}_file", None)
            if path is None:
                continue
            if key in values:
                message = f"{key} and {key}_file exclude each other; leave one out"
                break
            try:
                values[key] = SecretStr(read_secret(path, f"{key}_file"))
            except SourceError as error:
                message = str(error)
                break
        if message:
            raise ValueError(message)
        return values


@dataclass(frozen=True, slots=True)
class Memory:
    """Facts of one target that survive a restart. get, all: read; the return value of `Target.deliver` is stored."""

    get: Callable[[str], Any]
    all: Callable[[str], dict[str, Any]]


def no_writes(value: dict[str, Any]) -> dict[str, Any]:
    """Refuse to write. Raises AccessError."""
    raise AccessError("nothing can be written to the detector from here")


@dataclass(frozen=True, slots=True)
class TargetContext:
    """The environment of a target.

    name: NAME of `[KIND.NAME]`.  evidence: the pictures and clips.  memory: its own facts. resend: marks notices that
    were delivered since a time (UTC seconds) as pending again; returns their number. wake: starts the delivery again
    (the receiver is reachable). write: writes to the detector (see `events.writes`), with the rights of the bridge's
    key. Raises StreamDetectorError.
    """

    name: str
    evidence: EvidenceFolder
    clock: Clock
    memory: Memory
    resend: Callable[[float], int] = lambda since_utc: 0
    wake: Callable[[], None] = lambda: None
    write: Callable[[dict[str, Any]], dict[str, Any]] = no_writes


@dataclass(frozen=True, slots=True)
class Admission:
    """What to do with a due notice: deliver it, drop it, wait until `until_utc`, or add it to a summary.

    memory: facts to store when it is dropped.
    """

    act: Literal["deliver", "drop", "wait", "fold"]
    until_utc: float = 0.0
    reason: str = ""
    memory: Mapping[str, Any] = field(default_factory=dict)


DELIVER = Admission("deliver")


class Target:
    """One receiver, to be subclassed; `deliver` is called by `parallel` threads, the other methods by one thread at a
    time.
    """

    Settings: ClassVar[type[TargetSettings]] = TargetSettings
    max_age_s: ClassVar[float] = 0.0  # default of the setting

    def __init__(self, settings: Any, context: TargetContext) -> None:
        """Raises ConfigError or MissingExtraError for settings that cannot work."""
        self.settings = settings
        self.context = context

    def open(self) -> None:
        """Start; called once, before the first delivery."""

    def wants(self, notice: Notice) -> bool:
        """Return whether a notice is for this target."""
        given: TargetSettings = self.settings
        if notice.kind != "summary" and notice.kind not in given.notices:
            return False
        if notice.camera and given.cameras and notice.camera not in given.cameras:
            return False
        return given.updates or notice.kind != "alarm" or notice.what != "update"

    def lane(self, notice: Notice) -> str:
        """Return the lane of a notice; notices of one lane are delivered one after another. Usually the camera's
        name.
        """
        return notice.camera or "_detector"

    def hold_s(self, notice: Notice) -> float:
        """Return the seconds to wait before a notice is delivered."""
        return 0.0

    def takes_back(self, notice: Notice) -> tuple[str, str]:
        """Return (`what`, id of the alarm or "") of the waiting notice of its camera that a notice cancels; ("", "")
        for none.
        """
        return "", ""

    def admit(self, notice: Notice) -> Admission:
        """Called when a notice is due."""
        return DELIVER

    def deliver(self, notice: Notice) -> Mapping[str, Any]:
        """Deliver one notice and return facts to remember (None forgets one). Raises DeliveryError."""
        raise NotImplementedError

    def keep_s(self) -> float:
        """Return how long delivered notices are stored for `context.resend`."""
        return 0.0

    def tick(self) -> None:
        """Called about once a second."""

    def close(self) -> None:
        """Release everything; safe to call twice."""


BRIDGES = Registry[type[Target]](
    "bridge",
    "stream_detector.bridges",
    {
        "webhook": "stream_detector.bridges.webhook:Webhook",
        "mqtt": "stream_detector.bridges.mqtt:MqttTarget",
        "notify": "stream_detector.bridges.notify:Notify",
        "command": "stream_detector.bridges.command:Command",
    },
)
