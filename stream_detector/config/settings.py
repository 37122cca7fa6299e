"""Configuration: one frozen model per stage, read from TOML and the command line.

    cameras.toml                                 python
    ─────────────────────────────────            ─────────────────────────────────────────
    threshold = 0.6          (any run key)        Config(cameras=(CameraConfig("gate", "rtsp://…"),))
    [alarm]                  (any stage)
    cooldown_s = 30
    [cameras.gate]           (per camera)
    source = "rtsp://user:${GATE_PASSWORD}@10.0.0.7/live"
    stride = 8
    mask = [[0, 0], [1, 0], [1, 0.2], [0, 0.2]]   # polygon in shares of width and height, blanked out

The command line wins over a camera's own keys, these over the rest of the file, and that over the bundle.

A password need not stand in the file: `${NAME}` in a source is a variable of the environment, and `password_file` or
`source_file` beside it names a file. An unknown key is an error that names the nearest known one.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError, field_validator, model_validator

from stream_detector.config.error_sentences import describe
from stream_detector.config.kinds import AlarmRuleKind, EngineKind, Kind, SmootherKind
from stream_detector.config.schedule import ScheduleConfig, ScheduleRule, SeverityConfig
from stream_detector.config.secret_file import with_files
from stream_detector.config.section import Options, Point, Polygon, Seconds, Section, Unit
from stream_detector.config.site import AccessConfig, SiteConfig
from stream_detector.config.source import Source
from stream_detector.config.storage import EvidenceConfig, RecordingConfig, RecordMode, StorageConfig
from stream_detector.errors import ConfigError, SourceError
from stream_detector.system.user_files import is_address, read_named

CAMERA_NAME = re.compile(r"[a-z0-9_-]{1,64}")
DETECTOR = "_detector"  # the name of the detector itself (v1/status/_detector/); no camera may have it


class CaptureConfig(Section):
    """Sources → Frames."""

    stall_after_s: Seconds = 3.0  # seconds without a frame until the status is "stalled"
    open_timeout_s: Seconds = 5.0
    read_timeout_s: Seconds = 5.0
    abandon_after_s: Seconds = 15.0  # seconds after which a stuck reader is abandoned and replaced
    backoff_min_s: Seconds = 0.5  # reconnect delay: doubled each time, with jitter; attempts never end
    backoff_max_s: Seconds = 30.0
    exit_on_error: bool = False  # a source that cannot be opened ends the run with exit code 2
    rtsp_transport: Literal["auto", "tcp", "udp"] = "auto"  # auto: TCP first, then UDP
    # decoder threads; each further one costs a frame of latency
    decoder_threads: Annotated[int, Field(ge=1, le=64)] = 1
    hwaccel: Annotated[str, Field(pattern=r"^[a-z0-9]{0,32}$")] = ""  # "": software; "cuda", "qsv", …: used if it works
    hosts: Annotated[int, Field(ge=0, le=256)] | Literal["auto"] = "auto"  # processes that read cameras; 0: none
    host_memory_mb: Annotated[int, Field(ge=128, le=1_000_000)] = 1024  # a process that takes more is replaced
    host_silence_s: Annotated[float, Field(ge=1, le=600)] = 5.0  # without a heartbeat for this time, too
    preview_fps: Annotated[float, Field(ge=0, le=60)] = 6.0
    preview_size: Annotated[int, Field(ge=64, le=1920)] = 384  # long side of the pictures on the page, in pixels


class WindowConfig(Section):
    """Frames → Windows."""

    stride: Annotated[int, Field(ge=1, le=10_000)] = 16  # frames between the starts of two windows
    max_gap_s: Seconds = 2.0  # seconds; a longer gap in media time is a discontinuity
    detect_cuts: bool = True  # so is a picture that becomes another scene from one frame to the next


class BatchConfig(Section):
    """Windows → batches. max_size and max_wait_ms: None means the preference of the engine."""

    max_size: Annotated[int, Field(ge=1, le=1024)] | None = None
    max_wait_ms: Annotated[float, Field(ge=0, le=10_000)] | None = None
    # windows per camera; a live camera drops the oldest, files wait
    buffer_windows: Annotated[int, Field(ge=1, le=1024)] = 4


class PictureQualityConfig(Section):
    """Detection of black, covered, blurred and frozen pictures, and of too few scored windows; reported in `degraded`
    and in the status.
    """

    enabled: bool = True
    min_duration_s: Seconds = 2.0  # a problem is reported after it has lasted for this time
    black_below: Annotated[float, Field(ge=0, le=255)] = 12.0  # grey level of the brightest one percent of pixels
    contrast_below: Annotated[float, Field(ge=0, le=255)] = 3.0  # standard deviation of grey levels
    covered_ratio: Unit = 0.3  # contrast as a fraction of the camera's usual contrast; used together with blurred_ratio
    blurred_ratio: Unit = 0.2  # variance of the Laplacian as a fraction of the camera's usual one
    frozen_after_s: Seconds = 10.0
    warmup_s: Seconds = 30.0
    reset_after_s: Seconds = 1800.0
    coverage_below: Unit = 0.8  # fraction of the last coverage_span_s with scored windows; live sources only
    coverage_span_s: Annotated[float, Field(ge=5, le=3600)] = 60.0


class EngineConfig(Section):
    """The engine that scores the windows."""

    engine: EngineKind = "auto"  # or "torch", "openvino", or the name of a registered engine
    device: Annotated[str, Field(pattern=r"^(auto|cpu|mps|cuda(:\d+)?)$")] = "auto"
    precision: Literal["auto", "fp32", "tf32", "bf16", "fp16", "int8"] = "auto"
    on_failure: Literal["stop", "fallback"] = "stop"  # fallback: continue with torch on the CPU, with a log line
    threads: Annotated[int, Field(ge=0, le=1024)] = 0  # CPU threads; 0: one per core
    deterministic: bool = False  # bit-equal scores in any batch, but slower: torch, on CPU and GPU


class SmoothingConfig(Section):
    """Causal smoothing of raw scores, in media time."""

    kind: SmootherKind = "ema"  # "ema", "median", "none", or the name of a registered smoother
    time_constant_s: Seconds = 1.0  # ema: the weight of the past falls to 1/e in this time
    span: Annotated[int, Field(ge=1, le=99)] = 3  # median: number of windows
    options: Options = Field(default_factory=dict)  # options of a registered smoother of another kind


class AlarmConfig(Section):
    """The alarm rule: on, off, minimum length, cooldown. None: the value of the bundle."""

    rule: AlarmRuleKind = "hysteresis"  # or the name of a registered alarm rule
    threshold: Unit | None = None
    off_ratio: Unit = 0.7  # an alarm ends below threshold × off_ratio
    hold_s: Seconds = 0.0  # … once it has been there for so long: shorter calm does not end an alarm
    min_length_s: Seconds = 2.0
    cooldown_s: Seconds = 10.0  # one incident is one alarm: people who run away or help must not cause a second one
    update_interval_s: Seconds = 2.0
    options: Options = Field(default_factory=dict)  # options of a registered rule of another kind


class PublishConfig(Section):
    """ZeroMQ and the journal. bind "none": no socket."""

    bind: str = "tcp://127.0.0.1:5555"
    insecure: bool = False  # allow a bind beyond loopback without CURVE
    curve_secret: Path | None = None  # server key file; enables CURVE
    curve_clients: Path | None = (
        None  # folder with the allowed public keys; those in its folder `writers` may also write
    )
    high_water_mark: Annotated[int, Field(ge=1, le=1_000_000)] = 1000
    linger_ms: Annotated[int, Field(ge=0, le=60_000)] = 1000
    heartbeat_s: Annotated[float, Field(gt=0, le=60)] = 1.0
    recovery_limit: Annotated[int, Field(ge=1, le=100_000)] = 1000  # events in one recovery reply
    ledger: Path | None = Path("runs/ledger.sqlite3")  # None: in memory
    keep_days: Seconds = 30.0
    ledger_max_bytes: Annotated[int, Field(ge=0, le=10**15)] = 1_000_000_000

    @model_validator(mode="after")
    def _curve_is_whole(self) -> PublishConfig:
        if (self.curve_secret is None) != (self.curve_clients is None):
            raise ValueError("curve_secret and curve_clients belong together: set both, or neither")
        return self


class SinkConfig(Section):
    """Another place for alarm events, [sinks.NAME]. kind: of a registered sink."""

    kind: Kind
    options: Options = Field(default_factory=dict)


class TelemetryConfig(Section):
    """Metrics, health and logs."""

    metrics_port: Annotated[int, Field(ge=0, le=65535)] = 0  # 0: off
    log_format: Literal["text", "json"] = "text"
    log_file: Path | None = None  # None: standard error
    dashboard: bool = True
    live_age_s: Annotated[float, Field(gt=0, le=3600)] = 10.0  # /livez: the decision thread has run within this time
    ready_age_s: Annotated[float, Field(gt=0, le=86_400)] = 10.0  # /readyz: a camera was scored within this time
    ready_share: Unit = 0.5  # /readyz: fraction of the cameras that have not ended which were scored


class WebConfig(Section):
    """The web page (extra `web`). bind "none": off. Beyond loopback it needs the token and both TLS files."""

    bind: str = "none"  # HOST:PORT
    token_file: Path | None = None  # one line: the token of viewers, who may read
    operator_token_file: Path | None = None  # lines `NAME TOKEN`: operators, who may write as well, see [access]
    cert: Path | None = None
    key: Path | None = None
    hosts: tuple[str, ...] = ()  # host names, without port, that requests may use; () with a token: any


class CameraConfig(Section):
    """The settings of one camera; None means the setting of the run.

    source: a text is parsed; the result shows no secret (`Source`).  source_file: a file that holds the source instead.
    password_file: a file that holds the password of the user in the source.  The files are read once, when this is
    created.
    """

    name: str
    source: Source
    source_file: Path | None = None
    password_file: Path | None = None
    stride: Annotated[int, Field(ge=1, le=10_000)] | None = None
    threshold: Unit | None = None
    smoothing: SmoothingConfig | None = None
    mask: tuple[Point, ...] = ()  # nothing from under it is scored, shown or stored
    ignore: tuple[Polygon, ...] = ()  # nothing from under them is scored; it is shown and stored
    evidence: bool | None = None
    record: RecordMode | None = None  # "always": everything; "alarms": clips of alarms; "off": nothing
    record_source: Source | None = None  # what is recorded and kept as evidence, in place of what is scored
    audio: bool = False  # clips and recordings keep the sound of the source
    transcode: bool = False  # record = "always" with a mask: encode everything anew, painted over
    rtsp_transport: Literal["auto", "tcp", "udp"] | None = None
    snapshot_fps: Annotated[float, Field(gt=0, le=60)] = 5.0  # requests per second to an address that gives one JPEG
    schedule: tuple[ScheduleRule, ...] = ()
    allow_hosts: tuple[str, ...] = ()  # hosts that redirects and playlists may name, besides the camera's own
    false_alarms_per_day: Annotated[float, Field(gt=0, le=10_000)] | None = None  # the wanted rate, see [site]
    keep: bool | None = None  # as `site.keep`, for this camera

    @model_validator(mode="before")
    @classmethod
    def _read_files(cls, values: Any) -> Any:
        if not isinstance(values, dict) or isinstance(values.get("source"), Source):
            return values
        message = ""
        try:
            return with_files(values)
        except SourceError as error:
            message = str(error)
        raise ValueError(message)

    @field_validator("name")
    @classmethod
    def _name_is_a_topic(cls, name: str) -> str:
        if is_address(name) or "@" in name:  # it may hold a password
            raise ValueError("a camera's name may not be an address: use 1 to 64 of a-z, 0-9, '_' and '-'")
        if not CAMERA_NAME.fullmatch(name):
            raise ValueError(
                f"camera name {name!r} is not allowed: use 1 to 64 of a-z, 0-9, '_' and '-', for instance "
                f"{slug(name)!r}"
            )
        if name == DETECTOR:
            raise ValueError(f"camera name {name!r} is not allowed: the detector reports its own state under this name")
        return name

    @field_validator("mask")
    @classmethod
    def _mask_is_a_polygon(cls, mask: tuple[Point, ...]) -> tuple[Point, ...]:
        if mask and len(mask) < 3:
            raise ValueError(f"a mask polygon needs at least 3 points, got {len(mask)}")
        return mask

    @field_validator("ignore")
    @classmethod
    def _ignored_are_polygons(cls, ignore: tuple[Polygon, ...]) -> tuple[Polygon, ...]:
        for polygon in ignore:
            if len(polygon) < 3:
                raise ValueError(f"each polygon of ignore needs at least 3 points, got {len(polygon)}")
        return ignore

    @model_validator(mode="after")
    def _recording_is_possible(self) -> CameraConfig:
        if self.record == "always" and self.mask and not self.transcode:
            raise ValueError(
                'record = "always" with a mask means encoding every picture anew, some 0.1 to 0.4 cores; '
                'add transcode = true, or write record = "alarms"'
            )
        if self.audio and (self.record_source or self.source).kind in ("usb", "demo"):
            raise ValueError(
                "audio = true needs a file or a network camera; a USB camera and the demo give no sound here"
            )
        if self.record_source is not None and self.record_source.kind in ("file", "usb", "demo", "pipe"):
            raise ValueError("record_source must be an rtsp:// or http:// address, the camera's main stream")
        return self


class Config(Section):
    """All settings of a run, frozen and checked; one section for each table of cameras.toml.

    cameras: the sources, by name.  bundle: a name, a folder, or "auto".  pace: of recordings; "max" plays them as fast
    as possible.  events, scores: files that are written, or None.  smoothing: None: that of the bundle.  The sections
    carry the unit of each value in its name (`_s` seconds, `_ms`, `_bytes`, `_fps`); docs/configuration.md lists every
    key with its default.  `Detector` makes one, and raises ConfigError for a wrong key or value.
    """

    cameras: tuple[CameraConfig, ...] = ()
    bundle: str = "embedded"
    pace: Literal["realtime", "max"] = "realtime"
    events: Path | None = None
    scores: Path | None = None
    capture: CaptureConfig = CaptureConfig()
    window: WindowConfig = WindowConfig()
    picture_quality: PictureQualityConfig = PictureQualityConfig()
    batch: BatchConfig = BatchConfig()
    engine: EngineConfig = EngineConfig()
    smoothing: SmoothingConfig | None = None  # None: the value of the bundle
    alarm: AlarmConfig = AlarmConfig()
    evidence: EvidenceConfig = EvidenceConfig()
    recording: RecordingConfig = RecordingConfig()
    storage: StorageConfig = StorageConfig()
    publish: PublishConfig = PublishConfig()
    sinks: dict[Kind, SinkConfig] = Field(default_factory=dict)
    telemetry: TelemetryConfig = TelemetryConfig()
    web: WebConfig = WebConfig()
    schedule: ScheduleConfig = ScheduleConfig()
    severity: SeverityConfig = SeverityConfig()
    access: AccessConfig = AccessConfig()
    site: SiteConfig = SiteConfig()

    @field_validator("bundle")
    @classmethod
    def _bundle_is_a_path(cls, bundle: str) -> str:
        if is_address(bundle):
            raise ValueError("an address is given; give the name of a model, or the path of its folder")
        return bundle

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
    """Make a camera name from any text, for instance 'Gate 1' → 'gate-1'."""
    return re.sub(r"[^a-z0-9_-]+", "-", text.lower()).strip("-")[:64] or "camera"


# pairs of a key of the run and the key of a camera that replaces it
_OWN: tuple[tuple[tuple[str, ...], str], ...] = (
    (("alarm", "threshold"), "threshold"),
    (("window", "stride"), "stride"),
    (("smoothing",), "smoothing"),
    (("evidence", "enabled"), "evidence"),
)


def build_config(
    values: dict[str, Any], where: str = "command line", options: Mapping[str, str] | None = None
) -> Config:
    """Build a Config from nested values. Raises ConfigError, which names the key and the nearest known one.

    options: names of keys for the sentence, for instance {"alarm.threshold": "--threshold"}.
    """
    return _validated(_tables(values, where), where, options or {})


def load_config(
    path: Path, overrides: dict[str, Any] | None = None, options: Mapping[str, str] | None = None
) -> Config:
    """Read a TOML file; `overrides` (nested, same keys) take precedence, also over the keys of single cameras.

    options: as for `build_config`, for keys of `overrides`. Raises ConfigError.
    """
    values = _tables(
        read_toml(path, "configuration", "give an existing TOML file", "; no key takes more than two levels"), str(path)
    )
    over = _tables(overrides or {}, "command line")
    for keys, own in _OWN:
        found = _at(over, keys)
        for camera in values.get("cameras", {}).values() if found is not None else ():
            if isinstance(camera, dict) and own in camera:
                both = isinstance(camera[own], dict) and isinstance(found, dict)
                camera[own] = merge(camera[own], found) if both else found
    given = {key: name for key, name in (options or {}).items() if _at(over, tuple(key.split("."))) is not None}
    return _validated(merge(values, over), str(path), given, over)


def read_toml(path: Path, kind: str, absent: str, nested: str = "") -> dict[str, Any]:
    """Return the tables of a TOML file. Raises ConfigError in one sentence, which holds no text of a value.

    kind: what the file is, for the sentence.  absent: what to do where there is none.  nested: more on nesting.
    """
    try:
        # Windows editors begin a file with a byte order mark
        return tomllib.loads(read_named(path, f"{kind} file", ConfigError, pipes=True).decode("utf-8-sig"))
    except FileNotFoundError:
        message = f"{kind} file {str(path)!r} does not exist; {absent}"
    except tomllib.TOMLDecodeError as error:
        message = f"{path}: not valid TOML ({error}); mend that line"
    except RecursionError:
        message = f"{path}: its lists or tables are nested too deeply{nested}"
    except UnicodeDecodeError:
        message = f"{kind} file {str(path)!r} is not UTF-8 text; save it as UTF-8"
    except ValueError:  # Python's limit for the digits of an integer
        message = f"{path}: a number has too many digits; mend it"
    raise ConfigError(message)


def _tables(values: dict[str, Any], where: str) -> dict[str, Any]:
    """Return `values` in one form: cameras by name, and the threshold in [alarm]. Raises ConfigError."""
    result = dict(values)
    if "cameras" in result:
        result["cameras"] = _by_name(result["cameras"], where)
    if "threshold" in result:  # a convenience for the key that is set most often
        alarm = result.get("alarm", {})
        if isinstance(alarm, dict):
            if "threshold" in alarm:
                raise ConfigError(f"{where}: threshold is set both at the top and in [alarm]; remove one")
            result["alarm"] = {**alarm, "threshold": result.pop("threshold")}
    return result


def _by_name(cameras: Any, where: str) -> dict[str, Any]:
    """Return cameras by name from `[cameras.gate]`, `gate = "source"`, `[[cameras]]` or CameraConfigs. Raises
    ConfigError.
    """
    if isinstance(cameras, dict):
        return {name: c if isinstance(c, dict | CameraConfig) else {"source": c} for name, c in cameras.items()}
    if not isinstance(cameras, list | tuple):
        raise ConfigError(f"{where}: cameras must be a section; write [cameras.NAME] and its keys below it")
    result: dict[str, Any] = {}
    for number, camera in enumerate(cameras, 1):
        name = camera.get("name") if isinstance(camera, dict) else getattr(camera, "name", None)
        if not isinstance(name, str):
            raise ConfigError(f'{where}: camera {number} has no name; write name = "gate" into its section')
        if name in result:
            raise ConfigError(f"{where}: camera name {name!r} is used twice; every camera needs its own")
        result[name] = {k: v for k, v in camera.items() if k != "name"} if isinstance(camera, dict) else camera
    return result


def _at(values: dict[str, Any], keys: Sequence[str]) -> Any:
    """Return the value at nested keys, or None."""
    found: Any = values
    for key in keys:
        found = found.get(key) if isinstance(found, dict) else None
    return found


def _validated(
    values: dict[str, Any], where: str, options: Mapping[str, str], over: dict[str, Any] | None = None
) -> Config:
    cameras = values.get("cameras", {})
    listed = [{"name": name, **camera} if isinstance(camera, dict) else camera for name, camera in cameras.items()]
    message = ""
    try:
        return Config.model_validate({**values, "cameras": listed})
    except ValidationError as error:
        location = tuple(str(part) for part in error.errors(include_url=False, include_input=False)[0]["loc"])
        if over and _at(over, location) is not None:
            where = "command line"
        message = describe(error, Config, list(cameras))
        for key, name in options.items():
            if location == tuple(key.split(".")):
                message = message.replace(key, name, 1)
    # raised outside the handler, because the library's error contains the values
    raise ConfigError(f"{where}: {message}")


def merge(base: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    """Return `over` merged into `base`, section by section; neither is changed."""
    result = dict(base)
    for key, value in over.items():
        old = result.get(key)
        result[key] = merge(old, value) if isinstance(old, dict) and isinstance(value, dict) else value
    return result
