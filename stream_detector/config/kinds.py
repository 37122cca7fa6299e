"""The registries of everything that a configuration or a manifest selects by name, without loading implementations.

    smoothing.kind = "kalman"      smoothing.kind: smoother 'kalman' does not exist; use one of ema, median, none

The protocols are beside the implementations: `alarms.smoothing.Smoother`, `alarms.state_machine.AlarmRule`.
"""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import AfterValidator, Field

from stream_detector.system.registry import Registry

SMOOTHERS = Registry[Any](  # factories: SmoothingConfig → Smoother
    "smoother",
    "stream_detector.smoothers",
    {
        "ema": "stream_detector.alarms.smoothing:make_ema",
        "median": "stream_detector.alarms.smoothing:make_median",
        "none": "stream_detector.alarms.smoothing:make_identity",
    },
)
ALARM_RULES = Registry[Any](  # factories: see `alarms.state_machine.RuleFactory`
    "alarm rule", "stream_detector.alarm_rules", {"hysteresis": "stream_detector.alarms.state_machine:make_hysteresis"}
)
ENGINES = Registry[Any](  # factories: Bundle, EngineChoice, EngineConfig → Engine
    "engine",
    "stream_detector.engines",
    {"openvino": "stream_detector.engines:make_openvino", "torch": "stream_detector.engines:make_torch"},
)
SOURCE_KINDS = Registry[Any](  # factories: see `capture.readers.ReaderFactory`
    "kind of source",
    "stream_detector.sources",
    {
        "file": "stream_detector.capture.readers:make_file_reader",
        "usb": "stream_detector.capture.readers:make_usb_reader",
        "demo": "stream_detector.demo.reader:make_demo_reader",
        **dict.fromkeys(("rtsp", "http", "pipe"), "stream_detector.capture.network_readers:NetworkReader"),
    },
)


def _known_engine(name: str) -> str:
    return name if name == "auto" else ENGINES.known(name)


Kind = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_.-]{0,63}$")]  # the name of a registered implementation
SmootherKind = Annotated[Kind, AfterValidator(SMOOTHERS.known)]
EngineKind = Annotated[Kind, AfterValidator(_known_engine)]
AlarmRuleKind = Annotated[Kind, AfterValidator(ALARM_RULES.known)]
