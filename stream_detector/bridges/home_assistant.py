"""Home Assistant's MQTT discovery: the entities of a camera and of the detector.

Each entity is one retained JSON message on `PREFIX/COMPONENT/NODE/OBJECT/config`
(https://www.home-assistant.io/integrations/mqtt/#mqtt-discovery); the keys are those of the integration.
"""

from __future__ import annotations

from typing import Any

from stream_detector.system.version import version

Entities = dict[str, dict[str, Any]]  # topic → payload

_ORIGIN = {"name": "stream-detector", "sw_version": version()}
CAMERA_STATES = ["connecting", "online", "stalled", "offline", "ended", "failed"]


def _common(base: str, unique: str, name: str, device: dict[str, Any]) -> dict[str, Any]:
    return {
        "name": name,
        "unique_id": unique,
        "device": device,
        "origin": _ORIGIN,
        "availability": [
            {"topic": f"{base}/availability", "payload_available": "online", "payload_not_available": "offline"}
        ],
        "qos": 1,
    }


def _device(node: str, camera: str | None) -> dict[str, Any]:
    device: dict[str, Any] = {
        "identifiers": [f"{node}_{camera}" if camera else node],
        "name": f"Stream detector {camera}" if camera else "Stream detector",
        "manufacturer": "stream-detector",
        "sw_version": version(),
    }
    return {**device, "via_device": node} if camera else device


def camera_entities(prefix: str, base: str, node: str, camera: str, picture: bool) -> Entities:
    """The entities of one camera. prefix: of discovery.  base: of the bridge's topics.  node: of the installation."""
    place, device = f"{base}/{camera}", _device(node, camera)

    def common(what: str, name: str) -> dict[str, Any]:
        return _common(base, f"{node}_{camera}_{what}", name, device)

    entities = {
        f"{prefix}/binary_sensor/{node}/{camera}_alarm/config": {
            **common("alarm", "Alarm"),
            "state_topic": f"{place}/alarm",
            "payload_on": "ON",
            "payload_off": "OFF",
            "device_class": "safety",
            "json_attributes_topic": f"{place}/attributes",
        },
        f"{prefix}/sensor/{node}/{camera}_state/config": {
            **common("state", "State"),
            "state_topic": f"{place}/state",
            "value_template": "{{ value_json.state }}",
            "json_attributes_topic": f"{place}/state",
            "device_class": "enum",
            "options": CAMERA_STATES,
            "entity_category": "diagnostic",
        },
        f"{prefix}/binary_sensor/{node}/{camera}_picture/config": {
            **common("picture", "Picture"),
            "state_topic": f"{place}/picture",
            "payload_on": "ON",
            "payload_off": "OFF",
            "device_class": "problem",
            "entity_category": "diagnostic",
        },
    }
    for what, name in (("score", "Score"), ("threshold", "Threshold")):
        entities[f"{prefix}/sensor/{node}/{camera}_{what}/config"] = {
            **common(what, name),
            "state_topic": f"{place}/{what}",
            "state_class": "measurement",
            "suggested_display_precision": 2,
            "entity_category": "diagnostic",
        }
    if picture:
        entities[f"{prefix}/image/{node}/{camera}_snapshot/config"] = {
            **common("snapshot", "Last alarm"),
            "image_topic": f"{place}/snapshot",
            "content_type": "image/jpeg",
        }
    return entities


def command_entities(prefix: str, base: str, node: str, camera: str) -> Entities:
    """Return the entities that set a camera's threshold and acknowledge its newest alarm."""
    place, device = f"{base}/{camera}", _device(node, camera)
    return {
        f"{prefix}/number/{node}/{camera}_set_threshold/config": {
            **_common(base, f"{node}_{camera}_set_threshold", "Set threshold", device),
            "command_topic": f"{place}/set/threshold",
            "state_topic": f"{place}/threshold",
            "min": 0.0,
            "max": 1.0,
            "step": 0.01,
            "mode": "box",
            "entity_category": "config",
        },
        f"{prefix}/button/{node}/{camera}_acknowledge/config": {
            **_common(base, f"{node}_{camera}_acknowledge", "Acknowledge", device),
            "command_topic": f"{place}/set/acknowledge",
            "payload_press": "newest",
        },
    }


def detector_entities(prefix: str, base: str, node: str) -> Entities:
    """Return the entity of the whole detector: whether it runs."""
    return {
        f"{prefix}/binary_sensor/{node}/detector/config": {
            **_common(base, f"{node}_detector", "Detector", _device(node, None)),
            "state_topic": f"{base}/detector",
            "value_template": "{{ 'ON' if value_json.state == 'running' else 'OFF' }}",
            "payload_on": "ON",
            "payload_off": "OFF",
            "device_class": "running",
            "json_attributes_topic": f"{base}/detector",
            "entity_category": "diagnostic",
        }
    }
