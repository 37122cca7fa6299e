"""The documentation's site builds without a warning, and its generated pages say what the program does."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

import stream_detector
from stream_detector import errors
from stream_detector.config import Config, build_config
from stream_detector.telemetry.collector import Telemetry
from stream_detector.telemetry.prometheus import make_registry
from stream_detector.types import SystemClock

ROOT = Path(__file__).parents[2]
needs_mkdocs = pytest.mark.skipif(
    any(importlib.util.find_spec(name) is None for name in ("mkdocs", "material", "mkdocstrings")),
    reason="mkdocs-material or mkdocstrings is not installed (extra: docs)",
)


@pytest.fixture(scope="module")
def made() -> Iterator[ModuleType]:
    """`packaging/reference.py`, which is no package."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(ROOT / "packaging"))
        import reference

        yield reference
        for name in ("reference", "settings_table"):
            sys.modules.pop(name, None)


def test_every_setting_has_a_meaning_and_an_example_that_is_taken(
    made: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GATE_PASSWORD", "secret")
    for name in ("gate.source", "gate.password"):
        (tmp_path / name).write_text("rtsp://10.0.0.7/x\n", encoding="utf-8")
        (tmp_path / name).chmod(0o600)
    settings = list(made.settings_table.every())
    silent = [each.name for each in settings if not each.meaning]
    assert len(silent) < 0.02 * len(settings), f"a comment beside the key, or MEANINGS: {silent}"
    tried = 0
    for each in settings:
        line = made.settings_table.example_of(each)
        if not line:
            continue
        values: dict[str, Any] = tomllib.loads(line)
        if each.table == "cameras":
            values = {
                "cameras": {"gate": ({} if "source_file" in values else {"source": "rtsp://u@10.0.0.7/x"}) | values}
            }
        elif each.table == "sinks":
            values = {"sinks": {"log": {"kind": "csv"} | values}}
        elif each.table:
            values = {each.table: values}
        if each.key.startswith("curve_"):
            values["publish"] = {"curve_secret": "secret", "curve_clients": "allowed"}
        build_config(values)
        tried += 1
    assert tried > 0.8 * len(settings)


def test_every_key_of_the_configuration_is_on_the_page(made: ModuleType) -> None:
    text = made.settings_table.page()
    named = {(each.table, each.key) for each in made.settings_table.every()}
    for key, field in Config.model_fields.items():
        if key not in ("cameras", "sinks") and ("", key) not in named:
            model = next(model for table, _, model in made.settings_table.tables() if table == key)
            assert model.__name__ in str(field.annotation)
            assert {(key, name) for name in model.model_fields} <= named
            assert f"## [{key}]" in text
    assert "| `cooldown_s` |" in text and "0 to 1 " in text


def test_ranges_defaults_and_units_are_those_of_the_models(made: ModuleType) -> None:
    settings = {each.name: each for each in made.settings_table.every()}
    threshold, stride = settings["alarm.threshold"], settings["window.stride"]
    assert (threshold.values, threshold.default, threshold.unit) == ("number, 0 to 1", None, "score")
    assert (stride.values, stride.default, stride.unit) == ("whole number, 1 to 10 000", 16, "frames")
    assert settings["capture.stall_after_s"].unit == "seconds" and settings["cameras.source"].required
    assert settings["capture.rtsp_transport"].values == "`auto`, `tcp`, `udp`"
    with pytest.raises(errors.ConfigError):
        build_config({"window": {"stride": 10_001}})


def test_every_metric_is_on_the_page(made: ModuleType) -> None:
    page = made.metrics_page()
    for family in make_registry(Telemetry(["gate"], SystemClock())).collect():
        assert f"| `{family.name}{made.SUFFIX[family.type]}` | {family.type} |" in page


def test_every_event_and_its_keys_are_on_the_page(made: ModuleType) -> None:
    page = made.events_page()
    for name in ("alarm", "score", "status", "heartbeat", "ack", "recovery"):
        assert f"`stream-detector.{name}/1`" in page
    assert "| `peak_score` |" in page and "`captured_utc`" in page


def test_sentences_are_found_and_most_say_what_to_do(made: ModuleType) -> None:
    found = list(made.sentences())
    assert len(found) > 200 and {name for name, _, _ in found} >= {"ConfigError", "SourceError", "EngineError"}
    page = made.errors_page()
    assert "device {device} was asked for" in page.replace("\\", "") or "was asked for" in page
    cured = [text for _, text, _ in found if "; " in text or "use " in text or "give " in text]
    assert len(cured) / len(found) > 0.75


def test_the_library_s_page_names_what_is_public(made: ModuleType) -> None:
    page = made.api_page()
    names = {line.rpartition(".")[2] for line in page.splitlines() if line.startswith(":::")}
    assert names >= set(stream_detector.__all__) - {"__version__", "load_bundle", "Model", "KeyPair", "ScoreRow"}
    assert len(names) >= len(stream_detector.__all__) - 2


def test_tables_are_whole(made: ModuleType) -> None:
    for name, make in made.PAGES.items():
        text = make()
        width = 0
        for line in text.replace("\\|", "").splitlines():
            if line.startswith("|"):
                width = width or line.count("|")
                assert line.count("|") == width, (name, line)
            else:
                width = 0


@pytest.mark.integration
@needs_mkdocs
def test_the_site_builds_without_a_warning(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path / "site")],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0 and "WARNING -" not in done.stderr, done.stderr
    for page in ("index.html", "reference/settings/index.html", "reference/api/index.html", "sources/index.html"):
        assert (tmp_path / "site" / page).is_file(), page
    api = (tmp_path / "site" / "reference" / "api" / "index.html").read_text(encoding="utf-8")
    assert 'id="stream_detector.client.subscriber.Subscriber"' in api and "recovery" in api
