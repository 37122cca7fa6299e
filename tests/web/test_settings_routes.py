"""Regions and schedule of a camera: told, checked, written into the file, and in effect after a reload."""

from __future__ import annotations

import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

pytest.importorskip("starlette", reason="the extra 'web' is not installed")
pytest.importorskip("uvicorn", reason="the extra 'web' is not installed")

from stream_detector.config import Config, load_config
from stream_detector.config.edit import set_camera

from .conftest import Page, make_config, running, until

TEXT = (
    '[cameras]\ngate = "gate.mp4"  # the gate\n[cameras.yard]\nsource = "yard.mp4"\nmask = [[0, 0], [1, 0], [1, 0.2]]\n'
)
MASK = [[0.1, 0.1], [0.9, 0.1], [0.5, 0.4]]
RULES = [{"days": "mon-fri", "from": "08:00", "to": "18:00", "threshold": 0.8}, {"modes": ["home"], "mute": True}]


def loader(folder: Path, toml: Path) -> Callable[[], Config]:
    """The cameras of the file, in the run of the tests."""

    def load() -> Config:
        config = make_config(folder, ("gate", "yard"))
        return config.model_copy(update={"cameras": load_config(toml).cameras})

    return load


@pytest.fixture
def page(tmp_path: Path) -> Iterator[Page]:
    toml = tmp_path / "cameras.toml"
    toml.write_text(TEXT)
    with running(tmp_path, steps=("stall",), config_path=toml, reload=loader(tmp_path, toml)) as found:
        yield found


def test_regions_and_schedule_are_written_and_take_effect_by_a_reload(page: Page) -> None:
    toml = page.folder / "cameras.toml"
    before = page.ask("/api/cameras/gate/settings").json()
    assert (before["mask"], before["ignore"], before["schedule"]) == ([], [], []) and before["config"] == toml.name
    wanted = {"mask": MASK, "ignore": [MASK], "schedule": RULES}
    assert page.ask("/api/cameras/gate/settings", wanted).json() == {"written": toml.name}
    text = toml.read_text()
    assert "# the gate" in text and tomllib.loads(text)["cameras"]["gate"] == {"source": "gate.mp4", **wanted}
    page.sources["gate"].release()  # its film ends; the yard's goes on, and so does the run
    event = page.ask("/api/reload", {}).json()
    assert sorted(event["reopened"]["gate"]) == ["ignore", "mask", "schedule"]
    mask = lambda: page.ask("/api/cameras/gate/settings").json()["mask"]  # noqa: E731
    until(lambda: mask() == MASK, "the camera is opened again")
    removed = {"mask": [], "ignore": [], "schedule": []}
    assert page.ask("/api/cameras/gate/settings", removed).status == 200
    assert tomllib.loads(toml.read_text())["cameras"]["gate"] == {"source": "gate.mp4"}


@pytest.mark.parametrize(
    "wrong",
    [
        {},
        {"threshold": 0.5},
        {"mask": [[0, 0], [1, 1]]},
        {"mask": [[0, 0], [1, 0], [1, 7]]},
        {"mask": "all"},
        {"ignore": [[[0, 0]]]},
        {"ignore": ["x"]},
        {"mask": [[0, 0]] * 201},
        {"schedule": [{"days": "someday", "mute": True}]},
        {"schedule": [{"days": "mon"}]},
        {"schedule": ["x"]},
        {"schedule": [{"modes": ["holiday"], "mute": True}]},
        {"schedule": [{"source": "rtsp://elsewhere", "mute": True}]},
    ],
)
def test_what_cannot_be_is_one_sentence_and_changes_nothing(page: Page, wrong: dict[str, Any]) -> None:
    answer = page.ask("/api/cameras/gate/settings", wrong)
    assert answer.status == 400 and "\n" not in answer.json()["error"]
    assert (page.folder / "cameras.toml").read_text() == TEXT


def test_without_a_file_it_says_so(tmp_path: Path) -> None:
    with running(tmp_path, ("gate",), steps=("stall",)) as page:
        answer = page.ask("/api/cameras/gate/settings", {"mask": MASK})
        assert answer.status == 400 and "--config" in answer.json()["error"]
        assert page.ask("/api/cameras/gate/settings").json()["config"] is None


SHARE = st.floats(0, 1).map(lambda share: round(share, 3))
POLYGON = st.lists(st.lists(SHARE, min_size=2, max_size=2), min_size=3, max_size=6)
LAYOUTS = [
    TEXT,
    "[cameras.gate]\nsource = 'gate.mp4'\nthreshold = 0.1 # why\n[[cameras.gate.schedule]]\nmute = true\n[alarm]\n",
    "[[cameras]]\nname = 'gate'\nsource = 'gate.mp4'\nmask = [\n [0, 0],\n [1, 0],\n [1, 1],\n]\n",
    "cameras = {gate = {source = 'gate.mp4'}}\n",
    "cameras.gate.source = 'gate.mp4'\r\n",
]


@given(st.sampled_from(LAYOUTS), POLYGON, st.lists(POLYGON, max_size=3), st.booleans())
def test_lists_are_written_into_any_layout(text: str, mask: Any, ignore: Any, rules: bool) -> None:
    settings = {"mask": mask, "ignore": ignore or None, "schedule": RULES if rules else None}
    new = set_camera(text, "gate", settings)
    cameras = tomllib.loads(new)["cameras"]
    entry = cameras["gate"] if isinstance(cameras, dict) else next(c for c in cameras if c["name"] == "gate")
    assert entry["source"] == "gate.mp4" and entry["mask"] == mask
    assert entry.get("ignore") == (ignore or None) and entry.get("schedule") == (RULES if rules else None)
    assert ("# why" in new) == ("# why" in text) and ("[alarm]" in new) == ("[alarm]" in text)
