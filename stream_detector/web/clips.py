"""Files of evidence for the page: found by checked names, and for clips that no browser plays an H.264 copy.

<name>.mp4         the camera's own video
<name>.h264.mp4    the copy, made when somebody opens such a clip; retention treats it as evidence
<name>.webm        of earlier versions
"""

from __future__ import annotations

import asyncio
import logging
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from stream_detector.config import CAMERA_NAME, EvidenceConfig
from stream_detector.evidence.transcode import browser_copy, is_playable
from stream_detector.system.thread_priority import lower_priority
from stream_detector.web.history import Alarm

log = logging.getLogger(__name__)

MEDIA_TYPES = {".mp4": "video/mp4", ".webm": "video/webm", ".jpg": "image/jpeg"}
MAX_WAITING = 4  # copies that are made or waited for at a time
_KNOWN = 1000


class TooManyCopies(Exception):
    """Enough copies are being made; ask again later."""


class EvidenceFiles:
    """config: says where they lie. For the server's thread; copies are made in one of their own."""

    def __init__(self, config: EvidenceConfig) -> None:
        self._config = config
        self._playable: dict[tuple[str, int], bool] = {}  # by path and size
        self._copies: dict[Path, asyncio.Task[Path | None]] = {}
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="web-copies", initializer=lambda: lower_priority(10))

    def find(self, alarm: Alarm, *suffixes: str) -> Path | None:
        """The first of an alarm's files with one of these suffixes, below the folder; a link that leaves it is none."""
        if not CAMERA_NAME.fullmatch(alarm.camera) or not alarm.evidence_name:
            return None
        try:
            folder = self._config.directory.resolve()
            for suffix in suffixes:
                path = (folder / alarm.camera / f"{alarm.evidence_name}{suffix}").resolve()
                if path.is_relative_to(folder) and path.is_file():
                    return path
        except OSError:
            pass
        return None

    def clip(self, alarm: Alarm) -> Path | None:
        """The video of an alarm as it was kept."""
        return self.find(alarm, ".mp4", ".webm")

    async def playable(self, path: Path) -> bool:
        """Whether browsers play it as it is. One that cannot be read counts as playable: the browser says why."""
        try:
            key = (str(path), path.stat().st_size)
            if key not in self._playable:
                found = await asyncio.to_thread(is_playable, path)
                if len(self._playable) >= _KNOWN:
                    self._playable.clear()
                self._playable[key] = found
            return self._playable[key]
        except OSError:
            return True

    async def for_browser(self, alarm: Alarm) -> Path | None:
        """A clip that browsers play: the one that was kept, or a copy, which may take some seconds to be made.

        Raises TooManyCopies.
        """
        path = self.clip(alarm)
        if path is None or await self.playable(path):
            return path
        ready = self.find(alarm, ".h264.mp4")
        if ready is not None:
            return ready
        task = self._copies.get(path)
        if task is None:
            if len(self._copies) >= MAX_WAITING:
                raise TooManyCopies
            task = self._copies[path] = asyncio.create_task(self._copy(path))
        return await asyncio.shield(task)

    async def _copy(self, path: Path) -> Path | None:
        copy = path.with_name(f"{path.stem}.h264.mp4")
        try:
            loop = asyncio.get_running_loop()
            await loop.run_in_executor(self._pool, browser_copy, path, copy, self._config.transcode_cores)
        except OSError as error:
            log.warning("no copy of clip %s that browsers play could be made (%s)", path.name, error)
            return None
        finally:
            self._copies.pop(path, None)
        return copy

    def close(self) -> None:
        """Make no further copies."""
        self._pool.shutdown(wait=False, cancel_futures=True)
