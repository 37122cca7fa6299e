"""The recipe's settings: what may be changed, and what is refused in one sentence."""

from __future__ import annotations

from pathlib import Path

import pytest

from stream_detector.errors import UsageError
from trainer.recipes.labelfree.settings import FILE, load


def test_the_recipe_as_committed_is_whole() -> None:
    settings = load()
    assert settings.teachers == ("i3d",) and settings.steps == settings.views * settings.repeats // settings.batch
    assert [settings.size_at(share) for share in (0.0, 0.59, 0.61, 1.0)] == [112, 112, 144, 144]
    text = FILE.read_text(encoding="utf-8")
    for key in settings.to_dict():
        assert f"\n{key} = " in text


def test_single_values_are_changed_as_toml_or_as_plain_words() -> None:
    settings = load(["batch=8", "rate=1e-3", "arch=resnet3d-10-b-w0.125", 'teachers=["i3d", "mc3"]', "limits={a = 1}"])
    assert (settings.batch, settings.rate, settings.arch) == (8, 1e-3, "resnet3d-10-b-w0.125")
    assert settings.teachers == ("i3d", "mc3") and settings.limits == {"a": 1}


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ("no_such=1", "no_such"),
        ("batch", "KEY=VALUE"),
        ("batch=many", "batch"),
        ("batch=0", "counts"),
        ("views=100", "views"),
        ("teachers=mc3", "teachers"),
        ("teachers=clip", "teachers"),
        ("size=200", "size"),
        ("crop=1.5", "shares"),
        ("rate=0", "rate"),
        ("inherit_stem=3", "inherit_stem"),
    ],
)
def test_what_cannot_be_is_refused_by_name(change: str, told: str) -> None:
    with pytest.raises(UsageError, match=told):
        load([change])


def test_an_unknown_network_is_refused_before_anything_is_made() -> None:
    with pytest.raises(Exception, match="resnet9"):
        load(["arch=resnet9"])


def test_another_file_must_have_all_keys(tmp_path: Path) -> None:
    path = tmp_path / "recipe.toml"
    path.write_text("seed = 0\n", encoding="utf-8")
    with pytest.raises(UsageError, match="batch"):
        load([], path)
    path.write_text("seed = \n", encoding="utf-8")
    with pytest.raises(UsageError, match="cannot be read"):
        load([], path)
