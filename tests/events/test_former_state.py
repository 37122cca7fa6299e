"""A state folder of commit 662d5e1 opens in this version: its journal (with an alarm that a kill -9 left open), event
file, a subscriber's cursor, a bundle and cameras.toml."""

from __future__ import annotations

import json
import threading
import zipfile
from pathlib import Path
from typing import Any

import pytest

from stream_detector.client.subscriber import Subscriber
from stream_detector.config import load_config
from stream_detector.models.bundle import Bundle
from stream_detector.runtime.build import build_run
from stream_detector.testing import ConstantEngine

STATE = Path(__file__).parents[1] / "fixtures" / "state-662d5e1.zip"
OPEN_ALARM = "85593ee1b07f920a52f7260c5f5c13da"
FORMER, FINGERPRINT = "0edf406bbe825db0", "8746c1284dede986"  # pixels of files and cameras changed in between


@pytest.fixture
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    with zipfile.ZipFile(STATE) as archive:
        archive.extractall(tmp_path)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_alarm_that_was_open_ends_once_everywhere(state: Path) -> None:
    config = load_config(Path("cameras.toml"))
    camera = config.cameras[0].model_copy(
        update={"source": type(config.cameras[0].source).parse("demo:duration=1,incident=0")}
    )
    config = config.model_copy(update={"cameras": (camera,)})
    had = [json.loads(line) for line in Path("received.jsonl").read_text().splitlines()]
    assert [body["id"] for body in had if body["schema"].startswith("stream-detector.alarm")] == [OPEN_ALARM]
    came: list[dict[str, Any]] = []
    with (
        build_run(config, engine=ConstantEngine(0.0)) as run,
        Subscriber("ipc://events.ipc", cursor=Path("cursor.json"), kinds=("alarm",)) as subscriber,
    ):
        thread = threading.Thread(target=run.pipeline.run)
        thread.start()
        while not came and (message := subscriber.receive(20.0)) is not None:
            came.append(message.body)
        thread.join(30.0)
        assert subscriber.lost == 0
    assert [(body["id"], body["type"], body["reason"]) for body in came] == [(OPEN_ALARM, "end", "restart")]
    lines = [json.loads(line) for line in Path("events.jsonl").read_text().splitlines()]
    told = [(body["type"], body["reason"]) for body in lines if body.get("id") == OPEN_ALARM]
    assert told == [("start", None), ("end", "restart")]


def test_the_cameras_keep_their_settings(state: Path) -> None:
    config = load_config(Path("cameras.toml"))
    (camera,) = config.cameras
    assert (camera.name, camera.threshold, camera.stride, len(camera.mask)) == ("gate", 0.2, 8, 4)
    assert (config.alarm.cooldown_s, config.pace, camera.evidence) == (30, "max", False)


def test_the_bundle_opens_under_the_fingerprint_of_its_new_pixels(state: Path) -> None:
    """A recipe that names no filter was written when OpenCV scaled: the same weights give other scores now."""
    bundle = Bundle.load("bundle")
    assert "filter" not in json.loads(Path("bundle/bundle.json").read_text())["preprocess"]
    assert bundle.recipe.filter == "area"
    assert bundle.fingerprint == FINGERPRINT != FORMER
