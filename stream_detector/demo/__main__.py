"""`python -m stream_detector.demo`: write the rendered scene as a video file, or one still of it."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import cv2

from stream_detector.demo import DemoScene
from stream_detector.errors import StreamDetectorError, UsageError

_CODECS = {".webm": "VP80", ".mp4": "mp4v", ".avi": "MJPG", ".mkv": "VP80"}
_PICTURES = (".jpg", ".jpeg", ".png")


def write_video(scene: DemoScene, path: Path) -> None:
    """Write all frames of a scene into a video file with a suffix of _CODECS. Raises UsageError if it cannot be
    written.
    """
    codec = _CODECS[path.suffix.lower()]
    path.parent.mkdir(parents=True, exist_ok=True)
    writer = cv2.VideoWriter(str(path), cv2.CAP_FFMPEG, cv2.VideoWriter.fourcc(*codec), scene.fps, scene.size)
    if not writer.isOpened():
        raise UsageError(f"{str(path)!r} cannot be written; give a path in a folder you may write to")
    try:
        for frame in scene:
            writer.write(frame)
    finally:
        writer.release()


def write_still(scene: DemoScene, at_s: float, path: Path, limit_bytes: int = 120_000) -> None:
    """Write the frame at `at_s` as JPEG (the best quality below `limit_bytes`) or PNG."""
    picture = scene.frame(round(at_s * scene.fps))
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix.lower() == ".png":
        data = cv2.imencode(".png", picture)[1]
    else:
        for quality in range(92, 20, -6):
            data = cv2.imencode(".jpg", picture, [cv2.IMWRITE_JPEG_QUALITY, quality])[1]
            if len(data) <= limit_bytes:
                break
    path.write_bytes(data.tobytes())


def main(arguments: list[str] | None = None) -> int:
    """The command line. Returns the exit code: 0 done, 2 usage."""
    parser = argparse.ArgumentParser("python -m stream_detector.demo", description=__doc__)
    parser.add_argument(
        "--seed", type=int, default=0, help="number that selects street, people and incident (default 0)"
    )
    parser.add_argument("--duration", type=float, default=40.0, metavar="S", help="length in seconds (default 40)")
    parser.add_argument("--fps", type=float, default=25.0)
    parser.add_argument("--size", default="640x360", metavar="WxH")
    parser.add_argument("--no-incident", action="store_true", help="render a scene without the incident")
    parser.add_argument("--out", type=Path, help="video file to write (.webm, .mp4, .avi, .mkv)")
    parser.add_argument("--still", type=Path, help="picture to write (.jpg, .png)")
    parser.add_argument("--at", type=float, default=0.0, metavar="S", help="time of the still, in seconds")
    options = parser.parse_args(arguments)
    if options.out is None and options.still is None:
        parser.error("nothing to write; give --out FILE or --still FILE")
    try:
        try:
            width, height = (int(n) for n in options.size.lower().split("x"))
        except ValueError:
            raise UsageError(f"--size {options.size!r} is not a size; give it as 640x360") from None
        for path, known in ((options.out, _CODECS), (options.still, _PICTURES)):
            if path is not None and path.suffix.lower() not in known:
                raise UsageError(f"{str(path)!r} has no known suffix; use one of {', '.join(known)}")
        if options.still is not None and not 0 <= round(options.at * options.fps) < round(
            options.duration * options.fps
        ):
            raise UsageError(f"--at {options.at:g} lies outside the scene; give 0 to less than {options.duration:g} s")
        scene = DemoScene(options.seed, options.duration, options.fps, (width, height), not options.no_incident)
        if scene.incident_start_s is not None and scene.incident_end_s is not None:
            print(f"incident ({scene.course}): {scene.incident_start_s:.2f} s to {scene.incident_end_s:.2f} s")
        if options.out is not None:
            write_video(scene, options.out)
        if options.still is not None:
            write_still(scene, options.at, options.still)
    except StreamDetectorError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    except OSError as error:
        print(f"cannot write ({error}); give a path in a folder you may write to", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
