"""Images, compose file and dashboard: linted, hardened, and in step with the program's own names."""

from __future__ import annotations

import importlib.util
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from stream_detector.bridges.settings import load_bridges
from stream_detector.cli.main import whole_parser
from stream_detector.config import Config
from stream_detector.telemetry.collector import Telemetry
from stream_detector.telemetry.prometheus import make_registry
from stream_detector.types import SystemClock

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "docs" / "deploy"
DASHBOARD = DEPLOY / "compose" / "grafana" / "dashboards" / "stream-detector.json"
SUFFIXES = {"counter": ("_total",), "gauge": ("",), "histogram": ("_bucket", "_sum", "_count")}
SCHEMAS = {
    "vendor.compose-spec": ["docs/deploy/compose.yaml"],
    "vendor.github-workflows": [".github/workflows/*.yml"],
    "vendor.github-issue-forms": [".github/ISSUE_TEMPLATE/[!c]*.yml"],
    "vendor.github-issue-config": [".github/ISSUE_TEMPLATE/config.yml"],
    "vendor.dependabot": [".github/dependabot.yml"],
    "vendor.citation-file-format": ["CITATION.cff"],
}
needs_schemas = pytest.mark.skipif(
    importlib.util.find_spec("check_jsonschema") is None, reason="check-jsonschema is not installed (extra: test)"
)


def read_yaml(path: Path) -> Any:
    """A YAML file; `<<` is merged."""
    yaml = pytest.importorskip("ruamel.yaml")  # check-jsonschema brings it
    return yaml.YAML(typ="safe").load(path.read_text(encoding="utf-8"))


def metrics() -> set[str]:
    """The names under which a scrape gives the program's metrics."""
    registry = make_registry(Telemetry(["gate"], SystemClock()))
    return {family.name + suffix for family in registry.collect() for suffix in SUFFIXES[family.type]}


@needs_schemas
@pytest.mark.parametrize("schema", SCHEMAS)
def test_files_for_other_programs_are_what_these_take(schema: str) -> None:
    files = [str(file) for pattern in SCHEMAS[schema] for file in sorted(ROOT.glob(pattern))]
    assert files
    done = subprocess.run(
        [sys.executable, "-m", "check_jsonschema", "--builtin-schema", schema, *files],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("variant", ["cpu", "cuda"])
def test_an_image_is_linted_unprivileged_and_told_how_to_be_checked(variant: str) -> None:
    path = DEPLOY / f"Dockerfile.{variant}"
    text = path.read_text(encoding="utf-8")
    assert "USER 10001:10001" in text and "HEALTHCHECK" in text and "/livez" in text and "web" in text
    assert text.count("FROM python:") == 2  # what builds does not stay
    ignored = (DEPLOY / f"Dockerfile.{variant}.dockerignore").read_text(encoding="utf-8").splitlines()
    copied = [line.split()[1:-1] for line in re.findall(r"^COPY (?!--from).*$", text, re.MULTILINE)]
    for name in [name.removeprefix("./") for names in copied for name in names]:
        assert f"!{name}" in ignored and (ROOT / name).exists(), name
    assert copied and ignored[0] == "*"
    hadolint = shutil.which("hadolint", path=f"{Path(sys.executable).parent}:/usr/local/bin:/usr/bin")
    if hadolint is None:
        pytest.skip("hadolint is not installed (extra: test)")
    done = subprocess.run([hadolint, str(path)], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("variant", ["cpu", "cuda"])
def test_what_an_image_and_the_compose_file_run_is_a_command(variant: str) -> None:
    text = (DEPLOY / f"Dockerfile.{variant}").read_text(encoding="utf-8").replace("\\\n", "")
    (command,) = re.findall(r"^CMD (\[.*\])$", text, re.MULTILINE)
    arguments = whole_parser().parse_args(json.loads(command))
    assert arguments.metrics_port == 9090
    for name, service in read_yaml(DEPLOY / "compose.yaml")["services"].items():
        if "stream-detector" in service["image"]:
            assert whole_parser().parse_args(service["command"]), name


def test_every_service_is_hardened_and_answers_a_health_check() -> None:
    compose = read_yaml(DEPLOY / "compose.yaml")
    for name, service in compose["services"].items():
        assert service["read_only"] and service["cap_drop"] == ["ALL"], name
        assert service["security_opt"] == ["no-new-privileges:true"] and service["restart"] == "unless-stopped", name
        assert service["mem_limit"] and service["logging"]["options"]["max-size"], name
        assert "stream-detector" in service["image"] or {"healthcheck", "user"} <= set(service), name
        assert "ports" not in service and service["network_mode"] == "host", name  # all of them listen on loopback
        assert ":" in service["image"] and not service["image"].endswith(":latest"), name
        for volume in service["volumes"]:
            source = re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", volume).split(":")[0]
            assert source in compose["volumes"] or source == "./cameras.toml" or (DEPLOY / source).exists(), volume


def test_the_bridge_carries_to_the_broker() -> None:
    bridges = load_bridges(DEPLOY / "compose" / "bridges.toml")
    (broker,) = bridges.kinds["mqtt"].values()
    listener = re.search(r"^listener (\d+) (\S+)$", (DEPLOY / "compose" / "mosquitto.conf").read_text("utf-8"), re.M)
    assert listener and (getattr(broker, "host", ""), str(getattr(broker, "port", ""))) == (listener[2], listener[1])
    assert bridges.detector.endpoint == Config().publish.bind
    command = read_yaml(DEPLOY / "compose.yaml")["services"]["detector"]["command"]
    assert f"--evidence={bridges.detector.evidence}" in command


def test_prometheus_and_grafana_find_each_other_and_the_detector() -> None:
    compose = read_yaml(DEPLOY / "compose.yaml")["services"]
    scrape = read_yaml(DEPLOY / "compose" / "prometheus.yml")["scrape_configs"][0]["static_configs"][0]["targets"]
    assert scrape == ["127.0.0.1:9090"] and "--metrics-port=9090" in compose["detector"]["command"]
    (source,) = read_yaml(DEPLOY / "compose" / "grafana/provisioning/datasources/prometheus.yml")["datasources"]
    listen = next(word for word in compose["prometheus"]["command"] if "listen-address" in word)
    assert source["url"] == f"http://{listen.partition('=')[2]}"
    dashboard = json.loads(DASHBOARD.read_text(encoding="utf-8"))
    assert {panel["datasource"]["uid"] for panel in dashboard["panels"]} == {source["uid"]}


def expressions() -> list[str]:
    """Every query of the dashboard and of the alert rules."""
    dashboard = json.loads(DASHBOARD.read_text(encoding="utf-8"))
    found = [target["expr"] for panel in dashboard["panels"] for target in panel["targets"]]
    found += [each["query"]["query"] for each in dashboard["templating"]["list"]]
    found += [each["expr"] for each in dashboard["annotations"]["list"]]
    for group in read_yaml(DEPLOY / "compose" / "alerts.yml")["groups"]:
        found += [rule["expr"] for rule in group["rules"]]
    return found


def test_dashboard_and_alerts_ask_for_metrics_that_exist() -> None:
    known, asked = metrics(), set()
    for expression in expressions():
        names = set(re.findall(r"stream_detector_\w+", expression))
        assert names <= known, f"{expression}: {sorted(names - known)}"
        assert names or "up{" in expression, expression
        assert expression.count("(") == expression.count(")") and expression.count("{") == expression.count("}")
        asked |= names
    bases = {name.removesuffix("_total").removesuffix("_bucket") for name in asked}
    unseen = {f"stream_detector_{name}" for name in ("frames", "windows", "score_raw")}  # fps and scored say as much
    shown = {re.sub(r"_(total|bucket|sum|count)$", "", name) for name in known}
    assert shown - bases == unseen, "a new metric: show it, or name it here"


def test_labels_that_queries_use_exist() -> None:
    telemetry = Telemetry(["gate"], SystemClock())
    telemetry.dropped("gate", "overload")
    labels: dict[str, set[str]] = {}
    for family in make_registry(telemetry).collect():
        for sample in family.samples:
            labels.setdefault(sample.name, set()).update(sample.labels)
    for expression in expressions():
        for name, inside in re.findall(r"(stream_detector_\w+)\{([^}]*)\}", expression):
            used = set(re.findall(r"(\w+)\s*(?:=~|!~|=|!=)", inside))
            have = labels.get(name) or ({"camera", "cause"} if "degraded" in name else {"camera"})
            assert used <= have, (expression, used - have)


def test_the_dashboards_panels_do_not_overlap() -> None:
    panels = json.loads(DASHBOARD.read_text(encoding="utf-8"))["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    taken: set[tuple[int, int]] = set()
    for panel in panels:
        place = panel["gridPos"]
        cells = {(place["x"] + i, place["y"] + j) for i in range(place["w"]) for j in range(place["h"])}
        assert not cells & taken and all(x < 24 for x, _ in cells), panel["title"]
        taken |= cells
