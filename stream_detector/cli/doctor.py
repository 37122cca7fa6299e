"""`stream-detector doctor`: shows what is installed, what a run would use and why, and whether a run works here.

Every check really uses what it checks: the engine scores a window, the encoders write a clip that is read back, ports
are bound and files are written. The checks are independent; a failed one says what to do. Exit code 0 if none failed,
else 1.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.metadata
import json
import os
import platform
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from stream_detector.cli.findings import Check, State, print_findings
from stream_detector.cli.ports import ports
from stream_detector.config import Config, build_config, load_config
from stream_detector.errors import StreamDetectorError

SCHEMA = "stream-detector.doctor/1"
REQUIRED = (
    "torch",
    "numpy",
    "opencv-python-headless",
    "pyzmq",
    "rich",
    "pydantic",
    "safetensors",
    "prometheus-client",
    "matplotlib",
    "platformdirs",
)
OPTIONAL = {
    "openvino": "the fast engine on CPUs",
    "nncf": "int8",
    "uvicorn": "the web page",
    "scikit-learn": "training",
    "tensorflow": "training",
}
CPU_FEATURES = ("avx2", "fma", "avx512f", "avx512_vnni", "avx512_bf16", "amx_bf16", "amx_int8", "asimd")
LOW_DISK_BYTES, NO_DISK_BYTES = 2_000_000_000, 100_000_000
# the usual codecs of cameras and recorders
DECODERS = ("h264", "hevc", "av1", "vp9", "vp8", "mpeg2video", "mpeg4", "mjpeg")
LOW_FILES = 1024
LOW_GPU_BYTES, SHARED_GPU_BYTES = 2_000_000_000, 1_500_000_000  # bytes; an own CUDA context takes about 0.5 GB


def add_parser(subparsers: Any) -> None:
    """Declare the options."""
    parser = subparsers.add_parser(
        "doctor",
        help="check the installation and show what a run would use",
        description="Check the installation, show what a run would use and why, and try it.",
    )
    parser.add_argument("--config", type=Path, metavar="FILE.toml", help="check for this configuration")
    parser.add_argument("--bundle", metavar="NAME_OR_DIR", help="check this bundle (default: the embedded one)")
    parser.add_argument("--bind", metavar="ENDPOINT", help="check this endpoint (default tcp://127.0.0.1:5555)")
    parser.add_argument("--json", action="store_true", help="print the findings as JSON")


def main(args: argparse.Namespace) -> int:
    """Run every check and print the findings; return 0 if the detector can run, else 1. Raises ConfigError."""
    values: dict[str, Any] = {}
    if args.bundle:
        values["bundle"] = args.bundle
    if args.bind:
        values["publish"] = {"bind": args.bind}
    config = load_config(args.config, values) if args.config else build_config(values)
    checks = examine(config)
    able = all(check.state != "fail" for check in checks)
    if args.json:
        print(json.dumps({"schema": SCHEMA, "can_run": able, "checks": [asdict(c) for c in checks]}, indent=2))
    else:
        print_findings(checks, able)
    return 0 if able else 1


def examine(config: Config) -> list[Check]:
    """Return all findings for a run with this configuration; never raises."""
    checks: list[Check] = []
    examinations: tuple[tuple[str, Callable[[], list[Check]]], ...] = (
        ("packages", packages),
        ("machine", machine),
        ("gpu", gpu),
        ("bundle and engine", lambda: model(config)),
        ("video", video),
        ("ports", lambda: ports(config)),
        ("folders", lambda: folders(config)),
    )
    for name, examination in examinations:
        try:
            checks += examination()
        except StreamDetectorError as error:
            checks.append(Check(name, "fail", str(error)))
        except Exception as error:  # a broken installation may raise anything; this command must report it
            checks.append(Check(name, "fail", f"{type(error).__name__}: {error}", "reinstall: pip install -e ."))
    return checks


def packages() -> list[Check]:
    """Check Python and the packages, with their versions."""
    wanted = sys.version_info >= (3, 11)
    advice = "" if wanted else "use Python 3.11 or newer"
    checks = [
        Check("python", "ok" if wanted else "fail", f"{platform.python_version()} on {platform.system()}", advice)
    ]
    found = {name: _version(name) for name in REQUIRED}
    if found["opencv-python-headless"] is None:
        found["opencv-python-headless"] = _version("opencv-python")
    missing = [name for name, version in found.items() if version is None]
    detail = ", ".join(f"{name} {version}" for name, version in found.items() if version)
    checks.append(Check("packages", "ok", detail))
    if missing:
        checks.append(Check("missing packages", "fail", ", ".join(missing), "run: pip install -e ."))
    extras = ", ".join(f"{name} {_version(name) or 'not installed'} ({use})" for name, use in OPTIONAL.items())
    advice = "" if _version("openvino") else "on an Intel or AMD CPU: pip install 'stream-detector[openvino]'"
    return [*checks, Check("extras", "ok", extras, advice)]


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def machine() -> list[Check]:
    """Check CPU, memory and the limit of open files."""
    info = _read("/proc/cpuinfo")
    lines = dict(line.split(":", 1) for line in info.splitlines() if ":" in line)
    fields = {key.strip(): value.strip() for key, value in lines.items()}
    flags = (fields.get("flags") or fields.get("Features") or "").split()
    features = [name for name in CPU_FEATURES if name in flags]
    named = fields.get("model name") or platform.processor() or platform.machine()
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    checks = [
        Check("cpu", "ok", f"{named}, {usable} cores usable; {', '.join(features) or 'no known vector features'}")
    ]
    memory = dict(line.split(":", 1) for line in _read("/proc/meminfo").splitlines() if ":" in line)
    if "MemAvailable" in memory:
        free_gb = int(memory["MemAvailable"].split()[0]) / 1e6
        low = free_gb < 1.5
        advice = "free some memory: 16 cameras need about 1.5 GB" if low else ""
        checks.append(Check("memory", "warn" if low else "ok", f"{free_gb:.1f} GB available", advice))
    with contextlib.suppress(ImportError):
        import resource

        soft, _hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        low = soft != resource.RLIM_INFINITY and soft < LOW_FILES
        advice = f"many cameras need more: ulimit -n {LOW_FILES}" if low else ""
        checks.append(Check("open files", "warn" if low else "ok", f"limit {soft}", advice))
    return checks


def _read(path: str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def gpu() -> list[Check]:
    """Check the CUDA devices that torch sees, their free memory, and other processes on them."""
    import torch

    try:
        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    except RuntimeError as error:
        return [_unusable_gpu("PyTorch's CUDA", error)]
    if not count:
        built = torch.version.cuda
        detail = f"none usable (torch {torch.__version__}, built {'for CUDA ' + built if built else 'without CUDA'})"
        return [Check("gpu", "ok", detail)]
    checks = []
    for index in range(count):
        detail = f"device {index}"
        try:  # it may be busy, broken, or without room for even a CUDA context
            device = torch.cuda.get_device_properties(index)
            detail = f"{device.name}, compute {device.major}.{device.minor}"
            free, total = torch.cuda.mem_get_info(index)
        except RuntimeError as error:
            checks.append(_unusable_gpu(detail, error))
            continue
        held = total - free - torch.cuda.memory_reserved(index)
        shared = held > SHARED_GPU_BYTES
        detail += f", {free / 1e9:.1f} of {total / 1e9:.1f} GB free"
        advice = ""
        if shared:
            detail += f"; other processes hold about {held / 1e9:.1f} GB"
            advice = "another process also uses this GPU (nvidia-smi names it); both become slower"
        if free < LOW_GPU_BYTES:
            advice = "free some of its memory, or use --device cpu"
        checks.append(Check("gpu", "warn" if advice else "ok", detail, advice))
    return checks


def _unusable_gpu(what: str, error: RuntimeError) -> Check:
    text = (str(error).strip().splitlines() or [type(error).__name__])[0][:120]
    advice = "end other processes on it, check the driver with nvidia-smi, or use --device cpu"
    return Check("gpu", "warn", f"{what}; cannot be used ({text})", advice)


def model(config: Config) -> list[Check]:
    """Verify the bundle; let the engine of a run score one window, then several alone and together."""
    import numpy as np

    from stream_detector.engines import load_engine
    from stream_detector.engines.batch_dependence import batch_dependence, describe_tolerance, probe_windows, tolerance
    from stream_detector.engines.bundle_choice import with_bundle
    from stream_detector.models.bundle import Bundle
    from stream_detector.types import WINDOW_FRAMES

    config = with_bundle(config)
    bundle = Bundle.load(config.bundle)
    detail = f"{bundle.name}, fingerprint {bundle.fingerprint}, threshold {bundle.threshold:g}, verified"
    checks = [Check("bundle", "ok", detail)]
    begun_s = time.perf_counter()
    engine = load_engine(bundle, config.engine)
    loaded_s = time.perf_counter() - begun_s
    try:
        frames = np.zeros((1, WINDOW_FRAMES, *bundle.recipe.size, 3), np.uint8)
        engine.infer(frames)
        begun_s = time.perf_counter()
        score = float(engine.infer(frames).scores[0])
        took_ms = (time.perf_counter() - begun_s) * 1e3
        moved, limit = batch_dependence(engine, probe_windows(bundle.recipe)), tolerance(engine)
    finally:
        engine.close()
    detail = f"{engine.name} on {engine.device} in {engine.precision}: {engine.reason}"
    checks.append(Check("engine", "ok", detail))
    sane = 0.0 <= score <= 1.0
    measured = f"loaded in {loaded_s:.1f} s; one window in {took_ms:.0f} ms, score {score:.3f} for a black picture"
    advice = "" if sane else "a score must lie in 0 to 1: try --engine torch, and report this"
    checks.append(Check("first window", "ok" if sane else "fail", measured, advice))
    found = f"promised: {describe_tolerance(limit)}; found here: {f'differs by {moved:.1e}' if moved else 'bit-equal'}"
    kept = moved <= limit
    advice = "" if kept else "a replay may raise other events than the run: try --engine torch, and report this"
    return [*checks, Check("one score", "ok" if kept else "warn", found, advice)]


def video() -> list[Check]:
    """Check PyAV's decoders and devices, and the encoders: each writes a clip that is read back."""
    import av
    from av.codec.hwaccel import hwdevices_available

    missing = [name for name in DECODERS if name not in av.codecs_available]
    devices = ", ".join(hwdevices_available()) or "none"
    detail = f"PyAV {av.__version__} with FFmpeg {av.ffmpeg_version_info}; --hwaccel takes (untested here): {devices}"
    advice = f"cannot decode {', '.join(missing)}: install av from PyPI" if missing else ""
    checks = [Check("decoder", "warn" if missing else "ok", detail, advice)]
    with tempfile.TemporaryDirectory() as folder:
        works = {
            name: _writes(Path(folder) / f"clip.{suffix}", code)
            for name, suffix, code in (
                ("VP8", "webm", "libvpx"),
                ("VP9", "webm", "libvpx-vp9"),
                ("H.264", "mp4", "libx264"),
            )
        }
    writable = [name for name, can in works.items() if can]
    advice = (
        "" if works["H.264"] else "clips of masked cameras, USB cameras and the demo need H.264: install av from PyPI"
    )
    detail = f"written and read back: {', '.join(writable) or 'none'}"
    return [*checks, Check("encoders", "ok" if works["H.264"] else "warn", detail, advice)]


def _writes(path: Path, encoder: str) -> bool:
    """Return whether ten pictures written with `encoder` can be read back."""
    import av
    import numpy as np

    count = 10
    try:
        with av.open(str(path), "w") as container:
            stream = container.add_stream(encoder, rate=10)
            assert isinstance(stream, av.VideoStream)
            stream.width, stream.height, stream.pix_fmt = 160, 120, "yuv420p"
            for index in range(count):
                picture = av.VideoFrame.from_ndarray(np.full((120, 160, 3), 20 * index, np.uint8), format="bgr24")
                container.mux(stream.encode(picture))
            container.mux(stream.encode(None))
        with av.open(str(path)) as container:
            return sum(1 for _ in container.decode(video=0)) == count
    except (av.FFmpegError, ValueError, OSError):
        return False


def folders(config: Config) -> list[Check]:
    """Check whether files can be written where a run writes them, and the free disk space."""
    from stream_detector.models.weights import cache_directory

    wanted: dict[str, tuple[Path, State]] = {}
    if config.evidence.enabled:
        wanted["evidence"] = (config.evidence.directory, "fail")
    if config.publish.ledger is not None:
        wanted["ledger"] = (config.publish.ledger.parent, "fail")
    for name, path in (("events", config.events), ("scores", config.scores)):
        if path is not None:
            wanted[name] = (path.parent, "fail")
    wanted["cache"] = (cache_directory(), "warn")
    checks = []
    for name, (folder, severity) in wanted.items():
        standing = next((p for p in (folder.absolute(), *folder.absolute().parents) if p.exists()), Path("/"))
        try:
            with tempfile.TemporaryFile(dir=standing) as probe:
                probe.write(b"x")
        except OSError as error:
            detail = f"{folder} cannot be written ({error.strerror or error})"
            checks.append(Check(f"{name} folder", severity, detail, f"make it writable: {standing}"))
            continue
        free = shutil.disk_usage(standing).free
        state: State = (
            "fail" if free < NO_DISK_BYTES and severity == "fail" else "warn" if free < LOW_DISK_BYTES else "ok"
        )
        detail = f"{folder} can be written, {free / 1e9:.1f} GB free"
        checks.append(Check(f"{name} folder", state, detail, "" if state == "ok" else "free some disk space"))
    return checks
