"""Configuration: what a file may say, in which words an error is told, and what wins over what."""

from __future__ import annotations

import argparse
import logging
import typing
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import pytest

from stream_detector.cli.run import add_options, make_config
from stream_detector.config import Config, build_config, load_config
from stream_detector.errors import ConfigError, UsageError
from stream_detector.models.bundle import Bundle
from stream_detector.runtime.build import plan_camera

GATE = '[cameras.gate]\nsource = "rtsp://admin@10.0.0.7/live"\n'


def load(folder: Path, text: str, overrides: dict[str, Any] | None = None) -> Config:
    (folder / "cameras.toml").write_text(text, encoding="utf-8")
    return load_config(folder / "cameras.toml", overrides)


def run_config(*arguments: str) -> Config:
    parser = argparse.ArgumentParser()
    add_options(parser)
    return make_config(parser.parse_args(list(arguments)))


def refused(folder: Path, text: str, overrides: dict[str, Any] | None = None) -> str:
    with pytest.raises(ConfigError) as error:
        load(folder, text, overrides)
    message = str(error.value)
    assert "\n" not in message and "Input should" not in message and "cameras.0" not in message
    return message


# -- words ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (GATE + "threshold = 2", "camera gate: threshold must be between 0 and 1, not 2"),
        (GATE + "threshold = nan", "camera gate: threshold must be between 0 and 1, not nan"),
        (GATE + 'threshold = "high"', "camera gate: threshold must be a number between 0 and 1"),
        (GATE + "stride = 0", "camera gate: stride must be between 1 and 10000, not 0"),
        (GATE + "stride = 1.5", "camera gate: stride must be a whole number between 1 and 10000, not 1.5"),
        (GATE + 'evidence = "perhaps"', "camera gate: evidence must be true or false"),
        (GATE + "mask = [[0, 0], [1, 2], [1, 1]]", "camera gate: mask, entry 2, entry 2 must be between 0 and 1, not"),
        (GATE + "mask = [[0, 0], [1, 1]]", "camera gate: mask: a mask polygon needs at least 3 points, got 2"),
        (GATE + "mask = 5", "camera gate: mask must be a list in brackets, not 5"),
        (GATE + "smoothing = 5", "camera gate: smoothing is a section; write [cameras.gate.smoothing] and its keys"),
        (GATE + "smoothing = {kind = 5}", "camera gate: smoothing.kind must be a text in quotes, not 5"),
        (GATE + 'smoothing = {span = "x"}', "camera gate: smoothing.span must be a whole number between 1 and 99"),
        (GATE + "treshold = 0.5", "camera gate: unknown key 'treshold'; did you mean 'threshold'?"),
        (GATE + "cooldown = 5", "camera gate: unknown key 'cooldown'; did you mean 'cooldown_s' in [alarm]?"),
        ("[cameras.gate]\nsorce = '0'", "camera gate: unknown key 'sorce'; did you mean 'source'?"),
        ("[cameras.gate]\nstride = 8", "camera gate: source is missing; add it"),
        ("[cameras.gate]\nsource = 1.5", "camera gate: source: it must be a text"),
        ('[[cameras]]\nsource = "0"', "camera 1 has no name"),
        ('[[cameras]]\nname = "a"\nsource = "0"\n[[cameras]]\nname = "a"\nsource = "1"', "'a' is used twice"),
        ('[cameras."Gate 1"]\nsource = "0"', "camera Gate 1: name: camera name 'Gate 1' is not allowed"),
        ("cameras = 5", "cameras must be a section"),
        ("cooldown = 5", "unknown key 'cooldown'; did you mean 'cooldown_s' in [alarm]?"),
        ("[alarm]\ncooldown = 5", "unknown key 'cooldown' in [alarm]; did you mean 'cooldown_s'?"),
        ("[alarm]\nstride = 5", "unknown key 'stride' in [alarm]; did you mean 'stride' in [window]?"),
        ("[alram]\ncooldown_s = 5", "unknown key 'alram'; did you mean 'alarm'?"),
        ("[alarm]\nzzzzzz = 5", "unknown key 'zzzzzz' in [alarm]; known keys are cooldown_s, hold_s,"),
        ("alarm = 5", "alarm is a section; write [alarm] and its keys below it"),
        ("[capture]\nhosts = -1", "capture.hosts must be auto, or a whole number from 0 to 256, not -1"),
        ("[capture]\nhosts = 'many'", "capture.hosts must be auto, or a whole number from 0 to 256"),
        ("[alarm]\ncooldown_s = -1", "alarm.cooldown_s must be between 0 and 1e+09, not -1"),
        ("[alarm]\ncooldown_s = inf", "alarm.cooldown_s must be between 0 and 1e+09, not inf"),
        ("[engine]\ndevice = 'tpu'", "engine.device must be auto, cpu, cuda, cuda:N or mps"),
        ("[engine]\nthreads = -1", "engine.threads must be between 0 and 1024, not -1"),
        ("[publish]\nheartbeat_s = 0", "publish.heartbeat_s must be more than 0 and at most 60, not 0"),
        ("[publish]\nbind = 5", "publish.bind must be a text in quotes, not 5"),
        ("events = 5", "events must be the path of a file, a text in quotes, not 5"),
        (GATE + 'smoothing = {kind = "A B"}', "camera gate: smoothing.kind must be a name of a-z, 0-9, '.', '_'"),
        (GATE + 'smoothing = {kind = "kalman"}', "camera gate: smoothing.kind: smoother 'kalman' does not exist; use"),
        ("[alarm]\nrule = 'hystersis'", "alarm.rule: alarm rule 'hystersis' does not exist; use one of hysteresis"),
        ("[smoothing.options]\nx = [1]", "smoothing.options.x must be a number, a text in quotes, or true or false"),
        ("[sinks.door]\nurl = 1", "unknown key 'url' in [sinks.door]"),
        ("[sinks.door]", "sinks.door.kind is missing; add it"),
        ("pace = 'fast'", "pace must be one of 'realtime' or 'max'"),
        ("threshold = 0.5\n[alarm]\nthreshold = 0.6", "threshold is set both at the top and in [alarm]; remove one"),
        ("a = ", "not valid TOML"),
        ("a = " + "[" * 3000 + "]" * 3000, "nested too deeply"),
        ('events = "a\\u0000b"', "events: the text holds a character with the code 0; remove it"),
        ('[publish]\nledger = "a\\u0000b"', "publish.ledger: the text holds a character with the code 0"),
        ('bundle = "\\u0000"', "bundle: the text holds a character with the code 0"),
    ],
)
def test_an_error_names_the_camera_and_the_key(tmp_path: Path, text: str, says: str) -> None:
    assert f"{tmp_path / 'cameras.toml'}: {says}" in refused(tmp_path, text) or says in refused(tmp_path, text)


def fields(model: Any, table: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    """The keys of all tables but the cameras'."""
    found: list[tuple[str, ...]] = []
    for name, field in model.model_fields.items():
        options = [field.annotation, *typing.get_args(field.annotation)]
        inner = next((o for o in options if hasattr(o, "model_fields")), None)
        if name not in ("cameras", "sinks"):  # by the user's own names
            found += fields(inner, (*table, name)) if inner else [(*table, name)]
    return found


@pytest.mark.parametrize("keys", fields(Config), ids=".".join)
@pytest.mark.parametrize("value", [-1, 1e9, "\0secret-text", True, [1], {"a": 1}, float("nan")], ids=str)
def test_no_value_of_any_key_brings_out_a_raw_text(keys: tuple[str, ...], value: Any) -> None:
    values: dict[str, Any] = {}
    inner = values
    for key in keys[:-1]:
        inner = inner.setdefault(key, {})
    inner[keys[-1]] = value
    try:
        build_config(values)
    except ConfigError as error:
        message = str(error)
        key = ".".join(keys)
        assert message.startswith(
            (
                f"command line: {key} ",
                f"command line: {key}: ",
                f"command line: {key}, entry",
                f"command line: {keys[0]}: curve_",
                f"command line: {keys[0]}: {keys[-1]} ",  # two keys of a table that contradict each other
            )
        )
        assert not any(raw in message for raw in ("Input should", "secret-text", "Extra", "pydantic", "\n"))
        assert "another kind of value" not in message and "another form" not in message


def test_a_key_without_its_unit_is_found_for_every_key_that_has_one() -> None:
    for keys in fields(Config):
        stem, _, unit = keys[-1].rpartition("_")
        if unit in ("s", "ms", "fps", "days") and len(keys) == 2:
            with pytest.raises(ConfigError, match=rf"unknown key '{stem}' in .*did you mean '{stem}_\w+'"):
                build_config({keys[0]: {stem: 1}})


def test_an_option_is_named_as_it_was_typed(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="command line: --stride must be between 1 and 10000, not 0"):
        run_config("demo", "--stride", "0")
    (tmp_path / "c.toml").write_text(GATE, encoding="utf-8")
    with pytest.raises(ConfigError, match="command line: --threshold must be between 0 and 1, not 3"):
        run_config("--config", str(tmp_path / "c.toml"), "--threshold", "3")
    for odd in ("=1", ".=1", "alarm..x=1", "\udce9=1", "a b=1", "alarm.=1"):
        with pytest.raises(UsageError, match=r"--set has an invalid key; write SECTION\.KEY=VALUE"):
            run_config("demo", "--set", odd)
    with pytest.raises(UsageError, match="--set has no value") as error:
        run_config("demo", "--set", "rtsp://admin:hunter22@10.0.0.7")
    assert "hunter22" not in str(error.value)


def test_a_file_may_begin_with_a_byte_order_mark(tmp_path: Path) -> None:
    file = tmp_path / "cameras.toml"
    file.write_bytes(b"\xef\xbb\xbf" + GATE.encode())
    assert load_config(file).cameras[0].name == "gate"
    file.write_bytes(GATE.encode("utf-16"))
    with pytest.raises(ConfigError, match="not UTF-8"):
        load_config(file)
    with pytest.raises(ConfigError, match="does not exist"):
        load_config(tmp_path / "none.toml")
    with pytest.raises(ConfigError, match="is a folder"):
        load_config(tmp_path)


@pytest.mark.parametrize(
    "text", ['[cameras]\ngate = "0"', '[[cameras]]\nname = "gate"\nsource = "0"', "[cameras]\ngate = 0"]
)
def test_three_ways_to_write_a_camera(tmp_path: Path, text: str) -> None:
    camera = load(tmp_path, text).cameras[0]
    assert (camera.name, camera.source.shown) == ("gate", "usb:0")


# -- precedence: command line > camera > file > bundle ----------------------------------------------------------------


def test_the_command_line_wins_over_the_camera_and_the_camera_over_the_file(tmp_path: Path) -> None:
    bundle = Bundle.load("embedded")
    file = tmp_path / "cameras.toml"
    text = (
        "threshold = 0.3\n[window]\nstride = 4\n[evidence]\nenabled = false\n[smoothing]\nkind = 'none'\n"
        '[cameras.own]\nsource = "demo"\nthreshold = 0.4\nstride = 8\nevidence = true\n'
        'smoothing = {kind = "median", span = 5}\n[cameras.none]\nsource = "demo:seed=2"\n'
    )

    def plans(*options: str) -> list[tuple[Any, ...]]:
        config = run_config("--config", str(file), *options)
        made = [plan_camera(camera, config, bundle) for camera in config.cameras]
        return [(p.threshold, p.stride_frames, p.evidence, p.smoothing.kind, p.smoothing.span) for p in made]

    file.write_text(text, encoding="utf-8")
    assert plans() == [(0.4, 8, True, "median", 5), (0.3, 4, False, "none", 3)]
    options = ("--threshold", "0.9", "--stride", "32", "--no-evidence", "--set", "smoothing.span=7")
    assert plans(*options) == [(0.9, 32, False, "median", 7), (0.9, 32, False, "none", 7)]
    assert plans("--set", "threshold=0.8")[0][0] == 0.8
    assert [p[0] for p in plans("--threshold", "0.9", "--set", "cameras.own.threshold=0.7")] == [0.7, 0.9]
    file.write_text('[cameras.own]\nsource = "demo"\n', encoding="utf-8")
    assert plans()[0][0] == bundle.threshold
    assert plans("--threshold", "0.9")[0][0] == 0.9


# -- secrets in files and in the environment --------------------------------------------------------------------------


def secret_file(folder: Path, text: str, mode: int = 0o600) -> Path:
    file = folder / "secret"
    file.write_bytes(text.encode())
    file.chmod(mode)
    return file


@pytest.mark.parametrize(
    "password", ["it's/4@me#", "plain-one", "50%", " spaces in it ", 'a"b\\c', "${NOT_A_VARIABLE}"]
)
def test_a_password_file_holds_any_password(tmp_path: Path, password: str, caplog: pytest.LogCaptureFixture) -> None:
    file = secret_file(tmp_path, password + "\n")
    source = load(tmp_path, GATE + f'password_file = "{file}"').cameras[0].source
    parts = urlsplit(source.reveal())
    assert (parts.username, unquote(parts.password or ""), parts.hostname) == ("admin", password, "10.0.0.7")
    assert source.shown == "rtsp://10.0.0.7" and not caplog.records


def test_a_source_file_holds_the_whole_source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    secret_file(tmp_path, "\ufeffRTSP://u:p%40ss@host:554/a?b=c\r\n")
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path))
    text = '[cameras.gate]\nsource_file = "${CREDENTIALS_DIRECTORY}/secret"'
    assert load(tmp_path, text).cameras[0].source.reveal() == "rtsp://u:p%40ss@host:554/a?b=c"


def test_a_variable_holds_a_password_or_a_source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GATE_PASSWORD", "it's/4@me# 100%")
    monkeypatch.setenv("GATE", "http://10.0.0.8:81/video?x=1")
    text = '[cameras]\na = "rtsp://admin:${GATE_PASSWORD}@10.0.0.7/user=u_password=${GATE_PASSWORD}_c=1"\nb = "${GATE}"'
    first, second = load(tmp_path, text).cameras
    assert first.source.reveal() == (
        "rtsp://admin:it%27s%2F4%40me%23%20100%25@10.0.0.7/user=u_password=it's%2F4%40me%23%20100%25_c=1"
    )
    assert second.source.reveal() == "http://10.0.0.8:81/video?x=1"
    assert run_config("gate=rtsp://admin:${GATE_PASSWORD}@10.0.0.7/1").cameras[0].source.reveal() == (
        "rtsp://admin:it%27s%2F4%40me%23%20100%25@10.0.0.7/1"
    )


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ('source = "rtsp://a:${NO_SUCH_THING}@h/"', "source: the environment variable NO_SUCH_THING is not set"),
        ('source = "rtsp://a:${EMPTY_THING}@h/"', "source: the environment variable EMPTY_THING is empty"),
        ('source = "rtsp://a:${not a name}@h/"', "source: '${' must be followed by the name of a variable"),
        ('source_file = "/no/such/hunter22"', "source_file names a file that does not exist"),
        ('source_file = "{empty}"', "source_file names a file that is empty"),
        ('source_file = "{two}"', "source_file names a file with more than one line"),
        ('source_file = "{bytes}"', "source_file names a file that is not UTF-8"),
        ('source_file = "{long}"', "source_file names a file of more than"),
        ('source_file = "{bad}"', "source_file: the rtsp:// address names no host"),
        ("source_file = 5", "source_file must be the path of a file"),
        ('source = "0"\nsource_file = "{bad}"', "source and source_file exclude each other"),
        ('password_file = "{one}"', "password_file needs a source"),
        ('source = "0"\npassword_file = "{one}"', "a password belongs to an rtsp:// or http:// address"),
        ('source = "rtsp://h/1"\npassword_file = "{one}"', "names a user and no password"),
        ('source = "rtsp://a:b@h/1"\npassword_file = "{one}"', "names a user and no password"),
    ],
)
def test_what_is_wrong_with_a_secret_is_one_sentence(
    tmp_path: Path, text: str, says: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EMPTY_THING", "")
    files = {
        "empty": b"\n",
        "two": b"hunter22\nhunter22",
        "bytes": b"hunter22\xff",
        "long": b"hunter22" * 4000,
        "bad": b"rtsp://hunter22:hunter22@",
        "one": b"hunter22",
    }
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
        (tmp_path / name).chmod(0o600)
        text = text.replace(f"{{{name}}}", str(tmp_path / name))
    message = refused(tmp_path, f"[cameras.gate]\n{text}")
    assert f"camera gate: {says}" in message or says in message
    assert "hunter22" not in message


def test_a_secret_that_others_may_read_gives_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    file = secret_file(tmp_path, "hunter22", 0o644)
    with caplog.at_level(logging.WARNING):
        load(tmp_path, GATE + f'password_file = "{file}"')
    assert [r.getMessage() for r in caplog.records] == [
        f"camera gate: password_file {file} may be read or changed by other users; run: chmod 600 {file}"
    ]
    caplog.clear()
    file.chmod(0o640)  # root writes, the detector's group reads
    load(tmp_path, GATE + f'password_file = "{file}"')
    assert not caplog.records


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("[picture_quality]\nhold_s = 1", "'hold_s' in [picture_quality] is now called 'min_duration_s'; rename it"),
        ("[window]\nfind_cuts = false", "'find_cuts' in [window] is now called 'detect_cuts'; rename it"),
        ("[trouble]\nhold_s = 1", "[trouble] is now called [picture_quality]; rename it"),
        ("[smooth]\nkind = 'none'", "[smooth] is now called [smoothing]; rename it"),
        (
            "[picture_quality]\neven_below = 3",
            "'even_below' in [picture_quality] is now called 'contrast_below'; rename it",
        ),
        ("[picture_quality]\nlearn_s = 3", "'learn_s' in [picture_quality] is now called 'warmup_s'; rename it"),
        (
            "[picture_quality]\nrelearn_s = 3",
            "'relearn_s' in [picture_quality] is now called 'reset_after_s'; rename it",
        ),
    ],
)
def test_a_former_key_is_an_error_that_names_the_new_one(tmp_path: Path, text: str, sentence: str) -> None:
    path = tmp_path / "cameras.toml"
    path.write_text(text)
    with pytest.raises(ConfigError) as raised:
        load_config(path)
    assert str(raised.value) == f"{path}: {sentence}"
