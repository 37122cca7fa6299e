"""Bundles: what is written is what is read, and nothing else is read."""

from __future__ import annotations

import json
import os
import random
import shutil
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from model_samples import ARCH, DIM, SMALL, edit, replace_tensors, small_bundle, small_parts, small_states

from stream_detector.errors import BundleError, CheckpointError, StreamDetectorError
from stream_detector.models.backbones.tensors import file_sha256
from stream_detector.models.bundle import EMBEDDED, SHIPPED, Bundle, find_bundle, read_manifest, write_bundle

FILES = ("bundle.json", "backbone.safetensors", "head.safetensors")


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Written once; every test gets a copy."""
    return small_bundle(tmp_path_factory.mktemp("original") / "small").directory


@pytest.fixture
def folder(original: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(original, tmp_path / "small"))


def test_what_is_written_is_read(folder: Path) -> None:
    bundle = Bundle.load(folder)
    backbone, head = small_states()
    assert bundle.name == "small" and bundle.threshold == 0.4 and bundle.recipe.size == SMALL.size
    assert bundle.recipe.gain == SMALL.gain
    assert bundle.manifest.training == {"sets": ["noise"]}
    assert sorted(p.name for p in folder.iterdir()) == sorted(FILES)
    built, built_head, _ = bundle.build()
    assert not built.training and not built_head.training
    assert not any(p.requires_grad for p in built.parameters())
    for name, value in built.state_dict().items():
        wanted = backbone[name].half().float() if backbone[name].ndim >= 2 else backbone[name]
        assert torch.equal(value, wanted), name
    assert all(torch.equal(built_head.state_dict()[name], value) for name, value in head.items())
    assert bundle.backbone_state["conv1.weight"].dtype == torch.float16
    assert bundle.backbone_state["bn1.running_var"].dtype == torch.float32


def test_fingerprint_covers_recipe_backbone_and_head_only(folder: Path, tmp_path: Path) -> None:
    first = Bundle.load(folder)
    assert len(first.fingerprint) == 16 and first.save(tmp_path / "copy").fingerprint == first.fingerprint
    edit(folder, lambda m: m["threshold"].update(value=0.9))
    assert Bundle.load(folder).fingerprint == first.fingerprint
    seen = {first.fingerprint}
    edit(folder, lambda m: m["preprocess"].update(fps=30.0))
    seen.add(Bundle.load(folder).fingerprint)
    replace_tensors(folder, "head", lambda s: s.update(bias=s["bias"] + 1))
    seen.add(Bundle.load(folder).fingerprint)
    replace_tensors(folder, "backbone", lambda s: s.update({"bn1.bias": s["bn1.bias"] + 1}))
    seen.add(Bundle.load(folder).fingerprint)
    assert len(seen) == 4


@pytest.mark.parametrize(
    "change", [lambda m: m["preprocess"].pop("views", None), lambda m: m["preprocess"].update(views=[])]
)
def test_an_empty_entry_of_the_recipe_leaves_the_fingerprint_as_it_is(
    folder: Path, change: Callable[[Any], Any]
) -> None:
    first = Bundle.load(folder).fingerprint
    edit(folder, change)
    assert Bundle.load(folder).fingerprint == first
    edit(folder, lambda m: m["preprocess"].update(views=[{"name": "left", "box": [0.0, 0.0, 0.5, 1.0]}]))
    assert Bundle.load(folder).fingerprint != first


def test_the_shipped_bundles_are_called_what_the_pages_call_them() -> None:
    assert [read_manifest(SHIPPED / name).fingerprint for name in ("embedded", "i3d", "accurate")] == [
        "2d624ac3049768e9",
        "633d574e7f62ff7c",
        "1f0a1cde68f13cb3",
    ]


def test_bundles_are_found_by_name_in_the_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STREAM_DETECTOR_CACHE", str(tmp_path))
    small_bundle(tmp_path / "bundles" / "mine")
    assert Bundle.load("mine").name == "small"
    with pytest.raises(BundleError, match="embedded"):
        find_bundle("yours")
    with pytest.raises(BundleError):
        find_bundle("../bundles/mine")


def test_a_failed_write_leaves_the_older_bundle(folder: Path) -> None:
    before = {name: file_sha256(folder / name) for name in FILES}
    backbone, head = small_states()
    with pytest.raises(BundleError):
        write_bundle(folder, small_parts(), {**backbone, "extra": torch.ones(1)}, head)
    assert {name: file_sha256(folder / name) for name in FILES} == before
    assert [p.name for p in folder.parent.iterdir()] == ["small"]


class Killed(BaseException):
    """Stands for a kill: nothing of the code under test may handle it."""


@pytest.mark.parametrize("call", ["replace", "rmtree"])
@pytest.mark.parametrize("number", [1, 2])
@pytest.mark.parametrize("done", [False, True], ids=["before", "after"])
def test_a_write_killed_at_any_call_leaves_the_older_bundle_or_the_new_one(
    folder: Path, monkeypatch: pytest.MonkeyPatch, call: str, number: int, done: bool
) -> None:
    older = Bundle.load(folder).fingerprint
    backbone, head = small_states()
    newer = small_parts(threshold={"value": 0.6, "calibrated": "again", "false_alarms_per_hour": 1.0})
    place: Any = os if call == "replace" else shutil
    real, calls = getattr(place, call), 0

    def dies(*args: Any, **kwargs: Any) -> None:
        nonlocal calls
        calls += 1
        if calls > number or (calls == number and not done):
            raise Killed
        real(*args, **kwargs)
        if calls == number:
            raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(place, call, dies)
        with pytest.raises(Killed):
            write_bundle(folder, newer, backbone, head)
    found = Bundle.load(folder)
    assert found.fingerprint == older or found.threshold == 0.6
    written = write_bundle(folder, newer, backbone, head)  # and the next write puts everything in order
    assert (written.directory, written.threshold) == (folder, 0.6)
    assert not (folder.parent / ".small.former").exists()


def test_a_folder_that_is_no_bundle_is_not_overwritten(tmp_path: Path) -> None:
    (tmp_path / "precious").mkdir()
    (tmp_path / "precious" / "file").write_text("x")
    with pytest.raises(BundleError, match="not a bundle"):
        small_bundle(tmp_path / "precious")
    assert (tmp_path / "precious" / "file").read_text() == "x"


@pytest.mark.parametrize("name", ["notes.txt", "README.md", "model.json"])
def test_a_folder_with_files_of_others_beside_a_bundle_is_not_replaced(tmp_path: Path, name: str) -> None:
    small_bundle(tmp_path / "mine")
    (tmp_path / "mine" / name).write_text("important")
    with pytest.raises(BundleError, match=f"holds '{name}', which is no part of a bundle"):
        small_bundle(tmp_path / "mine")
    assert (tmp_path / "mine" / name).read_text() == "important"


def test_a_bundle_json_of_another_program_is_not_replaced(tmp_path: Path) -> None:
    (tmp_path / "web").mkdir()
    (tmp_path / "web" / "bundle.json").write_text("{}")
    with pytest.raises(BundleError, match="none of this program"):
        small_bundle(tmp_path / "web")
    assert (tmp_path / "web" / "bundle.json").read_text() == "{}"


def test_a_missing_reference_says_how_to_get_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STREAM_DETECTOR_CACHE", str(tmp_path))
    with pytest.raises(CheckpointError, match="models fetch i3d-kinetics400"):
        write_bundle(
            tmp_path / "b",
            small_parts(backbone={"arch": "i3d", "reference": "i3d-kinetics400"}, head={"dims": [1024, 1]}),
            None,
            small_states()[1],
        )


@pytest.mark.skipif(not (EMBEDDED / "bundle.json").is_file(), reason="no embedded bundle is built yet")
def test_the_embedded_bundle_loads_and_is_small() -> None:
    assert Bundle.load("embedded").name
    assert sum(p.stat().st_size for p in EMBEDDED.rglob("*") if p.is_file()) <= 25_000_000


# --- fuzzing: every variant is refused with one of our errors ---------------------------------------------------------

MANIFEST_EDITS: dict[str, Callable[[dict[str, Any]], Any]] = {
    "other schema": lambda m: m.update(schema="stream-detector.bundle/2"),
    "no schema": lambda m: m.pop("schema"),
    "schema is a list": lambda m: m.update(schema=[]),
    "unknown key": lambda m: m.update(extra=1),
    "unknown nested key": lambda m: m["backbone"].update(file="x"),
    "name is a path": lambda m: m.update(name="../../etc/passwd"),
    "name is absolute": lambda m: m.update(name="/etc/passwd"),
    "name is empty": lambda m: m.update(name=""),
    "name with newline": lambda m: m.update(name="a\nb"),
    "name ends in newline": lambda m: m.update(name="a\n"),
    "reference is a path": lambda m: m["backbone"].update(reference="../../../etc"),
    "reference unknown": lambda m: m["backbone"].update(reference="no-such-weights"),
    "recipe is a path": lambda m: m["preprocess"].update(recipe="../x"),
    "arch unknown": lambda m: m["backbone"].update(arch="resnet3d-101-a"),
    "arch is a path": lambda m: m["backbone"].update(arch="../i3d"),
    "arch other": lambda m: m["backbone"].update(arch="resnet3d-18-b-w0.125"),
    "arch huge": lambda m: m["backbone"].update(arch="resnet3d-50-b-w4.999"),
    "arch null": lambda m: m["backbone"].update(arch=None),
    "sha short": lambda m: m["backbone"].update(weights_sha256="ab"),
    "sha upper": lambda m: m["backbone"].update(weights_sha256="A" * 64),
    "sha wrong": lambda m: m["backbone"].update(weights_sha256="0" * 64),
    "head sha wrong": lambda m: m["head"].update(sha256="0" * 64),
    "head sha missing": lambda m: m["head"].pop("sha256"),
    "feature dim wrong": lambda m: m["backbone"].update(feature_dim=DIM + 1),
    "feature dim huge": lambda m: m["backbone"].update(feature_dim=10**12),
    "dims wrong start": lambda m: m["head"].update(dims=[DIM - 1, 8, 1]),
    "dims wrong middle": lambda m: m["head"].update(dims=[DIM, 9, 1]),
    "dims wrong end": lambda m: m["head"].update(dims=[DIM, 8, 2]),
    "dims empty": lambda m: m["head"].update(dims=[]),
    "dims huge": lambda m: m["head"].update(dims=[DIM, 10**15, 1]),
    "dims negative": lambda m: m["head"].update(dims=[DIM, -8, 1]),
    "dims many": lambda m: m["head"].update(dims=[DIM] + [8] * 10_000 + [1]),
    "head arch": lambda m: m["head"].update(arch="pickle"),
    "size zero": lambda m: m["preprocess"].update(size=[0, 32]),
    "size one": lambda m: m["preprocess"].update(size=[32]),
    "size huge": lambda m: m["preprocess"].update(size=[100_000, 100_000]),
    "frames": lambda m: m["preprocess"].update(frames=17),
    "std zero": lambda m: m["preprocess"].update(std=[0, 1, 1]),
    "std negative": lambda m: m["preprocess"].update(std=[-1, 1, 1]),
    "mean nan": lambda m: m["preprocess"].update(mean=[float("nan"), 0, 0]),
    "mean infinite": lambda m: m["preprocess"].update(mean=[float("inf"), 0, 0]),
    "mean two": lambda m: m["preprocess"].update(mean=[0, 0]),
    "scale zero": lambda m: m["preprocess"].update(scale=0),
    "scale text": lambda m: m["preprocess"].update(scale="big"),
    "fps zero": lambda m: m["preprocess"].update(fps=0),
    "fit": lambda m: m["preprocess"].update(fit="tile"),
    "no preprocess": lambda m: m.pop("preprocess"),
    "no backbone": lambda m: m.pop("backbone"),
    "backbone is a list": lambda m: m.update(backbone=[]),
    "head is null": lambda m: m.update(head=None),
    "threshold high": lambda m: m["threshold"].update(value=1.5),
    "threshold nan": lambda m: m["threshold"].update(value=float("nan")),
    "threshold null": lambda m: m["threshold"].update(value=None),
    "alarms negative": lambda m: m["threshold"].update(false_alarms_per_hour=-1),
    "smoothing kind": lambda m: m["smoothing"].update(kind="future"),
    "smoothing span": lambda m: m["smoothing"].update(span=0),
    "training is a list": lambda m: m.update(training=[1]),
}
TENSOR_EDITS: dict[str, Callable[[dict[str, torch.Tensor]], Any]] = {
    "missing": lambda s: s.pop(sorted(s)[0]),
    "extra": lambda s: s.update(extra=torch.ones(3)),
    "renamed": lambda s: s.update({"module.x": s.pop(sorted(s)[-1])}),
    "transposed": lambda s: s.update({(n := _matrix(s)): s[n].transpose(0, 1).contiguous()}),
    "flat": lambda s: s.update({(n := _matrix(s)): s[n].reshape(-1)}),
    "one row less": lambda s: s.update({(n := _matrix(s)): s[n][1:].contiguous()}),
    "scalar": lambda s: s.update({_matrix(s): torch.tensor(1.0)}),
    "empty": lambda s: s.update({(n := _matrix(s)): s[n][:0].contiguous()}),
    "int32": lambda s: s.update({(n := _matrix(s)): s[n].int()}),
    "uint8": lambda s: s.update({(n := _matrix(s)): s[n].to(torch.uint8)}),
    "bool": lambda s: s.update({(n := _matrix(s)): s[n] > 0}),
    "float64": lambda s: s.update({(n := _matrix(s)): s[n].double()}),
    "nan": lambda s: s.update({(n := _matrix(s)): torch.full_like(s[n], float("nan"))}),
    "one nan": lambda s: s.update({(n := _matrix(s)): _poisoned(s[n], float("nan"))}),
    "infinity": lambda s: s.update({(n := _matrix(s)): _poisoned(s[n], float("inf"))}),
    "nothing": lambda s: s.clear(),
}
SPECIAL_EDITS: dict[str, tuple[str, Callable[[dict[str, torch.Tensor]], Any]]] = {
    "negative variance": ("backbone", lambda s: s.update({"bn1.running_var": -s["bn1.running_var"]})),
    "float counter": ("backbone", lambda s: s.update({"bn1.num_batches_tracked": torch.tensor(0.0)})),
    "zero deviation": ("head", lambda s: s.update(feature_std=torch.zeros(DIM))),
    "negative temperature": ("head", lambda s: s.update(temperature=torch.tensor(-1.0))),
    "zero temperature": ("head", lambda s: s.update(temperature=torch.tensor(0.0))),
    "swapped": ("head", lambda s: (s.clear(), s.update(small_states()[0]))),
}


def _matrix(state: dict[str, torch.Tensor]) -> str:
    return next(name for name in sorted(state) if state[name].ndim >= 2)


def _poisoned(value: torch.Tensor, poison: float) -> torch.Tensor:
    value = value.clone()
    value.view(-1)[7] = poison
    return value


def _header(folder: Path, part: str, change: Callable[[dict[str, Any]], Any]) -> None:
    """Rewrite a safetensors header and give the file a right checksum."""
    path = folder / f"{part}.safetensors"
    content = path.read_bytes()
    (length,) = struct.unpack("<Q", content[:8])
    header = json.loads(content[8 : 8 + length])
    change(header)
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + content[8 + length :])
    key = "weights_sha256" if part == "backbone" else "sha256"
    edit(folder, lambda m: m[part].update({key: file_sha256(path)}))


HEADER_EDITS: dict[str, Callable[[dict[str, Any]], Any]] = {
    "offsets beyond": lambda h: h[next(iter(h))].update(data_offsets=[0, 10**15]),
    "offsets negative": lambda h: h[next(iter(h))].update(data_offsets=[-4, 4]),
    "offsets overlap": lambda h: [value.update(data_offsets=[0, 4]) for value in h.values()],
    "shape huge": lambda h: h[next(iter(h))].update(shape=[2**40, 2**40]),
    "shape negative": lambda h: h[next(iter(h))].update(shape=[-1]),
    "dtype unknown": lambda h: h[next(iter(h))].update(dtype="PICKLE"),
    "not a dict": lambda h: h.update({next(iter(h)): []}),
}


def _variants() -> list[tuple[str, Callable[[Path], None]]]:
    found: list[tuple[str, Callable[[Path], None]]] = []

    def add(name: str, change: Callable[[Path], None]) -> None:
        found.append((name, change))

    for name, manifest_edit in MANIFEST_EDITS.items():
        add(f"manifest: {name}", lambda f, e=manifest_edit: edit(f, e))  # type: ignore[misc]
    for part in ("backbone", "head"):
        for name, tensor_edit in TENSOR_EDITS.items():
            add(f"{part}: {name}", lambda f, p=part, e=tensor_edit: replace_tensors(f, p, e))  # type: ignore[misc]
        for name, header_edit in HEADER_EDITS.items():
            add(f"{part} header: {name}", lambda f, p=part, e=header_edit: _header(f, p, e))  # type: ignore[misc]
    for name, (part, tensor_edit) in SPECIAL_EDITS.items():
        add(f"{part}: {name}", lambda f, p=part, e=tensor_edit: replace_tensors(f, p, e))  # type: ignore[misc]
    for file in FILES:
        add(f"{file}: missing", lambda f, n=file: (f / n).unlink())  # type: ignore[misc]
        add(f"{file}: empty", lambda f, n=file: _write(f / n, b""))  # type: ignore[misc]
        add(f"{file}: a folder", lambda f, n=file: ((f / n).unlink(), (f / n).mkdir()))  # type: ignore[misc]
        add(f"{file}: zeros", lambda f, n=file: _write(f / n, bytes(4096)))  # type: ignore[misc]
        add(f"{file}: random", lambda f, n=file: _write(f / n, random.Random(0).randbytes(4096)))  # type: ignore[misc]
        add(f"{file}: oversize", lambda f, n=file: os.truncate(f / n, 2_000_000_000))  # type: ignore[misc]
        add(f"{file}: pickle", lambda f, n=file: _write(f / n, b"\x80\x04cos\nsystem\n(S'false'\ntR."))  # type: ignore[misc]
        add(f"{file}: leaves the folder", lambda f, n=file: _link_out(f, n))  # type: ignore[misc]
        for tenth in range(1, 10):
            add(f"{file}: cut at {tenth}/10", lambda f, n=file, t=tenth: _cut(f / n, t))  # type: ignore[misc]
    for file in FILES[1:]:
        for seed in range(9):
            add(f"{file}: flipped bit {seed}", lambda f, n=file, s=seed: _flip(f / n, s))  # type: ignore[misc]
    for name, text in {
        "not utf-8": b'{"schema": "\xff"}',
        "deep": b"[" * 100_000,
        "twice": b'{"schema": "stream-detector.bundle/1", "schema": "stream-detector.bundle/1"}',
        "a list": b"[]",
        "a number": b"1",
        "huge number": b"1" * 10_000,
        "null": b"null",
    }.items():
        add(f"bundle.json: {name}", lambda f, t=text: _write(f / "bundle.json", t))  # type: ignore[misc]
    return found


def _write(path: Path, content: bytes) -> None:
    path.write_bytes(content)


def _cut(path: Path, tenth: int) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size * tenth // 10])


def _flip(path: Path, seed: int) -> None:
    content = bytearray(path.read_bytes())
    content[random.Random(seed).randrange(len(content))] ^= 1 << (seed % 8)
    path.write_bytes(content)


def _link_out(folder: Path, name: str) -> None:
    outside = folder.parent / f"outside-{name}"
    shutil.move(folder / name, outside)
    (folder / name).symlink_to(outside)


VARIANTS = _variants()


@pytest.fixture(scope="module")
def pristine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_bundle(tmp_path_factory.mktemp("pristine") / "small").directory


@pytest.mark.parametrize(("name", "change"), VARIANTS, ids=[name for name, _ in VARIANTS])
def test_damaged_bundles_are_refused(
    name: str, change: Callable[[Path], None], pristine: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STREAM_DETECTOR_CACHE", str(tmp_path / "cache"))
    folder = tmp_path / "small"
    shutil.copytree(pristine, folder)
    change(folder)
    with pytest.raises(StreamDetectorError) as caught:
        Bundle.load(folder)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 1000


def test_there_are_enough_variants() -> None:
    assert len(VARIANTS) >= 150  # with those of test_weights: more than 200


def test_the_manifest_alone_can_be_read(folder: Path) -> None:
    (folder / "backbone.safetensors").unlink()
    assert read_manifest(folder).backbone.arch == ARCH
