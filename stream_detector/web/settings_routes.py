"""The routes of a camera's settings: regions of the picture, and the schedule, written into the configuration."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route

from stream_detector.config import CameraConfig
from stream_detector.config.edit import write_camera_settings
from stream_detector.errors import ConfigError, DataError
from stream_detector.runtime.build import Run
from stream_detector.web.middleware import read_json

KEYS = ("mask", "ignore", "schedule")
MOST_POLYGONS, MOST_POINTS, MOST_RULES = 32, 200, 100


class SettingsRoutes:
    """Tells what holds now, and writes what shall hold after the next reload. path: the file, or None."""

    def __init__(self, run: Run, path: Path | None, camera: Callable[[Request], str]) -> None:
        """camera: the camera that a request names."""
        self._run, self._path, self._camera = run, path, camera
        self._writing = asyncio.Lock()

    def routes(self) -> list[BaseRoute]:
        """All of them."""
        return [
            Route("/api/cameras/{name}/settings", self._settings, methods=["GET"]),
            Route("/api/cameras/{name}/settings", self._write, methods=["POST"]),
        ]

    async def _settings(self, request: Request) -> Response:
        camera = self._config_of(self._camera(request))
        held = camera.model_dump(mode="json", by_alias=True, exclude_defaults=True, include=set(KEYS))
        schedule = self._run.config.schedule
        return JSONResponse(
            {
                "camera": camera.name,
                **{key: held.get(key, []) for key in KEYS},
                "modes": list(schedule.modes),
                "time_zone": schedule.time_zone,
                "config": self._path.name if self._path else None,
            }
        )

    async def _write(self, request: Request) -> Response:
        name = self._camera(request)
        given = checked_settings(await read_json(request.receive, request.scope), self._config_of(name))
        self._check_modes(given)
        if self._path is None:
            raise ConfigError("this run has no configuration file; start it with --config FILE.toml")
        async with self._writing:
            await asyncio.to_thread(write_camera_settings, self._path, name, given)
        return JSONResponse({"written": self._path.name})

    def _check_modes(self, given: dict[str, Any]) -> None:
        """Refuse a rule that no run with this file would take."""
        modes = self._run.config.schedule.modes
        for rule in given.get("schedule") or ():
            unknown = sorted({str(mode) for mode in rule.get("modes", ())} - set(modes))
            if unknown:
                raise DataError(
                    f"schedule names the mode {unknown[0]!r}; use one of schedule.modes: {', '.join(modes)}"
                )

    def _config_of(self, name: str) -> CameraConfig:
        return next(camera for camera in self._run.cameras if camera.name == name)


def checked_settings(body: dict[str, Any], camera: CameraConfig) -> dict[str, Any]:
    """What is to be written of a request; an empty list takes its key out. Raises DataError."""
    unknown = sorted(set(body) - set(KEYS))
    if unknown or not body:
        raise DataError(f"send some of {', '.join(KEYS)}")
    for key, most in zip(KEYS, (MOST_POINTS, MOST_POLYGONS, MOST_RULES), strict=True):
        if key in body and (not isinstance(body[key], list) or len(body[key]) > most):
            raise DataError(f"{key} must be a list of at most {most}")
    if any(not isinstance(polygon, list) or len(polygon) > MOST_POINTS for polygon in body.get("ignore", ())):
        raise DataError(f"each polygon of ignore must be a list of at most {MOST_POINTS} points")
    try:
        held = camera.model_dump(by_alias=True, exclude_unset=True, include=set(KEYS))
        CameraConfig.model_validate({"name": camera.name, "source": "0", **held, **body})
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"])
        raise DataError(f"{place or 'settings'}: {first['msg'].removeprefix('Value error, ')}") from None
    return {key: value or None for key, value in body.items()}
