"""The OpenAPI 3.1 description of the page's HTTP interface, made from the routes that the application serves.

`operations.OPERATIONS` says what every route does; `describe` takes the paths and methods from the routes themselves,
so a route without a description, or a description without a route, is an error and not a gap.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route

from stream_detector.system.version import version
from stream_detector.web.auth import COOKIE
from stream_detector.web.operations import OPERATIONS, Operation
from stream_detector.web.schemas import PATH_PARAMETERS, SCHEMAS

PATH = "/openapi.json"
_CONVERTER = re.compile(r"\{(\w+):\w+\}")
_NAME = re.compile(r"\{(\w+)\}")
_ABOUT = (
    "The HTTP interface of one running detector. Viewers read, operators also write; `security` names the role. "
    "A token goes into `Authorization: Bearer TOKEN`, or once to POST /login for a session cookie. On loopback no "
    "token is needed where none is configured. An error is an object with the one key `error`."
)


def describe(routes: Sequence[BaseRoute]) -> dict[str, Any]:
    """Return the description as a JSON object. Raises LookupError where routes and descriptions differ."""
    paths: dict[str, dict[str, Any]] = {}
    left = set(OPERATIONS)
    for route in routes:
        if not isinstance(route, Route):
            raise LookupError(f"the route {route!r} has no path of its own")
        path = _CONVERTER.sub(r"{\1}", route.path)
        for method in sorted((route.methods or {"GET"}) - {"HEAD"}):
            left.discard((method, path))
            operation = OPERATIONS.get((method, path))
            if operation is None:
                raise LookupError(f"{method} {path} has no description; add it to web/operations.py")
            paths.setdefault(path, {})[method.lower()] = _operation(operation, path)
    if left:
        raise LookupError(f"these are described and not served: {sorted(left)}")
    return {
        "openapi": "3.1.0",
        "info": {"title": "stream-detector", "version": version(), "description": _ABOUT},
        "servers": [{"url": "/"}],
        "paths": dict(sorted(paths.items())),
        "components": {
            "schemas": SCHEMAS,
            "securitySchemes": {
                "token": {"type": "http", "scheme": "bearer"},
                "session": {"type": "apiKey", "in": "cookie", "name": COOKIE},
            },
        },
    }


def route_of(routes: Sequence[BaseRoute]) -> Route:
    """Return the route that serves the description of `routes` and of itself."""
    found: dict[str, Any] = {}

    async def answer(_request: Request) -> Response:
        return JSONResponse(found)

    own = Route(PATH, answer)
    found.update(describe([*routes, own]))
    return own


def _operation(operation: Operation, path: str) -> dict[str, Any]:
    role = operation.role
    parameters = [PATH_PARAMETERS[name] for name in _NAME.findall(path)]
    responses = {str(status): _response(text, media, schema) for status, text, media, schema in operation.answers}
    for status, text in _refusals(operation, path):
        responses.setdefault(str(status), _response(text, "application/json", "Error"))
    found: dict[str, Any] = {
        "operationId": operation.id,
        "summary": operation.summary,
        "tags": [operation.tag],
        "parameters": [*parameters, *operation.query],
        "responses": dict(sorted(responses.items())),
        "security": [{"token": [role]}, {"session": [role]}] if role else [],
    }
    if operation.body:
        content = {"application/json": {"schema": _ref(operation.body)}}
        found["requestBody"] = {"required": True, "content": content}
    return found


def _refusals(operation: Operation, path: str) -> list[tuple[int, str]]:
    """What the middleware may answer to any request, and the routes to a wrong one."""
    found = [(400, "the request is not understood"), (421, "this host name is not served"), (429, "too many requests")]
    if operation.role:
        found.append((401, "a token is needed"))
    if operation.role == "operator":
        found += [(403, "the role operator is needed"), (503, "it could not be stored"), (504, "not stored yet")]
    if operation.body:
        found.append((408, "the request was too slow"))
    if "{" in path:
        found.append((404, "there is none"))
    return found


def _response(text: str, media: str, schema: str) -> dict[str, Any]:
    if not media:
        return {"description": text}
    shape = _ref(schema) if schema in SCHEMAS else {"type": "string", **({"format": schema} if schema else {})}
    return {"description": text, "content": {media: {"schema": shape}}}


def _ref(name: str) -> dict[str, str]:
    return {"$ref": f"#/components/schemas/{name}"}
