"""bridges: how long does an alarm take to the receiver behind a bridge, with its picture (webhook, MQTT, a message)?

    python -m benchmarks bridges --seconds 120

The benchmark runs one detector with scripted cameras, its evidence and its journal, and one process per kind of bridge;
the receivers are on loopback (HTTPS, mosquitto, Apprise's JSON channel). Every start of an alarm is a sample: the time
from its `emitted_utc` to the arrival of the message, and whether the picture arrived with it. The goal is a p95 of at
most 1 s.
"""

from __future__ import annotations

import json
import signal
import tempfile
import time
from contextlib import ExitStack
from datetime import datetime
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks.faultlib.bridges import bridge
from benchmarks.faultlib.detector import free_endpoint, kill, start
from benchmarks.faultlib.receivers import Broker, HttpReceiver, MqttSubscriber, certificate
from benchmarks.faultlib.watched import Watch, run_watched
from benchmarks.latency import quantiles
from benchmarks.options import parse
from benchmarks.results import load_before, write_results

GOAL_S = 1.0
KINDS = ("webhook", "mqtt", "notify")


def _config(folder: Path, endpoint: str, hook: HttpReceiver, cert: Path, broker: Broker, phone: HttpReceiver) -> Path:
    path = folder / "bridges.toml"
    path.write_text(
        f"""
[detector]
endpoint = "{endpoint}"
state = "{folder / "state"}"
evidence = "{folder / "evidence"}"

[webhook.judge]
url = "https://localhost:{hook.port}/"
ca_file = "{cert}"
allow = ["127.0.0.0/8", "::1/128"]
secret = "s"
snapshot = true

[mqtt.judge]
host = "127.0.0.1"
port = {broker.port}
snapshot = true

[notify.judge]
url = "json://127.0.0.1:{phone.port}/"
cooldown_s = 0
snapshot = true
""",
        encoding="utf-8",
    )
    return path


def _since_s(at: float, emitted_utc: str) -> float:
    return at - datetime.fromisoformat(emitted_utc).timestamp()


def measure(folder: Path, cameras: int, seconds: float) -> dict[str, Any]:
    """Delays in seconds and shares of messages with their picture, by kind."""
    with ExitStack() as stack:
        cert = certificate(folder)
        hook, phone, broker = HttpReceiver(cert), HttpReceiver(), Broker(folder)
        stack.callback(broker.kill)
        judge = MqttSubscriber(broker.port)
        for receiver in (hook, phone, judge):
            stack.callback(receiver.close)
        watch = Watch(folder, free_endpoint(), cameras=cameras, evidence=True)
        config = _config(folder, watch.endpoint, hook, cert[0], broker, phone)
        processes = [start(bridge, kind, str(config)) for kind in KINDS]
        for process in processes:
            stack.callback(kill, process)
        detector = start(run_watched, watch)
        stack.callback(kill, detector, signal.SIGTERM)
        time.sleep(seconds)
        posts = [(at, body) for at, body in list(hook.took) if body["kind"] == "alarm" and body["what"] == "start"]
        emitted = {body["event"]["id"][:8]: body["event"]["emitted_utc"] for _, body in posts}
        first: dict[str, tuple[float, dict[str, Any]]] = {}  # MQTT repeats what the broker may have lost
        for at, body in judge.events():
            if body.get("type") == "start":
                first.setdefault(body["id"], (at, body))
        events = list(first.values())
        pictures = [at for at, topic, _ in list(judge.took) if topic.endswith("/snapshot")]
        said = []
        for at, body in list(phone.took):
            name = str(body["message"]).rpartition("Alarm ")[2].strip(" .")
            if str(body["title"]).endswith("alarm") and name in emitted:
                said.append((at, emitted[name], bool(body.get("attachments"))))
    return {
        "webhook": {
            "delay_s": quantiles([_since_s(at, body["event"]["emitted_utc"]) for at, body in posts]),
            "with_picture": sum(bool(body["snapshot"]) for _, body in posts),
        },
        "mqtt": {
            "delay_s": quantiles([_since_s(at, body["emitted_utc"]) for at, body in events]),
            "with_picture": min(len(pictures), len(events)),
        },
        "notify": {
            "delay_s": quantiles([_since_s(at, when) for at, when, _ in said]),
            "with_picture": sum(there for _, _, there in said),
        },
    }


def main(argv: list[str]) -> int:
    """Command line; 1 if a p95 is above the aim or nothing came."""
    args = parse("bridges", argv)
    load = load_before()
    with tempfile.TemporaryDirectory(prefix="bridges-") as folder:
        results = measure(Path(folder), args.cameras, args.seconds)
    good = all(row["delay_s"]["count"] and row["delay_s"]["p95"] <= GOAL_S for row in results.values())
    if not args.no_save:
        settings = {"seconds": args.seconds, "cameras": args.cameras, "load_before": load}
        write_results("bridges", {"kinds": results, "goal_p95_s": GOAL_S, "passed": good}, settings)
    if args.json:
        print(json.dumps(results, indent=2))
    else:
        table = Table("bridge", "alarms", "with picture", "p50 s", "p95 s", "p99 s")
        for kind, row in results.items():
            delay = row["delay_s"]
            cells = [delay.get(name, "") for name in ("p50", "p95", "p99")]
            table.add_row(kind, str(delay["count"]), str(row["with_picture"]), *map(str, cells))
        Console().print(table)
    return 0 if good else 1
