"""What every route of the page does, who may ask it, what it takes and what it answers; see `openapi`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from stream_detector.web.filters import STATES, VERDICT_WORDS

Role = Literal["", "viewer", "operator"]
Answer = tuple[int, str, str, str]  # status, description, media type, schema (or format of a text)

_TEXT: dict[str, Any] = {"type": "string"}
_TIME: dict[str, Any] = {"type": "string", "format": "date-time"}


@dataclass(frozen=True, slots=True)
class Operation:
    """One method of one path. role: "" lets everybody in.  query: parameters as in OpenAPI.  body: name of a schema."""

    id: str
    summary: str
    tag: str
    role: Role
    answers: tuple[Answer, ...]
    query: tuple[dict[str, Any], ...] = ()
    body: str = ""


def _query(name: str, text: str, schema: dict[str, Any]) -> dict[str, Any]:
    return {"name": name, "in": "query", "required": False, "description": text, "schema": schema}


def _json(schema: str, text: str = "done") -> tuple[Answer, ...]:
    return ((200, text, "application/json", schema),)


FILTER = (
    _query("camera", "name of a camera", _TEXT),
    _query("state", "what the alarm is like now", {"type": "string", "enum": list(STATES)}),
    _query("verdict", "what it was judged; none: nothing yet", {"type": "string", "enum": list(VERDICT_WORDS)}),
    _query("kind", "a kind that events carry", _TEXT),
    _query("severity", "a severity that events carry", _TEXT),
    _query("since", "began then or later", _TIME),
    _query("until", "began then or earlier", _TIME),
)
_PAGED = (
    _query("before", "only alarms with a smaller number", {"type": "integer", "minimum": 1}),
    _query("limit", "at most so many (50)", {"type": "integer", "minimum": 1, "maximum": 200}),
)
_PART = (
    (206, "a part, where the request has a Range", "video/mp4", "binary"),
    (416, "no such part", "", ""),
)
_HTML = (200, "the page; its scripts look at the address", "text/html", "")
_HEALTH = (
    (200, "healthy", "application/json", "Health"),
    (503, "not healthy", "application/json", "Health"),
)


def _clip(name: str) -> Operation:
    return Operation(
        name,
        "The alarm's clip as browsers play it, or as the camera sent it",
        "alarms",
        "viewer",
        (
            (200, "the clip", "video/mp4", "binary"),
            *_PART,
            (503, "other clips are being copied", "application/json", "Error"),
        ),
        (_query("original", "1: as the camera sent it, for download", {"type": "string", "enum": ["1"]}),),
    )


def _page(name: str, text: str) -> Operation:
    return Operation(name, text, "pages", "viewer", (_HTML, (303, "to /login", "", "")))


OPERATIONS: dict[tuple[str, str], Operation] = {
    ("GET", "/login"): Operation("login_page", "The form to sign in", "pages", "", (_HTML,)),
    ("POST", "/login"): Operation(
        "login",
        "Open a session, as a cookie",
        "access",
        "",
        (*_json("Ok"), (401, "the token is wrong", "application/json", "Error")),
        (),
        "Login",
    ),
    ("POST", "/logout"): Operation("logout", "Close the session", "access", "viewer", _json("Ok")),
    ("GET", "/static/{path}"): Operation(
        "static_file", "A file of the page", "pages", "", ((200, "the file", "*/*", "binary"),)
    ),
    ("GET", "/livez"): Operation("livez", "Whether decisions are made", "health", "", _HEALTH),
    ("GET", "/readyz"): Operation("readyz", "Whether enough cameras are scored", "health", "", _HEALTH),
    ("GET", "/healthz"): Operation("healthz", "As /livez", "health", "", _HEALTH),
    ("GET", "/metrics"): Operation(
        "metrics", "All metrics for Prometheus", "health", "viewer", ((200, "the metrics", "text/plain", ""),)
    ),
    ("GET", "/openapi.json"): Operation("openapi", "This description", "health", "viewer", _json("Description")),
    ("GET", "/api/run"): Operation("get_run", "The run and its cameras", "cameras", "viewer", _json("Run")),
    ("GET", "/api/stream"): Operation(
        "stream",
        "Server-sent events: state, picture, alarm, again, bye",
        "cameras",
        "viewer",
        (
            (200, "events until either side leaves", "text/event-stream", ""),
            (503, "too many viewers", "application/json", "Error"),
        ),
        (
            _query("cameras", "names, with commas between them", _TEXT),
            _query("rate", "pictures a second, 0 to 5", {"type": "number"}),
        ),
    ),
    ("GET", "/api/picture/{name}.jpg"): Operation(
        "get_picture",
        "The newest picture of a camera",
        "cameras",
        "viewer",
        ((200, "the picture", "image/jpeg", "binary"),),
    ),
    ("GET", "/api/alarms"): Operation(
        "list_alarms",
        "A page of alarms, newest first",
        "alarms",
        "viewer",
        _json("AlarmPage", "the page"),
        (*FILTER, *_PAGED),
    ),
    ("GET", "/api/alarms.json"): Operation(
        "export_json",
        "At most 20,000 alarms, newest first",
        "alarms",
        "viewer",
        _json("AlarmExport", "the file"),
        FILTER,
    ),
    ("GET", "/api/alarms.csv"): Operation(
        "export_csv", "The same as a table", "alarms", "viewer", ((200, "the file", "text/csv", ""),), FILTER
    ),
    ("GET", "/api/alarms/{id}"): Operation(
        "get_alarm", "One alarm", "alarms", "viewer", _json("AlarmDetail", "the alarm")
    ),
    ("GET", "/api/alarms/{id}/around"): Operation(
        "get_around",
        "The alarms before and after one under a filter",
        "alarms",
        "viewer",
        _json("Around", "the two"),
        FILTER,
    ),
    ("GET", "/api/alarms/{id}/clip.mp4"): _clip("get_clip"),
    ("GET", "/api/alarms/{id}/clip.webm"): _clip("get_clip_by_former_name"),
    ("GET", "/api/alarms/{id}/snapshot.jpg"): Operation(
        "get_snapshot",
        "The picture at the peak",
        "alarms",
        "viewer",
        ((200, "the picture", "image/jpeg", "binary"), *_PART),
    ),
    ("POST", "/api/alarms/{id}/ack"): Operation(
        "acknowledge",
        "Acknowledge an alarm",
        "alarms",
        "operator",
        _json("Alarm", "the alarm now"),
        (),
        "Acknowledgement",
    ),
    ("POST", "/api/alarms/{id}/verdict"): Operation(
        "judge", "Say what an alarm was", "alarms", "operator", _json("Alarm", "the alarm now"), (), "Verdict"
    ),
    ("POST", "/api/cameras/{name}/miss"): Operation(
        "report_miss",
        "Tell of something that raised no alarm",
        "cameras",
        "operator",
        _json("Event", "the event"),
        (),
        "Miss",
    ),
    ("GET", "/api/cameras/{name}/settings"): Operation(
        "get_settings", "Regions and schedule of a camera", "cameras", "viewer", _json("Settings")
    ),
    ("POST", "/api/cameras/{name}/settings"): Operation(
        "write_camera_settings",
        "Write regions and schedule into the configuration; a reload puts them into effect",
        "cameras",
        "operator",
        _json("Written"),
        (),
        "SettingsChange",
    ),
    ("POST", "/api/cameras/{name}/control"): Operation(
        "control_camera",
        "Mute a camera or change its threshold",
        "cameras",
        "operator",
        _json("Event", "the event"),
        (),
        "Control",
    ),
    ("POST", "/api/control"): Operation(
        "control",
        "Change the mode, or mute all cameras",
        "cameras",
        "operator",
        _json("Event", "the event"),
        (),
        "Control",
    ),
    ("POST", "/api/reload"): Operation(
        "reload", "Read the configuration again", "cameras", "operator", _json("Event", "the event"), (), "By"
    ),
    ("GET", "/api/site/{name}"): Operation("get_site", "Site memory of a camera", "site", "viewer", _json("Site")),
    ("GET", "/api/reports/{id}"): Operation(
        "get_report", "The report on an overlay", "site", "viewer", ((200, "the report", "text/html", ""),)
    ),
    ("POST", "/api/site/{name}/command"): Operation(
        "command_site",
        "Adapt, promote, shadow or roll back",
        "site",
        "operator",
        _json("Event", "the event"),
        (),
        "Command",
    ),
    ("GET", "/api/timeline/{name}"): Operation(
        "get_timeline",
        "Scores, alarms and recordings of some days, in at most 600 bins",
        "timeline",
        "viewer",
        _json("Timeline"),
        (
            _query("since", "begin; a day before the end unless given", _TIME),
            _query("until", "end; now unless given", _TIME),
            _query("bins", "how many (240)", {"type": "integer", "minimum": 1, "maximum": 600}),
        ),
    ),
    ("GET", "/api/recordings/{name}/{file}"): Operation(
        "get_recording",
        "A file of a recording, as the camera sent it",
        "timeline",
        "viewer",
        ((200, "the file", "video/mp4", "binary"), *_PART),
    ),
    ("GET", "/api/replay/{name}"): Operation(
        "get_replay", "The scores of this run", "replay", "viewer", _json("Replay")
    ),
    ("GET", "/api/replay/{name}/frame.jpg"): Operation(
        "get_frame",
        "The picture of a recording at a time",
        "replay",
        "viewer",
        ((200, "the picture", "image/jpeg", "binary"),),
        ({**_query("t", "media time in seconds", {"type": "number", "minimum": 0}), "required": True},),
    ),
    ("POST", "/api/tune/{name}"): Operation(
        "tune", "What other settings would have given", "replay", "viewer", _json("Tuned"), (), "Tuning"
    ),
    ("POST", "/api/tune/{name}/write"): Operation(
        "write_settings", "Write settings into the configuration", "replay", "operator", _json("Written"), (), "Tuning"
    ),
    ("GET", "/"): _page("page_live", "The grid of cameras"),
    ("GET", "/alarms"): _page("page_alarms", "The list of alarms"),
    ("GET", "/alarms/{id}"): _page("page_alarm", "One alarm"),
    ("GET", "/camera/{name}"): _page("page_camera", "One camera"),
    ("GET", "/camera/{name}/edit"): _page("page_edit", "Regions and schedule of a camera"),
    ("GET", "/replay"): _page("page_replay", "Replay"),
    ("GET", "/timeline"): _page("page_timeline", "The timeline of a camera"),
    ("GET", "/tune"): _page("page_tune", "Tuning"),
    ("GET", "/site/{name}"): _page("page_site", "Site memory of a camera"),
}
