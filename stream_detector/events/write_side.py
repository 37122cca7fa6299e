"""The part of the publisher that takes writes from outside, and the events that they lead to.

Whoever may write is known before (`recovery_service`, the page); here a write is journalled with its author and sent.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Mapping
from typing import Any, Protocol

from stream_detector.errors import AccessError, ProtocolError
from stream_detector.events import protocol, writes
from stream_detector.system.rate_limit import RateLimiter
from stream_detector.types import Clock

WRITE_RATE, WRITE_BURST = 10.0, 40.0  # of all peers together: each costs the decision thread a write to the disk
REPEAT_S = 86_400.0
LOCAL_AUTHOR = "local"
REFUSED_WRITE = (
    "you may read but not write; over ZeroMQ put your public key into the folder 'writers' of curve_clients, over HTTP "
    "sign in with an operator's token, or allow writes on loopback with access.local_writes = true"
)


class Control(Protocol):
    """What operators set for one camera, or for all; see `alarms.schedule.Control`."""

    @property
    def mode(self) -> str | None: ...
    @property
    def muted_until_utc(self) -> float | None: ...
    @property
    def threshold(self) -> float | None: ...


class Controls(Protocol):
    """What of `alarms.schedule.Controls` takes changes."""

    def prepare(self, camera: str, changes: Mapping[str, Any], now_utc: float) -> tuple[Any, dict[str, Any]]: ...
    def take(self, camera: str, control: Any) -> None: ...


class WriteSide:
    """Acknowledgements, verdicts, commands, and the events about models. Base of `publisher.Publisher`."""

    _clock: Clock
    _scored_s: Container[str]

    def __init__(self) -> None:
        self.on_written: Callable[[dict[str, Any]], None] | None = None  # told every journalled verdict
        self.on_command: Callable[[writes.CommandWrite, str], dict[str, Any]] | None = None  # carries out commands
        self.on_reload: Callable[[], dict[str, Any]] | None = None  # reads the configuration again
        self.controls: Controls | None = None  # what holds for every camera; the decider asks it
        self.last_controls: dict[str, dict[str, Any]] = {}  # camera → its newest control event
        self._controls_due_s = float("-inf")
        self._writes = RateLimiter(WRITE_RATE, WRITE_BURST, 1)

    def _journal_and_send(self, topic: str, body: dict[str, Any], ends: str = "") -> dict[str, Any]:
        raise NotImplementedError

    def acknowledge(
        self, camera: str, alarm: str, note: str, by: str, alarm_epoch: str = "", author: str = ""
    ) -> dict[str, Any]:
        """Journal an acknowledgement, then send it on `v1/ack/<camera>/`; returns the body as sent.

        alarm_epoch, author: see `protocol.ack_to_dict`.
        """
        body = protocol.ack_to_dict(camera, alarm, note, by, "", 0, self._clock.utc(), alarm_epoch, author)
        return self._journal_and_send(protocol.topic_of("ack", camera), body)

    def write(self, write: writes.Write, author: str) -> dict[str, Any]:
        """Journal and send what somebody wrote who may; returns the body as sent. author: by which key or token.

        Raises ProtocolError for a camera that this run does not have, AccessError without an author.
        """
        if not author:
            raise AccessError(REFUSED_WRITE)
        if write.camera and write.camera not in self._scored_s:
            raise ProtocolError(f"camera {write.camera!r} is none of this run's; see its names in the heartbeat")
        if isinstance(write, writes.AckWrite):
            return self.acknowledge(write.camera, write.alarm, write.note, write.by, write.alarm_epoch, author)
        if isinstance(write, writes.ControlWrite):
            return self.control(write, author)
        if isinstance(write, writes.ReloadWrite):
            return self.reload(write, author)
        if isinstance(write, writes.CommandWrite):
            if self.on_command is None:
                raise ProtocolError("this run keeps no memory of its site and takes no commands; see [site] keep")
            return self.on_command(write, author)
        body = writes.verdict_to_dict(write, author, "", 0, self._clock.utc())
        self._journal_and_send(protocol.topic_of("verdict", write.camera), body)
        if self.on_written is not None:
            self.on_written(body)
        return body

    def control(self, write: writes.ControlWrite, author: str) -> dict[str, Any]:
        """Journal, then send a change of mode, mute or threshold on `v1/control/<camera>/`; then it takes effect.

        Raises ProtocolError where this run takes none, or not this one.
        """
        controls = self.controls
        if controls is None:
            raise ProtocolError("this run takes no change of mode, mute or threshold")
        utc = self._clock.utc()
        control, more = controls.prepare(write.camera, write.changes, utc)
        until = control.muted_until_utc
        body = {
            "schema": protocol.CONTROL_SCHEMA,
            "camera": write.camera or protocol.DETECTOR,
            "mode": control.mode,
            "muted_until_utc": None if until is None else protocol.rfc3339(until),
            "muted_until_s": until,
            "threshold": control.threshold,
            **more,
            "by": write.by,
            "author": author,
            "epoch": "",
            "seq": 0,
            "emitted_utc": protocol.rfc3339(utc),
        }
        self._journal_and_send(protocol.topic_of("control", body["camera"]), body)
        controls.take(write.camera, control)
        if not self.last_controls:
            self._controls_due_s = self._clock.monotonic() + REPEAT_S
        self.last_controls[str(body["camera"])] = body
        return body

    def reload(self, write: writes.ReloadWrite, author: str) -> dict[str, Any]:
        """Read the configuration again; journal and send what took effect, and what needs a restart.

        Raises ProtocolError for a configuration that is wrong, and where this run has none.
        """
        if self.on_reload is None:
            raise ProtocolError("this run has no configuration to read again; start it with --config FILE.toml")
        done = self.on_reload()
        return self._control_event(protocol.DETECTOR, self.last_controls.get(protocol.DETECTOR), write.by, author, done)

    def _control_event(
        self, camera: str, last: Mapping[str, Any] | None, by: str, author: str, more: Mapping[str, Any]
    ) -> dict[str, Any]:
        """Journal and send a control event that sets nothing new: what was set before stands in it again."""
        controls = self.controls
        mode = getattr(controls, "mode", None) if camera == protocol.DETECTOR else None
        standing = last or {"muted_until_utc": None, "muted_until_s": None, "threshold": None}
        body = {
            "schema": protocol.CONTROL_SCHEMA,
            "camera": camera,
            "mode": mode,
            **{name: standing[name] for name in ("muted_until_utc", "muted_until_s", "threshold")},
            "after": {},
            **more,
            "by": by,
            "author": author,
            "epoch": "",
            "seq": 0,
            "emitted_utc": protocol.rfc3339(self._clock.utc()),
        }
        return self._journal_and_send(protocol.topic_of("control", camera), body)

    def repeat_controls(self) -> None:
        """Journal what operators set again, once a day, so that retention does not delete the only record of it."""
        now_s = self._clock.monotonic()
        if now_s < self._controls_due_s:
            return
        self._controls_due_s = now_s + REPEAT_S
        for camera, body in self.last_controls.items():
            again = {**body, "epoch": "", "seq": 0, "emitted_utc": protocol.rfc3339(self._clock.utc())}
            again.pop("unjournalled", None)
            self.last_controls[camera] = self._journal_and_send(protocol.topic_of("control", camera), again)

    def site(self, camera: str, body: dict[str, Any]) -> dict[str, Any]:
        """Journal, then send an event about models and promises on `v1/site/<camera>/`; returns the body as sent."""
        utc = protocol.rfc3339(self._clock.utc())
        whole = {"schema": protocol.SITE_SCHEMA, "camera": camera, **body, "epoch": "", "seq": 0, "emitted_utc": utc}
        return self._journal_and_send(protocol.topic_of("site", camera), whole)

    def shadow(self, camera: str, body: dict[str, Any]) -> dict[str, Any]:
        """Journal, then send what a shadow would have done on `v1/shadow/<camera>/`; returns the body as sent."""
        utc = protocol.rfc3339(self._clock.utc())
        whole = {"schema": protocol.SHADOW_SCHEMA, "camera": camera, **body, "epoch": "", "seq": 0, "emitted_utc": utc}
        return self._journal_and_send(protocol.topic_of("shadow", camera), whole)

    def _peer_write(self, value: dict[str, Any], author: str) -> dict[str, Any]:
        if not author:
            raise AccessError(REFUSED_WRITE)
        write = writes.parse_write(value)
        if not self._writes.allow("all", self._clock.monotonic()):
            raise ProtocolError("too many writes; try again in a moment")
        return self.write(write, author)
