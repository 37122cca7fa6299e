"""No secret of a source comes out, wherever it stands in it: parsing, values, configuration and the command line."""

from __future__ import annotations

import ast
import contextlib
import copy
import dataclasses
import io
import logging
import pickle
import re
import traceback
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from secret_rig import Address, addresses, check, secrets

from stream_detector.capture.sources import expand_cameras, parse_sources
from stream_detector.cli.main import main
from stream_detector.config import CameraConfig, Config, build_config
from stream_detector.config.source import Source
from stream_detector.errors import SourceError, StageError, StreamDetectorError, redacted
from stream_detector.system.logging_setup import JsonFormatter, TextFormatter

TEMPLATES = ("admin:${PW}@h/1", "h/user=a_password=${PW}_c=1", "h/v?p=${PW}", "${PW}@h/", "h/#${PW}")
ABROAD = "rtsp://admin:{secret}@10.0.0.7/live"  # an address in a place where none belongs
MANY = settings(max_examples=100, deadline=None)


def of(text: str, secret: str, exact: bool = False) -> Address:
    return Address(text, secret, "password", exact)


def parsed(address: Address) -> Source | None:
    """The source, or None where it is refused in a sentence that holds no secret."""
    try:
        return Source.parse(address.text)
    except SourceError as error:
        assert "\n" not in str(error) and len(str(error)) > 20
        check(address, error, repr(error), *traceback.format_exception(error))
        return None


@MANY
@given(addresses())
@example(of("rtsp://admin:pa/ssword99@host/live", "pa/ssword99"))
@example(of("rtsp://admin:1234/56789abc@host/live", "1234/56789abc"))
@example(of("rtsp://admin:p@ss/word9@host/live", "p@ss/word9"))
@example(of("admin:hunter22@10.0.0.7/live", "hunter22"))
@example(of("10.0.0.7/user=admin_password=hunter22_channel=1", "hunter22"))
@example(of("rtsp:/admin:hunter22@10.0.0.7/live", "hunter22"))
@example(of("file://admin:hunter22@10.0.0.7/live", "hunter22"))
@example(of("rtsp://[admin:hunter22@x]/live", "hunter22"))
@example(of("rtsp://admin:hunter22@[::1/live", "hunter22"))
@example(of("'rtsp://admin:hunter22@10.0.0.7/live'", "hunter22"))
def test_what_becomes_of_an_address_shows_no_secret(address: Address) -> None:
    source = parsed(address)
    if source is None:
        return
    camera = CameraConfig(name="gate", source=source)
    config = Config(cameras=(camera,))
    for value in (source, camera, config, [source], copy.deepcopy(camera), camera.model_copy(update={"name": "b"})):
        check(address, value, repr(value), f"{value}", f"{value!s:>4}", "%s %r" % (value, value))  # noqa: UP031
    check(address, config.model_dump(), config.model_dump(mode="json"), config.model_dump_json(), config.__dict__)
    check(address, dataclasses.asdict(source), source.shown, source.hide(f"cannot open {source.reveal()}: timed out"))
    check(address, source.hide(f"cannot open {address.text}: timed out") if address.exact else "")
    again = pickle.loads(pickle.dumps(camera))  # how it gets to the process that reads it
    assert again == camera and again.source.reveal() == source.reveal() and hash(again.source) == hash(source)


@MANY
@given(addresses(broken=False, places=("password", "password, no path", "user and password", "twice")))
@example(of("rtsp://admin:it's4me@10.0.0.7/live", "it's4me", True))
@example(of("rtsp://admin:100%sure@10.0.0.7/live", "100%sure", True))
@example(of("rtsp://admin:p@ss@word@10.0.0.7/live", "p@ss@word", True))
@example(of("rtsp://admin:pa%2Fss%23word@10.0.0.7/live", "pa/ss#word", True))
def test_a_password_is_opened_as_it_was_meant_or_refused(address: Address) -> None:
    source = parsed(address)
    # A colon may begin a port, and browsers take a backslash for the end of the host: such passwords must be escaped.
    assert source is not None or not address.exact or re.search(r"[:\\]", address.secret)
    if source is None or not address.exact:
        return
    place = urlsplit(source.reveal())
    assert address.secret in f"{unquote(place.username or '')}:{unquote(place.password or '')}"
    assert source.reveal().isascii() and not re.search(r"[\s\"'<>\\]", place.netloc)
    assert (place.hostname or "").lower() == (urlsplit(source.shown).hostname or "").lower()
    assert place.path == urlsplit(address.text).path


@MANY
@given(
    secrets(),
    st.sampled_from(["admin:${PW}@h/1", "h/user=a_password=${PW}_c=1", "h/v?p=${PW}", "${PW}@h/", "h/#${PW}"]),
)
def test_a_variable_may_hold_any_password(secret: str, template: str) -> None:
    address = of(template, secret)
    try:
        source = Source.parse(f"rtsp://{template}", {"PW": secret})
    except SourceError as error:
        check(address, error)
        assert template.startswith("${PW}@") and ":" in secret
        return
    check(address, source, repr(source), source.shown)
    assert source.shown == "rtsp://h" and secret in unquote(source.reveal())
    assert Source.parse("${ALL}", {"ALL": "rtsp://a:b@h/1"}) == Source.parse("rtsp://a:b@h/1")


@settings(max_examples=25, deadline=None)
@given(addresses())
def test_no_error_of_a_configuration_shows_a_secret(address: Address) -> None:
    wrong = [
        {"cameras": {"gate": {"source": address.text, "threshold": 2}}},
        {"cameras": {"gate": {"source": address.text, "sorce": address.text}}},
        {"cameras": {"Gate 1": address.text}},
        {"cameras": {"gate": {"source": address.text, "source_file": address.text}}},
        {"cameras": {"gate": {"source": address.text, "password_file": address.text}}},
        {"cameras": {"gate": {"source": [address.text]}}},
        {"cameras": [address.text]},
        {"cameras": address.text},
        {"alarm": address.text},
        {"alarm": {"threshold": address.text}},
        {"publish": {"bind": [address.text]}},
        {"engine": {"device": address.text}},
        {"bundle": ABROAD.format(secret=address.secret)},
        {"events": ABROAD.format(secret=address.secret)},
        {"publish": {"ledger": Path(ABROAD.format(secret=address.secret))}},
        {"evidence": {"directory": ABROAD.format(secret=address.secret)}},
        {"cameras": {ABROAD.format(secret=address.secret): {"source": "x.mp4", "threshold": 2}}},
        {"cameras": {"gate": {"source": "x.mp4", ABROAD.format(secret=address.secret): 1}}},
        {ABROAD.format(secret=address.secret): {"a": 1}},
        {"alarm": {ABROAD.format(secret=address.secret): 1}},
    ]
    for values in wrong:
        with pytest.raises(StreamDetectorError) as caught:
            build_config(values)
        check(address, caught.value, *traceback.format_exception(caught.value))
        assert caught.value.__context__ is None and caught.value.__cause__ is None
    with pytest.raises(ValidationError) as raw:  # of the library itself, for who makes a CameraConfig by hand
        CameraConfig(name="Gate 1", source=address.text)  # type: ignore[arg-type]
    check(address, raw.value, repr(raw.value), *traceback.format_exception(raw.value))


def ran(*arguments: str) -> tuple[int, str]:
    """Exit code, and all that the command line said."""
    said = io.StringIO()
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
        try:
            code = main(arguments)
        except SystemExit as leaving:
            code = int(leaving.code or 0)
    return code, said.getvalue()


@settings(max_examples=15, deadline=None)
@given(addresses(), st.booleans())
@example(of("https://admin:hunter 22@[::1]", "hunter 22"), False)
def test_no_error_of_the_command_line_shows_a_secret(address: Address, debug: bool) -> None:
    text = address.text
    flags = ["--debug"] if debug else []
    for arguments in (
        ["score", text, "--out", "/nowhere/x.csv"],
        ["score", "gate=/nowhere/a.mp4", f"gate={text}", "--out", "/nowhere/x.csv"],
        ["run", f"Gate 1={text}", "--bind", "none"],
        ["run", "demo", "--unknown", text],
        ["run", "demo", f"--unknown={text}"],
        ["run", "demo", "--pace", text],
        ["run", "demo", f"--pace={text}"],
        ["run", "demo", "--set", f"cameras.gate.source={text}", "--threshold", "3"],
        ["run", "demo", "--set", f"alarm.threshold={text}"],
        [text],
        ["run", "demo", "--stride", text],
    ):
        if text.startswith("-"):
            continue
        code, said = ran(*arguments, *flags)
        assert code == 2, (arguments, said)
        check(address, said)


@settings(max_examples=100, deadline=None)
@given(addresses(broken=False), st.sampled_from(["text", "json"]))
def test_an_exception_of_a_library_loses_its_text(address: Address, style: str) -> None:
    source = parsed(address)
    if source is None:
        return

    def library() -> None:
        raise OSError(5, "I/O error", source.reveal())

    fault: Exception | None = None
    try:
        library()
    except OSError as error:
        fault = source.fault(error)
    assert isinstance(fault, StageError)
    told = "".join(traceback.format_exception(fault))
    assert "library()" in told and "OSError" in told and source.shown in told  # where it was, and what
    check(address, told)
    record = logging.LogRecord("x", 40, "f", 1, "%s: %r", (source, fault), (type(fault), fault, fault.__traceback__))
    check(address, (JsonFormatter() if style == "json" else TextFormatter()).format(record))


def test_a_file_is_shown_as_it_is_and_an_address_without_its_scheme_is_not(tmp_path: Path) -> None:
    odd = tmp_path / "a@b:c=d.mp4"
    odd.touch()
    assert parse_sources([str(odd)])[0].source.shown == str(odd)
    with pytest.raises(SourceError, match=r"'/none/clip\.mp4' does not exist"):
        parse_sources(["/none/clip.mp4"])
    with pytest.raises(SourceError, match="camera gate: the source does not exist, and is not shown"):
        parse_sources(["gate=admin:hunter22@10.0.0.7/live"])
    with pytest.raises(SourceError, match="source 2: the rtsp:// address names no host"):
        parse_sources(["demo", "rtsp://admin:hunter22@"])
    with pytest.raises(SourceError, match="camera gate: demo option"):
        expand_cameras([CameraConfig(name="gate", source=Source.parse("demo:sed=3"))])


@pytest.mark.parametrize(
    ("text", "shown", "device"),
    [
        ("0", "usb:0", "/dev/video0"),
        ("usb:12", "usb:12", "/dev/video12"),
        ("/dev/video3", "/dev/video3", "/dev/video3"),
        ("/dev/v4l/by-id/usb-Cam_X-index0", "/dev/v4l/by-id/usb-Cam_X-index0", "/dev/v4l/by-id/usb-Cam_X-index0"),
    ],
)
def test_usb_cameras_by_index_and_by_device(text: str, shown: str, device: str) -> None:
    source = parse_sources([text])[0].source
    assert (source.kind, source.live, source.shown, source.usb_device) == ("usb", True, shown, device)


def test_only_what_opens_a_source_reads_its_address() -> None:
    package = Path(__file__).parents[2] / "stream_detector"
    found = set()
    for path in package.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Attribute) and node.attr in ("reveal", "get_secret_value"):
                found.add(path.relative_to(package).as_posix())
    readers = {"config/source.py", "capture/network_readers.py"}
    writers = {"cli/init.py"}  # writes the address that its user gave into the user's own file
    targets = {"bridges/mqtt.py", "bridges/notify.py", "bridges/webhook.py"}  # the bridges' own targets
    assert found <= readers | writers | targets


@pytest.mark.parametrize("unit", [":", "x:", "@:", "a", "://", "?x", "a@", ":/@"])
def test_a_long_text_of_a_stranger_is_redacted_in_linear_time(unit: str) -> None:
    """With a pattern that goes back, this test would not end."""
    assert len(redacted(unit * 200_000)) <= 3 * 200_000 + 10


@MANY
@given(secrets())
@example("pa/ss#word?99")
def test_every_sentence_loses_what_an_address_hides(secret: str) -> None:
    """Whoever quotes it: every error of the program goes through `redacted`."""
    word = re.sub(r"[\s'\"]", "", secret)
    if len(word) < 8:
        return
    whole = Address(word, word, "password", False)
    for quoted in (f"rtsp://admin:{word}@h/live", f"tcp://u:{word}@127.0.0.1:5", f"rtsp:/u:{word}@h", f"u:{word}@h:80"):
        check(whole, StageError(f"the thing '{quoted}' is wrong"), StageError(f"{quoted}: no"))
    kept = "endpoint 'tcp://127.0.0.1:5555' is in use; see http://h/a"
    assert redacted(kept) == kept


@pytest.mark.parametrize(
    "words",
    [
        ["run", "--config", "{}"],
        ["run", "--bundle", "{}", "x.mp4"],
        ["run", "--events", "{}", "x.mp4"],
        ["run", "--run-dir", "{}", "x.mp4"],
        ["run", "--log-file", "{}", "x.mp4"],
        ["run", "--ledger", "{}", "x.mp4"],
        ["run", "--web", "adm:Zq7secretXy9@127.0.0.1:80", "x.mp4"],
        ["run", "--bind", "tcp://adm:Zq7secretXy9@127.0.0.1:5", "--insecure", "x.mp4"],
        ["run", "http://127.0.0.1:1\\@Zq7secretXy9/x"],
        ["report", "--scores", "{}"],
        ["subscribe", "tcp://adm:Zq7secretXy9@127.0.0.1:5"],
        ["control", "--endpoint", "tcp://adm:Zq7secretXy9@127.0.0.1:5", "--mode", "x"],
    ],
)
def test_an_address_in_place_of_a_path_is_refused_and_not_shown(
    words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    code, output = ran(*(word.replace("{}", "rtsp://adm:Zq7secretXy9@127.0.0.1:1/live") for word in words))
    assert code == 2 and "Zq7" not in output and not list(tmp_path.iterdir())


@pytest.mark.parametrize("key", ["alarm.threshold", "alarm.cooldown_s", "window.stride", "publish.linger_ms"])
@pytest.mark.parametrize("value", [True, False, "1"])
def test_only_a_number_is_a_number(key: str, value: object) -> None:
    section, name = key.split(".")
    with pytest.raises(StreamDetectorError, match=f"{key} must be a (whole )?number"):
        build_config({section: {name: value}})


@pytest.mark.parametrize(
    "words", [["run", "--set", "alarm.cooldown_s=" + "9" * 6000, "x.mp4"], ["run", "--config", "c"]]
)
def test_a_number_of_thousands_of_digits_is_one_sentence(
    words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("c").write_text("[alarm]\ncooldown_s = " + "9" * 6000)
    code, output = ran(*words)
    assert code == 2 and "too many digits" in output and output.count("\n") == 1 and len(output) < 300
