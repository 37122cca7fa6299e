"""A model bundle: a folder with a manifest and two or three files of tensors.

    bundle.json            schema, name, backbone, preprocess, head, smoothing, threshold, training, results, licences
    backbone.safetensors   float16 convolutions, float32 vectors; absent if `backbone.reference` names weights that
                           `weights.py` fetches and verifies
    head.safetensors       float32
    anchors.safetensors    float16, if the manifest has `anchors`: features of clips that the head was fitted on
    kind.safetensors       float32, if the manifest has a `kind`: what kind of incident an alarm is (`kinds`)
    novelty.safetensors    float32, if the manifest has a `novelty`: the novelty model (older bundles: familiar.*)

A head is only valid with the backbone and the recipe that it was trained on. The fingerprint covers all three, and
nothing loads unless every checksum, name, shape and number fits. A manifest contains no file names, so it cannot point
outside its folder.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError
from torch import Tensor, nn

from stream_detector.config import SmoothingConfig
from stream_detector.errors import BundleError
from stream_detector.models import weights
from stream_detector.models.backbones import backbone_spec, build_backbone
from stream_detector.models.backbones.tensors import expected_bytes, load_strict, read_tensors, to_half, write_tensors
from stream_detector.models.folders import current_folder, replace_folder
from stream_detector.models.heads import Head, TemporalHead, build_head
from stream_detector.models.kinds import KindModel
from stream_detector.models.manifest import NAME, SCHEMA, Manifest
from stream_detector.models.novelty import NoveltyModel
from stream_detector.models.preprocess import Recipe
from stream_detector.system.user_files import read_named

MAX_MANIFEST_BYTES = 1_000_000
SHIPPED = Path(__file__).parent / "bundles"  # found by the names of their folders, before any other place
EMBEDDED = SHIPPED / "embedded"
ANCHORS_FILE = "anchors.safetensors"
KIND_FILE = "kind.safetensors"
NOVELTY_FILE, FORMER_NOVELTY_FILE = "novelty.safetensors", "familiar.safetensors"


@dataclass(frozen=True)
class Bundle:
    """A loaded and verified bundle. *_state: tensors on the CPU; novelty_state: None without a novelty model."""

    directory: Path
    manifest: Manifest
    backbone_state: dict[str, Tensor]
    head_state: dict[str, Tensor]
    novelty_state: dict[str, Tensor] | None = None
    anchors_state: dict[str, Tensor] | None = None
    kind_state: dict[str, Tensor] | None = None

    @property
    def name(self) -> str:
        """The bundle's name."""
        return self.manifest.name

    @property
    def fingerprint(self) -> str:
        """See `Manifest.fingerprint`."""
        return self.manifest.fingerprint

    @property
    def recipe(self) -> Recipe:
        """The recipe: how frames are prepared for this bundle."""
        return self.manifest.preprocess.to_recipe()

    @property
    def threshold(self) -> float:
        """The calibrated threshold on the smoothed score."""
        return self.manifest.threshold.value

    @property
    def smoothing(self) -> SmoothingConfig:
        """The smoothing that the threshold was calibrated with."""
        return self.manifest.smoothing

    def build(self) -> tuple[nn.Module, Head | TemporalHead, Recipe]:
        """Build backbone and head in float32, eval mode, without gradients; return them and the recipe."""
        backbone = build_backbone(self.manifest.backbone.arch)
        load_strict(backbone, self.backbone_state, "backbone.safetensors", BundleError)
        return backbone.eval().requires_grad_(False), self.build_head(), self.recipe

    def build_head(self) -> Head | TemporalHead:
        """Build the head in float32, eval mode, without gradients."""
        head = _empty_head(self.manifest)
        load_strict(head, self.head_state, "head.safetensors", BundleError)
        return head.eval().requires_grad_(False)

    def build_novelty_model(self) -> NoveltyModel | None:
        """Build the novelty model; None if the bundle has none."""
        if self.manifest.novelty is None or self.novelty_state is None:
            return None
        novelty = _empty_novelty_model(self.manifest)
        load_strict(novelty, self.novelty_state, NOVELTY_FILE, BundleError)
        return novelty

    def build_kind_model(self) -> KindModel | None:
        """Build the model of kinds; None if the bundle has none."""
        if self.manifest.kind is None or self.kind_state is None:
            return None
        return KindModel.of(self.manifest.kind.names, self.kind_state)

    def save(self, directory: Path) -> Bundle:
        """Copy this bundle to another folder; return the loaded copy."""
        copied = {"name": self.manifest.name, **self.manifest.model_dump(mode="json", by_alias=True)}
        reference = self.manifest.backbone.reference
        backbone = None if reference else self.backbone_state
        states = (self.novelty_state, self.anchors_state, self.kind_state)
        return write_bundle(directory, copied, backbone, self.head_state, *states)

    @staticmethod
    def load(name_or_dir: str | Path) -> Bundle:
        """Load "embedded", the name of a bundle in the cache, or a folder. Raises BundleError with one sentence."""
        directory = find_bundle(name_or_dir)
        manifest = read_manifest(directory)
        backbone = build_backbone(manifest.backbone.arch)
        if manifest.backbone.reference is None:
            limit, sha = expected_bytes(backbone), manifest.backbone.weights_sha256
            state = read_tensors(_inside(directory, "backbone.safetensors"), limit, sha, BundleError)
        else:
            state = weights.load(manifest.backbone.reference, manifest.backbone.weights_sha256)
        head = _empty_head(manifest)
        path = _inside(directory, "head.safetensors")
        head_state = read_tensors(path, expected_bytes(head), manifest.head.sha256, BundleError)
        novelty_state = None
        if manifest.novelty is not None:
            name = NOVELTY_FILE if (directory / NOVELTY_FILE).exists() else FORMER_NOVELTY_FILE
            path, limit = _inside(directory, name), expected_bytes(_empty_novelty_model(manifest))
            novelty_state = read_tensors(path, limit, manifest.novelty.sha256, BundleError)
        anchors_state = None
        if manifest.anchors is not None:
            limit = manifest.anchors.count * (2 * manifest.backbone.feature_dim + 3) + 4096
            path = _inside(directory, ANCHORS_FILE)
            anchors_state = read_tensors(path, limit, manifest.anchors.sha256, BundleError)
            _check_anchors(anchors_state, manifest)
        kind_state = None
        if manifest.kind is not None:
            limit = 4 * len(manifest.kind.names) * (manifest.backbone.feature_dim + 1) + 4096
            kind_state = read_tensors(_inside(directory, KIND_FILE), limit, manifest.kind.sha256, BundleError)
            _check_kind(kind_state, manifest)
        bundle = Bundle(directory, manifest, state, head_state, novelty_state, anchors_state, kind_state)
        _, built, _ = bundle.build()  # checks every name, shape and kind of number
        novelty = bundle.build_novelty_model()
        if novelty is not None and float(novelty.spread) <= 0:
            raise BundleError(
                "novelty.safetensors: spread must be positive; fit the novelty model again with `python -m trainer`"
            )
        if bool((built.feature_std <= 0).any()) or float(built.temperature) <= 0:
            raise BundleError(
                "head.safetensors: feature_std and temperature must be positive; calibrate the head again"
            )
        return bundle


def find_bundle(name_or_dir: str | Path) -> Path:
    """Return the folder of a bundle. Raises BundleError if there is none."""
    text = str(name_or_dir)
    if NAME.fullmatch(text) and (SHIPPED / text / "bundle.json").is_file():
        candidates = [SHIPPED / text]
    else:
        candidates = [Path(text)]
        if NAME.fullmatch(text):
            candidates.append(weights.cache_directory() / "bundles" / text)
    for candidate in candidates:
        folder = current_folder(candidate)
        if (folder / "bundle.json").is_file():
            return folder
    raise BundleError(
        f"bundle {text!r} does not exist: no bundle.json in {' or '.join(str(c) for c in candidates)}; "
        "give 'embedded', a folder with a bundle.json, or a name that `models list` shows"
    )


def read_manifest(directory: Path) -> Manifest:
    """Read and validate `bundle.json`. Raises BundleError with one sentence."""
    path = _inside(directory, "bundle.json")
    try:
        if path.stat().st_size > MAX_MANIFEST_BYTES:
            raise BundleError(f"bundle.json is larger than {MAX_MANIFEST_BYTES:,} bytes; use the original file")
        data = read_named(path, "bundle", BundleError, most_bytes=MAX_MANIFEST_BYTES)
        content = json.loads(data.decode("utf-8"), object_pairs_hook=_unique)
    except OSError as error:
        raise BundleError(f"{str(path)!r} cannot be read ({error.strerror}); restore the bundle") from None
    except (ValueError, RecursionError) as error:
        raise BundleError(f"bundle.json is not valid JSON ({error}); restore the original file") from None
    return _validated(content)


def _check_replaceable(directory: Path) -> None:
    """Raise BundleError unless a folder is absent, empty, or a bundle without files of others: it is replaced whole."""
    if not directory.exists():
        return
    names = {path.name for path in directory.iterdir()}
    foreign = sorted(name for name in names if name != "bundle.json" and not name.endswith(".safetensors"))
    if names and ("bundle.json" not in names or foreign):
        what = "is not empty and not a bundle"
        if "bundle.json" in names:
            what = f"holds {foreign[0]!r}, which is no part of a bundle"
        raise BundleError(f"{str(directory)!r} {what}; give another folder")
    if names:
        try:
            schema = str(json.loads((directory / "bundle.json").read_text(encoding="utf-8"))["schema"])
        except (OSError, ValueError, KeyError, TypeError):
            schema = ""
        if not schema.startswith(SCHEMA.partition("/")[0]):
            raise BundleError(f"{str(directory)!r} has a bundle.json that is none of this program; give another folder")


def write_bundle(
    directory: Path,
    parts: Mapping[str, Any],
    backbone_state: Mapping[str, Tensor] | None,
    head_state: Mapping[str, Tensor],
    novelty_state: Mapping[str, Tensor] | None = None,
    anchors_state: Mapping[str, Tensor] | None = None,
    kind_state: Mapping[str, Tensor] | None = None,
) -> Bundle:
    """Write a bundle, whole or not at all, replacing an older one at the same place; return it, loaded and verified.

    parts: the manifest's keys; sizes and checksums of backbone and head are filled in here, so `backbone` needs only
    `arch` (and `reference`), `head` only `dims` (or a temporal head's keys), and `preprocess` may be a `Recipe`.
    backbone_state: None with a reference.  novelty_state: with the key `novelty` only.  Raises BundleError.
    """
    manifest = {key: value for key, value in parts.items() if value is not None}
    manifest.setdefault("schema", SCHEMA)
    manifest.setdefault("created", datetime.now(UTC).isoformat(timespec="seconds"))
    backbone, head = dict(manifest.get("backbone", {})), dict(manifest.get("head", {}))
    if isinstance(manifest.get("preprocess"), Recipe):
        values = manifest["preprocess"].to_dict()
        manifest["preprocess"] = {"recipe": values.pop("name"), **{k: v for k, v in values.items() if k != "paper"}}
    directory = Path(directory)
    directory.parent.mkdir(parents=True, exist_ok=True)
    partial = Path(tempfile.mkdtemp(prefix=f".{directory.name}.", dir=directory.parent))
    try:
        if backbone_state is not None:
            backbone["weights_sha256"] = write_tensors(partial / "backbone.safetensors", to_half(backbone_state))
        elif backbone.get("reference"):
            backbone.setdefault("weights_sha256", weights.digest_of(str(backbone["reference"])))
        backbone.setdefault("feature_dim", backbone_spec(str(backbone.get("arch"))).feature_dim)
        head.setdefault("arch", "mlp")
        head["sha256"] = write_tensors(partial / "head.safetensors", head_state)
        manifest |= {"backbone": backbone, "head": head}
        if novelty_state is not None:
            sha256 = write_tensors(partial / NOVELTY_FILE, novelty_state)
            manifest["novelty"] = {**manifest.get("novelty", {}), "sha256": sha256}
        if anchors_state is not None:
            sha256 = write_tensors(partial / ANCHORS_FILE, anchors_state)
            manifest["anchors"] = {**manifest.get("anchors", {}), "sha256": sha256}
        else:
            manifest.pop("anchors", None)  # they belong to the head that they were made with
        if kind_state is not None:
            sha256 = write_tensors(partial / KIND_FILE, kind_state)
            manifest["kind"] = {**manifest.get("kind", {}), "sha256": sha256}
        else:
            manifest.pop("kind", None)  # it belongs to the backbone that it was fitted on
        checked = _validated(manifest)
        text = json.dumps(checked.model_dump(mode="json", by_alias=True), indent=2, ensure_ascii=False, allow_nan=False)
        (partial / "bundle.json").write_text(text + "\n", encoding="utf-8")
        Bundle.load(partial)
        partial.chmod(0o755)
        _check_replaceable(directory)
        replace_folder(partial, directory)
    except OSError as error:
        raise BundleError(f"{str(directory)!r} cannot be written ({error.strerror}); give a writable folder") from None
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return Bundle.load(directory)


def _validated(content: Any) -> Manifest:
    if isinstance(content, dict) and content.get("schema") != SCHEMA:
        raise BundleError(f"bundle.json has schema {content.get('schema')!r}, this version reads {SCHEMA!r}; update")
    try:
        return Manifest.model_validate(content)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"]) or "bundle.json"
        message = first["msg"].removeprefix("Value error, ")
        raise BundleError(f"bundle.json: {key}: {message}; restore the original file") from None


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        raise ValueError("a key occurs twice")
    return result


def _inside(directory: Path, name: str) -> Path:
    path = directory / name
    if not path.resolve().is_relative_to(directory.resolve()):
        raise BundleError(f"{name} is a link that leaves its folder; put the file itself there")
    return path


def _check_anchors(state: Mapping[str, Tensor], manifest: Manifest) -> None:
    kinds = {"features": torch.float16, "abnormal": torch.uint8, "set": torch.int16}
    count, dim = manifest.anchors.count if manifest.anchors else 0, manifest.backbone.feature_dim
    shapes = {name: tuple(tensor.shape) for name, tensor in state.items()}
    right = {"features": (count, dim), "abnormal": (count,), "set": (count,)}
    if shapes != right or {name: tensor.dtype for name, tensor in state.items()} != kinds:
        raise BundleError(f"{ANCHORS_FILE} holds other arrays than the manifest says; make it again with the trainer")


def _check_kind(state: Mapping[str, Tensor], manifest: Manifest) -> None:
    count = len(manifest.kind.names) if manifest.kind else 0
    shapes = {name: tuple(tensor.shape) for name, tensor in state.items()}
    right = {"weight": (count, manifest.backbone.feature_dim), "bias": (count,)}
    numbers = all(tensor.dtype == torch.float32 and bool(tensor.isfinite().all()) for tensor in state.values())
    if shapes != right or not numbers:
        raise BundleError(f"{KIND_FILE} holds other arrays than the manifest says; make it again with the trainer")


def _empty_novelty_model(manifest: Manifest) -> NoveltyModel:
    assert manifest.novelty is not None
    return NoveltyModel(manifest.backbone.feature_dim, manifest.novelty.axes, manifest.novelty.limit)


def _empty_head(manifest: Manifest) -> Head | TemporalHead:
    return build_head(manifest.head.model_dump(exclude={"sha256"}))
