"""`stream-detector init`: a first set-up in the terminal.

It asks for cameras, probes them, writes a commented cameras.toml, raises one alarm on purpose and follows it to a
subscriber, and prints how to run as a service. Passwords go to files of their own.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit, urlunsplit

import tomlkit

from stream_detector.capture.sources import parse_sources
from stream_detector.config import CAMERA_NAME, CameraConfig, CaptureConfig, load_config, slug
from stream_detector.errors import SourceError, StreamDetectorError, UsageError
from stream_detector.system import signals

PROBE_S = 3.0
QUESTION = "Camera or recording (rtsp://…, http://…, a file, a USB index, demo; Enter: no more)"
HEAD = """\
# Written by `stream-detector init`. Every key: `docs/configuration.md`, or the documentation's page of settings.
# Run it:     stream-detector run --config {path}
# Check it:   stream-detector doctor --config {path}

# bundle = "embedded"          # the model; `stream-detector models list` shows others
# threshold = 0.5              # of the smoothed score, 0 to 1; default: the model's own.
#                              # `stream-detector calibrate` finds one from footage in which nothing happens.

[alarm]
cooldown_s = 10                # after an alarm no new one begins for so long

[evidence]
directory = "{evidence}"
keep_days = 30                 # older clips are removed
max_bytes = 10_000_000_000     # and the oldest, when all together are larger

[publish]
bind = "tcp://127.0.0.1:5555"  # events over ZeroMQ; beyond this machine it needs keys (`stream-detector keys new`)
ledger = "{ledger}"
"""
WEB = """
[web]
bind = "127.0.0.1:8080"        # the page; beyond this machine it needs a token and TLS
"""


@dataclass(frozen=True, slots=True)
class _Wanted:
    """A camera to write. text: its source without the password.  password: to be written to a file of its own."""

    camera: CameraConfig
    text: str
    password: str = ""
    seen: str = ""


def add_parser(subparsers: Any) -> None:
    """Declare the options."""
    parser = subparsers.add_parser(
        "init",
        help="write a first cameras.toml, step by step, and try it",
        description="A first set-up: asks for cameras, probes them, writes a commented cameras.toml, raises one alarm "
        "on purpose and follows it to a subscriber, and prints the commands for a service.",
    )
    parser.add_argument("sources", nargs="*", metavar="[NAME=]SOURCE", help="cameras; given here, nothing is asked")
    parser.add_argument("--config", type=Path, default=Path("cameras.toml"), metavar="FILE.toml", help="file to write")
    parser.add_argument("--no-probe", action="store_true", help="do not look at the cameras")
    parser.add_argument("--no-test", action="store_true", help="do not raise an alarm to test the way to a subscriber")


def main(args: argparse.Namespace) -> int:
    """Set up; 0 when the file is written and the test, unless it was left out, came through, else 1."""
    path: Path = args.config
    if path.exists():
        raise UsageError(f"{str(path)!r} exists already; edit it, or give another name with --config")
    with signals.phase("setting up"):
        wanted = _given(args.sources, not args.no_probe) if args.sources else _asked(not args.no_probe)
        if not wanted:
            raise UsageError("no camera was given, so nothing was written; `demo` would do for a first look")
        _write(path, wanted)
        print(f"\nwrote {path}")
        came = args.no_test or _test(path, wanted[0].camera.name)
    _print_next(path.resolve())
    return 0 if came else 1


# --- cameras ---------------------------------------------------------------------------------------------------------


def _given(sources: list[str], look: bool) -> list[_Wanted]:
    found: list[_Wanted] = []
    for text in sources:
        found += [_looked_at(each, look) for each in _parsed(text)]
    return found


def _asked(look: bool) -> list[_Wanted]:
    found: list[_Wanted] = []
    while text := _ask(QUESTION):
        try:
            new = [_looked_at(each, look) for each in _parsed(text)]
        except SourceError as error:
            print(f"  {error}")
            if not _yes("  Keep it all the same?", False):
                continue
            try:
                new = _parsed(text)
            except SourceError:
                print("  It is no source that can be written down; left out.")
                continue
        if len(new) == 1:
            new = [_named(new[0], {each.camera.name for each in found})]
        found += new
    return found


def _named(wanted: _Wanted, taken: set[str]) -> _Wanted:
    while True:
        name = slug(_ask("  Name of this camera", wanted.camera.name))
        if name in taken:
            print(f"  {name} is taken already.")
        elif CAMERA_NAME.fullmatch(name):
            return _Wanted(wanted.camera.model_copy(update={"name": name}), wanted.text, wanted.password, wanted.seen)


def _parsed(text: str) -> list[_Wanted]:
    """The cameras of one `[NAME=]SOURCE`. Raises SourceError."""
    cameras = parse_sources([text])
    if len(cameras) > 1:  # a folder or a glob: each file by its own path
        return [_Wanted(camera, camera.source.reveal()) for camera in cameras]
    plain, password = _apart(text.partition("=")[2] if _has_name(text) else text)
    if cameras[0].source.kind == "file":
        plain = str(Path(plain).resolve())
    return [_Wanted(cameras[0], plain, password)]


def _has_name(text: str) -> bool:
    name, equals, _ = text.partition("=")
    return bool(equals) and CAMERA_NAME.fullmatch(name) is not None


def _apart(text: str) -> tuple[str, str]:
    """An address without its password, and the password as it is, unless it is a variable of the environment."""
    parts = urlsplit(text) if "://" in text else None
    if parts is None or not parts.password or "${" in text:
        return text, ""
    user, _, _ = parts.netloc.rpartition("@")[0].partition(":")
    place = parts.netloc.rpartition("@")[2]
    return urlunsplit(parts._replace(netloc=f"{user}@{place}")), unquote(parts.password)


def _looked_at(wanted: _Wanted, look: bool) -> _Wanted:
    """The same, with what its probe saw. Raises SourceError."""
    if not look:
        return wanted
    from stream_detector.capture.probe import probe
    from stream_detector.models.bundle import find_bundle, read_manifest

    recipe = read_manifest(find_bundle("embedded")).preprocess.to_recipe()
    facts = probe(wanted.camera, CaptureConfig(), recipe, PROBE_S)
    seen = f"{facts.codec or facts.kind}, {facts.width}×{facts.height}, {facts.fps_measured:.3g} fps"
    print(f"  {wanted.camera.name}: {seen}, {facts.cores:.2g} of {os.cpu_count() or 1} cores to read")
    if facts.slow:
        print(f"  {facts.slow}")
    return _Wanted(wanted.camera, wanted.text, wanted.password, seen)


# --- the file --------------------------------------------------------------------------------------------------------


def _write(path: Path, wanted: list[_Wanted]) -> None:
    """The configuration and the passwords' files, checked before they are kept. Raises UsageError or ConfigError."""
    state = path.resolve().parent / "stream-detector"
    text = HEAD.format(path=path, evidence=_inside(state / "evidence"), ledger=_inside(state / "ledger.sqlite3"))
    if importlib.util.find_spec("uvicorn") is not None and importlib.util.find_spec("starlette") is not None:
        text += WEB
    secrets: list[Path] = []
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        state.mkdir(exist_ok=True)
        for each in wanted:
            name = each.camera.name
            text += f"\n[cameras.{name}]\nsource = {_quoted(each.text)}{'  # ' + each.seen if each.seen else ''}\n"
            if each.password:
                secret = state / f"{name}.password"
                with open(os.open(secret, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w", encoding="utf-8") as file:
                    file.write(each.password + "\n")
                secrets.append(secret)
                text += f"password_file = {_quoted(str(secret))}  # readable by you alone\n"
            text += "# threshold = 0.6\n# mask = [[0, 0], [1, 0], [1, 0.2], [0, 0.2]]  # painted over before scoring\n"
        with path.open("x", encoding="utf-8") as file:
            file.write(text)
        load_config(path)
    except OSError as error:
        for secret in secrets:
            secret.unlink(missing_ok=True)
        raise UsageError(f"{str(path)!r} cannot be written ({error.strerror}); give another place") from None
    except StreamDetectorError:
        for file_path in (path, *secrets):
            file_path.unlink(missing_ok=True)
        raise


def _quoted(text: str) -> str:
    return str(tomlkit.item(text).as_string())


def _inside(path: Path) -> str:
    """A path between the quotes of a TOML text."""
    return _quoted(str(path))[1:-1]


# --- the test --------------------------------------------------------------------------------------------------------


def _test(path: Path, camera: str) -> bool:
    """Raise an alarm on purpose and say what came of it."""
    from stream_detector.cli.alarm_test import try_alarm

    print(f"\nTesting: {camera} is watched with a threshold of 0, so that it alarms; a subscriber waits for it.")
    try:
        print(f"  {try_alarm(path, camera)}")
    except StreamDetectorError as error:
        print(f"  {error}", file=sys.stderr)
        return False
    return True


def _print_next(path: Path) -> None:
    print(
        f"""
Now:
  stream-detector run --config {path}
As a service, with systemd (docs/deploy/README.md shows the whole way):
  sudo install -D -m 0640 -g stream-detector {path} /etc/stream-detector/cameras.toml
  sudo systemctl enable --now stream-detector
In a container, with MQTT, Prometheus and Grafana beside it (docs/deploy/compose.yaml):
  CAMERAS={path} docker compose -f docs/deploy/compose.yaml up --detach"""
    )


# --- questions -------------------------------------------------------------------------------------------------------


def _ask(question: str, standard: str = "") -> str:
    """An answer without blanks around it; `standard` for an empty one. The end of the input is an empty answer."""
    signals.check()
    try:
        answer = input(f"{question}{f' [{standard}]' if standard else ''}: ").strip()
    except EOFError:
        print()
        answer = ""
    return answer or standard


def _yes(question: str, standard: bool) -> bool:
    answer = _ask(f"{question} ({'Y/n' if standard else 'y/N'})").lower()
    return standard if not answer else answer in ("y", "yes")
