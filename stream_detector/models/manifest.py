"""The manifest of a bundle, `bundle.json`: its keys, their limits and their consistency."""

from __future__ import annotations

import hashlib
import json
import re
from typing import Annotated, Any, Literal

from pydantic import AliasChoices, BaseModel, ConfigDict, Field, model_validator

from stream_detector.config import SmoothingConfig
from stream_detector.errors import StreamDetectorError
from stream_detector.models.backbones import backbone_spec
from stream_detector.models.heads import temporal_spec
from stream_detector.models.recipe import DEFAULT_FILTER, WHOLE, Filter, Fit, Recipe, View
from stream_detector.types import WINDOW_FRAMES

SCHEMA: Literal["stream-detector.bundle/1"] = "stream-detector.bundle/1"
NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")

Name = Annotated[str, Field(pattern=f"^{NAME.pattern}$")]
Reference = Annotated[str, Field(pattern=rf"^{NAME.pattern}(\+{NAME.pattern})?$")]
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Number = Annotated[float, Field(allow_inf_nan=False)]
Triple = tuple[Number, Number, Number]


class Part(BaseModel):
    """Base of the manifest's parts: frozen, strict about unknown keys."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class BackbonePart(Part):
    """The backbone. weights_sha256: of backbone.safetensors; with a `reference`: of its tensors
    (`tensors.tensor_digest`).
    """

    arch: str
    weights_sha256: Sha256
    feature_dim: Annotated[int, Field(ge=1, le=16_384)]
    reference: Reference | None = None


class ViewPart(Part):
    """A `View` of the recipe's size. box: the part of the picture (left, top, right, bottom, as fractions)."""

    name: Name
    fit: Fit = "stretch"
    box: tuple[Number, Number, Number, Number] = WHOLE


class PreprocessPart(Part):
    """The numbers of a `Recipe`; `recipe` is its name. views: empty for one view of the whole picture."""

    recipe: Name
    size: tuple[int, int]
    frames: Annotated[int, Field(ge=WINDOW_FRAMES, le=WINDOW_FRAMES)] = WINDOW_FRAMES
    mean: Triple
    std: Triple
    scale: Number
    fps: Number = 25.0
    fit: Fit = "stretch"
    filter: Filter = DEFAULT_FILTER
    # more than one when an engine scores several views
    views: Annotated[tuple[ViewPart, ...], Field(max_length=1)] = ()

    @model_validator(mode="after")
    def _is_possible(self) -> PreprocessPart:
        try:
            self.to_recipe()
        except StreamDetectorError as error:
            raise ValueError(str(error)) from None
        return self

    def to_recipe(self) -> Recipe:
        """Return the recipe with these values."""
        numbers = self.model_dump(exclude={"recipe", "views"})
        views = tuple(View(part.name, self.size, part.fit, part.box) for part in self.views)
        return Recipe(name=self.recipe, views=views, **numbers)


class HeadPart(Part):
    """A head that scores each window alone.

    dims: layer widths, from the feature dimension to 1.  sha256: of head.safetensors.
    """

    arch: Literal["mlp"] = "mlp"
    dims: tuple[int, ...]
    sha256: Sha256

    @property
    def dim(self) -> int:
        """The number of input features; 0 for an empty list of widths, which fits no backbone."""
        return self.dims[0] if self.dims else 0

    @property
    def shape(self) -> Any:
        """Return the values that the fingerprint covers besides the weights."""
        return list(self.dims)


Width = Annotated[int, Field(ge=1, le=16_384)]


class TemporalHeadPart(Part):
    """A head that carries a state from window to window; the keys are those of `streaming_heads.TemporalSpec`."""

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
        """Return the values that the fingerprint covers besides the weights."""
        return self.model_dump(mode="json", exclude={"sha256"})


AnyHeadPart = Annotated[HeadPart | TemporalHeadPart, Field(discriminator="arch")]


class ThresholdPart(Part):
    """The threshold. value: on the smoothed score.  calibrated: how.  false_alarms_per_hour: measured there."""

    value: Annotated[float, Field(ge=0, le=1)] = 0.5
    calibrated: str = "not calibrated"
    false_alarms_per_hour: Annotated[float, Field(ge=0, allow_inf_nan=False)] | None = None


class NoveltyPart(Part):
    """The novelty model (`novelty.NoveltyModel`). calibrated: how the limit was found."""

    axes: Annotated[int, Field(ge=1, le=1024)]
    limit: Annotated[float, Field(gt=0, allow_inf_nan=False)]
    calibrated: str = ""
    sha256: Sha256


class AnchorsPart(Part):
    """Features of clips that the head was fitted on (`adaptation.anchors`). sets: their names, by number."""

    count: Annotated[int, Field(ge=1, le=100_000)]
    sets: Annotated[tuple[Annotated[str, Field(max_length=100)], ...], Field(min_length=1, max_length=100)]
    sha256: Sha256


class KindPart(Part):
    """The model of kinds (`kinds.KindModel`). names: of the kinds.  judged: its figures on grouped folds."""

    names: Annotated[
        tuple[Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]{0,31}$")], ...], Field(min_length=2, max_length=16)
    ]
    judged: dict[str, Any] = {}
    sha256: Sha256


class Manifest(Part):
    """The content of `bundle.json`. training, results, licences: free-form facts for the model card."""

    schema_: Literal["stream-detector.bundle/1"] = Field(SCHEMA, alias="schema")
    name: Name
    created: str = ""
    backbone: BackbonePart
    preprocess: PreprocessPart
    head: AnyHeadPart
    smoothing: SmoothingConfig = SmoothingConfig()
    threshold: ThresholdPart = ThresholdPart()
    novelty: NoveltyPart | None = Field(None, validation_alias=AliasChoices("novelty", "familiar"))  # the former key
    anchors: AnchorsPart | None = None
    kind: KindPart | None = None
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
        if self.novelty is not None and self.novelty.axes > self.backbone.feature_dim:
            raise ValueError(
                f"novelty has {self.novelty.axes} axes of {self.backbone.feature_dim} features; fit it again"
            )
        return self

    @property
    def fingerprint(self) -> str:
        """16 hexadecimal digits over the recipe and the weights of backbone and head.

        An entry of the recipe that is empty counts as one that is absent: both mean the same.
        """
        everything = self.preprocess.model_dump(mode="json")
        preprocess = {key: value for key, value in everything.items() if value not in (None, [], {})}
        parts = [preprocess, self.backbone.arch, self.backbone.weights_sha256, self.head.shape, self.head.sha256]
        canonical = json.dumps(parts, sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(canonical.encode()).hexdigest()[:16]
