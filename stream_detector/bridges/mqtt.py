"""MQTT 5: alarm events, retained states of cameras and detector, and discovery for Home Assistant.

    BASE/availability        online | offline (the bridge; offline is its last will)           retained
    BASE/detector            {"state": "running" | "silent" | "stopped", …}                    retained
    BASE/CAMERA/event        every alarm event and status, as the detector published it; of the detector: _detector
    BASE/CAMERA/alarm        ON | OFF                                                          retained
    BASE/CAMERA/attributes   id, score, severity … of the newest alarm                         retained
    BASE/CAMERA/state        {"state": "online", "detail": …}                                  retained
    BASE/CAMERA/picture      ON (ON: covered, black, …) | OFF                             retained
    BASE/CAMERA/score, BASE/CAMERA/threshold                                                   retained
    BASE/CAMERA/snapshot     the JPEG of the newest alarm                                      retained

With `commands = true` (the bridge's key must be a writer's) it takes, never retained ones:

    BASE/set/mode                 the name of a mode
    BASE/CAMERA/set/threshold     a number from 0 to 1, or "default"
    BASE/CAMERA/set/mute          seconds, 0 ends it
    BASE/CAMERA/set/acknowledge   the id of an alarm; anything else means the newest

Everything is sent with QoS 1 and counts as delivered when the broker has acknowledged it. A broker may lose what it
acknowledged (killed before it wrote to its disk), and a subscriber that comes back to it has missed what went by. So
after every new connection the bridge sends the events again that were delivered since `resend_s` before the connection
was lost, at once and once more `resend_s` later, and refreshes all retained states. Receivers drop repeats by (epoch,
topic, seq), which every event carries.
"""

from __future__ import annotations

import contextlib
import json
import logging
import queue
import ssl
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, ClassVar

from pydantic import Field

from stream_detector.bridges.home_assistant import CAMERA_STATES, camera_entities, command_entities, detector_entities
from stream_detector.bridges.kinds import DeliveryError, SecretText, Target, TargetContext, TargetSettings
from stream_detector.bridges.notice import Notice
from stream_detector.config import CAMERA_NAME
from stream_detector.errors import ConfigError, MissingExtraError, StreamDetectorError
from stream_detector.events.protocol import DETECTOR, encode
from stream_detector.events.writes import ALARM_ID

log = logging.getLogger(__name__)

_TOPIC = r"^[A-Za-z0-9_-]{1,64}(/[A-Za-z0-9_-]{1,64}){0,7}$"
_KEEPALIVE_S = 15
_MOST_COMMANDS = 100


class MqttSettings(TargetSettings):
    """`[mqtt.NAME]`."""

    secrets: ClassVar[tuple[str, ...]] = ("password",)

    host: str
    port: Annotated[int, Field(ge=1, le=65535)] = 1883
    username: str | None = None
    password: SecretText | None = None
    tls: bool = False
    ca_file: Path | None = None  # certificates to trust instead of the system's
    client_id: Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]{1,64}$")] = "stream-detector"
    base: Annotated[str, Field(pattern=_TOPIC)] = "stream-detector"
    discovery: bool = True
    discovery_prefix: Annotated[str, Field(pattern=_TOPIC)] = "homeassistant"
    commands: bool = False  # accept BASE/…/set/…; everybody who may publish there can then change the detector
    resend_s: Annotated[float, Field(ge=0, le=3600)] = 30.0


class MqttTarget(Target):
    """One broker."""

    Settings = MqttSettings

    def __init__(self, settings: MqttSettings, context: TargetContext) -> None:
        super().__init__(settings, context)
        self._given = settings
        try:
            import paho.mqtt.client as paho
            from paho.mqtt.enums import CallbackAPIVersion
            from paho.mqtt.properties import Properties
        except ModuleNotFoundError as error:
            raise MissingExtraError("bridge mqtt", error.name or "paho-mqtt", "mqtt") from None
        if settings.password is not None and settings.username is None:
            raise ConfigError("password needs a username; add it")
        self._base = settings.base
        self._connected = threading.Event()
        self._properties = Properties
        self._last_seen_utc: float | None = None  # last time at which the broker was connected
        self._lost_from_utc: float | None = None  # the broker may have lost what it acknowledged since this time
        self._resend_at_s: float | None = None
        self._refresh = threading.Event()
        self._refused: dict[int, str] = {}
        self._most_bytes = 0  # largest packet that the broker accepts; 0: no limit
        self._failure = "is not connected yet"
        self._client = paho.Client(
            CallbackAPIVersion.VERSION2, settings.client_id, protocol=paho.MQTTv5, reconnect_on_failure=True
        )
        self._client.enable_logger(_quiet())
        if settings.username is not None:
            secret = settings.password.get_secret_value() if settings.password else None
            self._client.username_pw_set(settings.username, secret)
        if settings.tls or settings.ca_file:
            try:
                self._client.tls_set_context(
                    ssl.create_default_context(cafile=str(settings.ca_file) if settings.ca_file else None)
                )
            except (OSError, ssl.SSLError):
                raise ConfigError("ca_file cannot be read; give a file of PEM certificates") from None
        self._client.will_set(f"{self._base}/availability", "offline", qos=1, retain=True)
        self._client.max_inflight_messages_set(100)
        self._client.max_queued_messages_set(200)
        self._client.reconnect_delay_set(1, max(1, int(settings.backoff_max_s)))
        self._client.on_connect = self._on_connect
        self._client.on_connect_fail = self._on_connect_fail
        self._client.on_disconnect = self._on_disconnect
        self._client.on_publish = self._on_publish
        self._client.on_message = self._on_message
        self._opened = False
        self._commands: queue.Queue[dict[str, Any] | None] = queue.Queue(_MOST_COMMANDS)
        self._writer: threading.Thread | None = None

    # -- connection, in paho's thread ----------------------------------------------------------------------------

    def open(self) -> None:
        """Connect in the background; retries without end."""
        self._opened = True
        self._client.connect_async(self._given.host, self._given.port, _KEEPALIVE_S)
        self._client.loop_start()
        if self._given.commands:
            self._writer = threading.Thread(target=self._write_all, name="mqtt-set", daemon=True)
            self._writer.start()

    def _on_connect(self, client: Any, _data: Any, _flags: Any, reason: Any, properties: Any) -> None:
        if reason.is_failure:
            self._failure = f"refused the connection ({reason})"
            return
        most = getattr(properties, "MaximumPacketSize", None)
        self._most_bytes = most if isinstance(most, int) else 0
        self._failure = ""
        client.subscribe(f"{self._given.discovery_prefix}/status", qos=0)  # Home Assistant announces its start there
        if self._given.commands:
            client.subscribe([(f"{self._base}/set/mode", 1), (f"{self._base}/+/set/+", 1)])
        now_utc = self.context.clock.utc()
        if self._last_seen_utc is not None:
            since = self._last_seen_utc - self._given.resend_s
            self._lost_from_utc = since if self._lost_from_utc is None else min(self._lost_from_utc, since)
            self._resend_at_s = self.context.clock.monotonic() + self._given.resend_s
            if self._given.resend_s:
                self.context.resend(self._lost_from_utc)
        elif self._given.resend_s:  # a new process does not know whether the broker restarted
            self._lost_from_utc = now_utc - self._given.resend_s
            self._resend_at_s = self.context.clock.monotonic() + self._given.resend_s
        self._refresh.set()
        self._connected.set()
        self.context.wake()

    def _on_connect_fail(self, _client: Any, _data: Any) -> None:
        self._failure = "cannot be reached"

    def _on_disconnect(self, _client: Any, _data: Any, _flags: Any, reason: Any, _properties: Any) -> None:
        if self._connected.is_set():
            self._last_seen_utc = self.context.clock.utc() if self._last_seen_utc is None else self._last_seen_utc
        self._connected.clear()
        self._failure = f"hung up ({reason})"

    def _on_publish(self, _client: Any, _data: Any, mid: int, reason: Any, _properties: Any) -> None:
        if reason.is_failure:
            self._refused[mid] = str(reason)
            while len(self._refused) > 1000:
                del self._refused[next(iter(self._refused))]

    def _on_message(self, _client: Any, _data: Any, message: Any) -> None:
        if message.topic == f"{self._given.discovery_prefix}/status":
            if message.payload == b"online":
                self._refresh.set()
                self.context.wake()
        elif self._given.commands and not message.retain:  # a retained command would arrive again at every connection
            try:
                self._commands.put_nowait(self.command(message.topic, message.payload))
            except queue.Full:
                log.warning("%s: a command was dropped, %d wait already", self.context.name, _MOST_COMMANDS)
            except ValueError as error:
                log.warning("%s: a command was refused: %s", self.context.name, error)

    def command(self, topic: str, payload: bytes) -> dict[str, Any]:
        """Return the write (see `events.writes`) of a message on a set topic. Raises ValueError."""
        parts = topic.removeprefix(f"{self._base}/").split("/")
        text = payload[:200].decode("utf-8", "replace").strip()
        by = {"by": f"mqtt:{self.context.name}"[:64]}
        if parts == ["set", "mode"]:
            return {"kind": "control", "mode": text, **by}
        if len(parts) != 3 or parts[1] != "set" or not CAMERA_NAME.fullmatch(parts[0]):
            raise ValueError("its topic is none of the set topics")
        camera, what = parts[0], parts[2]
        if what == "threshold":
            return {"kind": "control", "camera": camera, "threshold": None if text == "default" else float(text), **by}
        if what == "mute":
            return {"kind": "control", "camera": camera, "mute_s": float(text), **by}
        if what != "acknowledge":
            raise ValueError("its topic is none of the set topics")
        newest = json.loads(self.context.memory.get(f"retained:{self._base}/{camera}/attributes") or "{}")
        alarm = text if ALARM_ID.fullmatch(text) else newest.get("id")
        if alarm is None:
            raise ValueError("there is no alarm to acknowledge")
        epoch = newest.get("epoch") if alarm == newest.get("id") else None
        return {"kind": "ack", "camera": camera, "id": alarm, "alarm_epoch": epoch, "note": "", **by}

    def _write_all(self) -> None:
        while (value := self._commands.get()) is not None:
            try:
                self.context.write(value)
            except StreamDetectorError as error:
                log.warning("%s: a command was not carried out: %s", self.context.name, error)

    # -- deliveries -----------------------------------------------------------------------------------------------

    def tick(self) -> None:
        """Refresh the retained messages, and send events again that may be lost, when it is time."""
        if not self._connected.is_set():
            return
        if self._refresh.is_set():
            self._refresh.clear()
            try:
                self._publish_retained()
            except DeliveryError:
                self._refresh.set()
                return
        at_s, since = self._resend_at_s, self._lost_from_utc
        if at_s is not None and since is not None and self.context.clock.monotonic() >= at_s:
            self._resend_at_s = self._lost_from_utc = None
            count = self.context.resend(since)
            if count:
                log.info("%s: %d events are sent again after a new connection", self.context.name, count)

    def keep_s(self) -> float:
        """Long enough for the events that may have to be sent again."""
        since = self._lost_from_utc
        reach_s = 0.0 if since is None else self.context.clock.utc() - since
        return 2 * self._given.resend_s + max(reach_s, 60.0)

    def deliver(self, notice: Notice) -> Mapping[str, Any]:
        """Publish the messages of a notice and wait for the acknowledgements."""
        if not self._connected.is_set():
            raise DeliveryError("unreachable", self._failure or "is not connected")
        if self._refresh.is_set():
            self._refresh.clear()
            self._publish_retained()
        if notice.resent:  # its states may be outdated; the newest states are refreshed separately
            self._publish([(self.event_topic(notice), encode(notice.body), False)])
            return {}
        retained = dict(self.states(notice))
        known = self.context.memory.get(f"camera:{notice.camera}") if notice.camera else True
        new = {} if known or notice.camera.startswith("_") else self._discovery(notice.camera)
        messages: list[tuple[str, bytes, bool]] = [(t, encode(p), True) for t, p in new.items()]
        messages += [(topic, payload, True) for topic, payload in retained.items()]
        picture = self.picture(notice)
        if picture is not None:
            messages.append((f"{self._base}/{notice.camera}/snapshot", picture, True))
        messages.append((self.event_topic(notice), encode(notice.body), False))
        self._publish(messages)
        self._last_seen_utc = self.context.clock.utc()
        facts: dict[str, Any] = {f"retained:{topic}": payload.decode() for topic, payload in retained.items()}
        if notice.camera and not notice.camera.startswith("_"):
            facts[f"camera:{notice.camera}"] = True
        if picture is not None:
            facts[f"snapshot:{notice.camera}"] = str(self.context.evidence.named(notice))
        return facts

    def event_topic(self, notice: Notice) -> str:
        """Return the topic of the event itself."""
        return f"{self._base}/{notice.camera or DETECTOR}/event"

    def states(self, notice: Notice) -> Iterator[tuple[str, bytes]]:
        """Yield the retained messages that a notice changes."""
        body, place = notice.body, f"{self._base}/{notice.camera}"
        if notice.kind == "detector":
            yield f"{self._base}/detector", encode({"state": notice.what, "since_utc": body["emitted_utc"]})
        elif notice.kind == "alarm":
            attributes = {
                name: body.get(name)
                for name in ("id", "start_utc", "emitted_utc", "score", "peak_score", "threshold", "reason", "epoch")
            }
            yield f"{place}/attributes", encode({**attributes, "severity": notice.severity})
            yield f"{place}/score", json.dumps(body.get("score")).encode()
            yield f"{place}/threshold", json.dumps(body.get("threshold")).encode()
            yield f"{place}/alarm", b"OFF" if notice.what == "end" else b"ON"
        elif notice.kind == "camera" and body.get("state") in CAMERA_STATES:
            values = {name: body.get(name) for name in ("state", "detail", "emitted_utc")}
            yield f"{place}/state", encode(values)
            if notice.what in ("covered", "clear"):
                yield f"{place}/picture", b"ON" if notice.what == "covered" else b"OFF"

    def picture(self, notice: Notice) -> bytes | None:
        """Return the JPEG of a notice, if pictures are wanted."""
        if not self._given.snapshot or notice.kind != "alarm" or notice.what == "update":
            return None
        return self.context.evidence.picture(notice)

    def _discovery(self, camera: str) -> dict[str, dict[str, Any]]:
        given = self._given
        if not given.discovery:
            return {}
        entities = camera_entities(given.discovery_prefix, self._base, given.client_id, camera, given.snapshot)
        if given.commands:
            entities |= command_entities(given.discovery_prefix, self._base, given.client_id, camera)
        return entities

    def _publish_retained(self) -> None:
        """Publish availability, discovery and all states that were sent before. Raises DeliveryError."""
        given, memory = self._given, self.context.memory
        messages: list[tuple[str, bytes, bool]] = []
        if given.discovery:
            entities = detector_entities(given.discovery_prefix, self._base, given.client_id)
            for camera in memory.all("camera:"):
                entities |= self._discovery(camera)
            messages += [(topic, encode(payload), True) for topic, payload in entities.items()]
        messages += [(topic, str(payload).encode(), True) for topic, payload in memory.all("retained:").items()]
        for camera, path in memory.all("snapshot:").items() if given.snapshot else ():
            try:
                messages.append((f"{self._base}/{camera}/snapshot", Path(path).read_bytes(), True))
            except OSError:
                continue
        messages.append((f"{self._base}/availability", b"online", True))
        self._publish(messages)

    def _publish(self, messages: list[tuple[str, bytes, bool]]) -> None:
        """Publish (topic, payload, retain) and wait until all are acknowledged. Raises DeliveryError."""
        pending = []
        for topic, payload, retain in messages:
            if self._most_bytes and len(payload) + len(topic) + 64 > self._most_bytes:
                if topic.endswith("/snapshot"):
                    continue  # the event is more important than its picture
                raise DeliveryError("refused", f"takes no packet of more than {self._most_bytes} bytes")
            pending.append(self._client.publish(topic, payload, qos=1, retain=retain))
        end_s = self.context.clock.monotonic() + self._given.timeout_s
        for info in pending:
            try:
                info.wait_for_publish(max(0.001, end_s - self.context.clock.monotonic()))
                done = info.is_published()
            except (RuntimeError, ValueError):  # not connected, or the queue is full
                raise DeliveryError("unreachable", self._failure or "is not connected") from None
            if not done and not self._connected.is_set():
                raise DeliveryError("unknown", self._failure or "hung up")
            if not done:
                raise DeliveryError("unreachable", "did not acknowledge in time")
            if info.mid in self._refused:
                raise DeliveryError("refused", f"answered: {self._refused.pop(info.mid)}")

    def close(self) -> None:
        """Publish availability "offline" and disconnect."""
        if not self._opened:
            return
        self._opened = False
        if self._connected.is_set():
            info = self._client.publish(f"{self._base}/availability", "offline", qos=1, retain=True)
            try:
                info.wait_for_publish(1.0)
            except (RuntimeError, ValueError):
                log.debug("availability was not sent")
        self._client.disconnect()
        self._client.loop_stop()
        if self._writer is not None:
            with contextlib.suppress(queue.Full):
                self._commands.put_nowait(None)
            self._writer.join(1.0)


def _quiet() -> logging.Logger:
    """Discard paho's log lines: they hold the messages."""
    logger = logging.getLogger("stream_detector.bridges.paho")
    logger.handlers[:], logger.propagate = [logging.NullHandler()], False
    return logger
