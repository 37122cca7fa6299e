"""A model that explains itself: a folder with a manifest and two files of tensors.

    bundle.json            schema, name, backbone, preprocess, head, smoothing, threshold, training, results, licences
    backbone.safetensors   float16 convolutions, float32 vectors; absent when `backbone.reference` names weights that
                           `weights.py` fetches and verifies
    head.safetensors       float32

A head means nothing without the backbone and the recipe that it was trained on. The fingerprint covers all three, and
nothing loads unless every checksum, name, shape and number fits. A manifest names no files, so it cannot point outside
its folder.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from torch import Tensor, nn

from stream_detector import weights
from stream_detector.backbones import backbone_spec, build_backbone
from stream_detector.backbones.tensors import expected_bytes, load_strict, read_tensors, to_half, write_tensors
from stream_detector.config import SmoothConfig
from stream_detector.errors import BundleError, StreamDetectorError
from stream_detector.head import Head, TemporalHead, build_head, temporal_spec
from stream_detector.preprocess import Recipe
from stream_detector.types import WINDOW_FRAMES

SCHEMA: Literal["stream-detector.bundle/1"] = "stream-detector.bundle/1"
MAX_MANIFEST_BYTES = 1_000_000
NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")
SHIPPED = Path(__file__).parent / "bundles"  # found by their folder's name, before any other place
EMBEDDED = SHIPPED / "embedded"

Name = Annotated[str, Field(pattern=f"^{NAME.pattern}$")]
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Number = Annotated[float, Field(allow_inf_nan=False)]
Triple = tuple[Number, Number, Number]


class Part(BaseModel):
    """Base of the manifest's parts: frozen, strict about unknown keys."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class BackbonePart(Part):
    """weights_sha256: of backbone.safetensors; with a `reference`: of its tensors (`tensors.tensor_digest`)."""

    arch: str
    weights_sha256: Sha256
    feature_dim: Annotated[int, Field(ge=1, le=16_384)]
    reference: Name | None = None


class PreprocessPart(Part):
    """The numbers of a `Recipe`; `recipe` is its name."""

    recipe: Name
    size: tuple[int, int]
    frames: Annotated[int, Field(ge=WINDOW_FRAMES, le=WINDOW_FRAMES)] = WINDOW_FRAMES
    mean: Triple
    std: Triple
    scale: Number
    fps: Number = 25.0
    fit: Literal["stretch", "crop"] = "stretch"

    @model_validator(mode="after")
    def _is_possible(self) -> PreprocessPart:
        try:
            self.to_recipe()
        except StreamDetectorError as error:
            raise ValueError(str(error)) from None
        return self

    def to_recipe(self) -> Recipe:
        """The recipe that these numbers make."""
        numbers = self.model_dump(exclude={"recipe"})
        return Recipe(name=self.recipe, **numbers)


class HeadPart(Part):
    """A head that scores each window alone. dims: layer widths, from the feature dimension to 1.  sha256: of
    head.safetensors."""

    arch: Literal["mlp"] = "mlp"
    dims: tuple[int, ...]
    sha256: Sha256

    @property
    def dim(self) -> int:
        """Features in; 0 for an empty list of widths, which fits no backbone."""
        return self.dims[0] if self.dims else 0

    @property
    def shape(self) -> Any:
        """What the fingerprint covers beside the weights."""
        return list(self.dims)


Width = Annotated[int, Field(ge=1, le=16_384)]


class TemporalHeadPart(Part):
    """A head that carries a state from window to window; the keys are those of `temporal.TemporalSpec`."""

    arch: Literal["causal-conv", "causal-gru", "causal-mlp"]
    dim: Width
    widths: Annotated[tuple[Width, ...], Field(min_length=1, max_length=8)]
    kernel: Annotated[int, Field(ge=1, le=64)] = 3
    dilations: Annotated[tuple[Annotated[int, Field(ge=1, le=4096)], ...], Field(max_length=16)] = ()
    projection: Annotated[int, Field(ge=0, le=16_384)] = 0
    views: Annotated[tuple[Annotated[str, Field(max_length=100)], ...], Field(min_length=1, max_length=8)] = ("rows",)
    members: Annotated[int, Field(ge=1, le=64)] = 1
    sha256: Sha256

    @model_validator(mode="after")
    def _is_possible(self) -> TemporalHeadPart:
        try:
            temporal_spec(self.shape)
        except StreamDetectorError as error:
            raise ValueError(str(error)) from None
        return self

    @property
    def shape(self) -> Any:
        """What the fingerprint covers beside the weights."""
        return self.model_dump(mode="json", exclude={"sha256"})


AnyHeadPart = Annotated[HeadPart | TemporalHeadPart, Field(discriminator="arch")]


class ThresholdPart(Part):
    """value: on the smoothed score.  calibrated: how.  false_alarms_per_hour: measured there."""

    value: Annotated[float, Field(ge=0, le=1)] = 0.5
    calibrated: str = "not calibrated"
    false_alarms_per_hour: Annotated[float, Field(ge=0, allow_inf_nan=False)] | None = None


class Manifest(Part):
    """`bundle.json`. training, results, licences: free-form facts for the model card."""

    schema_: Literal["stream-detector.bundle/1"] = Field(SCHEMA, alias="schema")
    name: Name
    created: str = ""
    backbone: BackbonePart
    preprocess: PreprocessPart
    head: AnyHeadPart
    smoothing: SmoothConfig = SmoothConfig()
    threshold: ThresholdPart = ThresholdPart()
    training: dict[str, Any] = {}
    results: dict[str, Any] = {}
    licences: dict[str, Any] = {}

    @model_validator(mode="after")
    def _parts_fit(self) -> Manifest:
        spec = backbone_spec(self.backbone.arch)
        if self.backbone.feature_dim != spec.feature_dim:
            raise ValueError(f"backbone {spec.arch} has {spec.feature_dim} features, not {self.backbone.feature_dim}")
        if self.head.dim != self.backbone.feature_dim:
            raise ValueError(f"the head takes {self.head.dim} features, the backbone has {self.backbone.feature_dim}")
        return self

    @property
    def fingerprint(self) -> str:
        """16 hexadecimal digits over the recipe, the backbone's and the head's weights."""
        preprocess = self.preprocess.model_dump(mode="json")
        parts = [preprocess, self.backbone.arch, self.backbone.weights_sha256, self.head.shape, self.head.sha256]
        canonical = json.dumps(parts, sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(canonical.encode()).hexdigest()[:16]


@dataclass(frozen=True)
class Bundle:
    """A loaded and verified bundle. backbone_state, head_state: tensors on the CPU, as stored."""

    directory: Path
    manifest: Manifest
    backbone_state: dict[str, Tensor]
    head_state: dict[str, Tensor]

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
        """How frames are prepared for this bundle."""
        return self.manifest.preprocess.to_recipe()

    @property
    def threshold(self) -> float:
        """The calibrated threshold on the smoothed score."""
        return self.manifest.threshold.value

    @property
    def smoothing(self) -> SmoothConfig:
        """The smoothing that the threshold was calibrated with."""
        return self.manifest.smoothing

    def build(self) -> tuple[nn.Module, Head | TemporalHead, Recipe]:
        """Backbone and head in float32, eval mode, gradients off; and the recipe."""
        backbone = build_backbone(self.manifest.backbone.arch)
        load_strict(backbone, self.backbone_state, "backbone.safetensors", BundleError)
        return backbone.eval().requires_grad_(False), self.build_head(), self.recipe

    def build_head(self) -> Head | TemporalHead:
        """The head in float32, eval mode, gradients off."""
        head = _empty_head(self.manifest)
        load_strict(head, self.head_state, "head.safetensors", BundleError)
        return head.eval().requires_grad_(False)

    def save(self, directory: Path) -> Bundle:
        """A copy of this bundle in another folder; returns the copy, loaded."""
        copied = {"name": self.manifest.name, **self.manifest.model_dump(mode="json", by_alias=True)}
        reference = self.manifest.backbone.reference
        return write_bundle(directory, copied, None if reference else self.backbone_state, self.head_state)

    @staticmethod
    def load(name_or_dir: str | Path) -> Bundle:
        """ "embedded", the name of a bundle in the cache, or a folder. Raises BundleError with one sentence."""
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
        bundle = Bundle(directory, manifest, state, head_state)
        _, built, _ = bundle.build()  # every name, shape and kind of number is checked here
        if bool((built.feature_std <= 0).any()) or float(built.temperature) <= 0:
            raise BundleError(
                "head.safetensors: feature_std and temperature must be positive; calibrate the head again"
            )
        return bundle


def find_bundle(name_or_dir: str | Path) -> Path:
    """The folder of a bundle. Raises BundleError when there is none."""
    text = str(name_or_dir)
    if NAME.fullmatch(text) and (SHIPPED / text / "bundle.json").is_file():
        candidates = [SHIPPED / text]
    else:
        candidates = [Path(text)]
        if NAME.fullmatch(text):
            candidates.append(weights.cache_directory() / "bundles" / text)
    for candidate in candidates:
        if (candidate / "bundle.json").is_file():
            return candidate
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
        content = json.loads(path.read_bytes().decode("utf-8"), object_pairs_hook=_unique)
    except OSError as error:
        raise BundleError(f"{str(path)!r} cannot be read ({error.strerror}); restore the bundle") from None
    except (ValueError, RecursionError) as error:
        raise BundleError(f"bundle.json is not valid JSON ({error}); restore the original file") from None
    return _validated(content)


def write_bundle(
    directory: Path,
    parts: Mapping[str, Any],
    backbone_state: Mapping[str, Tensor] | None,
    head_state: Mapping[str, Tensor],
) -> Bundle:
    """Write a bundle, whole or not at all, over an older one at the same place; returns it, loaded and verified.

    parts: the manifest's keys; sizes and checksums of backbone and head are filled in here, so `backbone` needs only
    `arch` (and `reference`), `head` only `dims` (or a temporal head's keys), and `preprocess` may be a `Recipe`.
    backbone_state: None with a reference.  Raises BundleError.
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
            backbone.setdefault("weights_sha256", weights.show(str(backbone["reference"])).tensors_sha256)
        backbone.setdefault("feature_dim", backbone_spec(str(backbone.get("arch"))).feature_dim)
        head.setdefault("arch", "mlp")
        head["sha256"] = write_tensors(partial / "head.safetensors", head_state)
        checked = _validated({**manifest, "backbone": backbone, "head": head})
        text = json.dumps(checked.model_dump(mode="json", by_alias=True), indent=2, ensure_ascii=False, allow_nan=False)
        (partial / "bundle.json").write_text(text + "\n", encoding="utf-8")
        Bundle.load(partial)
        partial.chmod(0o755)
        if directory.exists():
            if not (directory / "bundle.json").is_file() and any(directory.iterdir()):
                raise BundleError(f"{str(directory)!r} is not empty and not a bundle; give another folder")
            shutil.rmtree(directory)
        os.replace(partial, directory)
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


def _empty_head(manifest: Manifest) -> Head | TemporalHead:
    return build_head(manifest.head.model_dump(exclude={"sha256"}))
