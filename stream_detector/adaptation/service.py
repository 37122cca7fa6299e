"""Which overlay is in service for a camera: on disk, in the journal, in memory. Promotion, rollback and shadow change
it.

    DIR/overlays/<fingerprint>.safetensors    every overlay that `adapt` made, with the gate's result
    DIR/overlays/<fingerprint>.json, .html    the gate's report
    DIR/service.json                          camera ("" for the site) → overlay in service, earlier ones, shadow

A change replaces `service.json` atomically, so a kill leaves the old model or the new one. The journal gets the change
first; at the start, a change that only the journal has is completed (`reconcile`). So the newest `v1/site/…` event
names the model in service.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from stream_detector.adaptation.overlay import Overlay, load_overlay, write_whole
from stream_detector.errors import DataError, UsageError
from stream_detector.events.writes import utc_of
from stream_detector.system.user_files import read_named

SCHEMA = "stream-detector.service/1"
FINGERPRINT = re.compile(r"[0-9a-f]{16}")
MOST_FORMER = 20
CHANGES = ("promoted", "rolled_back")


@dataclass(frozen=True, slots=True)
class Place:
    """The state of one camera, or of the site. overlay: its fingerprint, "" for the bundle only.  former: earlier ones,
    newest last.

    shadow: the overlay that runs beside it, or "".  shadow_since_utc, shadow_until_utc, changed_utc: seconds since the
    epoch, 0 for never.  position: (epoch, seq) of the newest event about it.
    """

    overlay: str = ""
    former: tuple[str, ...] = ()
    shadow: str = ""
    shadow_since_utc: float = 0.0
    shadow_until_utc: float = 0.0
    position: tuple[str, int] = ("", 0)
    changed_utc: float = 0.0


@dataclass(slots=True)
class Service:
    """The state in a folder. Raises DataError if its file is damaged."""

    directory: Path
    places: dict[str, Place] = field(default_factory=dict)

    @staticmethod
    def load(directory: Path) -> Service:
        """Read `service.json`; empty if there is none."""
        path = directory / "service.json"
        try:
            value = json.loads(read_named(path, "state of the site", DataError))
            if value["schema"] != SCHEMA:
                raise ValueError(f"schema {value['schema']!r}")
            places = {
                str(camera): Place(
                    _fingerprint(place["overlay"]),
                    tuple(_fingerprint(name) for name in place["former"]),
                    _fingerprint(place["shadow"]),
                    float(place["shadow_since_utc"]),
                    float(place["shadow_until_utc"]),
                    (str(place["position"][0]), int(place["position"][1])),
                    float(place["changed_utc"]),
                )
                for camera, place in value["places"].items()
            }
        except FileNotFoundError:
            return Service(directory)
        except (OSError, ValueError, KeyError, TypeError, IndexError) as error:
            raise DataError(f"{str(path)!r} does not say what is in service ({error}); restore it") from None
        return Service(directory, places)

    def save(self) -> None:
        """Write the state atomically. Raises OSError."""
        places = {
            camera: {
                "overlay": place.overlay,
                "former": list(place.former),
                "shadow": place.shadow,
                "shadow_since_utc": place.shadow_since_utc,
                "shadow_until_utc": place.shadow_until_utc,
                "position": list(place.position),
                "changed_utc": place.changed_utc,
            }
            for camera, place in sorted(self.places.items())
        }
        self.directory.mkdir(parents=True, exist_ok=True)
        data = json.dumps({"schema": SCHEMA, "places": places}, indent=1).encode()
        write_whole(self.directory / "service.json", data)

    # -- looking ------------------------------------------------------------------------------------------------

    def of(self, camera: str) -> str:
        """Return the fingerprint of the overlay in service for a camera: its own, else the site's; "" for the
        bundle.
        """
        return self.places.get(camera, Place()).overlay or self.places.get("", Place()).overlay

    def changed_utc(self, camera: str) -> float:
        """Return when the overlay in service for a camera was changed, seconds since the epoch; 0 if never."""
        return max(self.places.get(name, Place()).changed_utc for name in (camera, ""))

    def shadow_of(self, camera: str, now_utc: float) -> str:
        """Return the shadow that runs for a camera now, or ""."""
        for name in (camera, ""):
            place = self.places.get(name, Place())
            if place.shadow and now_utc < place.shadow_until_utc:
                return place.shadow
        return ""

    def path(self, fingerprint: str) -> Path:
        """Return the path of an overlay. Raises UsageError for a text that is no fingerprint."""
        if not FINGERPRINT.fullmatch(fingerprint):
            raise UsageError(f"{fingerprint!r} is no fingerprint of an overlay; `site show` lists them")
        return self.directory / "overlays" / f"{fingerprint}.safetensors"

    def load_overlay(self, fingerprint: str, bundle: str = "", dim: int = 0) -> Overlay:
        """An overlay of this site. Raises UsageError if it is not here, DataError if it is damaged or does not fit."""
        path = self.path(fingerprint)
        if not path.is_file():
            raise UsageError(f"overlay {fingerprint} is not in {str(path.parent)!r}; `site show` lists those that are")
        overlay = load_overlay(path, bundle=bundle, dim=dim)
        if overlay.fingerprint != fingerprint:
            raise DataError(f"overlay {str(path)!r} was changed: its content has another fingerprint; adapt again")
        return overlay

    def overlays(self) -> list[Overlay]:
        """Return all readable overlays, by the time of their files, oldest first."""
        found = []
        folder = self.directory / "overlays"
        paths = (
            sorted(folder.glob("*.safetensors"), key=lambda p: (p.stat().st_mtime_ns, p.name))
            if folder.is_dir()
            else []
        )
        for path in paths:
            try:
                found.append(load_overlay(path))
            except DataError:
                continue
        return found

    # -- changing -----------------------------------------------------------------------------------------------

    def promoted(self, overlay: Overlay, now_utc: float) -> dict[str, Any]:
        """Return what promoting an overlay changes, as the fields of an event. Raises UsageError if it is not
        allowed.
        """
        gate = overlay.facts.get("gate") or {}
        if gate.get("accepted") is not True:
            why = gate.get("sentence") or "the gate has not tested it"
            raise UsageError(f"overlay {overlay.fingerprint} is not promoted: {why}")
        place = self.places.get(overlay.camera, Place())
        if place.shadow == overlay.fingerprint and now_utc < place.shadow_until_utc:
            left_h = (place.shadow_until_utc - now_utc) / 3600
            raise UsageError(f"overlay {overlay.fingerprint} runs as a shadow for {left_h:.1f} h more; promote it then")
        if place.overlay == overlay.fingerprint:
            raise UsageError(f"overlay {overlay.fingerprint} is in service already")
        return {"type": "promoted", "overlay": overlay.fingerprint, "former": place.overlay or None}

    def rolled_back(self, camera: str) -> dict[str, Any]:
        """Return what rolling back changes: to the overlay before, or to the bundle. Raises UsageError if there is
        neither.
        """
        place = self.places.get(camera, Place())
        if not place.overlay:
            whose = f"camera {camera!r}" if camera else "the site"
            raise UsageError(f"{whose} has no overlay in service, so there is nothing to roll back")
        before = place.former[-1] if place.former else ""
        return {"type": "rolled_back", "overlay": before or None, "former": place.overlay}

    def apply(self, camera: str, change: Mapping[str, Any], position: tuple[str, int], now_utc: float) -> None:
        """Apply a change from the journal: write the state. Raises OSError."""
        place = self.places.get(camera, Place())
        overlay = str(change.get("overlay") or "")
        if change["type"] == "promoted":
            former = (*place.former, place.overlay)[-MOST_FORMER:]
            shadow = "" if place.shadow == overlay else place.shadow
            place = replace(place, overlay=overlay, former=former, shadow=shadow)
        else:
            place = replace(place, overlay=overlay, former=place.former[:-1])
        self.places[camera] = replace(place, position=position, changed_utc=now_utc)
        self.save()

    def set_shadow(self, camera: str, fingerprint: str, since_utc: float, until_utc: float) -> None:
        """Run an overlay beside the one in service until a time; "" ends it. Raises OSError."""
        place = self.places.get(camera, Place())
        self.places[camera] = replace(place, shadow=fingerprint, shadow_since_utc=since_utc, shadow_until_utc=until_utc)
        self.save()

    def reconcile(self, events: Sequence[Mapping[str, Any]], detector: str) -> list[str]:
        """Complete changes that the journal has and the file has not; return sentences about them.

        events: `v1/site/…` events, oldest first.  detector: the name of the site's own events.
        """
        told = []
        newest: dict[str, Mapping[str, Any]] = {}
        for event in events:
            if event.get("type") in CHANGES:
                newest["" if event["camera"] == detector else str(event["camera"])] = event
        for camera, event in newest.items():
            position = (str(event["epoch"]), int(event["seq"]))
            if self.places.get(camera, Place()).position != position and self._lacks(camera, event):
                self.apply(camera, event, position, utc_of(event["emitted_utc"]))
                whose = f"camera {camera!r}" if camera else "the site"
                told.append(f"{whose}: the {event['type']} in the journal was completed after an interruption")
        return told

    def _lacks(self, camera: str, event: Mapping[str, Any]) -> bool:
        """Return whether the state is the one before this change."""
        return self.places.get(camera, Place()).overlay == str(event.get("former") or "")


def _fingerprint(value: Any) -> str:
    if not isinstance(value, str) or (value and not FINGERPRINT.fullmatch(value)):
        raise ValueError(f"{str(value)[:40]!r} is no fingerprint")
    return value
