"""`stream-detector init`: a first set-up in the terminal.

The command asks for cameras, probes them, writes a commented cameras.toml, raises a test alarm, waits until a
subscriber receives it, and prints how to run the detector as a service.

Passwords: the terminal does not show a password while it is typed. Each password is stored in a new file of its own
that only the user can read (mode 0600); an existing file is never overwritten. cameras.toml holds the path of that
file. Where an address contains more that may be secret (a query such as ?token=…), cameras.toml has mode 0600 as well.
"""

from __future__ import annotations

import argparse
import getpass
import importlib.util
import itertools
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
QUESTION = "Camera or recording (rtsp://USER@HOST/…, http://…, a file, a USB index, demo; Enter: no more)"
HEAD = """\
# Written by `stream-detector init`. Every key: `docs/configuration.md`, or the documentation's page of settings.
# Run it:     stream-detector run --config {path}
# Check it:   stream-detector doctor --config {path}

# bundle = "embedded"          # the model; `stream-detector models list` shows others
# threshold = 0.5              # of the smoothed score, 0 to 1; default: the model's own.
#                              # `stream-detector calibrate` finds one from footage in which nothing happens.

[alarm]
cooldown_s = 10                # time after an alarm in which no other alarm starts

[evidence]
directory = "{evidence}"
keep_days = 30                 # older clips are removed
max_bytes = 10_000_000_000     # if all clips are larger than this, the oldest are removed

[publish]
bind = "tcp://127.0.0.1:5555"  # events over ZeroMQ; another address needs keys (`stream-detector keys new`)
ledger = "{ledger}"
"""
WEB = """
[web]
bind = "127.0.0.1:8080"        # the web page; another address needs a token and TLS
"""


@dataclass(frozen=True, slots=True)
class _Wanted:
    """A camera to write. text: its source without the password.  password: stored in a file of its own.  seen: what the
    probe measured.
    """

    camera: CameraConfig
    text: str
    password: str = ""
    seen: str = ""


def add_parser(subparsers: Any) -> None:
    """Declare the options."""
    parser = subparsers.add_parser(
        "init",
        help="write a first cameras.toml, step by step, and try it",
        description="Asks for cameras, probes them, writes a commented cameras.toml, raises a test alarm, checks that "
        "a subscriber receives it, and prints the commands for a service.",
    )
    parser.add_argument(
        "sources",
        nargs="*",
        metavar="[NAME=]SOURCE",
        help="cameras; without them the command asks. Other users can read a command line: leave passwords out",
    )
    parser.add_argument("--config", type=Path, default=Path("cameras.toml"), metavar="FILE.toml", help="file to write")
    parser.add_argument("--no-probe", action="store_true", help="do not open the cameras")
    parser.add_argument("--no-test", action="store_true", help="do not raise a test alarm")


def main(args: argparse.Namespace) -> int:
    """Set up; return 0 if the file was written and the test alarm (unless --no-test) was received, else 1."""
    path: Path = args.config
    if path.exists():
        raise UsageError(f"{str(path)!r} exists already; edit it, or give another name with --config")
    with signals.phase("setting up"):
        wanted = _given(args.sources, not args.no_probe) if args.sources else _asked(not args.no_probe)
        if not wanted:
            raise UsageError("no camera was given, so nothing was written; give a source, for instance demo")
        secrets = _write(path, wanted)
        print(f"\nwrote {path}")
        came = args.no_test or _test(path, wanted[0].camera.name)
    _print_next(path.resolve(), secrets)
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
            new = [_looked_at(_with_password(each), look) for each in _parsed(text)]
        except SourceError as error:
            print(f"  {error}")
            if not _yes("  Keep this camera anyway?", False):
                continue
            try:
                new = [_with_password(each) for each in _parsed(text)]
            except SourceError:
                print("  This is not a valid source; it is left out.")
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
    """Split an address into the address without its password, and the password; a ${VARIABLE} stays in the address."""
    parts = urlsplit(text) if "://" in text else None
    if parts is None or not parts.password or "${" in text:
        return text, ""
    user, _, _ = parts.netloc.rpartition("@")[0].partition(":")
    place = parts.netloc.rpartition("@")[2]
    return urlunsplit(parts._replace(netloc=f"{user}@{place}")), unquote(parts.password)


def _with_password(wanted: _Wanted) -> _Wanted:
    """Ask for the password of an address that names a user only; nothing that is typed is shown."""
    parts = urlsplit(wanted.text) if "://" in wanted.text else None
    if wanted.password or parts is None or not parts.username or "${" in wanted.text:
        return wanted
    password = _ask_secret(f"  Password of {parts.username} (not shown; Enter: none)")
    if not password:
        return wanted
    source = wanted.camera.source.with_password(password)
    return _Wanted(wanted.camera.model_copy(update={"source": source}), wanted.text, password, wanted.seen)


def _looked_at(wanted: _Wanted, look: bool) -> _Wanted:
    """Add what the probe measured. Raises SourceError."""
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


def _write(path: Path, wanted: list[_Wanted]) -> list[Path]:
    """Write the configuration and the password files, and check them; return the password files.

    If the check fails, the new files are removed. Raises UsageError or ConfigError.
    """
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
                secrets.append(secret := _store(state, name, each.password))
                text += f"password_file = {_quoted(str(secret))}  # only you can read this file\n"
            text += "# threshold = 0.6\n# mask = [[0, 0], [1, 0], [1, 0.2], [0, 0.2]]  # corners of a hidden area\n"
        mode = 0o600 if any(_may_hold_a_secret(each.text) for each in wanted) else 0o666
        with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "w", encoding="utf-8") as file:
            file.write(text)
        load_config(path)
        return secrets
    except OSError as error:
        for secret in secrets:
            secret.unlink(missing_ok=True)
        raise UsageError(f"{str(path)!r} cannot be written ({error.strerror}); give another place") from None
    except StreamDetectorError:
        for file_path in (path, *secrets):
            file_path.unlink(missing_ok=True)
        raise


def _store(folder: Path, name: str, password: str) -> Path:
    """Write a password into a new file that only this user can read. An older file of that name is left alone."""
    for number in itertools.count(1):
        secret = folder / f"{name}{'' if number == 1 else f'-{number}'}.password"
        try:
            descriptor = os.open(secret, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        except FileExistsError:
            continue
        with open(descriptor, "w", encoding="utf-8") as file:
            file.write(password + "\n")
        return secret
    raise AssertionError("there is always a next number")


def _may_hold_a_secret(text: str) -> bool:
    """Whether the address, its password taken out, has a query or a fragment; many cameras take a key there."""
    parts = urlsplit(text) if "://" in text else None
    return parts is not None and bool(parts.query or parts.fragment)


def _quoted(text: str) -> str:
    return str(tomlkit.item(text).as_string())


def _inside(path: Path) -> str:
    """A path between the quotes of a TOML text."""
    return _quoted(str(path))[1:-1]


# --- the test --------------------------------------------------------------------------------------------------------


def _test(path: Path, camera: str) -> bool:
    """Raise a test alarm and print the result; return whether a subscriber received it."""
    from stream_detector.cli.alarm_test import try_alarm

    print(f"\nTest: {camera} runs with a threshold of 0, so an alarm starts; a subscriber waits for the alarm.")
    try:
        print(f"  {try_alarm(path, camera)}")
    except StreamDetectorError as error:
        print(f"  {error}", file=sys.stderr)
        return False
    return True


def _print_next(path: Path, secrets: list[Path]) -> None:
    copies = "".join(
        f"\n  sudo install -m 0640 -g stream-detector {secret} /etc/stream-detector/{secret.name}" for secret in secrets
    )
    if secrets:  # the service cannot read the user's home folder
        copies += (
            f"\n  sudo sed -i '/^password_file/s|{secrets[0].parent}/|/etc/stream-detector/|' "
            "/etc/stream-detector/cameras.toml"
        )
    print(
        f"""
Next steps:
  stream-detector run --config {path}
As a service, with systemd (docs/deploy/README.md has every step):
  sudo install -D -m 0640 -g stream-detector {path} /etc/stream-detector/cameras.toml{copies}
  sudo systemctl enable --now stream-detector
In a container, with MQTT, Prometheus and Grafana (docs/deploy/compose.yaml):
  CAMERAS={path} docker compose -f docs/deploy/compose.yaml up --detach"""
    )


# --- questions -------------------------------------------------------------------------------------------------------


def _ask(question: str, standard: str = "") -> str:
    """Return the answer, stripped; `standard` if it is empty. The end of the input counts as an empty answer."""
    signals.check()
    try:
        answer = input(f"{question}{f' [{standard}]' if standard else ''}: ").strip()
    except EOFError:
        print()
        answer = ""
    return answer or standard


def _ask_secret(question: str) -> str:
    """Return the answer; a terminal does not show it while it is typed."""
    if not sys.stdin.isatty():
        return _ask(question)
    signals.check()
    try:
        return getpass.getpass(f"{question}: ")
    except EOFError:
        return ""


def _yes(question: str, standard: bool) -> bool:
    answer = _ask(f"{question} ({'Y/n' if standard else 'y/N'})").lower()
    return standard if not answer else answer in ("y", "yes")
