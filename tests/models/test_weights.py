"""Weights: recognised, strictly loaded, safely read."""

from __future__ import annotations

import io
import json
import os
import pickle
import random
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_weights import TINY, saved, tiny_state

from stream_detector.errors import CheckpointError
from stream_detector.models import weights
from stream_detector.models.backbones import build_backbone
from stream_detector.models.backbones.checkpoints import read_checkpoint
from stream_detector.models.backbones.tensors import file_sha256, tensor_digest
from stream_detector.models.weights import add_checkpoint

pytestmark = pytest.mark.usefixtures("cache")  # nothing here may touch the real one


# --- recognising ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("arch", [TINY, "resnet3d-18-a-w0.125", "resnet3d-34-a-w0.125", "resnet3d-50-b-w0.125"])
@pytest.mark.parametrize("classes", [None, 1, 700])
def test_haras_layout_is_recognised(arch: str, classes: int | None, tmp_path: Path) -> None:
    checkpoint = read_checkpoint(saved(tmp_path / "x.pth", {"state_dict": tiny_state(classes, arch), "epoch": 3}))
    assert (checkpoint.arch, checkpoint.num_classes) == (arch, classes)


def test_full_width_needs_no_suffix(tmp_path: Path) -> None:
    assert read_checkpoint(saved(tmp_path / "x.pth", tiny_state(4, "resnet3d-10-b"))).arch == "resnet3d-10-b"


@pytest.mark.parametrize("arch", ["r3d_18", "mc3_18", "r2plus1d_18"])
def test_torchvisions_layout_is_recognised(arch: str, tmp_path: Path) -> None:
    state = tiny_state(400, arch)
    checkpoint = read_checkpoint(saved(tmp_path / "x.pth", state))
    assert checkpoint.arch == arch and checkpoint.num_classes == 400
    assert tensor_digest(checkpoint.state) == tensor_digest(state)


@pytest.mark.parametrize("zipped", [True, False])
def test_a_dataparallel_checkpoint_of_2018_loads(zipped: bool, tmp_path: Path) -> None:
    """`module.` prefixes, no num_batches_tracked, optimizer beside it, the old file format."""
    state = tiny_state(400)
    old = {f"module.{k}": v for k, v in state.items() if not k.endswith("num_batches_tracked")}
    content = {"epoch": 200, "arch": "resnet-34", "state_dict": old, "optimizer": {"state": {}, "param_groups": []}}
    path = saved(tmp_path / "resnet-34-kinetics.pth", content, _use_new_zipfile_serialization=zipped)
    record = add_checkpoint(path)
    assert (record.name, record.arch, record.num_classes) == ("resnet-34-kinetics", TINY, 400)
    assert record.source_sha256 == file_sha256(path)
    loaded = weights.load("resnet-34-kinetics")
    assert set(loaded) == set(build_backbone(TINY).state_dict()) and "fc.weight" not in loaded
    for name, value in loaded.items():
        if not name.endswith("num_batches_tracked"):
            assert torch.equal(value, state[name])
    assert weights.show("resnet-34-kinetics") == record
    assert [r.name for r in weights.stored()] == ["resnet-34-kinetics"]
    assert weights.verify() == {"resnet-34-kinetics": "ok"}


def test_half_precision_becomes_float32(tmp_path: Path) -> None:
    state = {k: v.half() if v.is_floating_point() else v for k, v in tiny_state().items()}
    assert read_checkpoint(saved(tmp_path / "x.pth", state)).state["conv1.weight"].dtype == torch.float32


def test_missing_and_unexpected_keys_are_named(tmp_path: Path) -> None:
    state = tiny_state()
    state["layer9.weight"] = state.pop("layer1.0.bn1.bias")
    with pytest.raises(CheckpointError, match=r"missing layer1\.0\.bn1\.bias; unexpected layer9\.weight"):
        read_checkpoint(saved(tmp_path / "x.pth", state))


def test_the_wrong_architecture_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="r3d_18"):
        read_checkpoint(saved(tmp_path / "x.pth", tiny_state()), arch="r3d_18")


# --- hostile and damaged files ----------------------------------------------------------------------------------------


class Hostile:
    """Unpickling this would create a file."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[Any, tuple[Any, ...]]:
        return os.mkdir, (str(self.target),)


def _pickled(path: Path, marker: Path) -> None:
    path.write_bytes(pickle.dumps(Hostile(marker)))


def _hidden(path: Path, marker: Path) -> None:
    torch.save({"state_dict": tiny_state(), "extra": Hostile(marker)}, path)


def _hidden_old(path: Path, marker: Path) -> None:
    torch.save({"state_dict": tiny_state(), "extra": Hostile(marker)}, path, _use_new_zipfile_serialization=False)


def _bomb(path: Path, _: Path) -> None:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", bytes(50_000_000))
        archive.writestr("archive/version", b"3\n")


def _traversal(path: Path, _: Path) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("../../../tmp/evil", b"x")


def _stretched(path: Path, _: Path) -> None:
    """One number on disk that claims to be a huge tensor."""
    state = tiny_state()
    state["conv1.weight"] = torch.zeros(1).expand(10**6, 10**6)
    torch.save(state, path)


def _tar(path: Path, _: Path) -> None:
    with tarfile.open(path, "w") as archive:
        archive.addfile(tarfile.TarInfo("../evil"), io.BytesIO())


def _changed(change: Callable[[dict[str, Any]], Any]) -> Callable[[Path, Path], None]:
    def write(path: Path, _: Path) -> None:
        state: dict[str, Any] = dict(tiny_state())
        change(state)
        torch.save(state, path)

    return write


HOSTILE: dict[str, Callable[[Path, Path], None]] = {
    "pickle": _pickled,
    "pickle inside": _hidden,
    "pickle inside, old format": _hidden_old,
    "zip bomb": _bomb,
    "path traversal": _traversal,
    "stretched tensor": _stretched,
    "tar": _tar,
    "empty": lambda p, _: p.write_bytes(b"") and None,
    "zeros": lambda p, _: p.write_bytes(bytes(10_000)) and None,
    "text": lambda p, _: p.write_text("hello") and None,
    "a list": lambda p, _: torch.save([1, 2], p),
    "a tensor": lambda p, _: torch.save(torch.ones(3), p),
    "no tensors": lambda p, _: torch.save({"state_dict": {"a": 1}}, p),
    "nothing": lambda p, _: torch.save({}, p),
    "other network": lambda p, _: torch.save(torch.nn.Linear(3, 3).state_dict(), p),
    "nan": _changed(lambda s: s.update({"bn1.bias": torch.full_like(s["bn1.bias"], float("nan"))})),
    "negative variance": _changed(lambda s: s.update({"bn1.running_var": -s["bn1.running_var"]})),
    "shape": _changed(lambda s: s.update({"conv1.weight": s["conv1.weight"][:, :2]})),
    "integers": _changed(lambda s: s.update({"conv1.weight": s["conv1.weight"].int()})),
    "complex": _changed(lambda s: s.update({"bn1.bias": s["bn1.bias"].to(torch.complex64)})),
    "sparse": _changed(lambda s: s.update({"fc.weight": s["fc.weight"].to_sparse()})),
    "both names": _changed(lambda s: s.update({"module.conv1.weight": s["conv1.weight"]})),
    "number as name": _changed(lambda s: s.update({3: s["conv1.weight"]})),
    "one block more": _changed(lambda s: s.update({"layer1.1.conv1.weight": s["layer1.0.conv1.weight"]})),
    "wide": _changed(lambda s: s.update({"conv1.weight": torch.zeros(64, 3, 7, 7, 7)})),
    "classifier without classes": _changed(lambda s: s.update({"fc.weight": torch.zeros(0, 64)})),
    "classifier of a convolution": _changed(lambda s: s.update({"fc.weight": torch.zeros(5, 64, 1, 1, 1)})),
}


@pytest.mark.parametrize("name", HOSTILE)
@pytest.mark.filterwarnings("ignore::UserWarning")  # of torch.save about what is saved here
def test_hostile_checkpoints_are_refused(name: str, tmp_path: Path) -> None:
    path, marker = tmp_path / "x.pth", tmp_path / "marker"
    HOSTILE[name](path, marker)
    with pytest.raises(CheckpointError) as caught:
        add_checkpoint(path)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 1000
    assert not marker.exists() and weights.stored() == []


@pytest.mark.parametrize("tenth", range(1, 10))
@pytest.mark.parametrize("zipped", [True, False])
def test_truncated_checkpoints_are_refused(tenth: int, zipped: bool, tmp_path: Path) -> None:
    path = saved(tmp_path / "x.pth", tiny_state(), _use_new_zipfile_serialization=zipped)
    path.write_bytes(path.read_bytes()[: path.stat().st_size * tenth // 10])
    with pytest.raises(CheckpointError):
        add_checkpoint(path)


@pytest.mark.parametrize("seed", range(10))
def test_scrambled_checkpoints_are_refused(seed: int, tmp_path: Path) -> None:
    path = saved(tmp_path / "x.pth", tiny_state())
    content = bytearray(path.read_bytes())
    generator = random.Random(seed)
    start = generator.randrange(len(content) // 2)
    content[start : start + 4096] = generator.randbytes(4096)
    content[:64] = generator.randbytes(64)
    path.write_bytes(content)
    with pytest.raises(CheckpointError):
        add_checkpoint(path)


@pytest.mark.parametrize("name", ["x.tar.gz", "x.ckpt", "x.safetensors"])
@pytest.mark.parametrize("content", [b"", b"\x1f\x8b\x08" + bytes(50), pickle.dumps(Hostile(Path("/nowhere/evil")))])
def test_other_formats_are_refused_when_damaged(name: str, content: bytes, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(CheckpointError):
        add_checkpoint(tmp_path / name)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="nowhere"):
        add_checkpoint(tmp_path / "nowhere.pth")


# --- the cache --------------------------------------------------------------------------------------------------------


def test_damage_in_the_cache_is_found(tmp_path: Path, cache: Path) -> None:
    add_checkpoint(saved(tmp_path / "x.pth", tiny_state()), name="mine")
    path = cache / "models" / "mine" / "weights.safetensors"
    content = bytearray(path.read_bytes())
    content[-100] ^= 1
    path.write_bytes(content)
    assert "sha256" in weights.verify()["mine"]
    with pytest.raises(CheckpointError, match="sha256"):
        weights.load("mine")


def test_other_weights_than_a_bundle_was_made_with_are_refused(tmp_path: Path) -> None:
    record = add_checkpoint(saved(tmp_path / "x.pth", tiny_state()), name="mine")
    assert weights.load("mine", record.tensors_sha256)
    with pytest.raises(CheckpointError, match="not those that were recorded"):
        weights.load("mine", "0" * 64)


def test_a_damaged_record_is_named(tmp_path: Path, cache: Path) -> None:
    add_checkpoint(saved(tmp_path / "x.pth", tiny_state()), name="mine")
    record = cache / "models" / "mine" / "weights.json"
    for text in ("{", "[]", "{}", json.dumps({**json.loads(record.read_text()), "arch": 3})):
        record.write_text(text)
        assert weights.stored() == []
        assert "fetch" in weights.verify()["mine"]


@pytest.mark.parametrize("name", ["../x", "/etc/passwd", "", "a/b", "A", ".."])
def test_names_cannot_leave_the_cache(name: str) -> None:
    with pytest.raises(CheckpointError):
        weights.show(name)


def test_a_cache_that_cannot_be_written_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = saved(tmp_path / "x.pth", tiny_state())
    monkeypatch.setenv("STREAM_DETECTOR_CACHE", "/dev/null/x")
    with pytest.raises(CheckpointError, match="STREAM_DETECTOR_CACHE"):
        add_checkpoint(path)
