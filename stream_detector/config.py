"""Configuration: one frozen model per stage, read from TOML and the command line.

    cameras.toml                                 python
    ─────────────────────────────────            ─────────────────────────────────────────
    threshold = 0.6          (any run key)        Config(cameras=(CameraConfig("gate", "rtsp://…"),))
    [alarm]                  (any stage)
    cooldown_s = 30
    [cameras.gate]           (per camera)
    source = "rtsp://user:secret@10.0.0.7/live"
    stride = 8
    mask = [[0, 0], [1, 0], [1, 0.2], [0, 0.2]]   # polygon in shares of width and height, blanked out

An unknown key is an error that names the nearest known one. Raises ConfigError.
"""

from __future__ import annotations

import difflib
import re
import tomllib
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from stream_detector.address import Source
from stream_detector.errors import ConfigError

CAMERA_NAME = re.compile(r"[a-z0-9_-]{1,64}")
DETECTOR = "_detector"  # the name under which the detector speaks of itself (v1/status/_detector/); no camera has it
Unit = Annotated[float, Field(ge=0.0, le=1.0)]
Seconds = Annotated[float, Field(ge=0.0, allow_inf_nan=False)]
Point = tuple[Unit, Unit]


class Section(BaseModel):
    """Base of all sections: frozen, strict about unknown keys."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)


class CaptureConfig(Section):
    """Sources → Frames."""

    stall_after_s: Seconds = 3.0  # no frame for so long: status "stalled"
    open_timeout_s: Seconds = 5.0
    read_timeout_s: Seconds = 5.0
    abandon_after_s: Seconds = 15.0  # a reader stuck for so long is abandoned and replaced
    backoff_min_s: Seconds = 0.5  # reconnect: doubled each time, jittered, never given up
    backoff_max_s: Seconds = 30.0
    exit_on_error: bool = False  # a source that cannot be opened ends the run with exit code 2
    rtsp_transport: Literal["tcp", "udp"] = "tcp"
    decoder_threads: Annotated[int, Field(ge=1, le=64)] = 1  # each further one costs a frame of latency
    preview_fps: Annotated[float, Field(ge=0, le=60)] = 6.0
    preview_size: Annotated[int, Field(ge=64, le=1920)] = (
        384  # long side, pixels; VP8 encodes that in some 20 ms of one core
    )


class WindowConfig(Section):
    """Frames → Windows."""

    stride: Annotated[int, Field(ge=1, le=10_000)] = 16  # frames between the starts of two windows
    max_gap_s: Seconds = 2.0  # a hole in media time longer than this is a discontinuity
    find_cuts: bool = True  # so is a picture that becomes another scene from one frame to the next


class BatchConfig(Section):
    """Windows → Batches. max_size and max_wait_ms: what suits the engine, unless given."""

    max_size: Annotated[int, Field(ge=1, le=1024)] | None = None
    max_wait_ms: Annotated[float, Field(ge=0, le=10_000)] | None = None
    buffer_windows: Annotated[int, Field(ge=1, le=1024)] = 4  # per camera; live: the oldest is dropped, files wait


class TroubleConfig(Section):
    """Black, covered, blurred and frozen pictures, and too few scored windows: told as `degraded` and as status."""

    enabled: bool = True
    hold_s: Seconds = 2.0  # trouble is told when it has lasted for so long
    black_below: Annotated[float, Field(ge=0, le=255)] = 12.0  # grey level of the brightest hundredth
    even_below: Annotated[float, Field(ge=0, le=255)] = 3.0  # standard deviation of grey levels
    covered_ratio: Unit = 0.3  # contrast, as a share of what is usual for the camera; together with blurred_ratio
    blurred_ratio: Unit = 0.2  # variance of the Laplacian, as a share of what is usual for the camera
    frozen_after_s: Seconds = 10.0
    learn_s: Seconds = 30.0
    relearn_s: Seconds = 1800.0
    coverage_below: Unit = 0.8  # share of the last coverage_span_s whose windows were scored; live sources only
    coverage_span_s: Annotated[float, Field(ge=5, le=3600)] = 60.0


class EngineConfig(Section):
    """Which engine scores the windows."""

    engine: Literal["auto", "torch", "openvino"] = "auto"
    device: Annotated[str, Field(pattern=r"^(auto|cpu|cuda(:\d+)?)$")] = "auto"
    precision: Literal["auto", "fp32", "bf16", "fp16", "int8"] = "auto"
    on_failure: Literal["stop", "fallback"] = "stop"  # fallback: go on with torch on the CPU, and say so
    threads: Annotated[int, Field(ge=0)] = 0  # 0: as many as there are cores


class SmoothConfig(Section):
    """Causal smoothing of raw scores, in media time."""

    kind: Literal["ema", "median", "none"] = "ema"
    time_constant_s: Seconds = 1.0  # ema: weight of the past falls to 1/e in this time
    span: Annotated[int, Field(ge=1, le=99)] = 3  # median: windows


class AlarmConfig(Section):
    """Hysteresis: on, off, minimum length, cooldown. None: what the bundle says."""

    threshold: Unit | None = None
    off_ratio: Unit = 0.7  # an alarm ends below threshold × off_ratio
    min_length_s: Seconds = 2.0
    cooldown_s: Seconds = 10.0  # one incident is one alarm: who runs off, or looks after the hurt, raises no second one
    update_interval_s: Seconds = 2.0


class EvidenceConfig(Section):
    """Clips and snapshots of alarms."""

    enabled: bool = True
    directory: Path = Path("runs/evidence")
    pre_s: Seconds = 5.0
    post_s: Seconds = 3.0
    max_clip_s: Seconds = 60.0
    keep_days: Seconds = 30.0
    max_bytes: Annotated[int, Field(ge=0)] = 10_000_000_000


class PublishConfig(Section):
    """ZeroMQ and the files. bind "none": no socket."""

    bind: str = "tcp://127.0.0.1:5555"
    insecure: bool = False  # allow a bind beyond loopback without CURVE
    curve_secret: Path | None = None  # server key file; turns CURVE on
    curve_clients: Path | None = None  # folder of allowed public keys
    high_water_mark: Annotated[int, Field(ge=1)] = 1000
    linger_ms: Annotated[int, Field(ge=0, le=60_000)] = 1000
    heartbeat_s: Annotated[float, Field(gt=0, le=60)] = 1.0
    recovery_limit: Annotated[int, Field(ge=1, le=100_000)] = 1000  # events in one recovery answer
    ledger: Path | None = Path("runs/ledger.sqlite3")  # None: in memory
    keep_days: Seconds = 30.0
    ledger_max_bytes: Annotated[int, Field(ge=0)] = 1_000_000_000

    @model_validator(mode="after")
    def _curve_is_whole(self) -> PublishConfig:
        if (self.curve_secret is None) != (self.curve_clients is None):
            raise ValueError("curve_secret and curve_clients belong together: set both, or neither")
        return self


class TelemetryConfig(Section):
    """Metrics, health and logs."""

    metrics_port: Annotated[int, Field(ge=0, le=65535)] = 0  # 0: off
    log_format: Literal["text", "json"] = "text"
    log_file: Path | None = None  # None: standard error
    dashboard: bool = True
    live_age_s: Annotated[float, Field(gt=0, le=3600)] = 10.0  # /livez: the decision thread went round so lately
    ready_age_s: Annotated[float, Field(gt=0, le=86_400)] = 10.0  # /readyz: a camera was scored so lately
    ready_share: Unit = 0.5  # /readyz: of the cameras that have not ended, this share was


class WebConfig(Section):
    """The page to watch (extra `web`). bind "none": off. Beyond loopback it needs the token and both TLS files."""

    bind: str = "none"  # HOST:PORT
    token_file: Path | None = None
    cert: Path | None = None
    key: Path | None = None
    hosts: tuple[str, ...] = ()  # names, without port, under which it may be asked for; () with a token: any


class CameraConfig(Section):
    """One camera; None means: as the run says."""

    name: str
    source: Source
    stride: Annotated[int, Field(ge=1, le=10_000)] | None = None
    threshold: Unit | None = None
    smoothing: SmoothConfig | None = None
    mask: tuple[Point, ...] = ()
    evidence: bool | None = None

    @field_validator("name")
    @classmethod
    def _name_is_a_topic(cls, name: str) -> str:
        if not CAMERA_NAME.fullmatch(name):
            raise ValueError(
                f"camera name {name!r} is not allowed: use 1 to 64 of a-z, 0-9, '_' and '-', for instance "
                f"{slug(name)!r}"
            )
        if name == DETECTOR:
            raise ValueError(f"camera name {name!r} is not allowed: the detector reports its own trouble under it")
        return name

    @field_validator("mask")
    @classmethod
    def _mask_is_a_polygon(cls, mask: tuple[Point, ...]) -> tuple[Point, ...]:
        if mask and len(mask) < 3:
            raise ValueError(f"a mask polygon needs at least 3 points, got {len(mask)}")
        return mask


class Config(Section):
    """Everything a run needs."""

    cameras: tuple[CameraConfig, ...] = ()
    bundle: str = "embedded"
    pace: Literal["realtime", "max"] = "realtime"
    events: Path | None = None
    scores: Path | None = None
    capture: CaptureConfig = CaptureConfig()
    window: WindowConfig = WindowConfig()
    trouble: TroubleConfig = TroubleConfig()
    batch: BatchConfig = BatchConfig()
    engine: EngineConfig = EngineConfig()
    smooth: SmoothConfig | None = None  # None: what the bundle says
    alarm: AlarmConfig = AlarmConfig()
    evidence: EvidenceConfig = EvidenceConfig()
    publish: PublishConfig = PublishConfig()
    telemetry: TelemetryConfig = TelemetryConfig()
    web: WebConfig = WebConfig()

    @field_validator("cameras")
    @classmethod
    def _names_are_unique(cls, cameras: tuple[CameraConfig, ...]) -> tuple[CameraConfig, ...]:
        seen: set[str] = set()
        for camera in cameras:
            if camera.name in seen:
                raise ValueError(f"camera name {camera.name!r} is used twice; every camera needs its own")
            seen.add(camera.name)
        return cameras


def slug(text: str) -> str:
    """A camera name made from any text, for instance 'Gate 1' → 'gate-1'."""
    return re.sub(r"[^a-z0-9_-]+", "-", text.lower()).strip("-")[:64] or "camera"


def build_config(values: dict[str, Any], where: str = "command line") -> Config:
    """A Config from nested values. Raises ConfigError with one sentence naming the key and the nearest known one."""
    try:
        return Config.model_validate(values)
    except ValidationError as error:
        raise ConfigError(f"{where}: {_sentence(error)}") from None


def load_config(path: Path, overrides: dict[str, Any] | None = None) -> Config:
    """Read a TOML file; `overrides` (nested, same keys) win over it. Raises ConfigError."""
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigError(f"configuration file {str(path)!r} does not exist; give an existing TOML file") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(
            f"configuration file {str(path)!r} cannot be read ({error}); give a UTF-8 TOML file"
        ) from None
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{path}: not valid TOML ({error}); mend that line") from None
    cameras = values.get("cameras", {})
    if isinstance(cameras, dict):
        values["cameras"] = [
            {"name": name, **(entry if isinstance(entry, dict) else {"source": str(entry)})}
            for name, entry in cameras.items()
        ]
    if "threshold" in values and isinstance(values.get("alarm", {}), dict):  # a convenience: the one key people set
        values.setdefault("alarm", {}).setdefault("threshold", values.pop("threshold"))
    return build_config(merge(values, overrides or {}), str(path))


def merge(base: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    """`over` laid over `base`, section by section; neither is changed."""
    result = dict(base)
    for key, value in over.items():
        old = result.get(key)
        result[key] = merge(old, value) if isinstance(old, dict) and isinstance(value, dict) else value
    return result


def _known_keys(location: tuple[int | str, ...]) -> list[str]:
    model: Any = Config
    for part in location:
        if part == "cameras":
            model = CameraConfig
        elif isinstance(part, str) and model is not None:
            found = model.model_fields.get(part)
            annotation = found.annotation if found else None
            options = [annotation, *getattr(annotation, "__args__", ())]
            model = next((o for o in options if isinstance(o, type) and issubclass(o, BaseModel)), None)
    return sorted(model.model_fields) if model is not None else []


def _sentence(error: ValidationError) -> str:
    first = error.errors()[0]
    location = first["loc"]
    key = ".".join(str(part) for part in location)
    if first["type"] == "extra_forbidden":
        known = _known_keys(location[:-1])
        near = difflib.get_close_matches(str(location[-1]), known, n=1, cutoff=0.4)
        hint = f"did you mean {near[0]!r}?" if near else f"known keys are {', '.join(known)}"
        return f"unknown key {key!r}; {hint}"
    message = first["msg"].removeprefix("Value error, ")
    given = first["input"]
    if first["type"] == "model_type":
        return f"{key}: this is a section; write [{key}] and its keys below it"
    if message.startswith("Input should") and isinstance(
        given, bool | int | float
    ):  # never a text: it may hold a password
        return f"{key} is {given}; it {message.removeprefix('Input ')}"
    return f"{key}: {message}" if key else message
