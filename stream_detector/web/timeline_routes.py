"""The routes of the timeline: scores of days in few bins, alarms, and what was recorded; and the recorded files."""

from __future__ import annotations

import asyncio
import calendar
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, Response
from starlette.routing import BaseRoute, Route

from stream_detector.errors import DataError
from stream_detector.events.protocol import rfc3339
from stream_detector.evidence.segments import OWN_SEGMENT
from stream_detector.runtime.build import Run
from stream_detector.web.filters import make_filter
from stream_detector.web.history import Alarm, History
from stream_detector.web.inputs import whole_number
from stream_detector.web.live_state import LiveState
from stream_detector.web.score_history import ScoreHistory

FLUSH_S = 60.0
DAY_S = 86_400.0
LONGEST_S = 14 * DAY_S
MOST_BINS = 600
MOST_ALARMS = 200
MOST_FILES = 20_000  # of one camera
MOST_SPANS = 400
JOINED_S = 5.0  # files that follow each other so closely are one span


class Timeline:
    """Answers from the file of scores, the index of alarms, and the folder of recordings."""

    def __init__(
        self,
        run: Run,
        history: History,
        live_state: LiveState,
        scores: ScoreHistory,
        camera: Callable[[Request], str],
    ) -> None:
        """camera: the camera that a request names."""
        self._run, self._history, self._camera = run, history, camera
        self._minutes, self._scores = live_state.minutes, scores
        self._reading = asyncio.Lock()

    def routes(self) -> list[BaseRoute]:
        """All of them."""
        return [
            Route("/api/timeline/{name}", self._timeline),
            Route("/api/recordings/{name}/{file}", self._recording),
        ]

    async def keep(self) -> None:
        """Write the scores of the last minute, until cancelled."""
        while True:
            await asyncio.sleep(FLUSH_S)
            await asyncio.to_thread(self.flush)

    def flush(self) -> None:
        """Write what was scored since. Blocks."""
        self._scores.add(self._minutes.drain(), int(time.time() // 60))

    async def _timeline(self, request: Request) -> Response:
        name, values = self._camera(request), dict(request.query_params)
        count = whole_number(values.get("bins", ""), "bins", 1, MOST_BINS) or 240
        first, each = _range(make_filter(values).since, make_filter(values).until, count)
        last = first + each * count
        async with self._reading:  # one at a time: it is the detector's processor
            bins, spans = await asyncio.to_thread(self._read, name, first, each, count)
        wanted = make_filter({"camera": name, "since": rfc3339(first * 60.0), "until": rfc3339(last * 60.0)})
        alarms, more = self._history.page(wanted, None, MOST_ALARMS)
        threshold = next((plan.threshold for plan in self._run.plans if plan.name == name), None)
        return JSONResponse(
            {
                "camera": name,
                "since": rfc3339(first * 60.0),
                "until": rfc3339(last * 60.0),
                "bin_s": each * 60,
                "threshold": threshold,
                "bins": [
                    None if b is None else [b.windows, round(b.mean, 4), round(b.peak, 4), int(b.alarmed)] for b in bins
                ],
                "alarms": [_brief(alarm) for alarm in alarms],
                "more": more,
                "recorded": spans,
            }
        )

    def _read(self, name: str, first: int, each: int, count: int) -> tuple[list[Any], list[dict[str, Any]]]:
        self.flush()
        folder = self._run.config.recording.directory / name
        spans = recorded(folder, first * 60.0, (first + each * count) * 60.0)
        return list(self._scores.bins(name, first, each, count)), spans

    async def _recording(self, request: Request) -> Response:
        name, file = self._camera(request), str(request.path_params["file"])
        if not OWN_SEGMENT.fullmatch(file):
            return JSONResponse({"error": "no such recording"}, 404)
        path = self._run.config.recording.directory / name / file
        if not await asyncio.to_thread(path.is_file):
            return JSONResponse({"error": "the recording was deleted"}, 404)
        return FileResponse(path, media_type="video/mp4", headers={"cache-control": "no-cache"})


def _brief(alarm: Alarm) -> dict[str, Any]:
    judged = alarm.verdict["verdict"] if alarm.verdict else None
    return {
        "key": alarm.key,
        "start_utc": alarm.start_utc,
        "ended_utc": alarm.ended_utc,
        "peak_score": alarm.peak_score,
        "verdict": judged,
        "clip": alarm.evidence,
    }


def _range(since: str, until: str, count: int) -> tuple[int, int]:
    """Return (first minute, minutes of a bin) of a range; by default the last day. Raises DataError.

    Whole bins end where the range does, and begin a little earlier.
    """
    last_s = _seconds(until) if until else time.time()
    first_s = _seconds(since) if since else last_s - DAY_S
    if not 0 < last_s - first_s <= LONGEST_S + 3600.0:
        raise DataError("until must be after since, by two weeks at most")
    last = math.ceil(last_s / 60)
    each = max(1, math.ceil((last - first_s // 60) / count))
    return last - each * count, each


def _seconds(text: str) -> float:
    return float(calendar.timegm(time.strptime(text[:19], "%Y-%m-%dT%H:%M:%S")))


def recorded(folder: Path, since_s: float, until_s: float) -> list[dict[str, Any]]:
    """What of a time was recorded, oldest first: spans with their files, at most MOST_SPANS. Blocks.

    A span is {"from_s", "to_s", "files": [[name, from_s, to_s]]} in seconds since the epoch: a file begins as its name
    says, and is over when it was last written.
    """
    files: list[tuple[float, float, str]] = []
    try:
        for number, path in enumerate(folder.iterdir()):
            if number >= MOST_FILES:
                break
            if OWN_SEGMENT.fullmatch(path.name):
                begun_s = float(calendar.timegm(time.strptime(path.name[:16], "%Y%m%dT%H%M%SZ")))
                if begun_s < until_s and (over_s := path.stat().st_mtime) > since_s:
                    files.append((begun_s, max(begun_s, over_s), path.name))
    except (OSError, ValueError):
        pass  # nothing was recorded, or retention deletes at this moment
    spans: list[dict[str, Any]] = []
    for begun_s, over_s, name in sorted(files)[-MOST_SPANS:]:
        if spans and begun_s - spans[-1]["to_s"] <= JOINED_S:
            spans[-1]["to_s"] = max(spans[-1]["to_s"], over_s)
            spans[-1]["files"].append([name, begun_s, over_s])
        else:
            spans.append({"from_s": begun_s, "to_s": over_s, "files": [[name, begun_s, over_s]]})
    return spans
